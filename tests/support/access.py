"""Routes as the access matrix asks them: one row for each way to call a route, and what it takes to ask it well."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol
from uuid import UUID, uuid4

import orjson
from aiohttp import web
from aiohttp.test_utils import TestClient

from tests.support.bad_tokens import claims_of, stale_tokens
from tests.support.news import News
from tests.support.tokens import TokenMaker

_SLOT: Final = re.compile(r"\{(\w+)\}")
FACTS: Final = frozenset({"fresh", "today", "word", "key"})
"""Slots that name no object."""
Ids = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One way to call a route.

    `{slots}` in path, query and body stand for objects of a company: `charge_void` is a charge that is there for this
    row alone. `{fresh}` is new each time. `rule` says who may (tests/access/oracle.py).
    """

    call: str
    rule: str
    done: int = 200
    """The answer to those who may; 0 where it depends on more than the caller."""
    body: Any = None
    """JSON, or the bytes of another `type`."""
    type: str = "application/json"
    elsewhere: int | None = None
    """The answer when the objects are another company's, or nobody's; by default what their place suggests."""
    told: str = ""
    """Who is told that an object is absent, where more people may ask for one than may do this to it."""
    unbound: tuple[str, ...] = ()
    """Callers that no company bounds."""
    echoes: bool = False
    """Whether ids that the caller himself has named elsewhere may be shown to him again."""

    @property
    def method(self) -> str:
        return self.call.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.call.partition(" ")[2].partition("?")[0]

    @property
    def route(self) -> str:
        """Method and path with nameless parameters, to be compared with what is served."""
        return f"{self.method} {_SLOT.sub('{}', self.path)}"

    @property
    def slots(self) -> frozenset[str]:
        body = b"" if isinstance(self.body, bytes) else orjson.dumps(self.body)
        return frozenset(_SLOT.findall(self.call + body.decode())) - {"fresh"}

    @property
    def mixtures(self) -> tuple[tuple[frozenset[str], int], ...]:
        """Which objects may be another company's, each alone and all together, and the answer then."""
        each = [frozenset({slot}) for slot in sorted(self.slots - FACTS)]
        together = [frozenset[str]().union(*each)] if len(each) > 1 else []
        return tuple((slots, self.elsewhere or self._absent(slots)) for slots in (*each, *together))

    def _absent(self, slots: frozenset[str]) -> int:
        if slots & set(_SLOT.findall(self.path)):
            return 404
        return 200 if slots & set(_SLOT.findall(self.call)) else 422

    def url(self, ids: Ids) -> str:
        return _fill(self.call.partition(" ")[2], ids)

    def payload(self, ids: Ids) -> bytes | None:
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return orjson.dumps(_filled(self.body, ids))


def template(method: str, path: str) -> str:
    """A declared route in the form of `Row.route`."""
    return f"{method} {_SLOT.sub('{}', path)}"


def _fill(text: str, ids: Ids) -> str:
    return _SLOT.sub(lambda slot: uuid4().hex[:20] if slot[1] == "fresh" else ids[slot[1]], text)


def _filled(value: Any, ids: Ids) -> Any:
    if isinstance(value, str):
        return _fill(value, ids)
    if isinstance(value, dict):
        return {name: _filled(inner, ids) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, ids) for inner in value]
    return value


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return orjson.loads(self.raw)

    def __str__(self) -> str:
        return f"{self.status} {self.raw[:1500]!r}"

    @property
    def shown(self) -> tuple[int, Any, Any]:
        """All that a caller can compare: everything but the names of the request."""
        headers = {n.lower(): v for n, v in self.headers.items() if n.lower() not in ("date", "x-request-id")}
        return self.status, re.sub(rb'"request_id":"[^"]*"', b'"request_id":""', self.raw), headers


@dataclass(slots=True)
class World:
    """A company with an object for each slot of the rows, and the token of the one who asks."""

    ids: dict[str, str]
    token: str | None = None
    secrets: set[bytes] = field(default_factory=set)
    """What no other company may ever be shown: ids and names."""

    def nobody(self) -> dict[str, str]:
        """Ids of the same shape that nothing has."""
        return {slot: value if slot in FACTS else str(uuid4()) for slot, value in self.ids.items()}


class Served(Protocol):
    """A running service under the matrix."""

    rows: tuple[Row, ...]

    async def world(self, caller: str) -> World:
        """A company of the caller's own, made for him."""

    async def send(self, method: str, url: str, token: str | None, **arguments: Any) -> Reply: ...

    async def checksums(self) -> dict[str, str]:
        """Every table's count of rows and a sum of their content."""


class ServedByNews(ABC):
    """A service that knows callers by their tokens, and by the news of changed rights."""

    outdated: ClassVar[str]
    """The caller whose rights change in `stale`."""

    def __init__(self, client: TestClient[Any, Any], owner: Any, tokens: TokenMaker, news: News) -> None:
        self.client, self.owner, self.tokens, self.news = client, owner, tokens, news

    @property
    def app(self) -> web.Application:
        found = self.client.app
        assert found is not None
        return found

    async def checksums(self) -> dict[str, str]:
        return await checksums(self.owner)

    async def send(self, method: str, url: str, token: str | None, **arguments: Any) -> Reply:
        return await sent(self.client.request, method, url, token, **arguments)

    async def stale(self) -> tuple[World, dict[str, str]]:
        """A world, and a token of every caller from before its holder's rights changed."""
        mine = await self.world(self.outdated)
        assert mine.token is not None
        before = claims_of(mine.token)
        await self.news.raised(UUID(before["sub"]), before["authz_ver"] + 1)
        return mine, stale_tokens(mine.token, self.tokens.key)

    @abstractmethod
    async def world(self, caller: str) -> World: ...


async def sent(request: Callable[..., Any], method: str, url: str, token: str | None, **arguments: Any) -> Reply:
    """For `Served.send`, by the `request` of a client."""
    if token is not None:
        arguments["headers"] = {**arguments.get("headers", {}), "Authorization": f"Bearer {token}"}
    async with request(method, url, **arguments) as response:
        return Reply(response.status, response.headers, await response.read())


async def checksums(owner: Any) -> dict[str, str]:
    """For `Served.checksums`, on a superuser's connection or pool. The audit is left out: it keeps refusals too."""
    names = await owner.fetch(
        "select tablename as name from pg_tables where schemaname = 'public' and tablename not like 'audit%' order by 1"
    )
    content = "count(*) || ' ' || md5(coalesce(string_agg(t::text, '|' order by t::text), ''))"
    each = [f"select '{row['name']}' as name, {content} as content from {row['name']} t" for row in names]
    return {row["name"]: row["content"] for row in await owner.fetch(" union all ".join(each))}


async def ask(served: Served, row: Row, token: str | None, ids: Ids, **headers: str) -> Reply:
    """Send a row. `token` None: without."""
    given = {"Idempotency-Key": str(uuid4()), **headers}
    if token is not None:
        given["Authorization"] = f"Bearer {token}"
    payload = row.payload(ids)
    if payload is not None:
        given["Content-Type"] = row.type
    return await served.send(row.method, row.url(ids), None, headers=given, data=payload)
