"""Between the API and the books: names the command, posts it, and asks identity once about what is unknown."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID
from weakref import WeakValueDictionary

import asyncpg

from services.ledger.ahead import Then
from services.ledger.deciding import UnknownCompany, Verdict
from services.ledger.domain.commands import Act, Actor, Command
from services.ledger.domain.feed_items import FeedItem
from services.ledger.poster import Poster
from shared.access.principal import Principal
from shared.db import acquire
from shared.directory import Directory
from shared.errors import Problem, Unavailable
from shared.ids import INTEGRATION_POSTER_ID, uuid7

INTEGRATION: Final = "integration"
_MAY_BE_NEWS: Final = frozenset({"unknown_location", "unknown_clinic"})
"""Refusals that may only mean that identity's news has not arrived yet."""


class Ledger:
    """The use cases of the ledger; one per process."""

    def __init__(self, pool: asyncpg.Pool, directory: Directory) -> None:
        self.pool = pool
        self.directory = directory
        self.poster = Poster(pool)
        self.turns: WeakValueDictionary[tuple[UUID, bytes], asyncio.Lock] = WeakValueDictionary()
        """Who is at a file, by company and SHA-256."""

    async def post(self, command: Command, then: Then | None = None) -> Verdict:
        """Post one command; what is unknown here is asked of identity once, then posted again. `then`: as for
        `Poster.post`."""
        verdict = await self.poster.post(command, then)
        if _perhaps_news(verdict.problem):
            await self.learn({command.company_id})
            verdict = await self.poster.post(command)
        return verdict

    async def post_many(self, commands: Sequence[Command]) -> list[Verdict]:
        """Post a chunk of commands of one company; the same second chance, for the whole chunk."""
        verdicts = await self.poster.post_many(commands)
        if any(_perhaps_news(verdict.problem) for verdict in verdicts):
            await self.learn({command.company_id for command in commands})
            again = [i for i, verdict in enumerate(verdicts) if _perhaps_news(verdict.problem)]
            for index, verdict in zip(again, await self.poster.post_many([commands[i] for i in again]), strict=True):
                verdicts[index] = verdict
        return verdicts

    async def learn(self, companies: set[UUID]) -> None:
        """Catch up with identity and open the books of companies met for the first time."""
        with suppress(Unavailable):  # Identity is away: what we know decides.
            await self.directory.catch_up()
        async with acquire(self.pool) as connection:
            await connection.execute(
                "insert into company_book (company_id) select company_id from directory_company"
                " where company_id = any ($1) on conflict do nothing",
                list(companies),
            )


def _perhaps_news(problem: Problem | None) -> bool:
    return isinstance(problem, UnknownCompany) or (problem is not None and problem.code in _MAY_BE_NEWS)


def person(principal: Principal) -> Actor:
    """The actor of a command that a person gives: what he posts is manual and his own."""
    return Actor(principal.subject, principal.affiliation)


def integration(source: str) -> Actor:
    """The actor of every row that came by a feed, whoever sent it (D8)."""
    return Actor(INTEGRATION_POSTER_ID, INTEGRATION, source)


def command(
    company_id: UUID,
    actor: Actor,
    act: Act,
    *,
    route: str,
    correlation_id: str,
    key: str | None = None,
    body: bytes = b"",
    path: str = "",
    item: FeedItem | None = None,
) -> Command:
    """A command; without a key it is remembered under a fresh one, so it is simply not repeatable."""
    return Command(
        company_id=company_id,
        key=f"http:{key}" if key else f"once:{uuid7()}",
        route=route,
        body_hash=hashlib.sha256(f"{route}\n{path}\n".encode() + body).digest(),
        actor=actor,
        correlation_id=correlation_id,
        act=act,
        item=item,
    )
