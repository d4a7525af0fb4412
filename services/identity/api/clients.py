"""`/v1/clients`: machine users of EMR integrations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from aiohttp import web

from services.identity.api.common import document, page, services
from services.identity.documents import ClientDocument, NewClientDocument, Page
from services.identity.wire import ClientNew, PageQuery
from shared.access.principal import OPERATOR_ONLY, area
from shared.web import Call, Endpoint


async def _list(call: Call) -> web.StreamResponse:
    found = await services(call).clients.list(call.principal, call.query.cursor, call.query.limit + 1)
    return page(ClientDocument, found, call.query.limit)


async def _create(call: Call) -> web.StreamResponse:
    made = await services(call).clients.create(call.principal, call.body.given())
    return document(NewClientDocument, {**asdict(made.client), "client_secret": made.secret}, 201)


async def _delete(call: Call) -> web.StreamResponse:
    await services(call).clients.delete(call.principal, call.path_id())
    return web.Response(status=204)


ENDPOINTS: Final = (
    Endpoint(
        "GET",
        "/v1/clients",
        _list,
        area("company_constants", "view", operator=True),
        "Machine clients",
        query=PageQuery,
        answer=Page[ClientDocument],
    ),
    Endpoint(
        "POST",
        "/v1/clients",
        _create,
        OPERATOR_ONLY,
        "Make a client; its secret is shown once",
        body=ClientNew,
        answer=NewClientDocument,
        status=201,
    ),
    Endpoint(
        "DELETE",
        "/v1/clients/{id}",
        _delete,
        area("company_constants", "edit", operator=True),
        "Remove a client",
        status=204,
    ),
)
