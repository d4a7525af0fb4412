"""CloudEvents 1.0 of an EMR integration, parsed at the edge: structured and binary mode, single and batch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from services.ledger.domain.feed_acts import EmrDocument, EmrPerson
from services.ledger.domain.later_acts import EmrTotals
from services.ledger.feeds.charges import brought
from services.ledger.feeds.event_data import (
    EXTERNAL_ID,
    ChargeData,
    DeletedCharge,
    DeletedPayment,
    EventData,
    ExternalId,
    PaymentData,
    TotalsData,
)
from services.ledger.feeds.event_data import PaymentType as PaymentType
from shared.errors import Invalid
from shared.web.bodies import field_errors

SINGLE: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
TOTALS: Final = "emr.totals.reported.v1"
EVENT_MODELS: Final[dict[str, type[EventData]]] = {
    "emr.payment.posted.v1": PaymentData,
    "emr.payment.changed.v1": PaymentData,
    "emr.payment.deleted.v1": DeletedPayment,
    "emr.charge.posted.v1": ChargeData,
    "emr.charge.changed.v1": ChargeData,
    "emr.charge.deleted.v1": DeletedCharge,
    TOTALS: TotalsData,
}
"""The data of each event type, also for the AsyncAPI document."""
_INSTANT: TypeAdapter[datetime] = TypeAdapter(AwareDatetime)


class Envelope(BaseModel):
    """The attributes that CloudEvents requires; extensions are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    specversion: Literal["1.0"]
    id: ExternalId
    source: ExternalId
    type: Annotated[str, StringConstraints(max_length=200, pattern=r"^[!-~]+$")]
    time: Any = None
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
    """All of the event as JSON, to be read again: `understand(envelope(json.loads(raw)))`."""
    document: EmrDocument | EmrTotals | None = None
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
    return {**attributes, "data": value} if attributes and not content_type.lower().startswith(SINGLE) else value


def understand(one: Envelope, prefix: str = "", procedures: Mapping[str, str] | None = None) -> EmrEvent:
    """What an event asks of the books; a fault in its data is part of the answer, not an exception.

    `procedures`: CPT codes by the codes that the sender uses instead. An event is the same whatever is mapped."""
    data = one.data if isinstance(one.data, dict) else {}
    canonical = _canonical(data, f"{prefix}data")
    data_hash = hashlib.sha256(canonical.encode()).digest()
    clinic = data.get("emr_clinic_id")
    facts: dict[str, Any] = {
        "source": one.source,
        "event_id": one.id,
        "type": one.type,
        "clinic": clinic if isinstance(clinic, str) and re.fullmatch(EXTERNAL_ID, clinic) else None,
        "content_hash": hashlib.sha256(f"{one.type}\n{canonical}".encode()).digest(),
        "amount_cents": 0,
        "raw": _canonical(one.model_dump(), f"{prefix}data"),
    }
    model = EVENT_MODELS.get(one.type)
    if model is None:
        return EmrEvent(**facts, problem=Invalid.field(f"{prefix}type", "unknown_type", "The event type is not known"))
    code = data.get("procedure_code")
    if procedures and isinstance(code, str) and code in procedures:
        canonical = _canonical({**data, "procedure_code": procedures[code]}, f"{prefix}data")
    try:
        # By way of JSON, where a date is a text and a list is a list: the strict rules of every other body.
        parsed = model.model_validate_json(canonical, strict=True)
    except ValidationError as error:
        return EmrEvent(**facts, problem=Invalid(errors=field_errors(error, f"{prefix}data.")))
    if isinstance(parsed, TotalsData):
        return _reported(one, parsed, facts, prefix)
    document = _document(one, parsed, data_hash)
    if document.withheld is None and isinstance(parsed, PaymentData):
        facts["amount_cents"] = parsed.amount_cents
    return EmrEvent(**facts, document=document)


def _reported(one: Envelope, data: TotalsData, facts: dict[str, Any], prefix: str) -> EmrEvent:
    """A report of totals is as old as its event: of two, the later one holds."""
    try:
        reported_at = None if one.time is None else _INSTANT.validate_json(json.dumps(one.time), strict=True)
    except ValidationError:
        problem = Invalid.field(f"{prefix}time", "invalid_time", "Must be an instant with its zone, as RFC 3339 has it")
        return EmrEvent(**facts, problem=problem)
    said = data.model_dump()
    payments = None if said["payments"] is None else tuple(said["payments"])
    act = EmrTotals(one.source, data.emr_clinic_id, data.date, tuple(said["totals"]), payments, reported_at)
    return EmrEvent(**facts, document=act)


def _canonical(value: Any, field: str) -> str:
    """One text for equal values. All of it is ASCII, so that no lone surrogate and no NUL is in it."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        raise Invalid.field(field, "too_deep", "The data is nested too deeply") from None


def _document(one: Envelope, data: Any, content_hash: bytes) -> EmrDocument:
    kind = one.type.split(".")[1]
    person = getattr(data, "patient", None)
    return EmrDocument(
        source=one.source,
        kind=kind,
        external_id=getattr(data, f"{kind}_id"),
        external_version=getattr(data, f"{kind}_version"),
        clinic=data.emr_clinic_id,
        content_hash=content_hash,
        deleted=isinstance(data, DeletedPayment | DeletedCharge),
        person=person and EmrPerson(person.account_number, person.first_name, person.last_name, person.date_of_birth),
        **_brings(data),
    )


def _brings(data: Any) -> dict[str, Any]:
    """What this state brings into the books; internal payments never flow, and a deletion brings nothing."""
    if isinstance(data, ChargeData):
        return brought(data.words())
    if not isinstance(data, PaymentData):
        return {}
    if data.payment_type == "internal":
        return {"withheld": "internal_payment"}
    return brought(
        {
            "amount_cents": data.amount_cents,
            "method": data.method,
            "check_number": data.check_number,
            "deposit_date": data.transaction_date,
            "payment_type": data.payment_type,
        }
    )
