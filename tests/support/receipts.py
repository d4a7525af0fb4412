"""Receipts as documents: words, and the net cents of their parts. What `Books` keeps and the oracle reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from shared.contracts.ledger_events import Part, PartKind, ReceiptChange


@dataclass(frozen=True, slots=True)
class Words:
    """What stands on a receipt beside its figures."""

    poster_id: UUID
    affiliation: str
    source: str
    method: str
    posting_date: date
    deposit_date: date
    location_id: UUID | None
    payer_id: UUID | None
    patient_id: UUID | None
    batch_number: str | None
    check_number: str | None


@dataclass(frozen=True, slots=True)
class Charge:
    """A service line that money can be applied to."""

    charge_id: UUID
    patient_id: UUID
    location_id: UUID
    procedure_code: str


@dataclass(frozen=True, slots=True)
class PartKey:
    """What a sum of cents within a receipt belongs to."""

    kind: PartKind
    patient_id: UUID | None = None
    charge: Charge | None = None
    group_code: str | None = None
    reason_code: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt at some version: its words and the net cents of its parts (no zeros)."""

    payment_id: UUID
    receipt_version: int
    posted_at: datetime
    words: Words
    parts: dict[PartKey, int]

    @property
    def amount_cents(self) -> int:
        return sum(cents for key, cents in self.parts.items() if key.kind != "adjusted")


def change_of(receipt: Receipt, count: int, parts: dict[PartKey, int]) -> ReceiptChange:
    """The change of a receipt's parts as the ledger tells it, under the words of the document given."""
    words = {name: getattr(receipt.words, name) for name in Words.__slots__}
    return ReceiptChange(
        payment_id=receipt.payment_id,
        receipt_version=receipt.receipt_version,
        posted_at=receipt.posted_at,
        count=count,
        parts=tuple(part_of(key, cents) for key, cents in parts.items()),
        **words,
    )


def part_of(key: PartKey, cents: int) -> Part:
    charge = key.charge
    return Part(
        kind=key.kind,
        amount_cents=cents,
        patient_id=key.patient_id,
        charge_id=charge and charge.charge_id,
        charge_location_id=charge and charge.location_id,
        procedure_code=charge and charge.procedure_code,
        group_code=key.group_code,
        reason_code=key.reason_code,
    )


def with_change(parts: dict[PartKey, int], change: dict[PartKey, int]) -> dict[PartKey, int]:
    summed = Counter(parts)
    summed.update(change)
    return {key: cents for key, cents in summed.items() if cents}
