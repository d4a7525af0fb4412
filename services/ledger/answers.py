"""The shapes of answers, for the OpenAPI document. The documents themselves are built in `domain/documents.py`."""

from __future__ import annotations

from datetime import date, datetime
from typing import Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, RootModel

from services.ledger.wire import GroupCode
from shared.contracts.envelope import Event
from shared.contracts.ledger_events import PostingEvent
from shared.fields import Affiliation, Method, Source

Item = TypeVar("Item", bound=BaseModel)


class Page(BaseModel, Generic[Item]):
    """A page of a list; `next` is the cursor of the following one, null on the last."""

    items: list[Item]
    next: str | None


class PatientDocument(BaseModel):
    id: UUID
    account_number: str
    first_name: str
    last_name: str
    date_of_birth: date
    payer_id: UUID | None
    company_version: int


class PayerDocument(BaseModel):
    id: UUID
    code: str
    name: str
    payer_class: str | None
    era_payer_ids: list[str]
    company_version: int


class PhysicianDocument(BaseModel):
    id: UUID
    npi: str
    first_name: str
    last_name: str
    company_version: int


class ChargeDocument(BaseModel):
    """`balance_cents` = amount - applied - adjusted = what the payer and the patient still owe. `closed`: nothing."""

    id: UUID
    status: Literal["active", "delayed", "closed", "void"]
    patient_id: UUID
    location_id: UUID
    payer_id: UUID | None
    date_of_service: date
    procedure_code: str
    modifiers: list[str]
    units: int
    diagnosis_codes: list[str]
    amount_cents: int
    applied_cents: int
    adjusted_cents: int
    balance_cents: int
    payer_balance_cents: int
    patient_balance_cents: int
    delayed: bool
    external_id: str | None
    source: Source
    poster_id: UUID
    posted_at: datetime
    company_version: int


class ApplicationDocument(BaseModel):
    charge_id: UUID
    amount_cents: int


class AdjustmentDocument(BaseModel):
    """Group PR is no write-off: it moves the amount to the patient."""

    charge_id: UUID
    group_code: GroupCode
    reason_code: str
    amount_cents: int


class ProviderLevelDocument(BaseModel):
    """Positive raises the payment."""

    reason_code: str
    amount_cents: int


class PaymentDocument(BaseModel):
    """`amount_cents` = applied + provider level + unapplied, each below zero in a reversal or a refund.
    `available_cents`: what may still be applied or refunded."""

    id: UUID
    source: Source
    location_id: UUID | None
    method: Method
    check_number: str | None
    payer_id: UUID | None
    patient_id: UUID | None
    amount_cents: int
    applied_cents: int
    adjusted_cents: int
    provider_level_cents: int
    unapplied_cents: int
    refunded_cents: int
    available_cents: int
    deposit_date: date
    posting_date: date
    posted_at: datetime
    batch_number: str | None
    memo: str | None
    payment_type: str | None
    external_id: str | None
    poster_id: UUID
    affiliation: Affiliation
    withdrawn: bool
    reverses_id: UUID | None
    refunds_id: UUID | None
    reversed_by_id: UUID | None
    applications: list[ApplicationDocument]
    adjustments: list[AdjustmentDocument]
    provider_level: list[ProviderLevelDocument]
    company_version: int


class WordsDocument(BaseModel):
    """One set of words that a payment has had, and who gave it."""

    company_version: int
    changed_at: datetime
    changed_by: UUID
    amount_cents: int
    method: Method
    check_number: str | None
    batch_number: str | None
    deposit_date: date
    location_id: UUID | None
    memo: str | None
    withdrawn: bool


class PostedLine(BaseModel):
    """Of a bulk: the line's payment. `replayed`: it was posted before, by the same key."""

    line: int
    status: Literal[201]
    replayed: bool
    id: UUID
    payment: PaymentDocument


class FieldErrorDocument(BaseModel):
    field: str
    code: str
    message: str


class RefusedLine(BaseModel):
    """Of a bulk: the problem of a line, by its number in what was sent, from 1."""

    line: int
    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    errors: list[FieldErrorDocument]


class BulkLine(RootModel[PostedLine | RefusedLine]):
    """What became of a line: one for each, in their order."""


class BatchDocument(BaseModel):
    """`difference_cents` = posted - declared; null where no total was declared."""

    batch_number: str
    control_total_cents: int | None
    control_count: int | None
    posted_cents: int
    payments: int
    difference_cents: int | None


class TotalsRow(BaseModel):
    location_id: UUID | None
    deposit_date: date
    posting_date: date
    source: Source
    affiliation: Affiliation
    payments: int
    amount_cents: int
    applied_cents: int
    adjusted_cents: int
    provider_level_cents: int
    unapplied_cents: int


class ControlTotals(BaseModel):
    company_id: UUID
    as_of_version: int
    items: list[TotalsRow]


class EventsPage(BaseModel):
    """The log in order; `next` is what to ask for as `after_version`, null when there is no more."""

    items: list[Event[PostingEvent]]
    next: int | None


class Head(BaseModel):
    company_id: UUID
    version: int


class HeadsPage(BaseModel):
    """All of them."""

    items: list[Head]
    next: None
