"""Sessions and passwords: one's own, and those that an administrator takes care of."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.identity.api.common import CHANGING, PERSON, address, document, services
from services.identity.documents import ResetCodeDocument, SessionList
from services.identity.wire import PasswordChange, PasswordReset
from shared.access.principal import PUBLIC, area
from shared.web import Call, Endpoint

_ADMINISTRATOR: Final = area("users", "edit", operator=True)


async def _list(call: Call) -> web.StreamResponse:
    found = await services(call).sessions.mine(call.principal)
    return document(SessionList, {"items": list(found)})


async def _end(call: Call) -> web.StreamResponse:
    await services(call).sessions.end_mine(call.principal, call.path_id())
    return web.Response(status=204)


async def _end_all(call: Call) -> web.StreamResponse:
    await services(call).sessions.end_all(call.principal, call.path_id())
    return web.Response(status=204)


async def _reset_mfa(call: Call) -> web.StreamResponse:
    await services(call).sessions.reset_factors(call.principal, call.path_id())
    return web.Response(status=204)


async def _change_password(call: Call) -> web.StreamResponse:
    body = call.body
    await services(call).passwords.change(call.principal, body.old_password, body.password, address())
    return web.Response(status=204)


async def _issue_reset(call: Call) -> web.StreamResponse:
    return document(ResetCodeDocument, await services(call).passwords.issue_reset(call.principal, call.path_id()), 201)


async def _reset_password(call: Call) -> web.StreamResponse:
    body = call.body
    await services(call).passwords.reset(body.user_name, body.code, body.password, address())
    return web.Response(status=204)


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/me/sessions", _list, PERSON, "One's own open sessions, newest first", answer=SessionList),
    Endpoint("DELETE", "/v1/me/sessions/{id}", _end, PERSON, "End one of one's own sessions", status=204),
    Endpoint(
        "POST",
        "/v1/me/password",
        _change_password,
        CHANGING,
        "Change one's own password; one's other sessions end",
        body=PasswordChange,
        status=204,
    ),
    Endpoint("DELETE", "/v1/users/{id}/sessions", _end_all, _ADMINISTRATOR, "End a user's sessions", status=204),
    Endpoint(
        "DELETE",
        "/v1/users/{id}/mfa",
        _reset_mfa,
        _ADMINISTRATOR,
        "Remove a user's second factors, passkeys and links to a provider; his sessions end",
        status=204,
    ),
    Endpoint(
        "POST",
        "/v1/users/{id}/password-reset",
        _issue_reset,
        _ADMINISTRATOR,
        "A code, shown once, with which a user chooses a new password within the hour",
        answer=ResetCodeDocument,
        status=201,
    ),
    Endpoint(
        "POST",
        "/v1/password-reset",
        _reset_password,
        PUBLIC,
        "Choose a new password with a code; all sessions end",
        body=PasswordReset,
        status=204,
    ),
)
