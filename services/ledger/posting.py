"""The one write path: `post_batch` decides and commits a batch of commands; `poster.py` joins concurrent ones.

Two round trips for a batch of any size: load, append. The first is spared where books are remembered (`warm.py`) or the
batch was decided while the one before it was appended (`ahead.py`), and made twice where something had waited for what
the batch brings. The append is refused when the books were written after the load; the batch is then decided again
under the companies' locks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from services.ledger import store
from services.ledger.ahead import Ahead, Early
from services.ledger.deciding import Decided, Verdict, decide_batch
from services.ledger.domain.books import Books
from services.ledger.domain.commands import Command
from services.ledger.domain.wants import Wants, wants_of
from services.ledger.warm import WarmBooks
from shared.crash import point
from shared.db import Connection, acquire

_NONE: Final[Mapping[UUID, Books]] = {}


async def post_batch(
    pool: asyncpg.Pool,
    commands: Sequence[Command],
    warm: WarmBooks | None = None,
    ahead: Ahead | None = None,
    *,
    hold: bool = False,
) -> list[Verdict]:
    """Decide and commit; one verdict per command, in order. Either all accepted commands are committed or none.

    `warm` remembers what need not be loaded, and `ahead` has perhaps decided the batch already. Raises
    SerializationError when somebody else wrote to the same books meanwhile; with `hold` nobody can."""
    warm = warm or WarmBooks()
    early = await ahead.take(commands) if ahead else None
    async with acquire(pool) as connection:
        if hold:
            async with connection.transaction():
                await store.hold(connection, {command.company_id for command in commands})
                decided = await _load_and_decide(connection, commands, wants_of(commands))
                await _append(connection, decided)
        else:
            decided = await _decide_and_append(connection, commands, early, warm, ahead)
            warm.keep(decided.written)
    point("ledger.after_commit")
    return decided.verdicts


async def _decide_and_append(
    connection: Connection, commands: Sequence[Command], early: Early | None, warm: WarmBooks, ahead: Ahead | None
) -> Decided:
    """As decided before, or on remembered books as far as they go; if that was not good enough, on loaded ones."""
    if early and await _appended(connection, early.decided, ahead, early.sent):
        return early.decided
    wants = wants_of(commands)
    known = {} if early else warm.of(wants)
    if known:
        unknown = {company: one for company, one in wants.items() if company not in known}
        decided = await _load_and_decide(connection, commands, unknown, known)
        if not decided.refuses and await _appended(connection, decided, ahead):
            return decided
    if early or known:
        warm.forget([one.company_id for one in early.decided.written] if early else known)
    decided = await _load_and_decide(connection, commands, wants)
    await _append(connection, decided, ahead)
    return decided


async def _load_and_decide(
    connection: Connection, commands: Sequence[Command], wants: dict[UUID, Wants], known: Mapping[UUID, Books] = _NONE
) -> Decided:
    return decide_batch({**known, **(await _load(connection, wants) if wants else {})}, commands)


async def _load(connection: Connection, wants: dict[UUID, Wants]) -> dict[UUID, Books]:
    """The books, with what waited for something that the batch brings: that wants to see something too."""
    books = await store.load(connection, wants)
    if waiting := [command for one in books.values() for command in one.waiting]:
        wants_of(waiting, wants)
        books = await store.load(connection, wants)
    return books


async def _append(
    connection: Connection, decided: Decided, ahead: Ahead | None = None, sent: Awaitable[bool] | None = None
) -> None:
    if decided.append is None:
        return
    point("ledger.before_append")
    if ahead:
        ahead.start(decided)
    try:
        if sent is None:
            await store.append(connection, decided.append)
        elif not await sent:
            raise asyncpg.SerializationError("it could not be appended ahead")
    except BaseException:
        if ahead:
            ahead.drop()
        raise


async def _appended(
    connection: Connection, decided: Decided, ahead: Ahead | None, sent: Awaitable[bool] | None = None
) -> bool:
    """Whether what was not decided on loaded books could be appended: somebody may have written to them since, or what
    is referred to is not there."""
    try:
        await _append(connection, decided, ahead, sent)
    except (asyncpg.SerializationError, asyncpg.ForeignKeyViolationError):
        return False
    return True
