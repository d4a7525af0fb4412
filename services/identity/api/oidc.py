"""`/v1/oidc`: signing in with an external OpenID provider."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.identity.api.common import document, services
from services.identity.api.oauth import oauth_errors, token_answer
from services.identity.documents import OidcStartDocument, TokenDocument
from services.identity.service.external import Answer
from services.identity.standard_documents import OAuthErrorDocument
from services.identity.wire import OidcFinish
from shared.access.principal import PUBLIC
from shared.web import Call, Endpoint


@oauth_errors
async def _start(call: Call) -> web.StreamResponse:
    return document(OidcStartDocument, await services(call).external.start(), 201)


@oauth_errors
async def _finish(call: Call) -> web.StreamResponse:
    body = call.body
    answer = Answer(body.handle, body.state, body.code, body.iss)
    return token_answer(await services(call).external.finish(answer, body.company_id, replaced=body.refresh_token))


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        "/v1/oidc/start",
        _start,
        PUBLIC,
        "Where to send the browser to sign in with the external provider; 404 without one",
        answer=OidcStartDocument,
        status=201,
        also=(404,),
        refusal=OAuthErrorDocument,
    ),
    Endpoint(
        "POST",
        "/v1/oidc/token",
        _finish,
        PUBLIC,
        "Get tokens with the provider's answer",
        body=OidcFinish,
        answer=TokenDocument,
        also=(404,),
        refusal=OAuthErrorDocument,
    ),
)
