"""Group commit: joins concurrent commands into batches for `posting.post_batch`, and tries again what may be tried."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from services.ledger.ahead import Ahead, Then
from services.ledger.deciding import Verdict
from services.ledger.domain.commands import Command
from services.ledger.posting import post_batch
from services.ledger.warm import WarmBooks
from shared.db import BUSY_OR_AWAY, TRANSIENT
from shared.errors import Problem, Unavailable

_BATCH: Final = 64
_TRIES: Final = 3
log = structlog.get_logger("posting")


@dataclass(slots=True)
class _Waiting:
    commands: Sequence[Command]
    future: asyncio.Future[list[Verdict]]
    then: Then | None = None


class Poster:
    """Group commit: what arrives while a batch is being committed forms the next one, without a timer.

    Sharded by company, so that one company's lock does not hold up the others; bulk work waits in a queue of its own
    and alternates with single commands."""

    def __init__(self, pool: asyncpg.Pool, *, shards: int = 2) -> None:
        self._pool = pool
        self._warm = WarmBooks()
        self._shards = [_Shard(self, Ahead(pool)) for _ in range(shards)]

    async def post(self, command: Command, then: Then | None = None) -> Verdict:
        """Post one command; concurrent calls share a transaction. `then`: what the caller means to post after it,
        for the same company, when this one was accepted, as far as he knows."""
        return (await self._shard(command.company_id).put([command], then=then))[0]

    async def post_many(self, commands: Sequence[Command]) -> list[Verdict]:
        """Post a chunk of one company's commands (100-500) in one transaction."""
        return await self._shard(commands[0].company_id).put(commands, bulk=True) if commands else []

    def _shard(self, company_id: UUID) -> _Shard:
        return self._shards[company_id.int % len(self._shards)]

    async def commit(self, commands: Sequence[Command], ahead: Ahead) -> list[Verdict]:
        """`post_batch`, tried again after a transient failure; split in two when the batch fails for a reason that no
        check foresaw, until the bad command stands alone and the others are posted."""
        for attempt in range(_TRIES):
            try:
                return await post_batch(self._pool, commands, self._warm, ahead, hold=attempt > 0)
            except asyncpg.SerializationError:
                log.info("books_moved_on", commands=len(commands), attempt=attempt)
            except TRANSIENT:
                # Perhaps committed, perhaps not: the keys tell, so the same batch can safely be posted again.
                log.warning("batch_retried", commands=len(commands), attempt=attempt, exc_info=True)
                await asyncio.sleep(0.05 * 4**attempt)
            except BUSY_OR_AWAY:
                log.warning("batch_given_up", commands=len(commands), exc_info=True)
                break  # Another wait for the same lock would hold up everybody behind this batch.
            except Problem:
                raise
            except Exception:
                if len(commands) == 1:
                    log.error("command_failed", act=type(commands[0].act).__name__, exc_info=True)
                    return [Verdict(problem=Problem("The posting was refused; nothing was stored"))]
                half = len(commands) // 2
                return await self.commit(commands[:half], ahead) + await self.commit(commands[half:], ahead)
        return [Verdict(problem=Unavailable("The database is away; repeat the request with the same key"))] * len(
            commands
        )


class _Shard:
    """One queue and, while there is work, one task that commits it."""

    def __init__(self, poster: Poster, ahead: Ahead) -> None:
        self._poster = poster
        self._ahead = ahead
        self._single: deque[_Waiting] = deque()
        self._bulk: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def put(self, commands: Sequence[Command], *, bulk: bool = False, then: Then | None = None) -> list[Verdict]:
        waiting = _Waiting(commands, asyncio.get_running_loop().create_future(), then)
        (self._bulk if bulk else self._single).append(waiting)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await waiting.future

    async def _work(self) -> None:
        while self._single or self._bulk:
            group = [self._single.popleft() for _ in range(min(_BATCH, len(self._single)))]
            if group:
                await self._commit(group)
            if self._bulk:
                await self._commit([self._bulk.popleft()])

    async def _commit(self, group: list[_Waiting]) -> None:
        commands = [command for waiting in group for command in waiting.commands]
        self._ahead.then = group[0].then if len(group) == 1 else None
        try:
            verdicts = await self._poster.commit(commands, self._ahead)
        except Exception as error:
            for waiting in group:
                if not waiting.future.done():  # The caller may have gone away.
                    waiting.future.set_exception(error)
            return
        taken = iter(verdicts)
        for waiting in group:
            mine = [next(taken) for _ in waiting.commands]
            if not waiting.future.done():
                waiting.future.set_result(mine)
