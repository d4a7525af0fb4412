"""The next of a long row of commands, decided while the batch before it is being appended.

Whoever posts a long remittance says with each piece which one comes `then`. While the append of the first runs, what
the second wants is loaded, from a snapshot in which that append may show or not: what the first has in hand is put in
the place of what was loaded, so both ways the second sees what the first did. Its own append is refused like any other
when the first was not appended or anybody else wrote to the books; it is then decided again, on loaded ones, as it is
when anything of it would be refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import asyncpg
import structlog

from services.ledger import store
from services.ledger.deciding import Decided, decide_batch
from services.ledger.domain.books import Books
from services.ledger.domain.commands import Command
from services.ledger.domain.wants import wants_of
from shared.db import acquire

_KINDS: Final = frozenset({"key", "receipt", "account_charges", "external_charges", "line"})
"""What claims of a remittance want. Of other kinds a batch may hold a part only (a receipt without what was applied of
it), which cannot stand in the place of what was loaded."""
log = structlog.get_logger("posting")


class Ahead:
    """The one command that comes after the batch which is being posted, and what became of it so far."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.then: Command | None = None
        """Whom to decide while the next append runs."""
        self._foreseen: Command | None = None
        self._decided: asyncio.Task[Decided | None] | None = None

    def start(self, appended: Iterable[Books]) -> None:
        """Begin to decide `then` on these books, which are being appended to."""
        then, self.then = self.then, None
        base = next((one for one in appended if then and one.company_id == then.company_id), None)
        if then and base and _has_room(self._pool):
            self._foreseen = then
            self._decided = asyncio.create_task(_decide(self._pool, base, then))

    async def take(self, commands: Sequence[Command]) -> Decided | None:
        """The batch as it was decided before, if it is what was foreseen."""
        if self._decided and len(commands) == 1 and commands[0] is self._foreseen:
            task, self._decided = self._decided, None
            return await task
        self.drop()
        return None

    def drop(self) -> None:
        """Forget what was decided: what it was decided on did not come to be, or is not the last any more."""
        if self._decided:
            self._decided.cancel()
        self._decided = None


async def _decide(pool: asyncpg.Pool, base: Books, then: Command) -> Decided | None:
    """None where it must be decided in the ordinary way."""
    wants = wants_of([then])
    wanted = wants[then.company_id].by_kind
    if not wanted.keys() <= _KINDS:
        return None
    try:
        async with acquire(pool) as connection:
            loaded = (await store.load(connection, wants)).get(then.company_id)
        if loaded is None or loaded.writes not in (base.writes, base.writes + 1):
            return None
        decided = decide_batch({then.company_id: _after(base, loaded, wanted["line"])}, [then])
    except Exception:  # Whoever decides it in the ordinary way will meet it again.
        log.info("not_decided_ahead", exc_info=True)
        return None
    return None if decided.refuses else decided


def _after(base: Books, loaded: Books, lines: set[str]) -> Books:
    """The loaded books, with the remittance lines that were looked for, as they are once `base` has been appended."""
    brought = lines & base.applied_lines.keys()
    return replace(
        loaded,
        version=base.version,
        writes=base.writes + 1,
        charges={one: base.charges.get(one, charge) for one, charge in loaded.charges.items()},
        # Of a receipt only the words are wanted, and what was applied of it would grow with every piece.
        payments={**base.payments, **loaded.payments},
        remittances={**base.remittances, **loaded.remittances},
        applied_lines={**loaded.applied_lines, **{key: base.applied_lines[key] for key in brought}},
    )


def _has_room(pool: asyncpg.Pool) -> bool:
    """Whether a connection can be had without taking it from anybody."""
    return pool.get_idle_size() > 0 or pool.get_size() < pool.get_max_size()
