"""Documents that `GET /v1/reconciliation` answers with."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field


class Count(BaseModel):
    payments: int
    amount_cents: int


class Explained(Count):
    """What accounts for a part of a difference."""

    reason: str
    exception_ids: list[UUID]


class ListedPayment(BaseModel):
    """A payment as the EMR lists it."""

    version: int
    amount_cents: int
    payment_type: str


class PostedPayment(BaseModel):
    """The same as the ledger knows it; where and what is null of one that brings no money."""

    payment_id: UUID | None
    version: int
    deleted: bool
    location_id: UUID | None
    date: date | None
    payment_type: str | None
    amount_cents: int | None


class PaymentDifference(Count):
    """One payment on which the two do not agree: the EMR's figures less the ledger's."""

    kind: Literal["missing_in_ledger", "amount_differs", "missing_in_emr"]
    emr_payment_id: str
    reason: str
    explained: bool
    exception_id: UUID | None
    emr: ListedPayment | None
    ledger: PostedPayment | None


Agreement = Literal["balanced", "explained", "unreported", "broken"]


class ReconciliationRow(BaseModel):
    """One source, location, day and payment type. `difference` = emr - ledger; `listed` is the sum of the payments that
    the EMR lists; both and `differences` are null where it said nothing of the kind."""

    source: str
    emr_clinic_id: str | None
    location_id: UUID
    date: date
    payment_type: str
    reported_at: datetime | None
    status: Agreement
    emr: Count | None
    ledger: Count
    difference: Count | None
    explained: list[Explained]
    listed: Count | None
    differences: list[PaymentDifference] | None


class UnplacedPayment(BaseModel):
    """A payment that waits in the quarantine, and the fields of it that cannot be told: it explains no row."""

    exception_id: UUID
    source: str | None
    emr_payment_id: str | None
    location_id: UUID | None
    date: date | None
    payment_type: str | None
    amount_cents: int | None
    unknown: list[str]


class Unplaced(Count):
    """How many there are and what they come to, as far as that is known; the first 500 of them."""

    items: list[UnplacedPayment]


class ReconciliationAnswer(BaseModel):
    """`rows`: how many there are of each status; `status`: the worst of them."""

    from_: date = Field(alias="from")
    to: date
    status: Agreement
    rows: dict[Agreement, int]
    items: list[ReconciliationRow]
    unplaced: Unplaced
    next: None
