"""`/v1/audit` for people, `/v1/events` and `/v1/access-versions` for the other services."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final

import orjson
from aiohttp import web

from services.identity.api.common import services
from services.identity.documents import AccessPage, EventPage
from services.identity.wire import EventsQuery
from shared.access.principal import INTERNAL_ONLY, area
from shared.db import Connection, acquire
from shared.web import Call, Endpoint, json_response
from shared.web.audit import audit_endpoint


def _connection(call: Call) -> AbstractAsyncContextManager[Connection]:
    return acquire(services(call).views.pool)


async def _events(call: Call) -> web.StreamResponse:
    found = await services(call).views.events(call.query.after, call.query.limit + 1)
    shown = found[: call.query.limit]
    items = [{"position": position, "event": orjson.Fragment(envelope)} for position, envelope in shown]
    return json_response({"items": items, "next": shown[-1][0] if len(found) > len(shown) else None})


async def _access_versions(call: Call) -> web.StreamResponse:
    found = await services(call).access_versions.changes(call.query.after, call.query.limit + 1)
    shown = found[: call.query.limit]
    items = [orjson.Fragment(state) for _, state in shown]
    return json_response({"items": items, "next": shown[-1][0] if len(found) > len(shown) else None})


ENDPOINTS: Final = (
    audit_endpoint(area("audit_trail", "view", operator=True), _connection),
    Endpoint(
        "GET",
        "/v1/events",
        _events,
        INTERNAL_ONLY,
        "The event log, in order of positions",
        query=EventsQuery,
        answer=EventPage,
    ),
    Endpoint(
        "GET",
        "/v1/access-versions",
        _access_versions,
        INTERNAL_ONLY,
        "Whose access changed within the life of a token, in order of time",
        query=EventsQuery,
        answer=AccessPage,
    ),
)
