"""`/v1/audit` for people, `/v1/events` for the other services."""

from __future__ import annotations

from typing import Final

import orjson
from aiohttp import web

from services.identity.api.common import page, services
from services.identity.documents import AuditDocument, EventPage, Page
from services.identity.wire import EventsQuery, PageQuery
from shared.access.principal import INTERNAL_ONLY, area
from shared.web import Call, Endpoint, json_response


async def _audit(call: Call) -> web.StreamResponse:
    found = await services(call).views.audit(call.principal, call.query.cursor, call.query.limit + 1)
    return page(AuditDocument, found, call.query.limit)


async def _events(call: Call) -> web.StreamResponse:
    found = await services(call).views.events(call.query.after, call.query.limit + 1)
    shown = found[: call.query.limit]
    items = [{"position": position, "event": orjson.Fragment(envelope)} for position, envelope in shown]
    return json_response({"items": items, "next": shown[-1][0] if len(found) > len(shown) else None})


ENDPOINTS: Final = (
    Endpoint(
        "GET",
        "/v1/audit",
        _audit,
        area("audit_trail", "view", operator=True),
        "Sign-ins and administration, newest first",
        query=PageQuery,
        answer=Page[AuditDocument],
    ),
    Endpoint(
        "GET",
        "/v1/events",
        _events,
        INTERNAL_ONLY,
        "The event log, in order of positions",
        query=EventsQuery,
        answer=EventPage,
    ),
)
