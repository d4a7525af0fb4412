"""CloudEvents 1.0 of an EMR integration, parsed at the edge: structured and binary mode, single and batch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from services.ledger.domain.feed_acts import EmrDocument, EmrPerson
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
_EXTERNAL_ID: Final = r"^[!-~]+( [!-~]+)*$"
ExternalId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_EXTERNAL_ID)]
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
    type: Annotated[str, StringConstraints(max_length=200, pattern=r"^[!-~]+$")]
    data: Any


@dataclass(frozen=True, slots=True)
class EmrEvent:
    """An event with a readable envelope: what it asks of the books, or the `problem` with its data."""

    source: str
    event_id: str
    type: str
    clinic: str | None
    content_hash: bytes
    """Of type and data: the same id with another hash is a conflict."""
    amount_cents: int
    raw: str
    document: EmrDocument | None = None
    problem: Invalid | None = None


def envelope(value: Any, prefix: str = "") -> Envelope:
    """The envelope of a structured event; raises Invalid naming the attribute."""
    try:
        return Envelope.model_validate(value)
    except ValidationError as error:
        raise Invalid(errors=field_errors(error, prefix)) from None


def structured(content_type: str, headers: Mapping[str, str], value: Any) -> Any:
    """An event as one object, in whichever mode it was sent: in binary mode its attributes are the `ce-` headers."""
    names = {name.lower(): text for name, text in headers.items()}
    attributes = {name[3:]: text for name, text in names.items() if name.startswith("ce-")}
    return {**attributes, "data": value} if attributes and not content_type.startswith(SINGLE) else value


def understand(one: Envelope, prefix: str = "") -> EmrEvent:
    """What an event asks of the books; a fault in its data is part of the answer, not an exception."""
    data = one.data if isinstance(one.data, dict) else {}
    canonical = _canonical(data, f"{prefix}data")
    clinic = data.get("emr_clinic_id")
    facts: dict[str, Any] = {
        "source": one.source,
        "event_id": one.id,
        "type": one.type,
        "clinic": clinic if isinstance(clinic, str) and re.fullmatch(_EXTERNAL_ID, clinic) else None,
        "content_hash": hashlib.sha256(f"{one.type}\n{canonical}".encode()).digest(),
        "amount_cents": 0,
        "raw": canonical,
    }
    kind_change = _TYPES.get(one.type)
    if kind_change is None:
        return EmrEvent(**facts, problem=Invalid.field(f"{prefix}type", "unknown_type", "The event type is not known"))
    try:
        # By way of JSON, where a date is a text and a list is a list: the strict rules of every other body.
        parsed = _MODELS[kind_change].model_validate_json(canonical, strict=True)
    except ValidationError as error:
        return EmrEvent(**facts, problem=Invalid(errors=field_errors(error, f"{prefix}data.")))
    document = _document(one.source, kind_change[0], parsed, hashlib.sha256(canonical.encode()).digest())
    if document.withheld is None and isinstance(parsed, PaymentData):
        facts["amount_cents"] = parsed.amount_cents
    return EmrEvent(**facts, document=document)


def _canonical(data: dict[str, Any], field: str) -> str:
    """The data as one text for equal data. All of it is ASCII, so that no lone surrogate and no NUL is in it."""
    try:
        return json.dumps(data, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        raise Invalid.field(field, "too_deep", "The data is nested too deeply") from None


def _document(source: str, kind: str, data: Any, content_hash: bytes) -> EmrDocument:
    withheld = _withheld(data)
    person = getattr(data, "patient", None)
    return EmrDocument(
        source=source,
        kind=kind,
        external_id=getattr(data, f"{kind}_id"),
        external_version=getattr(data, f"{kind}_version"),
        clinic=data.emr_clinic_id,
        content_hash=content_hash,
        deleted=isinstance(data, DeletedPayment | DeletedCharge),
        withheld=withheld,
        person=person and EmrPerson(person.account_number, person.first_name, person.last_name, person.date_of_birth),
        words=None if withheld else _words(data),
    )


def _withheld(data: Any) -> str | None:
    """Why this state of a payment brings no money: internal payments never flow, and nothing is nothing."""
    if not isinstance(data, PaymentData):
        return None
    if data.payment_type == "internal":
        return "internal_payment"
    return None if data.amount_cents else "zero_amount"


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
