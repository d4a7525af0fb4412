"""Identity with its relay, RabbitMQ, and the APIs of ledger and reporting that hear of rights through it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from services.identity import relay
from services.identity.app import MIGRATIONS as IDENTITY_MIGRATIONS
from services.ledger.app import create_app as ledger_app
from services.ledger.feeds.run import IDENTITY_QUEUE as LEDGER_QUEUE
from services.ledger.store import MIGRATIONS as LEDGER_MIGRATIONS
from services.reporting.app import create_app as reporting_app
from services.reporting.store import MIGRATIONS as REPORTING_MIGRATIONS
from shared.access.revocation import Revocations
from shared.access.tokens import KeyCache, TokenVerifier
from shared.amqp import AmqpBus
from shared.config import Config
from shared.directory import Directory
from shared.identity_client import InternalTokens, ServiceClient, key_fetcher
from shared.web.endpoint import VERIFIER
from tests.support.databases import Databases
from tests.support.identity import INTERNAL_SECRET, IdentityStack

ROUTES: Final = {"ledger": "/v1/payers", "reporting": "/v1/reports"}
STALE: Final = (401, "token_stale")
PATIENCE: Final = 60.0
NUMBERS: Final = count()


@dataclass(slots=True)
class Api:
    """One API process, as far as a process is an application with everything of its own."""

    client: TestClient[Any, Any]
    route: str

    @property
    def verifier(self) -> TokenVerifier:
        return self.client.app[VERIFIER]  # type: ignore[union-attr]

    @property
    def revocations(self) -> Revocations:
        assert self.verifier.revocations is not None
        return self.verifier.revocations

    async def ask(self, token: str) -> tuple[int, str]:
        """Status and code of an answer."""
        headers = {"Authorization": f"Bearer {token}"}
        async with self.client.get(self.route, headers=headers) as response:
            body = await response.json()
            return response.status, body.get("code", "")

    async def well(self) -> None:
        """Wait until the snapshot is read and tokens are believed without a question."""
        await until(lambda: time.monotonic() < self.revocations._well_until, "nothing is heard")


async def until(condition: Callable[[], bool], message: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, message
        await asyncio.sleep(0.01)


@dataclass(slots=True)
class World:
    """Identity, and what starts the processes around it."""

    databases: Databases
    stack: AsyncExitStack
    amqp_url: str
    identity: IdentityStack
    dsns: dict[str, str]
    apis: dict[str, Api] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        return Config(
            identity_database_url=SecretStr(self.dsns["identity"]),
            ledger_database_url=SecretStr(self.dsns["ledger"]),
            reporting_database_url=SecretStr(self.dsns["reporting"]),
            amqp_url=SecretStr(self.amqp_url),
            identity_url=self.identity.url,
            internal_client_secret=SecretStr(INTERNAL_SECRET),
            identity_secrets_key=self.identity.config.identity_secrets_key,
        )

    @asynccontextmanager
    async def api(self, name: str, **bounds: float) -> AsyncIterator[Api]:
        """A process of a service; with `bounds` other than the real ones."""
        config = self.config
        async with AsyncExitStack() as stack:
            verifier = None
            if bounds:
                tokens = InternalTokens(config.identity_url, INTERNAL_SECRET)
                keys, identity = ServiceClient(config.identity_url), ServiceClient(config.identity_url, tokens)
                for client in (keys, identity, tokens):
                    stack.push_async_callback(client.close)
                verifier = TokenVerifier(
                    KeyCache(key_fetcher(keys)),
                    issuer=config.issuer,
                    audience=config.audience,
                    revocations=Revocations(identity, **bounds),
                )
            app = {"ledger": ledger_app, "reporting": reporting_app}[name](config, verifier)
            yield Api(await stack.enter_async_context(TestClient(TestServer(app))), ROUTES[name])

    async def relaying(self) -> asyncio.Event:
        """A relay process; it ends when the event that is returned is set."""
        stop = asyncio.Event()
        task = asyncio.create_task(relay.run(self.config, stop))

        async def end() -> None:
            stop.set()
            await task

        self.stack.push_async_callback(end)
        return stop

    async def change(self, user: Mapping[str, Any], **fields: Any) -> None:
        answer = await self.identity.patch(f"/v1/users/{user['id']}", fields, await self.identity.operator())
        assert answer.status == 200, answer

    async def token(self, user: Mapping[str, Any]) -> str:
        return str((await self.identity.sign_in(user["user_name"]))["access_token"])

    async def user(self) -> dict[str, Any]:
        """A partner in two companies with two locations."""
        number = next(NUMBERS)
        companies = [(await self.identity.company(f"R{number}-{place}"))["id"] for place in range(2)]
        places = [(await self.identity.location(companies[0], f"L{place}"))["id"] for place in range(2)]
        made = await self.identity.user(f"u{number}", "partner_admin", companies, emr_location_ids=places)
        await self.identity.user(f"v{number}", "partner_admin", companies)  # so that the first is not the last
        return made

    async def gone(self, api: Api, token: str) -> float:
        """When the token was refused for the first time; from then on it must be."""
        deadline = time.monotonic() + PATIENCE
        while (answer := await api.ask(token)) != STALE:
            assert time.monotonic() < deadline, "a stale token is believed"
            assert answer[0] in {200, 403, 503}, answer
            await asyncio.sleep(0.004)
        return time.perf_counter()


@asynccontextmanager
async def built(databases: Databases, amqp_url: str, **bounds: float) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        folders = {
            "identity": IDENTITY_MIGRATIONS,
            "ledger": LEDGER_MIGRATIONS,
            "reporting": REPORTING_MIGRATIONS,
        }
        dsns = {}
        for name, folder in folders.items():
            dsns[name] = await databases.create(folder)
            stack.push_async_callback(databases.drop, dsns[name])
        identity = await stack.enter_async_context(IdentityStack.running(dsns["identity"]))
        bus = AmqpBus(amqp_url)
        await bus.declare([Directory.subscription(LEDGER_QUEUE)])  # of the feeds process, which takes every event
        await bus.close()
        world = World(databases, stack, amqp_url, identity, dsns)
        await world.relaying()
        for name in ROUTES:
            world.apis[name] = await stack.enter_async_context(world.api(name, **bounds))
        for api in world.apis.values():
            await api.well()
        yield world


async def never(_: str) -> bool:
    raise AssertionError("identity was asked about a token although news is fresh")
