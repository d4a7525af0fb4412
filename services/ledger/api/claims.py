"""Claims by HTTP: what became of what was sent, as acknowledgements and remittances tell it."""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field

from services.ledger.answers import Page as PageOf
from services.ledger.answers_feeds import ClaimDocument, ClaimRow
from services.ledger.api.common import readers
from services.ledger.feeds import claim_store
from services.ledger.feeds.claim_store import State
from services.ledger.wire import Page, in_order
from shared.access.principal import Guard
from shared.fields import IsoDate
from shared.web import Call, Endpoint, json_response

_READ = Guard(any_of=(("claims", "view"),))


class ClaimsQuery(Page):
    """`from` and `to` are days of the state that holds."""

    state: State | None = None
    from_: Annotated[IsoDate | None, Field(alias="from")] = None
    to: IsoDate | None = None


async def listing(call: Call) -> web.Response:
    query: ClaimsQuery = call.query
    in_order(query.from_, query.to)
    pool, company = readers(call), call.principal.company
    page = await claim_store.read_page(pool, company, query.cursor, query.limit, query.state, query.from_, query.to)
    return json_response(page)


async def read(call: Call) -> web.Response:
    return json_response(await claim_store.read_one(readers(call), call.principal.company, call.path_id()))


ENDPOINTS = (
    Endpoint("GET", "/v1/claims", listing, _READ, "Claims and their state", query=ClaimsQuery, answer=PageOf[ClaimRow]),
    Endpoint(
        "GET", "/v1/claims/{id}", read, _READ, "One claim with everything that was said about it", answer=ClaimDocument
    ),
)
