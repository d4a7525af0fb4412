"""Feeds by HTTP and what came of them: uploads, counts, their raw form."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from typing import Any, BinaryIO
from urllib.parse import unquote

import structlog
from aiohttp import web

from services.ledger import wire
from services.ledger.answers import Page
from services.ledger.answers_feeds import FeedDocument
from services.ledger.api.common import IN_MEMORY_BYTES, LEDGER, ledger, readers, whole
from services.ledger.feeds import emr, files, intake, mappings
from services.ledger.feeds.cloudevents import BATCH, SINGLE, EmrEvent, envelope, structured, understand
from services.ledger.feeds.files import Arrival, Reading
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.spooled import PIECE, Spooled
from shared.access.principal import Guard
from shared.errors import Invalid, PayloadTooLarge, TooManyRequests
from shared.ids import uuid7
from shared.web import Call, Endpoint, Streamed, json_response
from shared.web.bodies import load_json

_MAX_EVENTS = 10_000
_RESUME_SECONDS = 30.0
_MOST_BEHIND = 8
"""Files of one caller that are worked off behind his back at a time."""
UPLOAD = Guard(any_of=(("payment_posting", "edit"),), emr=True)
READ = Guard(any_of=(("exception_reports", "view"), ("payment_posting", "view")), emr=True)
log = structlog.get_logger("feeds")


async def x12(call: Call) -> web.Response:
    return await upload(call, files.X12)


async def upload(call: Call, reading: Reading) -> web.Response:
    """200 with the finished feed; 202 for a body over 8 MiB, which is worked off in the background."""
    company_id, sender = call.principal.company, call.principal.client_id
    background, whose = call.app[BACKGROUND], str(call.principal.subject)
    large = (call.request.content_length or IN_MEMORY_BYTES + 1) > IN_MEMORY_BYTES
    if large and sum(task.get_name() == whose for task in background) >= _MOST_BEHIND:
        raise TooManyRequests("Earlier files of yours are still being worked off", retry_after_seconds=30)
    with tempfile.TemporaryFile() as spool:
        body_hash, size = await _spool(call.request, spool)
        post = await reading.examine(Spooled.of(spool))
        arrival = Arrival(company_id, "http", sender, body_hash, size, spool)
        async with files.turn(ledger(call), arrival):
            feed = await files.keep(ledger(call), reading, arrival)
            if size > IN_MEMORY_BYTES:
                task = asyncio.create_task(work_off(call.app, feed, call.correlation_id), name=whose)
                background.add(task)
                task.add_done_callback(background.discard)
                return json_response(await _document(call, feed), 202)
            await post(ledger(call), feed, call.correlation_id)
    return json_response(await _document(call, feed))


BACKGROUND: web.AppKey[set[asyncio.Task[None]]] = web.AppKey("background", set)


async def work_off(app: web.Application, feed: Feed, correlation_id: str) -> None:
    """Process a stored feed from its raw form: after a 202, or after an interruption."""
    await files.work_off(app[LEDGER], feed, correlation_id)
    log.info("feed_worked_off", feed_id=str(feed.feed_id))


async def resume_abandoned(app: web.Application) -> None:
    """For as long as the process runs: finish what another, or an earlier one, was interrupted at."""
    while True:
        try:
            await take_up_abandoned(app)
        except Exception:
            log.warning("abandoned_feeds_not_read", exc_info=True)
        await asyncio.sleep(_RESUME_SECONDS)


async def take_up_abandoned(app: web.Application) -> None:
    """Finish abandoned feeds, one after the other. Everything is keyed by content, so nothing doubles."""
    for feed in await intake.abandoned(app[LEDGER].pool):
        try:
            if await files.can_be_finished(app[LEDGER], feed):
                await work_off(app, feed, str(uuid7()))
            else:
                await intake.give_up(app[LEDGER].pool, feed)
        except Exception:
            log.error("feed_not_worked_off", feed_id=str(feed.feed_id), exc_info=True)


async def _spool(request: web.Request, spool: BinaryIO) -> tuple[bytes, int]:
    digest, size = hashlib.sha256(), 0
    async for piece in request.content.iter_chunked(PIECE):
        size += len(piece)
        if size > files.MAX_BYTES:
            raise PayloadTooLarge()
        digest.update(piece)
        await asyncio.to_thread(spool.write, piece)
    return digest.digest(), size


async def emr_events(call: Call) -> web.Response:
    """CloudEvents, single or batch. A single event that cannot be read is refused at once (422); one in a batch is
    quarantined, so that it does not hold up the others."""
    raw = await whole(call.request)
    value = load_json(raw)
    batch = isinstance(value, list)
    if batch and len(value) > _MAX_EVENTS:
        raise Invalid.field("body", "too_many", f"At most {_MAX_EVENTS} events")
    # Of this binding alone: AMQP carries them as they are (CloudEvents HTTP binding, 3.1.3.2).
    headers = {name: unquote(text) for name, text in call.request.headers.items()}
    one = structured(call.request.content_type, headers, value)
    events = _understood(value if batch else [one], batch)
    pool, company_id = ledger(call).pool, call.principal.company
    if not batch and events[0].problem is not None:
        # A code that the company has mapped is no fault.
        alone = (await mappings.read(pool, company_id)).event(events[0])
        if alone.problem is not None:
            raise alone.problem
    await ledger(call).learn({company_id})
    feed = Feed(company_id, uuid7(), "emr", "emr")
    sender = call.principal.client_id
    digest = hashlib.sha256(raw).digest()
    await intake.open_feed(pool, feed, channel="http", sender=sender, body_hash=digest, chunks=[raw])
    only = sender if call.principal.is_emr else None
    routes = await emr.route_all(ledger(call), events, company_id=company_id, client_id=only)
    paired = list(zip(events, routes, strict=True))
    await emr.take(ledger(call), feed, [e for e, route in paired if route.reason is None], call.correlation_id)
    for event, route in paired:
        if route.reason is not None:
            await emr.refuse(ledger(call), feed, event, route.reason)
    await intake.close_feed(pool, feed)
    return json_response(await _document(call, feed))


def _understood(values: list[Any], batch: bool) -> list[EmrEvent]:
    """Every envelope must be readable: an event without id or source cannot even be quarantined under its name."""
    found = []
    for index, value in enumerate(values):
        prefix = f"{index}." if batch else ""
        found.append(understand(envelope(value, prefix), prefix))
    return found


async def _document(call: Call, feed: Feed) -> dict[str, Any]:
    return await intake.read_feed(readers(call), feed.company_id, feed.feed_id)


def sender_of(call: Call) -> str | None:
    """An EMR client sees its own feeds, people see all of their company's."""
    return call.principal.client_id if call.principal.is_emr else None


async def listing(call: Call) -> web.Response:
    company, query, pool = call.principal.company, call.query, readers(call)
    return json_response(await intake.read_feeds(pool, company, sender_of(call), query.cursor, query.limit))


async def read(call: Call) -> web.Response:
    company = call.principal.company
    return json_response(await intake.read_feed(readers(call), company, call.path_id(), sender_of(call)))


async def raw(call: Call) -> web.StreamResponse:
    company, feed_id = call.principal.company, call.path_id()
    await intake.read_feed(readers(call), company, feed_id, sender_of(call))
    response = Streamed(
        headers={"Content-Type": "application/octet-stream", "Content-Disposition": f'attachment; filename="{feed_id}"'}
    )
    await response.prepare(call.request)
    async for chunk in intake.read_raw(readers(call), company, feed_id):
        await call.still_allowed()
        await response.write(chunk)
    await response.write_eof()
    return response


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/feeds/x12",
        x12,
        UPLOAD,
        "Send an 835 remittance file",
        raw_types=("application/edi-x12", "application/octet-stream", "text/plain"),
        answer=FeedDocument,
        also=(202,),
    ),
    Endpoint(
        "POST",
        "/v1/feeds/emr",
        emr_events,
        UPLOAD,
        "Send EMR payments and charges as CloudEvents",
        raw_types=("application/json", SINGLE, BATCH),
        answer=FeedDocument,
    ),
    Endpoint("GET", "/v1/feeds", listing, READ, "List feeds, newest first", query=wire.Page, answer=Page[FeedDocument]),
    Endpoint("GET", "/v1/feeds/{id}", read, READ, "One feed with its counts and totals", answer=FeedDocument),
    Endpoint(
        "GET", "/v1/feeds/{id}/raw", raw, READ, "A feed as it was received", answer_type="application/octet-stream"
    ),
)
