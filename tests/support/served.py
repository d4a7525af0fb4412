"""The three services as a deployment serves them: real sockets, the limits of `shared.web.serve`, real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson
from aiohttp import web
from yarl import URL

from deploy.processes import free_port
from services.identity.api import ENDPOINTS as IDENTITY
from services.identity.app import create_app as identity_app
from services.ledger.api import ENDPOINTS as LEDGER
from services.ledger.app import create_app as ledger_app
from services.reporting.api import ENDPOINTS as REPORTING
from services.reporting.app import create_app as reporting_app
from shared.access.tokens import TokenVerifier
from shared.web.endpoint import Endpoint
from shared.web.serve import listening
from tests.support.databases import Databases
from tests.support.identity import IdentityStack, fast_hasher
from tests.support.ledger import Company, LedgerStack
from tests.support.ledger_events import Books
from tests.support.reporting import ReportingStack

ENDPOINTS: Mapping[str, Sequence[Endpoint]] = {"identity": IDENTITY, "ledger": LEDGER, "reporting": REPORTING}
ALL = [(name, endpoint) for name, endpoints in ENDPOINTS.items() for endpoint in endpoints]
SOME_ID = "0196f0c5-0000-7000-8000-000000000001"


def label(value: Any) -> str | None:
    """The name of an endpoint in the list of tests."""
    return f"{value.method} {value.path}" if isinstance(value, Endpoint) else None


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return orjson.loads(self.raw)

    @property
    def fields(self) -> dict[str, str]:
        """Code by field, of a problem."""
        return {error["field"]: error["code"] for error in self.body["errors"]}

    def __str__(self) -> str:
        return f"{self.status} {self.raw[:600]!r}"


@dataclass(slots=True)
class Served:
    """One service on a port of this machine, and callers for its endpoints."""

    name: str
    port: int
    owner: asyncpg.Pool
    session: aiohttp.ClientSession
    verifier: TokenVerifier
    tokens: Sequence[str]
    """Of callers who may do everything there is, between them."""
    company: Company | None = None
    """The ledger's company, to fill."""
    _callers: dict[str, str | None] = field(default_factory=dict)

    async def token_for(self, endpoint: Endpoint) -> str | None:
        """A token of somebody who may call this; None where anybody may."""
        key = f"{endpoint.method} {endpoint.path}"
        if key not in self._callers:
            found = [one for one in self.tokens if endpoint.guard.admits(await self.verifier.verify(one))]
            assert found or endpoint.guard.public, key
            self._callers[key] = None if endpoint.guard.public else found[0]
        return self._callers[key]

    async def send(
        self, method: str, target: str, *, token: str | None = None, data: bytes | None = None, **headers: str
    ) -> Answer:
        """A request as it is written: `target` is not encoded again, and the body has no type unless given."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            named["Authorization"] = f"Bearer {token}"
        url = URL(f"http://127.0.0.1:{self.port}{target}", encoded=True)
        async with self.session.request(
            method, url, data=data, headers=named, skip_auto_headers=["Content-Type"], allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def ask(self, endpoint: Endpoint, data: bytes | None = None, query: str = "", **headers: str) -> Answer:
        """Call an endpoint as somebody who may, about objects that do not exist."""
        target = filled(endpoint.path) + (f"?{query}" if query else "")
        if data is not None and endpoint.body is not None:
            headers.setdefault("Content_Type", "application/json")
        return await self.send(endpoint.method, target, token=await self.token_for(endpoint), data=data, **headers)

    async def counts(self) -> dict[str, int]:
        """How many rows every table holds: to show that a refusal left no trace. (Attempts to sign in are counted,
        which is their trace; and what others have just read is still being written into the audit.)"""
        rows = await self.owner.fetch(
            "select quote_ident(table_name) as name from information_schema.tables"
            " where table_schema = 'public' and table_type = 'BASE TABLE'"
            " and table_name not like all (array['sign_in_%', 'audit%'])"
        )
        return {row["name"]: await self.owner.fetchval(f"select count(*) from {row['name']}") for row in rows}

    async def alive(self) -> None:
        """It serves, and it says that it can."""
        assert (await self.send("GET", "/readyz")).body == {"status": "ok", "failed": []}


def filled(path: str, value: str = SOME_ID) -> str:
    """A path with all its parameters given."""
    return "/".join(value if part.startswith("{") else part for part in path.split("/"))


@asynccontextmanager
async def running(databases: Databases) -> AsyncIterator[dict[str, Served]]:
    """All three, each with a database of its own and somebody to call it."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        identity = await enter(IdentityStack.fresh(databases))
        ledger = await enter(LedgerStack.fresh(databases))
        reporting = await enter(ReportingStack.fresh(databases))
        hasher = fast_hasher()
        stack.callback(hasher.close)
        session = await enter(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)))

        async def serve(name: str, app: web.Application, dsn: str, verifier: Any, tokens: list[str]) -> Served:
            port = free_port()
            await enter(listening(app, "127.0.0.1", port, shutdown_seconds=1))
            owner = await enter(asyncpg.create_pool(dsn, min_size=1, max_size=2))
            return Served(name, port, owner, session, verifier, tokens)

        company = (await identity.company("HOSTILE"))["id"]
        await identity.user("admin", "partner_admin", [company])
        callers = [await identity.operator(), await identity.token("admin"), await identity.internal()]
        app = identity_app(identity.config, hasher=hasher)
        served = {"identity": await serve("identity", app, identity.dsn, _verifier(identity, stack), callers)}

        books = await ledger.company()
        app = ledger_app(ledger.config, ledger.tokens.verifier)
        callers = [books.token(), ledger.internal()]
        served["ledger"] = await serve("ledger", app, ledger.dsn, ledger.tokens.verifier, callers)
        served["ledger"].company = books

        made = Books(random.Random(1)).act(30)
        await reporting.load(made)
        app = reporting_app(reporting.config, reporting.tokens.verifier)
        callers = [reporting.admin(made)]
        served["reporting"] = await serve("reporting", app, reporting.dsn, reporting.tokens.verifier, callers)
        yield served


def _verifier(identity: IdentityStack, stack: AsyncExitStack) -> TokenVerifier:
    from shared.access.tokens import KeyCache
    from shared.identity_client import ServiceClient, key_fetcher

    client = ServiceClient(identity.url)
    stack.push_async_callback(client.close)
    return TokenVerifier(
        KeyCache(key_fetcher(client)), issuer=identity.config.issuer, audience=identity.config.audience
    )


async def said(port: int, raw: bytes, seconds: float = 5, *, half_close: bool = False) -> bytes:
    """What a server says to these bytes until it closes the connection, or falls silent for so long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = b""
    try:
        writer.write(raw)
        if half_close:
            writer.write_eof()
        while piece := await asyncio.wait_for(reader.read(1 << 16), seconds):
            heard += piece
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
    return heard


def problems(raw: bytes) -> list[UUID]:
    """The request ids of the problems in a stream of HTTP answers."""
    answers = re.split(rb"HTTP/[01]\.[019] (?=4)", raw)[1:]
    return [UUID(orjson.loads(answer.partition(b"\r\n\r\n")[2])["request_id"]) for answer in answers]
