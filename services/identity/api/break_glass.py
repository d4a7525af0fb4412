"""`/v1/break-glass`: access of the operator to one company in an emergency."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from aiohttp import web

from services.identity.api.common import document, page, services
from services.identity.documents import (
    BreakGlassDocument,
    BreakGlassTokenDocument,
    NewBreakGlassDocument,
    Page,
)
from services.identity.wire import BreakGlassNew, PageQuery
from shared.access.principal import OPERATOR_ONLY, area
from shared.web import Call, Endpoint

_PATH: Final = "/v1/break-glass"


async def _open(call: Call) -> web.StreamResponse:
    body: BreakGlassNew = call.body
    grant, tokens = await services(call).emergencies.open(call.principal, body.company_id, body.reason, body.minutes)
    return document(NewBreakGlassDocument, {**asdict(tokens), **asdict(grant)}, 201)


async def _renew(call: Call) -> web.StreamResponse:
    return document(BreakGlassTokenDocument, await services(call).emergencies.renew(call.principal, call.path_id()))


async def _list(call: Call) -> web.StreamResponse:
    found = await services(call).emergencies.open_grants(call.principal, call.query.cursor, call.query.limit + 1)
    return page(BreakGlassDocument, found, call.query.limit)


async def _end(call: Call) -> web.StreamResponse:
    await services(call).emergencies.end(call.principal, call.path_id())
    return web.Response(status=204)


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        _PATH,
        _open,
        OPERATOR_ONLY,
        "Open a company in an emergency",
        body=BreakGlassNew,
        answer=NewBreakGlassDocument,
        status=201,
    ),
    Endpoint(
        "GET",
        _PATH,
        _list,
        area("audit_trail", "view", operator=True),
        "Emergency access that is open now",
        query=PageQuery,
        answer=Page[BreakGlassDocument],
    ),
    Endpoint(
        "POST",
        _PATH + "/{id}/token",
        _renew,
        OPERATOR_ONLY,
        "The next token of a grant",
        answer=BreakGlassTokenDocument,
    ),
    Endpoint(
        "DELETE", _PATH + "/{id}", _end, area("users", "edit", operator=True), "End emergency access early", status=204
    ),
)
