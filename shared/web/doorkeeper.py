"""The way into every endpoint: who calls, whether too often, whether he may, and whether what he says can be read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web
from pydantic import BaseModel

from shared.access.principal import Principal
from shared.access.tokens import TokenVerifier
from shared.address import network
from shared.audit import remember_address
from shared.config import Config
from shared.errors import Forbidden, Unauthenticated, Unavailable, UnsupportedMediaType
from shared.recorder import BODY, QUERY, Recorder
from shared.web.bodies import parse_body, parse_query
from shared.web.endpoint import REQUEST_ID, Call, Endpoint, NoBody
from shared.web.limits import UNSAID_BYTES, AtOnce, CallLimit


class Doorkeeper:
    """Lets calls in, or refuses them. The limits are of the process."""

    def __init__(self, verifier: TokenVerifier, audit: Recorder, config: Config) -> None:
        self._verifier, self._audit, self._proxies = verifier, audit, config.proxies
        self._calls = CallLimit(config.calls_per_second, config.calls_burst)
        self._uploads = AtOnce(config.upload_bytes)

    def runner(self, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def run(request: web.Request) -> web.StreamResponse:
            address = self._proxies.address_of(request)
            # Also for what a handler writes into the audit itself.
            remember_address(address)
            if endpoint.guard.public:
                if not await self._is_ours(request):
                    self._calls.take(network(address))
                return await answer(request, None)
            principal = await self._caller(request, address)
            return await self._audit.recorded(request, request[REQUEST_ID], endpoint, principal, answer)

        async def answer(request: web.Request, principal: Principal | None) -> web.StreamResponse:
            if principal is not None and not endpoint.guard.admits(principal):
                raise Forbidden()
            query = request[QUERY] = parse_query(endpoint.query, request.query)
            body, digest = None, b""
            if endpoint.body is not None:
                body, digest = parse_body(endpoint.body, await _json_body(request, endpoint.body))
                request[BODY] = body
            elif endpoint.raw_types:
                _require_type(request, endpoint.raw_types)
            elif endpoint.method != "GET":  # What a GET carries means nothing (RFC 9110 9.3.1).
                parse_body(NoBody, await _json_body(request, NoBody))
            call = Call(request, endpoint, principal, body, digest, query)
            if principal is None or not endpoint.raw_types:
                return await endpoint.handler(call)
            size = UNSAID_BYTES if request.content_length is None else request.content_length
            with self._uploads.holding(principal.subject, size):
                return await endpoint.handler(call)

        return run

    async def _caller(self, request: web.Request, address: str) -> Principal:
        """Who calls; counted by himself, or by his address when his token is none."""
        try:
            principal = await authenticate(request, self._verifier)
        except Unauthenticated:
            self._calls.take(network(address))
            raise
        if not principal.is_internal:
            self._calls.take(principal.subject)
        return principal

    async def _is_ours(self, request: web.Request) -> bool:
        """Whether one of our services calls what anybody may: they ask identity about tokens, at times about many."""
        try:
            return "Authorization" in request.headers and (await authenticate(request, self._verifier)).is_internal
        except (Unauthenticated, Unavailable):
            return False


async def authenticate(request: web.Request, verifier: TokenVerifier) -> Principal:
    """The caller of a request, by its `Authorization: Bearer` header only."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or len(request.headers.getall("Authorization")) != 1:
        raise Unauthenticated(headers={"WWW-Authenticate": "Bearer"})
    principal = await verifier.verify(token)
    structlog.contextvars.bind_contextvars(subject=str(principal.subject))
    return principal


async def _json_body(request: web.Request, model: type[BaseModel]) -> bytes:
    """The JSON of a request. Where every field is optional, no body at all says the same as an empty object."""
    if not request.can_read_body and not any(field.is_required() for field in model.model_fields.values()):
        return b"{}"
    _require_type(request, ("application/json",))
    return await request.read()


def _require_type(request: web.Request, accepted: Sequence[str]) -> None:
    if request.content_type.lower() not in accepted or (request.charset or "utf-8").lower().replace("_", "-") not in (
        "utf-8",
        "utf8",
    ):
        raise UnsupportedMediaType("Send " + " or ".join(accepted) + " in UTF-8")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Compressed bodies are not accepted")
