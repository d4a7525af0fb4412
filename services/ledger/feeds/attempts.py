"""Messages that break their handler. Every attempt is counted before it begins, in the database, so that one which ends
the process is counted too; whoever was in hand when an attempt failed is tried alone from then on, so that after a few
attempts only the culprit is left, and is put aside for a person.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar
from uuid import UUID

import asyncpg
import structlog

from shared.bus import Outcome
from shared.db import BUSY_OR_AWAY, acquire
from shared.errors import Unavailable

MAX_ATTEMPTS: Final = 5
AWAY: Final = (Unavailable, TimeoutError, *BUSY_OR_AWAY)
"""Nobody's fault, and over some time."""
_BEGIN = """
insert into feed_attempt (company_id, message_key, attempts) select $1, k, 1 from unnest($2::text[]) as k
on conflict (company_id, message_key) do update set last_seen = clock_timestamp()
returning message_key, attempts, last_error_type, first_seen, xmax = 0 as first
"""
_AGAIN = "update feed_attempt set attempts = attempts + 1 where company_id = $1 and message_key = $2"
_FAILED = "update feed_attempt set last_error_type = $3 where company_id = $1 and message_key = any ($2)"
_DONE = "delete from feed_attempt where company_id = $1 and message_key = any ($2)"
log = structlog.get_logger("attempts")

One = TypeVar("One")


@dataclass(frozen=True, slots=True)
class Past:
    """The attempts before this one."""

    attempts: int
    last_error_type: str | None
    first_seen: datetime


@dataclass(frozen=True, slots=True)
class Work(Generic[One]):
    """What there is to do with some messages of a company, by their keys."""

    company_id: UUID
    messages: Mapping[str, Sequence[One]]
    handle: Callable[[Sequence[One]], Awaitable[None]]
    put_aside: Callable[[One, Past], Awaitable[None]]


class Attempts:
    """The attempts of one consumer."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._forgiven: set[str] = set()
        """Keys whose last attempt was counted, and then the database went away."""

    async def make(self, work: Work[One]) -> dict[str, Outcome]:
        """Handle the messages; the outcome of each by its key. Raises what is in `AWAY`."""
        past = await self._begin(work)
        fresh = [key for key in work.messages if past[key].attempts == 0]
        outcomes = dict.fromkeys(fresh, await self._try(work, fresh) if fresh else Outcome.DONE)
        for key in work.messages:
            if past[key].attempts >= MAX_ATTEMPTS:
                outcomes[key] = await self._put_aside(work, key, past[key])
            elif past[key].attempts:
                outcomes[key] = await self._alone(work, key)
        return outcomes

    async def _begin(self, work: Work[One]) -> dict[str, Past]:
        rows = await self._fetch(_BEGIN, work.company_id, sorted(work.messages))
        return {
            row["message_key"]: Past(
                0 if row["first"] else row["attempts"] - (row["message_key"] in self._forgiven),
                row["last_error_type"],
                row["first_seen"],
            )
            for row in rows
        }

    async def _alone(self, work: Work[One], key: str) -> Outcome:
        if key not in self._forgiven:
            await self._fetch(_AGAIN, work.company_id, key)
        return await self._try(work, [key])

    async def _try(self, work: Work[One], keys: Sequence[str]) -> Outcome:
        self._forgiven.difference_update(keys)
        try:
            await work.handle([one for key in keys for one in work.messages[key]])
        except AWAY:
            self._forgiven.update(keys)
            raise
        except Exception as error:
            # Without the error's text, where a database quotes the row that it is about.
            log.warning("attempt_failed", messages=len(keys), error=type(error).__name__)
            await self._fetch(_FAILED, work.company_id, keys, type(error).__name__)
            return Outcome.RETRY
        await self._fetch(_DONE, work.company_id, keys)
        return Outcome.DONE

    async def _put_aside(self, work: Work[One], key: str, past: Past) -> Outcome:
        outcome = Outcome.DONE
        try:
            for one in work.messages[key]:
                await work.put_aside(one, past)
        except AWAY:
            raise
        except Exception:
            outcome = Outcome.PARK  # Not even that: the dead letters keep it.
        log.error("poison_put_aside", attempts=past.attempts, error=past.last_error_type, outcome=outcome.name)
        await self._fetch(_DONE, work.company_id, [key])
        return outcome

    async def _fetch(self, statement: str, *arguments: object) -> Iterable[asyncpg.Record]:
        async with acquire(self._pool) as connection:
            rows: Iterable[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return rows
