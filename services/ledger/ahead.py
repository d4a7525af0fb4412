"""The next of a long row of commands, loaded and decided while those before them are being appended.

Whoever posts a long remittance says with each piece which ones come `then`. While the append of the first runs, the
second is decided and what the third wants is loaded, so that neither the database nor we wait for the other. Of one
receipt the append of the second is also sent, on another connection: in the database it waits for the first.

A snapshot may show the appends that went on meanwhile or not: what the batches before have in hand is put in the place
of what was loaded, so both ways a piece sees what those before it did. Its own append is refused like any other when
one before it was not appended or anybody else wrote to the books; it is then decided again, on loaded ones, as it is
when anything of it would be refused. One that was sent early and is not asked for is found when its turn comes: by its
key, like any that was committed before somebody could be told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import asyncpg
import structlog

from services.ledger import store
from services.ledger.deciding import Decided, decide_batch
from services.ledger.domain.books import Books
from services.ledger.domain.commands import Command
from services.ledger.domain.feed_acts import ApplyRemittance
from services.ledger.domain.wants import wants_of
from shared.db import acquire

LOADED_AHEAD: Final = 2
"""How many commands are loaded before it is their turn. With one, the database has nothing to do while that is decided
(measured: a fifth more time for a line)."""
_KINDS: Final = frozenset({"key", "receipt", "account_charges", "external_charges", "line"})
"""What claims of a remittance want. Of other kinds a batch may hold a part only (a receipt without what was applied of
it), which cannot stand in the place of what was loaded."""
Then = Callable[[], Sequence[Command]]
"""The next commands, as far as they are known by now."""
log = structlog.get_logger("posting")


@dataclass(frozen=True, slots=True)
class _Loaded:
    books: Books
    lines: set[str]
    """The keys of the remittance lines that were looked for."""


@dataclass(frozen=True, slots=True)
class _Next:
    """A command whose turn comes, and what it wants to see; None where it must be decided in the ordinary way."""

    command: Command
    loading: asyncio.Task[_Loaded | None]


@dataclass(frozen=True, slots=True)
class Early:
    """What was decided before its turn, and whether it could be appended, where that was sent already."""

    decided: Decided
    sent: asyncio.Task[bool] | None


class Ahead:
    """What comes after the batch which is being posted, and what became of it so far."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.then: Then | None = None
        """Whom to load and decide while the next append runs."""
        self._line: list[_Next] = []
        self._before: list[Books] = []
        """The books of the last batches, each appended right after the other; a load of the line may not show them."""
        self._early: asyncio.Task[Early | None] | None = None
        self._posting: Sequence[Command] = ()
        self._sent: set[asyncio.Task[bool]] = set()

    def start(self, appended: Decided) -> None:
        """Begin to decide what comes `then` on these books, which are being appended to."""
        following, self.then = self.then() if self.then else (), None
        base = next((one for one in appended.written if following and one.company_id == following[0].company_id), None)
        if base is None:
            return
        self._before = [*self._before[1 - LOADED_AHEAD :], base]
        self._line = [self._next(command) for command in following]
        events = appended.append.events if appended.append and _goes_on(self._posting, following[0]) else []
        after = events[0] if events else None
        self._early = asyncio.create_task(self._foresee(self._line[0], self._before, after))

    def _next(self, command: Command) -> _Next:
        known = next((one for one in self._line if one.command is command), None)
        return known or _Next(command, asyncio.create_task(_load(self._pool, command)))

    async def _foresee(self, foreseen: _Next, before: Sequence[Books], after: store.EventName | None) -> Early | None:
        decided = await _decide(foreseen, before)
        if decided is None:
            return None
        if not (after and decided.append and _has_room(self._pool)):
            return Early(decided, None)
        sent = asyncio.create_task(_send(self._pool, decided.append, after))
        self._sent.add(sent)
        sent.add_done_callback(self._sent.discard)
        return Early(decided, sent)

    async def take(self, commands: Sequence[Command]) -> Early | None:
        """The batch as it was decided before, if it is what was foreseen."""
        self._posting = commands
        if self._early and len(commands) == 1 and commands[0] is self._line[0].command:
            task, self._early = self._early, None
            if early := await task:
                return early
        self.drop()
        return None

    def drop(self) -> None:
        """Forget what was decided: what it was decided on did not come to be, or is not the last any more."""
        for task in (self._early, *(one.loading for one in self._line)):
            if task:
                task.cancel()
        self._early, self._line, self._before = None, [], []


def _goes_on(commands: Sequence[Command], following: Command) -> bool:
    """Whether a piece of a remittance is followed by its next one. Nothing that the first comes to could then keep the
    second from being posted, so it may be appended before anybody asks for it."""
    if len(commands) != 1:
        return False
    act, after = commands[0].act, following.act
    return (
        isinstance(act, ApplyRemittance) and isinstance(after, ApplyRemittance) and act.payment_key == after.payment_key
    )


async def _send(pool: asyncpg.Pool, what: store.Append, after: store.EventName) -> bool:
    try:
        async with acquire(pool) as connection:
            await store.append(connection, what, after)
    except asyncpg.SerializationError:
        return False
    except Exception:  # Whoever posts it in the ordinary way will meet it again.
        log.info("not_appended_ahead", exc_info=True)
        return False
    return True


async def _load(pool: asyncpg.Pool, command: Command) -> _Loaded | None:
    wants = wants_of([command])
    wanted = wants[command.company_id].by_kind
    if not wanted.keys() <= _KINDS or not _has_room(pool):
        return None
    try:
        async with acquire(pool) as connection:
            books = (await store.load(connection, wants)).get(command.company_id)
    except Exception:  # Whoever loads it in the ordinary way will meet it again.
        log.info("not_loaded_ahead", exc_info=True)
        return None
    return _Loaded(books, wanted["line"]) if books else None


async def _decide(foreseen: _Next, before: Sequence[Books]) -> Decided | None:
    loaded = await foreseen.loading
    if loaded is None or not before[0].writes <= loaded.books.writes <= before[-1].writes + 1:
        return None
    books = _after(before, loaded)
    try:
        decided = decide_batch({books.company_id: books}, [foreseen.command])
    except Exception:  # Whoever decides it in the ordinary way will meet it again.
        log.info("not_decided_ahead", exc_info=True)
        return None
    return None if decided.refuses else decided


def _after(before: Sequence[Books], loaded: _Loaded) -> Books:
    """The loaded books as they are once all `before` have been appended."""
    last, books = before[-1], loaded.books
    latest = max(last, books, key=lambda one: one.now)
    charges, lines = dict(books.charges), dict(books.applied_lines)
    for one in before:
        charges |= {key: one.charges[key] for key in charges.keys() & one.charges.keys()}
        lines |= {key: one.applied_lines[key] for key in loaded.lines & one.applied_lines.keys()}
    return replace(
        books,
        version=last.version,
        writes=last.writes + 1,
        now=latest.now,
        today=latest.today,
        day_ends=latest.day_ends,
        charges=charges,
        # Of a receipt only the words are wanted, and what was applied of it would grow with every piece.
        payments={**last.payments, **books.payments},
        remittances={**last.remittances, **books.remittances},
        applied_lines=lines,
    )


def _has_room(pool: asyncpg.Pool) -> bool:
    """Whether a connection can be had without taking it from anybody."""
    return pool.get_idle_size() > 0 or pool.get_size() < pool.get_max_size()
