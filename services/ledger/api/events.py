"""For the services themselves: the event log and the control totals."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from aiohttp import web

from services.ledger import queries, wire
from services.ledger.answers import ControlTotals, EventsPage, HeadsPage
from services.ledger.api.common import ledger, readers
from shared.access.principal import INTERNAL_ONLY, Guard
from shared.errors import Forbidden, Invalid, NotFound
from shared.web import Call, Endpoint, json_response

_TOTALS = Guard(any_of=(("payment_balancing", "view"),), internal=True)


def _company(call: Call, asked: UUID | None) -> UUID:
    """An internal client names the company; anybody else has his own, and no other exists for him."""
    if call.principal.is_internal:
        if asked is None:
            raise Invalid.field("company_id", "missing", "Name the company")
        return asked
    if asked not in (None, call.principal.company):
        raise NotFound()
    return call.principal.company


async def events(call: Call) -> web.Response:
    query: wire.EventsQuery = call.query
    company_id = _company(call, query.company_id)
    page = await queries.read_events(readers(call), company_id, query.after_version, query.limit)
    # The stored text is the event: it is passed on as it is.
    items = ",".join(page["items"])
    following = "null" if page["next"] is None else str(page["next"])
    return json_response(f'{{"items":[{items}],"next":{following}}}'.encode())


async def heads(call: Call) -> web.Response:
    return json_response({"items": await queries.read_heads(ledger(call).pool), "next": None})


async def control_totals(call: Call) -> web.Response:
    query: wire.ControlTotalsQuery = call.query
    if not call.principal.is_internal and call.principal.grant("payment_balancing").scope != "all_locations":
        raise Forbidden()
    company_id = _company(call, query.company_id)
    totals: dict[str, Any] = await queries.read_control_totals(readers(call), company_id, query.as_of_version)
    if not (call.principal.is_internal or call.principal.allows("payment_balancing_full_access", "view")):
        # B6, D8: as in Payment Balancing, what RCM staff posted is for Full Access alone.
        totals["items"] = [row for row in totals["items"] if row["affiliation"] != "rcm"]
    return json_response(totals)


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/events",
        events,
        INTERNAL_ONLY,
        "A company's event log",
        query=wire.EventsQuery,
        answer=EventsPage,
    ),
    Endpoint("GET", "/v1/events/heads", heads, INTERNAL_ONLY, "The version of every company's books", answer=HeadsPage),
    Endpoint(
        "GET",
        "/v1/control-totals",
        control_totals,
        _TOTALS,
        "Sums per location, dates, source and affiliation, from transfers",
        query=wire.ControlTotalsQuery,
        answer=ControlTotals,
        also=(404,),
    ),
)
