"""The quarantine by HTTP: look at what waits, try it again, settle it by hand, or dismiss it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any
from uuid import UUID

from aiohttp import web

from services.ledger import wire_feeds
from services.ledger.answers import Page
from services.ledger.answers_feeds import DecodedException, ExceptionDocument, ExceptionRow, RetryAnswer
from services.ledger.api.common import ledger, readers
from services.ledger.api.feeds import READ, sender_of
from services.ledger.feeds import items, quarantine
from services.ledger.feeds.quarantine import Waiting
from services.ledger.feeds.retry import Asker, retry
from shared.access.principal import Guard
from shared.errors import FieldError, Invalid, NotFound
from shared.web import Call, Endpoint, Streamed, json_response

_WORK = Guard(any_of=(("payment_posting", "edit"),))
_AT_ONCE = 200


async def listing(call: Call) -> web.Response:
    query: wire_feeds.ExceptionsQuery = call.query
    filters = (query.feed_id, query.source, query.reason, query.state, sender_of(call))
    oldest_first, company = query.sort == "created_at", call.principal.company
    page = await quarantine.read_page(readers(call), company, query.cursor, query.limit, oldest_first, *filters)
    return json_response(page)


async def read(call: Call) -> web.Response:
    """What is wrong, what was done about it, and the item as it was understood."""
    pool, company = readers(call), call.principal.company
    found = await quarantine.read_one(pool, company, call.path_id(), sender_of(call))
    decoded = await items.decoded(pool, company, found)
    return json_response({**_shown(found), "decoded": decoded})


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "raw"}


async def raw(call: Call) -> web.StreamResponse:
    pool, company = readers(call), call.principal.company
    found = await quarantine.read_one(pool, company, call.path_id(), sender_of(call))
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f'attachment; filename="{found["id"]}"',
    }
    async with aclosing(items.raw(pool, company, found)) as blocks:
        block = await anext(blocks, b"")  # What is not kept is 404, before anything was answered.
        response = Streamed(headers=headers)
        await response.prepare(call.request)
        while block:
            await call.still_allowed()
            await response.write(block)
            block = await anext(blocks, b"")
        await response.write_eof()
    return response


async def retry_one(call: Call) -> web.Response:
    """The exception afterwards; its history says what came of the attempt."""
    pool, company, one = readers(call), call.principal.company, call.path_id()
    rows = await quarantine.named(pool, company, [one])
    if not rows:
        raise NotFound()
    await retry(ledger(call), _asker(call), rows)
    return json_response(_shown(await quarantine.read_one(pool, company, one)))


async def retry_many(call: Call) -> web.Response:
    """What came of each, in their order."""
    body: wire_feeds.RetryIn = call.body
    pool, company = readers(call), call.principal.company
    rest: Sequence[Waiting] = ()
    if body.ids is not None:
        if body.feed_id or body.reason or body.cursor:
            raise Invalid.field("ids", "ids_or_filter", "Name exceptions, or a feed or reason, not both")
        rows = _all_of(body.ids, await quarantine.named(pool, company, body.ids))
    elif body.feed_id or body.reason:
        found = await quarantine.found(pool, company, body.cursor, _AT_ONCE + 1, body.feed_id, body.reason)
        rows, rest = found[:_AT_ONCE], found[_AT_ONCE:]
        if body.feed_id is None and body.cursor is None:
            rows += await quarantine.unowned(ledger(call).pool, company, body.reason, _AT_ONCE)
    else:
        raise Invalid.field("ids", "missing", "Name exceptions, or a feed or reason")
    following = rows[_AT_ONCE - 1].exception_id if rest else None
    attempts = await retry(ledger(call), _asker(call), rows)
    settled = sum(attempt.state == "retried" for attempt in attempts)
    items_done = [asdict(attempt) for attempt in attempts]
    return json_response({"retried": settled, "items": items_done, "next": following})


def _all_of(ids: Sequence[UUID], rows: list[Waiting]) -> list[Waiting]:
    known = {row.exception_id for row in rows}
    unknown = [place for place, one in enumerate(ids) if one not in known]
    if unknown:
        fault = "unknown_exception", "There is no such exception"
        raise Invalid(code=fault[0], errors=[FieldError(f"ids.{place}", *fault) for place in unknown])
    return rows


def _asker(call: Call) -> Asker:
    return Asker(call.principal.company, call.principal.subject, call.correlation_id)


async def resolve(call: Call) -> web.Response:
    return await _close(call, "resolved")


async def dismiss(call: Call) -> web.Response:
    return await _close(call, "dismissed")


async def _close(call: Call, state: str) -> web.Response:
    pool, company, one = ledger(call).pool, call.principal.company, call.path_id()
    await quarantine.close(pool, company, one, state, call.principal.subject, call.body.note)
    return json_response(_shown(await quarantine.read_one(readers(call), company, one)))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/exceptions",
        listing,
        READ,
        "What a person must look at",
        query=wire_feeds.ExceptionsQuery,
        answer=Page[ExceptionRow],
    ),
    Endpoint(
        "POST",
        "/v1/exceptions/retry",
        retry_many,
        _WORK,
        "Try many again, by id or filter",
        body=wire_feeds.RetryIn,
        answer=RetryAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/exceptions/{id}",
        read,
        READ,
        "One exception: its item decoded, and who did what",
        answer=DecodedException,
    ),
    Endpoint(
        "GET",
        "/v1/exceptions/{id}/raw",
        raw,
        READ,
        "The item of an exception as it was received",
        answer_type="application/octet-stream",
    ),
    Endpoint(
        "POST",
        "/v1/exceptions/{id}/retry",
        retry_one,
        _WORK,
        "Try again what could not be posted or applied",
        answer=ExceptionDocument,
    ),
    Endpoint(
        "POST",
        "/v1/exceptions/{id}/resolve",
        resolve,
        _WORK,
        "Mark as settled by hand",
        body=wire_feeds.NoteIn,
        answer=ExceptionDocument,
    ),
    Endpoint(
        "POST",
        "/v1/exceptions/{id}/dismiss",
        dismiss,
        _WORK,
        "Dismiss with a reason",
        body=wire_feeds.NoteIn,
        answer=ExceptionDocument,
    ),
)
