"""Bodies and queries of the ledger's API (`api.md`), strict; and their commands."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, Strict, StringConstraints
from pydantic_core import PydanticCustomError

from shared.errors import Invalid
from shared.fields import (
    Body,
    Code,
    DiagnosisCode,
    Id,
    IsoDate,
    Line,
    Memo,
    Method,
    Modifier,
    NonNegativeCents,
    Npi,
    PositiveCents,
    ProcedureCode,
    Query,
    ReasonCode,
)

GroupCode = Literal["CO", "PR", "OA", "PI"]
Version = Annotated[int, Field(ge=0, le=(1 << 63) - 1)]
Units = Annotated[int, Strict(), Field(ge=1, le=999)]


def _born(day: date) -> date:
    # It may be tomorrow where the patient was born today.
    if day > date.today() + timedelta(days=1):
        raise PydanticCustomError("date_in_future", "The date is in the future")
    return day


BirthDate = Annotated[IsoDate, AfterValidator(_born)]


class PatientIn(Body):
    account_number: Line
    first_name: Line
    last_name: Line
    date_of_birth: BirthDate
    payer_id: Id | None = None


class PatientPatch(Body):
    account_number: Line | None = None
    first_name: Line | None = None
    last_name: Line | None = None
    date_of_birth: BirthDate | None = None
    payer_id: Id | None = None


class Search(Body):
    """Criteria in a body, because no patient's data may stand in a URL; names match from their beginning."""

    limit: Annotated[int, Field(ge=1, le=500)] = 50
    cursor: Id | None = None


class PatientSearch(Search):
    account_number: Line | None = None
    last_name: Line | None = None
    first_name: Line | None = None
    date_of_birth: IsoDate | None = None


class PayerIn(Body):
    code: Code
    name: Line
    payer_class: Line | None = None
    era_payer_ids: Annotated[list[Line], Field(max_length=50)] = Field(default_factory=list)


class PayerPatch(Body):
    code: Code | None = None
    name: Line | None = None
    payer_class: Line | None = None
    era_payer_ids: Annotated[list[Line], Field(max_length=50)] | None = None


class PayerSearch(Search):
    code: Line | None = None
    name: Line | None = None


class PhysicianIn(Body):
    npi: Npi
    first_name: Line
    last_name: Line


class PhysicianPatch(Body):
    npi: Npi | None = None
    first_name: Line | None = None
    last_name: Line | None = None


class PhysicianSearch(Search):
    npi: Npi | None = None
    last_name: Line | None = None


class ChargeIn(Body):
    patient_id: Id
    location_id: Id
    date_of_service: IsoDate
    procedure_code: ProcedureCode
    modifiers: Annotated[list[Modifier], Field(max_length=4)] = Field(default_factory=list)
    units: Units
    amount_cents: PositiveCents
    diagnosis_codes: Annotated[list[DiagnosisCode], Field(min_length=1, max_length=12)]
    payer_id: Id | None = None
    delayed: bool = False
    external_id: Line | None = None


class ChargePatch(Body):
    modifiers: Annotated[list[Modifier], Field(max_length=4)] | None = None
    units: Units | None = None
    amount_cents: PositiveCents | None = None
    diagnosis_codes: Annotated[list[DiagnosisCode], Field(min_length=1, max_length=12)] | None = None
    payer_id: Id | None = None


class AdjustmentIn(Body):
    charge_id: Id
    group_code: GroupCode
    reason_code: ReasonCode
    amount_cents: PositiveCents


class ChargeAdjustmentIn(Body):
    group_code: GroupCode
    reason_code: ReasonCode
    amount_cents: PositiveCents


class TransferIn(Body):
    to: Literal["payer", "patient"]
    amount_cents: PositiveCents


class ApplicationIn(Body):
    charge_id: Id
    amount_cents: PositiveCents


class PaymentIn(Body):
    location_id: Id | None = None
    method: Method
    check_number: Line | None = None
    payer_id: Id | None = None
    patient_id: Id | None = None
    amount_cents: NonNegativeCents
    deposit_date: IsoDate
    batch_number: Line | None = None
    memo: Memo | None = None
    external_id: Line | None = None
    applications: Annotated[list[ApplicationIn], Field(max_length=500)] = Field(default_factory=list)
    adjustments: Annotated[list[AdjustmentIn], Field(max_length=500)] = Field(default_factory=list)


class BulkPaymentIn(PaymentIn):
    idempotency_key: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]


class PaymentPatch(Body):
    batch_number: Line | None = None
    check_number: Line | None = None
    deposit_date: IsoDate | None = None
    location_id: Id | None = None
    memo: Memo | None = None


class ApplicationsIn(Body):
    applications: Annotated[list[ApplicationIn], Field(min_length=1, max_length=500)]
    adjustments: Annotated[list[AdjustmentIn], Field(max_length=500)] = Field(default_factory=list)


class ReversalIn(Body):
    deposit_date: IsoDate | None = None
    memo: Memo | None = None


class RefundIn(Body):
    amount_cents: PositiveCents
    method: Method | None = None
    check_number: Line | None = None
    deposit_date: IsoDate | None = None
    batch_number: Line | None = None
    memo: Memo | None = None


class BatchIn(Body):
    batch_number: Line
    control_total_cents: NonNegativeCents | None = None
    control_count: Annotated[int, Strict(), Field(ge=0, le=1_000_000)] | None = None


class Page(Query):
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    cursor: Id | None = None


def in_order(first: date | None, last: date | None, name: str = "to") -> None:
    """Raises Invalid, naming the end of the range, when it is before its beginning."""
    if first and last and first > last:
        raise Invalid.field(name, "range", "Must not be before the beginning of the range")


class ChargesQuery(Page):
    patient_id: Id | None = None
    status: Literal["active", "delayed", "closed", "void"] | None = None
    location_id: Id | None = None
    from_: Annotated[IsoDate | None, Field(alias="from")] = None
    to: IsoDate | None = None


class PaymentsQuery(Page):
    unassigned: bool = False
    batch_number: Line | None = None
    check_number: Line | None = None
    deposit_from: IsoDate | None = None
    deposit_to: IsoDate | None = None


class BatchesQuery(Query):
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    cursor: Line | None = None


class EventsQuery(Query):
    company_id: Id | None = None
    after_version: Version = 0
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class ControlTotalsQuery(Query):
    company_id: Id | None = None
    as_of_version: Version | None = None


def given(body: Body) -> dict[str, Any]:
    """The fields that a PATCH named, and no others."""
    return {name: getattr(body, name) for name in body.model_fields_set}


def not_null(body: Body, nullable: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The named fields of a PATCH; null only where it means something."""
    changes = given(body)
    if not changes:
        raise Invalid.field("body", "nothing_to_change", "Name at least one field")
    for name, value in changes.items():
        if value is None and name not in nullable:
            raise Invalid.field(name, "null", "May not be null")
    return changes
