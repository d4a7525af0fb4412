"""Pieces of one long remittance, posted one after the other: the books of the next are loaded while one is kept.

What was loaded before the last piece was appended lacks only what that piece did, and that is known here: the charges
that it changed. (Lines that it applied are of the same receipt, and keep nothing of theirs from being applied.) That
nobody else wrote in between is proved by the count of writes when the piece is appended. Whatever is not proved, or
goes wrong in any way, is posted as everything else is: by the `Ledger`, on books of its own (decision record 20).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from services.ledger import store
from services.ledger.domain.books import Books
from services.ledger.domain.commands import Act, Command
from services.ledger.domain.feed_acts import ApplyRemittance
from services.ledger.domain.wants import Wants
from services.ledger.posting import Verdict, load_decide_append, wants_of
from services.ledger.service import Ledger
from shared.crash import point
from shared.db import acquire


@dataclass(frozen=True, slots=True)
class _Coming:
    command: Command
    wants: Mapping[UUID, Wants]
    books: asyncio.Task[Books | None]


class Succession:
    """Posts commands in turn. Close it, whatever happened."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last: Books | None = None
        """As the last command left them; their `writes` are those before it was appended."""
        self._coming: _Coming | None = None

    async def post(self, command: Command, following: Command | None) -> Verdict:
        """Post a command, and load meanwhile what the following one will want."""
        if not isinstance(command.act, ApplyRemittance):
            self._last = None
            return await self._ledger.post(command)
        wants, known = await self._known(command)
        if following is not None and _continues(following.act, command.act):
            self._coming = self._load(following)
        try:
            return await self._post(command, wants, known)
        except Exception:  # Whatever it was: there it is dealt with, should it come again.
            self._last = None
            return await self._ledger.post(command)

    async def aclose(self) -> None:
        """End what is still being loaded."""
        if self._coming is not None:
            self._coming.books.cancel()
            await asyncio.gather(self._coming.books, return_exceptions=True)
            self._coming = None

    async def _post(self, command: Command, wants: Mapping[UUID, Wants], known: Mapping[UUID, Books]) -> Verdict:
        async with acquire(self._ledger.pool) as connection:
            (verdict,), written = await load_decide_append(connection, wants, [command], known)
        if verdict.problem is not None:
            raise verdict.problem
        point("ledger.after_commit")
        self._last = written[0] if written else None
        return verdict

    async def _known(self, command: Command) -> tuple[Mapping[UUID, Wants], dict[UUID, Books]]:
        """What the command wants; and the books that were loaded for it, with what the last one did since, or none
        where that is not sure."""
        if self._coming is None or self._coming.command is not command:
            await self.aclose()
            return wants_of([command]), {}
        wants, coming, self._coming = self._coming.wants, self._coming.books, None
        books, last = await coming, self._last
        if books is None or last is None:
            return wants, {}
        _add(books, last)
        return wants, {command.company_id: books}

    def _load(self, command: Command) -> _Coming:
        wants = wants_of([command])

        async def load() -> Books | None:
            with suppress(Exception):  # It will be loaded when it is its turn.
                async with acquire(self._ledger.pool) as connection:
                    return (await store.load(connection, wants)).get(command.company_id)
            return None

        return _Coming(command, wants, asyncio.create_task(load()))


def _continues(act: Act, last: ApplyRemittance) -> bool:
    return isinstance(act, ApplyRemittance) and act.payment_key == last.payment_key


def _add(books: Books, last: Books) -> None:
    """What the last command did, to books that may have been loaded before it was kept. Should they have been loaded
    after somebody else's writing, or should he write now, the count refuses the append."""
    books.version, books.writes = last.version, last.writes + 1
    for charge in last.charges.values():
        if charge.touched_version == last.version:
            books.charges[charge.charge_id] = charge
            books.patients.setdefault(charge.patient_id, last.patients[charge.patient_id])
