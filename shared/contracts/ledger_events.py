"""The ledger's event: one or many postings of one company, with everything a balancing table needs.

A receipt's *words* (poster, dates, batch, location, ...) travel with every change of its figures, so a reader adds
what it gets and never has to look anything up: sums commute, and a rebuild needs only the events. When the words
themselves are corrected, the same posting takes the figures out under the old words and adds them under the new.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Final, Literal
from uuid import UUID

from shared.contracts.envelope import Contract

POSTING: Final = "ledger.posting.v1"

PartKind = Literal["unapplied", "applied", "adjusted", "provider_level"]


class Part(Contract):
    """A change of one part of a receipt, in cents.

    `applied` and `adjusted` concern a charge: its patient, location and procedure code. `unapplied` stands under the
    receipt's patient, if it has one. `provider_level` (PLB, D16) belongs to no patient; positive raises the payment.
    Amount of a receipt = applied + provider_level + unapplied; `adjusted` is beside it (write-offs, no money)."""

    kind: PartKind
    amount_cents: int
    patient_id: UUID | None = None
    charge_id: UUID | None = None
    charge_location_id: UUID | None = None
    procedure_code: str | None = None
    group_code: str | None = None
    reason_code: str | None = None


class ReceiptChange(Contract):
    """A change of figures of one receipt, under the words it has (or had).

    `count`: +1 where the receipt appears under these words, -1 where it is taken away, 0 where only figures move.
    `receipt_version`: the company version at which the receipt was posted: its place in "as you posted them"."""

    payment_id: UUID
    receipt_version: int
    posted_at: datetime
    posting_date: date
    deposit_date: date
    poster_id: UUID
    affiliation: str
    source: str
    method: str
    location_id: UUID | None = None
    payer_id: UUID | None = None
    patient_id: UUID | None = None
    batch_number: str | None = None
    check_number: str | None = None
    count: int
    parts: tuple[Part, ...] = ()


class ChargeChange(Contract):
    """A change of one charge's receivable, in cents, under the charge's words."""

    charge_id: UUID
    patient_id: UUID
    location_id: UUID
    payer_id: UUID | None = None
    date_of_service: date
    procedure_code: str
    charged_cents: int = 0
    applied_cents: int = 0
    adjusted_cents: int = 0
    payer_balance_cents: int = 0
    patient_balance_cents: int = 0


class PatientState(Contract):
    patient_id: UUID
    account_number: str
    first_name: str
    last_name: str


class PayerState(Contract):
    payer_id: UUID
    code: str
    name: str
    payer_class: str | None = None


class Posting(Contract):
    """One company version. `kind` names the act: payment, application, correction, reversal, charge, patient, ...

    `correlation_id`: the request that caused it; one event may hold the postings of many requests."""

    version: int
    posting_id: UUID
    kind: str
    correlation_id: str | None = None
    posted_at: datetime
    receipts: tuple[ReceiptChange, ...] = ()
    charges: tuple[ChargeChange, ...] = ()
    patients: tuple[PatientState, ...] = ()
    payers: tuple[PayerState, ...] = ()


class PostingEvent(Contract):
    """Data of `ledger.posting.v1`: versions `first_version..version` of one company, without gaps inside.
    A reader that has seen less than `first_version - 1` misses something and asks `/v1/events` for it."""

    company_id: UUID
    first_version: int
    version: int
    postings: tuple[Posting, ...]
