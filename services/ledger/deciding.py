"""A batch of commands against the books: verdicts, and everything that the append will write. Nothing is awaited here.

Decisions are made in memory, one command after the other, so a bad command fails alone and costs nothing, and a later
command sees what an earlier one did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from services.ledger import store
from services.ledger.domain import outcomes
from services.ledger.domain.books import Books, Remembered
from services.ledger.domain.commands import Command
from services.ledger.domain.decide import decide
from services.ledger.domain.journal import Journal
from services.ledger.domain.waiting import awaits
from shared.contracts.ledger_events import POSTING
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


@dataclass(frozen=True, slots=True)
class Decided:
    """A batch that was decided: one verdict per command, the books as they then are, and what is to be appended."""

    verdicts: list[Verdict]
    written: list[Books]
    """Of companies that something is appended to."""
    append: store.Append | None

    @property
    def refuses(self) -> bool:
        return any(one.problem for one in self.verdicts)


def decide_batch(books: Mapping[UUID, Books], commands: Sequence[Command]) -> Decided:
    """Decide every command. `books` are changed by that, and of no further use when the append fails."""
    before = {company: one.version for company, one in books.items()}
    journals = {company: Journal() for company in books}
    verdicts = _decide_all(books, journals, commands)
    written = [one for company, one in books.items() if journals[company].any_rows]
    if not written:
        return Decided(verdicts, [], None)
    posted = [one for one in written if one.version > before[one.company_id]]
    events = [_event(one, journals[one.company_id], commands) for one in posted]
    return Decided(verdicts, written, store.prepare(written, _merged(journals.values()), events))


def _decide_all(
    books: Mapping[UUID, Books], journals: Mapping[UUID, Journal], commands: Sequence[Command]
) -> list[Verdict]:
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
    books: Mapping[UUID, Books], journals: Mapping[UUID, Journal], command: Command, *, may_wait: bool = False
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


def _merged(journals: Iterable[Journal]) -> Journal:
    merged = Journal()
    for journal in journals:
        for table, rows in journal.rows.items():
            merged.rows[table] += rows
    return merged


class UnknownCompany(NotFound):
    """The ledger has no book for the company yet: the caller asks identity once and tries again."""
