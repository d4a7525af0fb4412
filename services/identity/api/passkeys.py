"""`/v1/me/passkeys` and `/v1/passkeys`: registering passkeys and signing in with one (WebAuthn)."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.identity.api.common import ENROLLING, PERSON, document, services
from services.identity.api.oauth import oauth_errors, token_answer
from services.identity.documents import PasskeyDocument, PasskeyList, TokenDocument
from services.identity.standard_documents import OAuthErrorDocument, PasskeyCreationOptions, PasskeyRequestOptions
from services.identity.wire import FactorQuery, PasskeyNew, PasskeySignIn
from shared.access.principal import PUBLIC
from shared.web import Call, Endpoint, json_response


async def _list(call: Call) -> web.StreamResponse:
    found = await services(call).passkeys.mine(call.principal)
    return document(PasskeyList, {"items": list(found)})


async def _registration_options(call: Call) -> web.StreamResponse:
    return json_response(await services(call).passkeys.registration_options(call.principal))


async def _register(call: Call) -> web.StreamResponse:
    made = await services(call).passkeys.register(
        call.principal, call.body.name, call.body.credential, end_others=call.query.end_other_sessions
    )
    return document(PasskeyDocument, made, 201)


async def _remove(call: Call) -> web.StreamResponse:
    await services(call).passkeys.remove(call.principal, call.path_id(), end_others=call.query.end_other_sessions)
    return web.Response(status=204)


async def _sign_in_options(call: Call) -> web.StreamResponse:
    return json_response(services(call).passkeys.sign_in_options())


@oauth_errors
async def _sign_in(call: Call) -> web.StreamResponse:
    body = call.body
    tokens = await services(call).passkeys.sign_in(body.credential, body.company_id, replaced=body.refresh_token)
    return token_answer(tokens)


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/me/passkeys", _list, PERSON, "One's own passkeys", answer=PasskeyList),
    Endpoint(
        "POST",
        "/v1/me/passkeys/options",
        _registration_options,
        ENROLLING,
        "Options for navigator.credentials.create()",
        answer=PasskeyCreationOptions,
    ),
    Endpoint(
        "POST",
        "/v1/me/passkeys",
        _register,
        ENROLLING,
        "Register a passkey; it counts as a second factor",
        query=FactorQuery,
        body=PasskeyNew,
        answer=PasskeyDocument,
        status=201,
    ),
    Endpoint("DELETE", "/v1/me/passkeys/{id}", _remove, PERSON, "Remove a passkey", query=FactorQuery, status=204),
    Endpoint(
        "POST",
        "/v1/passkeys/options",
        _sign_in_options,
        PUBLIC,
        "Options for navigator.credentials.get()",
        answer=PasskeyRequestOptions,
    ),
    Endpoint(
        "POST",
        "/v1/passkeys/token",
        _sign_in,
        PUBLIC,
        "Get tokens with a passkey",
        body=PasskeySignIn,
        answer=TokenDocument,
        refusal=OAuthErrorDocument,
    ),
)
