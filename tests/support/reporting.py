"""A running reporting service for tests, with stand-ins for the identity and the ledger that it asks."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from services.reporting.app import create_app
from services.reporting.inbox import Inbox
from services.reporting.store import MIGRATIONS, ROLE
from shared.bus import Outcome
from shared.config import Config
from shared.contracts.envelope import Event, encode
from shared.contracts.identity_events import LOCATION_CHANGED, USER_CHANGED, LocationState, UserState
from shared.contracts.ledger_events import PostingEvent
from shared.db import KEYED_PLANS, create_pool
from tests.support.databases import Databases
from tests.support.ledger_events import Books, delivered, message_of
from tests.support.news import News
from tests.support.tokens import TokenMaker

REPORTS = "/v1/reports/"
ALL = {"from": "2026-01-01", "to": "2026-12-31"}


@dataclass(slots=True)
class Neighbours:
    """Identity and ledger as reporting sees them: a token, identity's log, the ledger's heads and log."""

    states: list[tuple[str, LocationState | UserState]] = field(default_factory=list)
    books: list[Books] = field(default_factory=list)
    away: bool = False
    longest: int = 4
    """Versions in an event of the ledger's log, at most."""
    asked: list[str] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.post("/identity/v1/token", self._token),
                web.get("/identity/v1/events", self._identity_events),
                web.get("/ledger/v1/events", self._ledger_events),
                web.get("/ledger/v1/events/heads", self._heads),
            ]
        )
        return app

    async def _token(self, _: web.Request) -> web.Response:
        return self._answer("token", {"access_token": "internal", "expires_in": 300})

    async def _identity_events(self, request: web.Request) -> web.Response:
        after = int(request.query["after"])
        items = [
            {"position": place, "event": {"type": kind, "data": state.model_dump(mode="json")}}
            for place, (kind, state) in enumerate(self.states, 1)
            if place > after
        ]
        return self._answer("identity", {"items": items})

    async def _heads(self, _: web.Request) -> web.Response:
        items = [{"company_id": str(books.company_id), "version": books.version} for books in self.books]
        return self._answer("heads", {"items": items})

    async def _ledger_events(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer internal"
        after, limit = int(request.query["after_version"]), int(request.query["limit"])
        (books,) = [books for books in self.books if str(books.company_id) == request.query["company_id"]]
        later = [event for event in books.events(longest=self.longest) if event.data.version > after]
        items = [orjson.loads(encode(event)) for event in later[:limit]]
        more = later[limit - 1].data.version if len(later) > limit else None
        return self._answer("events", {"items": items, "next": more})

    def _answer(self, what: str, body: Any) -> web.Response:
        self.asked.append(what)
        if self.away:
            raise web.HTTPServiceUnavailable()
        return web.json_response(body)


@dataclass(slots=True)
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: Any
    raw: bytes

    @property
    def body(self) -> Any:
        return orjson.loads(self.raw)

    @property
    def fields(self) -> set[str]:
        """The fields that a problem names."""
        return {error["field"] for error in self.body["errors"]}


@dataclass(slots=True)
class ReportingStack:
    """The API on a database of its own. Companies keep tests apart, so one database serves many."""

    dsn: str
    config: Config
    client: TestClient[Any, Any]
    pool: asyncpg.Pool
    owner: asyncpg.Connection
    inbox: Inbox
    neighbours: Neighbours
    tokens: TokenMaker

    @classmethod
    @asynccontextmanager
    async def fresh(cls, databases: Databases, news: News | None = None) -> AsyncIterator[ReportingStack]:
        """Start it on a new database, which is dropped afterwards; without `news` nobody's rights change."""
        dsn = await databases.create(MIGRATIONS)
        neighbours, tokens = Neighbours(), TokenMaker(news and news.revocations)
        try:
            async with TestServer(neighbours.app()) as server:
                config = Config(
                    reporting_database_url=SecretStr(dsn),
                    identity_url=str(server.make_url("/identity")),
                    ledger_url=str(server.make_url("/ledger")),
                    internal_client_secret=SecretStr("secret"),
                )
                pool = await create_pool(dsn, name="tests", role=ROLE, settings=KEYED_PLANS)
                owner = await asyncpg.connect(dsn)
                app = create_app(config, tokens.verifier, news and news.bus)
                async with TestClient(TestServer(app)) as client:
                    yield cls(dsn, config, client, pool, owner, Inbox(pool), neighbours, tokens)
                await owner.close()
                await pool.close()
        finally:
            await databases.drop(dsn)

    async def deliver(self, books: Books, rng: random.Random | None = None, *, after: int = 0) -> None:
        """Fold all events after a version; with `rng` as a bad network delivers them."""
        events = books.events(after=after)
        batches = delivered(events, rng) if rng else [[message_of(event) for event in events]]
        for batch in batches:
            assert set(await self.inbox.handle(batch)) == {Outcome.DONE}

    async def load(self, *many: Books) -> None:
        """Fold all events, and know everybody's names."""
        for books in many:
            await self.deliver(books)
            await self.introduce(books)

    async def introduce(self, books: Books) -> None:
        """Put the names of a company's locations and users into the directory."""
        for kind, state in states_of(books):
            row = state.model_dump()
            if kind == LOCATION_CHANGED:
                await self.owner.execute(
                    "insert into directory_location (company_id, location_id, version, code, name)"
                    " values ($1, $2, 1, $3, $4) on conflict do nothing",
                    *(row[name] for name in ("company_id", "location_id", "code", "name")),
                )
            else:
                await self.owner.execute(
                    "insert into directory_user (user_id, version, user_name, display_name, affiliation)"
                    " values ($1, 1, $2, $3, $4) on conflict do nothing",
                    *(row[name] for name in ("user_id", "user_name", "display_name", "affiliation")),
                )

    async def get(self, path: str, token: str | None, params: Any = None, **headers: str) -> Answer:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.client.get(path, params=pairs(params or {}), headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def balancing(self, books: Books, token: str | None = None, **params: Any) -> Any:
        """The whole Payment Balancing report, every page joined; an admin's unless a token is given."""
        token = token or self.admin(books)
        return await self._whole("payment-balancing", token, {**ALL, **params})

    async def activity(self, books: Books, poster: UUID, **params: Any) -> Any:
        """The whole My Payment Activity of a poster, every page joined."""
        token = self.tokens.token("partner_payment_poster", books.company_id, subject=poster)
        return await self._whole("my-payment-activity", token, {**ALL, **params})

    async def _whole(self, report: str, token: str, params: dict[str, Any]) -> Any:
        answer = await self.get(REPORTS + report, token, params)
        assert answer.status == 200, answer.raw
        whole = answer.body
        following = whole["next"]
        while following:
            answer = await self.get(REPORTS + report, token, {**params, "cursor": following})
            assert answer.status == 200, answer.raw
            page = answer.body
            assert page["totals"] == whole["totals"]
            whole["items"] += page["items"]
            following = page["next"]
        return whole

    def admin(self, books: Books) -> str:
        return self.tokens.token("practice_admin", books.company_id)

    def restricted(self, books: Books, locations: Iterable[UUID]) -> str:
        return self.tokens.token("front_office_emr_restricted", books.company_id, locations=locations)

    async def tables(self, *companies: UUID) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that was folded for these companies, in a fixed order."""
        found = {}
        for table in (
            "company_progress",
            "balancing_line",
            "balancing_posting_day",
            "balancing_deposit_day",
            "patient_name",
            "payer",
        ):
            rows = await self.owner.fetch(
                f"select * from {table} t where company_id = any ($1) order by t::text", companies
            )
            found[table] = [tuple(row) for row in rows]
        return found


def pairs(params: dict[str, Any]) -> list[tuple[str, str]]:
    """Query parameters, repeated where a value is a list."""
    many = {name: value if isinstance(value, list | tuple) else [value] for name, value in params.items()}
    return [(name, "" if value is None else str(value)) for name, values in many.items() for value in values]


def states_of(books: Books) -> Sequence[tuple[str, LocationState | UserState]]:
    """What identity would say of a company's locations and users."""
    states: list[tuple[str, LocationState | UserState]] = []
    for number, location in enumerate(books.locations):
        code = f"L{number}"
        state = LocationState(
            company_id=books.company_id, location_id=location, version=1, code=code, name=f"Location {code}"
        )
        states.append((LOCATION_CHANGED, state))
    for user in (*books.practice, *books.rcm):
        name = f"User {user.hex[12:20]}"
        affiliation = "rcm" if user in books.rcm else "practice"
        person = UserState(user_id=user, version=1, user_name=name, display_name=name, affiliation=affiliation)
        states.append((USER_CHANGED, person))
    return states


def copies(events: Sequence[Event[PostingEvent]]) -> dict[UUID, list[Event[PostingEvent]]]:
    """Events by company."""
    found: dict[UUID, list[Event[PostingEvent]]] = defaultdict(list)
    for event in events:
        found[event.data.company_id].append(event)
    return found
