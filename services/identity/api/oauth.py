"""Answers of the routes that give tokens: tokens, or an error in the form that RFC 6749 section 5.2 gives to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps

from aiohttp import web

from services.identity.documents import TokenDocument
from services.identity.service.issuing import OAuthError, Tokens
from shared.web import Call, json_response
from shared.web.endpoint import refused_by

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


def oauth_errors(handler: Handler) -> Handler:
    """A handler whose OAuthErrors become answers."""

    @wraps(handler)
    async def answer(call: Call) -> web.StreamResponse:
        try:
            return await handler(call)
        except OAuthError as error:
            headers = {"WWW-Authenticate": 'Basic realm="billing"'} if error.status == 401 else {}
            body = {"error": error.error, "error_description": error.description}
            response = json_response(body, error.status, headers)
            refused_by(response, error.error)
            return response

    return answer


def token_answer(tokens: Tokens) -> web.Response:
    facts = TokenDocument.model_validate(tokens).model_dump(mode="json")
    for name in ("refresh_token", "scope"):
        if facts[name] is None:
            del facts[name]
    return json_response(facts)
