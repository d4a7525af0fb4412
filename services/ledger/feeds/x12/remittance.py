"""835 remittances out of a stream of bytes, in constant memory.

What is wrong with a transaction may be known only at its SE, or at the GE and IEA after it, so a file is read twice:
`contents` says what each transaction came to and whether it may post, `read` then yields what is to be posted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from services.ledger.feeds.x12.claim_reader import ClaimReader
from services.ledger.feeds.x12.envelope import EnvelopeTracker, fields
from services.ledger.feeds.x12.model import Claim, EnvelopeFault, Event, Header, Transaction
from services.ledger.feeds.x12.reader import X12Unreadable, segments
from services.ledger.feeds.x12.survey import Survey
from services.ledger.feeds.x12.transaction import Remittance

_CONTROL = frozenset(("ISA", "GS", "ST", "SE", "GE", "IEA"))


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a file: every transaction with all its faults, in order, and what the envelopes say beside them."""

    transactions: tuple[Transaction, ...]
    acknowledgements: int
    """How many TA1 there are."""
    asks_reply: bool
    """Some interchange wants to be answered (ISA14)."""


def read(chunks: Iterable[bytes]) -> Iterator[Event]:
    """Everything in the file, in its order: per 835 its Header, its Claims and ProviderAdjustments, its Transaction.

    An EnvelopeFault follows the transactions it concerns. X12Unreadable may come at any time until the end, so
    nothing may be kept of a file that was not read to its end once. The hash of a Transaction only its survey tells.
    """
    return _read(chunks, EnvelopeTracker(), ClaimReader)


def _read(chunks: Iterable[bytes], envelope: EnvelopeTracker, reading: type[Remittance]) -> Iterator[Event]:
    component = ""
    set_id: str | None = None
    remittance: Remittance | None = None
    for segment in segments(chunks):
        name = segment[0]
        if name not in _CONTROL:
            if remittance is not None:
                if ready := remittance.take(segment):
                    yield from ready
            else:
                envelope.stray(name)
        elif name == "ST":
            set_id = fields(segment, 1)[0].strip()
            surroundings, problems = envelope.st(set_id)
            if set_id == "835":
                remittance = reading(envelope.ordinal, surroundings, segment, component, problems)
        elif name == "SE":
            if envelope.se():
                yield from remittance.end(segment) if remittance else (Transaction(envelope.ordinal, set_id or ""),)
            remittance = set_id = None
        elif name == "ISA":
            envelope.isa(segment)
            component = segment[16]
        elif name == "GS":
            envelope.gs(segment)
        elif fault := envelope.ge(segment) if name == "GE" else envelope.iea(segment):
            yield fault
    if not envelope.ordinal and not envelope.acknowledgements:
        raise X12Unreadable("There is no transaction in the file")


def survey(chunks: Iterable[bytes]) -> tuple[Transaction, ...]:
    """Every transaction of the file, in order, with all its faults; X12Unreadable when the file may not be used."""
    return contents(chunks).transactions


def contents(chunks: Iterable[bytes]) -> Contents:
    """The same with what else there is."""
    envelope = EnvelopeTracker()
    found: list[Transaction] = []
    for event in _read(chunks, envelope, Survey):
        if isinstance(event, Transaction):
            found.append(event)
        elif isinstance(event, EnvelopeFault):
            for i in range(event.first - 1, event.last):
                found[i] = found[i].blamed(event.problems)
    return Contents(tuple(found), envelope.acknowledgements, envelope.asks_reply)


def placed_claims(chunks: Iterable[bytes]) -> Iterator[tuple[int, Claim]]:
    """Every claim of a surveyed file, with the place of its transaction there."""
    ordinal = 0
    for event in read(chunks):
        if isinstance(event, Header):
            ordinal = event.ordinal
        elif isinstance(event, Claim):
            yield ordinal, event


def find_claims(chunks: Iterable[bytes], wanted: Collection[tuple[int, int]]) -> dict[tuple[int, int], Claim]:
    """Claims of a surveyed file by the place of their transaction in it, and by their place in that."""
    found: dict[tuple[int, int], Claim] = {}
    for transaction, claim in placed_claims(chunks):
        if (transaction, claim.ordinal) in wanted:
            found[transaction, claim.ordinal] = claim
            if len(found) == len(wanted):
                break
    return found
