"""Events to rows, without I/O: what a posting adds to the balancing tables.

Lines are additive. Nothing here looks anything up, so the same events give the same rows in whatever batches they
come, and a rebuild is the same fold over the same events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, NamedTuple
from uuid import UUID

from shared.contracts.ledger_events import Part, Posting, PostingEvent, ReceiptChange

_MAX_CENTS: Final = 10**15
"""Far above any sum of a receipt (`shared.money.MAX_CENTS`) and far below what sums of BIGINT can hold."""


class Malformed(ValueError):
    """An event that keeps the shape of the contract and breaks its sense; says which rule, never a value."""


class Line(NamedTuple):
    """One row of `balancing_line`, with its columns' names. Of the four amounts, in cents, that of `part` is set."""

    company_id: UUID
    version: int
    ordinal: int
    receipt_count: int
    receipt_version: int
    posted_at: datetime
    applied_cents: int
    adjusted_cents: int
    provider_level_cents: int
    unapplied_cents: int
    posting_date: date
    deposit_date: date
    payment_id: UUID
    poster_id: UUID
    location_id: UUID | None
    payer_id: UUID | None
    affiliation: str
    source: str
    method: str
    batch_number: str | None
    check_number: str | None
    part: str
    patient_id: UUID | None
    charge_id: UUID | None
    charge_location_id: UUID | None
    procedure_code: str | None
    group_code: str | None
    reason_code: str | None


class PatientName(NamedTuple):
    """One row of `patient_name`."""

    company_id: UUID
    patient_id: UUID
    version: int
    account_number: str
    first_name: str
    last_name: str


class Payer(NamedTuple):
    """One row of `payer`."""

    company_id: UUID
    payer_id: UUID
    version: int
    code: str
    name: str
    payer_class: str | None


@dataclass(frozen=True, slots=True)
class Projection:
    """What a list of events adds: lines in order, and the newest name of each patient and payer."""

    lines: list[Line]
    patients: list[PatientName]
    payers: list[Payer]


def project(events: Iterable[PostingEvent]) -> Projection:
    """The rows of these events, which are in order of version within each company."""
    lines: list[Line] = []
    patients: dict[tuple[UUID, UUID], PatientName] = {}
    payers: dict[tuple[UUID, UUID], Payer] = {}
    for event in events:
        company = event.company_id
        for posting in event.postings:
            lines.extend(posting_lines(company, posting))
            for patient in posting.patients:
                patients[company, patient.patient_id] = PatientName(
                    company,
                    patient.patient_id,
                    posting.version,
                    patient.account_number,
                    patient.first_name,
                    patient.last_name,
                )
            for payer in posting.payers:
                payers[company, payer.payer_id] = Payer(
                    company, payer.payer_id, posting.version, payer.code, payer.name, payer.payer_class
                )
    return Projection(lines, list(patients.values()), list(payers.values()))


def posting_lines(company_id: UUID, posting: Posting) -> Iterator[Line]:
    """A line for each part of each receipt that the posting changed; the first carries the receipt's count.

    A receipt without parts (a zero pay) is one line of nothing, so that it is counted and listed (M7)."""
    ordinal = 0
    for receipt in posting.receipts:
        count = receipt.count
        for part in receipt.parts or _nothing(receipt):
            yield _line(company_id, posting.version, ordinal, count, receipt, part)
            count = 0
            ordinal += 1


def check(event: PostingEvent) -> None:
    """Raises `Malformed` unless the event can be folded: versions without gaps, figures that fit the tables."""
    if not 1 <= event.first_version <= event.version:
        raise Malformed("versions start at 1 and go up")
    if [posting.version for posting in event.postings] != list(range(event.first_version, event.version + 1)):
        raise Malformed("postings are not the versions that the event names")
    for posting in event.postings:
        for receipt in posting.receipts:
            if receipt.count not in (-1, 0, 1):
                raise Malformed("a receipt is counted once, taken away once, or neither")
            if any(abs(part.amount_cents) > _MAX_CENTS for part in receipt.parts):
                raise Malformed("an amount is out of bounds")


def _nothing(receipt: ReceiptChange) -> tuple[Part, ...]:
    if not receipt.count:
        return ()
    return (Part(kind="unapplied", amount_cents=0, patient_id=receipt.patient_id),)


def _line(company_id: UUID, version: int, ordinal: int, count: int, receipt: ReceiptChange, part: Part) -> Line:
    kind, cents = part.kind, part.amount_cents
    # By position, in the order of the fields: names cost a third of the projection's time.
    return Line(
        company_id,
        version,
        ordinal,
        count,
        receipt.receipt_version,
        receipt.posted_at,
        cents if kind == "applied" else 0,
        cents if kind == "adjusted" else 0,
        cents if kind == "provider_level" else 0,
        cents if kind == "unapplied" else 0,
        receipt.posting_date,
        receipt.deposit_date,
        receipt.payment_id,
        receipt.poster_id,
        receipt.location_id,
        receipt.payer_id,
        receipt.affiliation,
        receipt.source,
        receipt.method,
        receipt.batch_number,
        receipt.check_number,
        kind,
        part.patient_id,
        part.charge_id,
        part.charge_location_id,
        part.procedure_code,
        part.group_code,
        part.reason_code,
    )
