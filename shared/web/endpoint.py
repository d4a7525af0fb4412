"""An endpoint is data: method, path, guard, models, handler. The router, the guard, the OpenAPI document and the
test of the access matrix all read the same list, so that no route can be left unguarded or undocumented."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import orjson
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.access.principal import INTERNAL_ONLY, Guard, Principal
from shared.access.tokens import TokenVerifier
from shared.errors import Invalid, NotFound
from shared.fields import Body, Id, Query
from shared.recorder import tell_rows

Handler = Callable[["Call"], Awaitable[web.StreamResponse]]

REQUEST_ID = web.RequestKey("request_id", str)
CORRELATION_ID = web.RequestKey("correlation_id", str)
REFUSED_BY: Final = web.ResponseKey("refused_by", dict)
"""What the log says of a refusal: its code, and those of the rules that fields broke."""
VERIFIER = web.AppKey("verifier", TokenVerifier)
_ID: TypeAdapter[Any] = TypeAdapter(Id)


class NoQuery(Query):
    """The query of an endpoint that takes none: any parameter is refused."""


class NoBody(Body):
    """The body of a request that takes none: an empty object says the same, any field is refused."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route. `body` is parsed as strict JSON; `raw_types` names the media types of a body that the handler
    reads itself. `answer` is the model of the 2xx answer, or of its lines, for the OpenAPI document."""

    method: str
    path: str
    handler: Handler
    guard: Guard
    summary: str
    body: type[BaseModel] | None = None
    query: type[Query] = NoQuery
    raw_types: tuple[str, ...] = ()
    answer: type[BaseModel] | None = None
    status: int = 200
    also: tuple[int, ...] = ()
    """Statuses beside those that follow from the other fields: a 2xx with the same document, else with a problem."""
    refusal: type[BaseModel] | None = None
    """How a standard of its own says no, where some refusals are no problem documents."""
    idempotent: bool = False
    """True: takes `Idempotency-Key`, because it moves money."""
    answer_type: str = "application/json"
    """'' where there is no body; with the status 204 there is none either."""
    audited: bool = True
    """False: shows nothing of a company's, so that reading it is not written into the audit."""

    @property
    def in_audit(self) -> bool:
        return self.audited and not self.guard.public and self.guard != INTERNAL_ONLY


@dataclass(frozen=True, slots=True)
class Call:
    """One request after authentication, guard and parsing: all that a handler needs."""

    request: web.Request
    endpoint: Endpoint
    caller: Principal | None
    body: Any
    body_hash: bytes
    query: Any

    @property
    def principal(self) -> Principal:
        """The verified caller; only public endpoints have none."""
        if self.caller is None:
            raise RuntimeError("a public endpoint has no principal")
        return self.caller

    @property
    def app(self) -> web.Application:
        return self.request.app

    @property
    def request_id(self) -> str:
        found: str = self.request[REQUEST_ID]
        return found

    @property
    def correlation_id(self) -> str:
        """The id that follows what this request causes, through the broker to the reports."""
        found: str = self.request[CORRELATION_ID]
        return found

    async def still_allowed(self) -> None:
        """For answers that take long, between their parts: raises Unauthenticated (`token_stale`) when the caller's
        rights have changed meanwhile, and Unavailable when nobody can say."""
        revocations = self.app[VERIFIER].revocations
        if revocations is not None and self.caller is not None:
            await revocations.check(self.caller, self.request.headers["Authorization"].partition(" ")[2])

    def path_id(self, name: str = "id") -> Any:
        """An id in the path; what is not an id is simply absent (404)."""
        try:
            return _ID.validate_python(self.request.match_info[name])
        except ValidationError:
            raise NotFound() from None

    @property
    def idempotency_key(self) -> str:
        """The `Idempotency-Key` header: 1..200 visible ASCII characters, required (422)."""
        keys = self.request.headers.getall("Idempotency-Key", [])
        if len(keys) != 1 or not 1 <= len(keys[0]) <= 200 or not all("!" <= c <= "~" for c in keys[0]):
            raise Invalid.field(
                "Idempotency-Key", "idempotency_key", "One header of 1 to 200 visible ASCII characters is required"
            )
        return keys[0]


class Streamed(web.StreamResponse):
    """An answer in pieces. A HEAD is answered by the same work, and none of them is sent."""

    _head = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._head = request.method == "HEAD"
        return await super().prepare(request)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._head:
            await super().write(data)


def refused_by(response: web.StreamResponse, code: str, rules: Iterable[str] = ()) -> None:
    """Note on an answer which rules it is a refusal by (ASVS 5.0 16.3.3). Codes only, which are our words: the name of
    a field may be the caller's."""
    broken = sorted(set(rules) - {code})
    response[REFUSED_BY] = {"code": code, "rules": broken} if broken else {"code": code}


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer; `value` may hold dataclasses, ids (the driver's too), dates and datetimes (as RFC 3339 UTC)."""
    body = value if isinstance(value, bytes) else orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z)
    response = web.Response(body=body, status=status, content_type="application/json", headers=headers)
    if isinstance(value, dict) and isinstance(items := value.get("items"), list):
        tell_rows(response, items)
    return response


def _plain(value: Any) -> str:
    # asyncpg's ids are a subclass of UUID, which orjson does not take for one.
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(type(value).__name__)
