"""The one write path: `post_batch` decides and commits a batch of commands; `poster.py` joins concurrent ones.

Two round trips for a batch of any size: load, append. The first is spared where books are remembered (`warm.py`), and
made twice where something had waited for what the batch brings.
Decisions are made in memory, one command after the other, so a bad command fails alone and costs nothing, and a later
command sees what an earlier one did. The append is refused when the books were written after the load; the batch is
then decided again under the companies' locks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from services.ledger import store
from services.ledger.domain import outcomes
from services.ledger.domain.books import Books, Remembered
from services.ledger.domain.commands import Command
from services.ledger.domain.decide import decide
from services.ledger.domain.journal import Journal
from services.ledger.domain.waiting import awaits
from services.ledger.domain.wants import Wants
from services.ledger.warm import StaleBooks, WarmBooks
from shared.contracts.ledger_events import POSTING
from shared.crash import point
from shared.db import Connection, acquire
from shared.errors import Invalid, NotFound, Problem
from shared.ids import uuid7


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a command: its document as JSON text (and whether it is a repetition), or a problem."""

    response: bytes = b""
    replayed: bool = False
    problem: Problem | None = None

    def unwrap(self) -> bytes:
        if self.problem is not None:
            raise self.problem
        return self.response


async def post_batch(
    pool: asyncpg.Pool, commands: Sequence[Command], warm: WarmBooks | None = None, *, hold: bool = False
) -> list[Verdict]:
    """Decide and commit; one verdict per command, in order. Either all accepted commands are committed or none.

    `warm` remembers what need not be loaded. Raises SerializationError when somebody else wrote to the same books
    meanwhile; with `hold` nobody can."""
    wants: dict[UUID, Wants] = defaultdict(Wants)
    _want(wants, commands)
    async with acquire(pool) as connection:
        if hold:
            async with connection.transaction():
                await store.hold(connection, wants)
                verdicts, _ = await _load_decide_append(connection, wants, commands, {})
        else:
            verdicts = await _on_remembered(connection, wants, commands, warm or WarmBooks())
    point("ledger.after_commit")
    return verdicts


async def _on_remembered(
    connection: Connection, wants: Mapping[UUID, Wants], commands: Sequence[Command], warm: WarmBooks
) -> list[Verdict]:
    """On remembered books as far as they go; if they were not good enough, all again on loaded ones."""
    known = warm.of(wants)
    try:
        verdicts, written = await _load_decide_append(connection, wants, commands, known)
    except StaleBooks:
        warm.forget(known)
        verdicts, written = await _load_decide_append(connection, wants, commands, {})
    warm.keep(written)
    return verdicts


async def _load_decide_append(
    connection: Connection, wants: Mapping[UUID, Wants], commands: Sequence[Command], known: Mapping[UUID, Books]
) -> tuple[list[Verdict], list[Books]]:
    """The verdicts, and the books that were appended to. Raises StaleBooks when those that were `known` did not do."""
    unknown = {company: one for company, one in wants.items() if company not in known}
    books = {**known, **(await _load(connection, unknown) if unknown else {})}
    before = {company: one.version for company, one in books.items()}
    journals = {company: Journal() for company in books}
    verdicts = _decide_all(books, journals, commands)
    if known and any(one.problem for one in verdicts):
        raise StaleBooks
    written = [one for company, one in books.items() if journals[company].any_rows]
    if written:
        posted = [one for one in written if one.version > before[one.company_id]]
        events = [_event(one, journals[one.company_id], commands) for one in posted]
        point("ledger.before_append")
        try:
            await store.append(connection, written, _merged(journals.values()), events)
        except (asyncpg.SerializationError, asyncpg.ForeignKeyViolationError):
            if known:
                raise StaleBooks from None
            raise
    return verdicts, written


async def _load(connection: Connection, wants: Mapping[UUID, Wants]) -> dict[UUID, Books]:
    """The books, with what waited for something that the batch brings: that wants to see something too."""
    books = await store.load(connection, wants)
    if waiting := [command for one in books.values() for command in one.waiting]:
        _want(wants, waiting)
        books = await store.load(connection, wants)
    return books


def _want(wants: Mapping[UUID, Wants], commands: Iterable[Command]) -> None:
    for command in commands:
        wants[command.company_id].name("key", command.key)
        command.act.wants(wants[command.company_id])


def _decide_all(books: dict[UUID, Books], journals: dict[UUID, Journal], commands: Sequence[Command]) -> list[Verdict]:
    """The commands in their order, then what had waited for them; then again those that waited in vain for one that
    stood behind them, or for another batch."""
    verdicts = [_decide(books, journals, command, may_wait=True) for command in commands]
    for waiting in [command for one in books.values() for command in one.waiting]:
        _decide(books, journals, waiting)
    for place, command in enumerate(commands):
        if awaits(command, verdicts[place].problem):
            verdicts[place] = _decide(books, journals, command)
    for company_id, journal in journals.items():
        books[company_id].waits |= "parked" in journal.rows
    return verdicts


def _decide(
    books: dict[UUID, Books], journals: dict[UUID, Journal], command: Command, *, may_wait: bool = False
) -> Verdict:
    """`may_wait`: the command is decided once more, so that it is not yet refused for what may still come."""
    one = books.get(command.company_id)
    if one is None:
        return Verdict(problem=UnknownCompany())
    journal = journals[command.company_id]
    known = one.keys.get(command.key)
    try:
        if known is not None:
            if (known.route, known.actor_id, known.body_hash) != (
                command.route,
                command.actor.user_id,
                command.body_hash,
            ):
                raise Invalid.field("Idempotency-Key", "idempotency_mismatch", "The key was used for another request")
            outcomes.record(journal, command, "duplicate", "same_key", orjson.loads(known.response))
            return Verdict(known.response.encode(), replayed=True)
        document = decide(one, journal, command)
    except Problem as problem:
        if not (may_wait and awaits(command, problem)):
            outcomes.quarantine(journal, command, problem)
        return Verdict(problem=problem)
    response = store.encode(document)
    outcomes.record(journal, command, document.get("outcome", "posted"), document.get("reason"), document)
    _remember(one, journal, command, response)
    return Verdict(response.encode())


def _remember(books: Books, journal: Journal, command: Command, response: str) -> None:
    row = Remembered(command.route, command.actor.user_id, command.body_hash, response)
    books.keys[command.key] = row
    journal.add(
        "idempotency",
        company_id=books.company_id,
        key=command.key,
        route=row.route,
        actor_id=row.actor_id,
        body_hash=row.body_hash,
        response=response,
    )


def _event(books: Books, journal: Journal, commands: Sequence[Command]) -> dict[str, Any]:
    """The company's event of this batch: every posting since the lock, as one CloudEvents envelope."""
    first, last = journal.events[0]["version"], journal.events[-1]["version"]
    event_id = uuid7()
    correlation = next(c.correlation_id for c in commands if c.company_id == books.company_id)
    data = {"company_id": books.company_id, "first_version": first, "version": last, "postings": journal.events}
    envelope = {
        "specversion": "1.0",
        "id": event_id,
        "source": "ledger",
        "type": POSTING,
        "time": books.now,
        "subject": books.company_id,
        "correlationid": correlation,
        "datacontenttype": "application/json",
        "data": data,
    }
    return {
        "company_id": books.company_id,
        "first_version": first,
        "version": last,
        "event_id": event_id,
        "type": POSTING,
        "occurred_at": books.now,
        "payload": store.encode(envelope),
    }


def _merged(journals: Any) -> Journal:
    merged = Journal()
    for journal in journals:
        for table, rows in journal.rows.items():
            merged.rows[table] += rows
    return merged


class UnknownCompany(NotFound):
    """The ledger has no book for the company yet: the caller asks identity once and tries again."""
