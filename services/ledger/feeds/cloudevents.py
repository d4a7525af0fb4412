"""CloudEvents 1.0 of an EMR integration, parsed at the edge: structured and binary mode, single and batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from services.ledger.domain.commands import EmrDocument, EmrPerson
from services.ledger.wire import Method, Units
from shared.errors import Invalid
from shared.fields import DiagnosisCode, IsoDate, Line, Modifier, ProcedureCode
from shared.money import NonNegativeCents, PositiveCents
from shared.web.bodies import field_errors

SINGLE: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
_TYPES: Final = {
    f"emr.{kind}.{change}.v1": (kind, change)
    for kind in ("payment", "charge")
    for change in ("posted", "changed", "deleted")
}

Version = Annotated[int, Field(ge=1, le=1 << 53)]
ExternalId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[!-~]+( [!-~]+)*$")]
PaymentType = Literal[
    "copay", "coinsurance", "deductible", "wellness", "supplies", "payment_on_account", "other", "internal"
]


class _Data(BaseModel):
    """A sender may add fields; those we know are strict."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    emr_clinic_id: ExternalId


class _Person(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    account_number: Line
    first_name: Line
    last_name: Line
    date_of_birth: IsoDate


class PaymentData(_Data):
    """`emr.payment.posted.v1` and `.changed.v1` (api.md)."""

    payment_id: ExternalId
    payment_version: Version
    patient: _Person
    amount_cents: NonNegativeCents
    method: Method
    check_number: Line | None = None
    transaction_date: IsoDate
    date_of_service: IsoDate | None = None
    payment_type: PaymentType


class ChargeData(_Data):
    """`emr.charge.posted.v1` and `.changed.v1`."""

    charge_id: ExternalId
    charge_version: Version
    patient: _Person
    date_of_service: IsoDate
    procedure_code: ProcedureCode
    modifiers: Annotated[list[Modifier], Field(max_length=4)] = Field(default_factory=list)
    units: Units
    amount_cents: PositiveCents
    diagnosis_codes: Annotated[list[DiagnosisCode], Field(min_length=1, max_length=12)]


class DeletedPayment(_Data):
    """`emr.payment.deleted.v1`."""

    payment_id: ExternalId
    payment_version: Version


class DeletedCharge(_Data):
    """`emr.charge.deleted.v1`."""

    charge_id: ExternalId
    charge_version: Version


_MODELS: Final[dict[tuple[str, str], type[_Data]]] = {
    ("payment", "posted"): PaymentData,
    ("payment", "changed"): PaymentData,
    ("payment", "deleted"): DeletedPayment,
    ("charge", "posted"): ChargeData,
    ("charge", "changed"): ChargeData,
    ("charge", "deleted"): DeletedCharge,
}


EVENT_MODELS: Final = {name: _MODELS[kind_change] for name, kind_change in _TYPES.items()}
"""The data of each event type, for the AsyncAPI document."""


class Envelope(BaseModel):
    """The attributes that CloudEvents requires; extensions are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    specversion: Literal["1.0"]
    id: ExternalId
    source: ExternalId
    type: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    data: Any


@dataclass(frozen=True, slots=True)
class EmrEvent:
    """An event with a readable envelope. `problem` says what is wrong with its data; otherwise `document` is set,
    or `ignored` says why nothing is to be posted."""

    source: str
    event_id: str
    type: str
    clinic: str | None
    content_hash: bytes
    amount_cents: int
    raw: str
    document: EmrDocument | None = None
    ignored: str | None = None
    problem: Invalid | None = None


def envelope(value: Any, prefix: str = "") -> Envelope:
    """The envelope of a structured event; raises Invalid naming the attribute."""
    try:
        return Envelope.model_validate(value)
    except ValidationError as error:
        raise Invalid(errors=field_errors(error, prefix)) from None


def binary(headers: Mapping[str, str], data: Any) -> dict[str, Any]:
    """A binary-mode event as a structured one: its attributes are the `ce-` headers."""
    names = {name.lower(): value for name, value in headers.items()}
    attributes = {name[3:]: value for name, value in names.items() if name.startswith(("ce-", "ce_"))}
    return {**attributes, "data": data}


def understand(one: Envelope, prefix: str = "") -> EmrEvent:
    """What an event asks of the books; a fault in its data is part of the answer, not an exception."""
    data = one.data if isinstance(one.data, dict) else {}
    clinic = data.get("emr_clinic_id")
    canonical = orjson.dumps(data, option=orjson.OPT_SORT_KEYS, default=str)
    facts: dict[str, Any] = {
        "source": one.source,
        "event_id": one.id,
        "type": one.type,
        "clinic": clinic if isinstance(clinic, str) else None,
        "content_hash": hashlib.sha256(canonical).digest(),
        "amount_cents": 0,
        "raw": canonical.decode(),
    }
    kind_change = _TYPES.get(one.type)
    if kind_change is None:
        return EmrEvent(**facts, problem=Invalid.field(f"{prefix}type", "unknown_type", "The event type is not known"))
    try:
        # By way of JSON, where a date is a text and a list is a list: the strict rules of every other body.
        parsed = _MODELS[kind_change].model_validate_json(canonical, strict=True)
    except ValidationError as error:
        return EmrEvent(**facts, problem=Invalid(errors=field_errors(error, f"{prefix}data.")))
    kind, _ = kind_change
    if kind == "payment" and isinstance(parsed, PaymentData):
        facts["amount_cents"] = parsed.amount_cents
        if parsed.payment_type == "internal":
            return EmrEvent(**facts, ignored="internal_payment")
        if parsed.amount_cents == 0:
            return EmrEvent(**facts, ignored="zero_amount")
    return EmrEvent(**facts, document=_document(one.source, kind, parsed))


def _document(source: str, kind: str, data: Any) -> EmrDocument:
    person = getattr(data, "patient", None)
    return EmrDocument(
        source=source,
        kind=kind,
        external_id=getattr(data, f"{kind}_id"),
        external_version=getattr(data, f"{kind}_version"),
        clinic=data.emr_clinic_id,
        person=person and EmrPerson(person.account_number, person.first_name, person.last_name, person.date_of_birth),
        words=_words(data),
    )


def _words(data: Any) -> dict[str, Any] | None:
    if isinstance(data, PaymentData):
        return {
            "amount_cents": data.amount_cents,
            "method": data.method,
            "check_number": data.check_number,
            "deposit_date": data.transaction_date,
            "payment_type": data.payment_type,
        }
    if isinstance(data, ChargeData):
        return {
            "date_of_service": data.date_of_service,
            "procedure_code": data.procedure_code,
            "modifiers": tuple(data.modifiers),
            "units": data.units,
            "amount_cents": data.amount_cents,
            "diagnosis_codes": tuple(data.diagnosis_codes),
        }
    return None
