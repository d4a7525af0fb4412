"""Batches: a poster's free-text label, with optional control totals declared for it."""

from __future__ import annotations

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from services.ledger import queries, wire
from services.ledger.answers import BatchDocument, Page
from services.ledger.api.common import post, readers
from services.ledger.domain.commands import DeclareBatch
from shared.access.principal import area
from shared.errors import NotFound
from shared.fields import Line
from shared.web import Call, Endpoint, json_response

_NUMBER: TypeAdapter[str] = TypeAdapter(Line)
"""A batch number in the path is text as in a body; what is no such text names no batch."""


async def create(call: Call) -> web.Response:
    body: wire.BatchIn = call.body
    await post(call, DeclareBatch(body.batch_number, body.control_total_cents, body.control_count))
    return json_response(await _one(call, body.batch_number), 201)


async def listing(call: Call) -> web.Response:
    company = call.principal.company
    return json_response(await queries.read_batches(readers(call), company, call.query.cursor, call.query.limit))


async def read(call: Call) -> web.Response:
    try:
        number = _NUMBER.validate_python(call.request.match_info["number"])
    except ValidationError:
        raise NotFound() from None
    return json_response(await _one(call, number))


async def _one(call: Call, number: str) -> object:
    page = await queries.read_batches(readers(call), call.principal.company, None, 1, number)
    if not page["items"]:
        raise NotFound()
    return page["items"][0]


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/batches",
        listing,
        area("payment_posting"),
        "List batches: declared, posted, difference",
        query=wire.BatchesQuery,
        answer=Page[BatchDocument],
    ),
    Endpoint(
        "POST",
        "/v1/batches",
        create,
        area("payment_posting", "add"),
        "Declare a batch's control totals",
        body=wire.BatchIn,
        answer=BatchDocument,
        status=201,
    ),
    Endpoint("GET", "/v1/batches/{number}", read, area("payment_posting"), "One batch", answer=BatchDocument),
)
