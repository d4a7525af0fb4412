"""The shapes of answers about feeds, for the OpenAPI document: what came, what waits, what was said about claims."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel

from services.ledger.feeds.claim_store import State
from services.ledger.feeds.csvfile.profile import Profile
from services.ledger.feeds.hl7.profiles import ProfileIn
from services.ledger.wire_feeds import ClinicMapping, FeeIn, PayeeMapping, PayerMapping, ProcedureMapping
from shared.fields import Source


class FeedDocument(BaseModel):
    """`received` = posted + duplicates + ignored + quarantined. `difference_cents` = control total - posted total:
    what the sender says that it sent less what was posted of it. `exceptions`: what waits or waited for a person."""

    feed_id: UUID
    format: Literal["x12", "emr", "hl7v2", "fhir", "csv"]
    channel: Literal["http", "amqp", "mllp", "watched"]
    state: Literal["processing", "done"]
    received_at: datetime
    byte_count: int
    received: int
    posted: int
    duplicates: int
    ignored: int
    quarantined: int
    exceptions: int
    control_total_cents: int
    posted_total_cents: int
    difference_cents: int
    acknowledgements: list[str]


class CapabilityStatement(BaseModel):
    """A FHIR R4 CapabilityStatement, whose further elements are FHIR's."""

    resourceType: Literal["CapabilityStatement"]
    status: str
    date: date
    kind: str
    software: dict[str, Any]
    implementation: dict[str, Any]
    fhirVersion: str
    format: list[str]
    rest: list[dict[str, Any]]


class OperationOutcome(BaseModel):
    """A FHIR R4 OperationOutcome: what was refused, and why."""

    resourceType: Literal["OperationOutcome"]
    issue: list[dict[str, Any]]


ExceptionState = Literal["open", "retried", "resolved", "dismissed"]


class ExceptionRow(BaseModel):
    """What waits for a person. `quarantined`: nothing of it was posted. `reason` is the rule that failed, `detail` its
    numbers, which differ from rule to rule (docs/feeds.md)."""

    id: UUID
    feed_id: UUID
    item_key: str
    source: Source
    reason: str
    quarantined: bool
    detail: dict[str, Any]
    payment_id: UUID | None
    created_at: datetime
    state: ExceptionState
    state_by: UUID | None
    state_at: datetime | None
    state_note: str | None


class ExceptionAct(BaseModel):
    """Something that was done about an exception; `reason` and `detail` say why a retry failed."""

    done_at: datetime
    actor_id: UUID
    actor_name: str | None
    action: Literal["retried", "retry_failed", "resolved", "dismissed"]
    reason: str | None
    detail: dict[str, Any] | None
    note: str | None


class ExceptionDocument(ExceptionRow):
    """One exception with what was done about it, oldest first."""

    format: str
    channel: str
    history: list[ExceptionAct]


class DecodedException(ExceptionDocument):
    """`decoded`: the item as it was understood, in words of its format; null where it was not."""

    decoded: Any


class RetryAttempt(BaseModel):
    """What came of one exception; `reason` and `detail` say why it is not settled."""

    id: UUID
    state: Literal["open", "closed", "retried", "resolved", "dismissed"]
    reason: str | None
    detail: dict[str, Any] | None


class RetryAnswer(BaseModel):
    """`retried` of the items were settled. `next`: what to give as `cursor` for those that were not tried yet."""

    retried: int
    items: list[RetryAttempt]
    next: UUID | None


class ClaimRow(BaseModel):
    """A claim by its number, and what was said of it last. Amounts are what was said, not what is in the books."""

    id: UUID
    claim_number: str
    state: State
    effective_date: date
    source: str
    codes: list[str]
    payer: str | None
    payer_control_number: str | None
    charge_cents: int | None
    paid_cents: int


class ClaimStatement(BaseModel):
    """What one item of a feed said about a claim."""

    state: State
    effective_date: date
    recorded_at: datetime
    source: str
    feed_id: UUID
    item_key: str
    payer: str | None
    payer_control_number: str | None
    clearinghouse_number: str | None
    batch_reference: str | None
    codes: list[str]
    charge_cents: int | None
    paid_cents: int | None


class ClaimDocument(ClaimRow):
    """With everything that was said about it, oldest first."""

    history: list[ClaimStatement]


class Changed(BaseModel):
    """Who last set it, and when."""

    changed_by: UUID
    changed_at: datetime


class ClinicMappingRow(ClinicMapping, Changed):
    pass


class PayerMappingRow(PayerMapping, Changed):
    pass


class ProcedureMappingRow(ProcedureMapping, Changed):
    pass


class PayeeMappingRow(PayeeMapping, Changed):
    pass


class MappingsDocument(BaseModel):
    """What the company's feeds mean by their words."""

    clinics: list[ClinicMappingRow]
    payers: list[PayerMappingRow]
    procedures: list[ProcedureMappingRow]
    payees: list[PayeeMappingRow]


class Hl7ProfileDocument(ProfileIn):
    """What is agreed with a sender; `source` is its `MSH-3|MSH-4`."""

    source: str


class CsvProfileDocument(Profile, Changed):
    """A profile by its name."""

    name: str


class FeesDocument(BaseModel):
    fees: list[FeeIn]
