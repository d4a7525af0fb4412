"""From the transactions of a message to acts on the books, under the field rules that JSON bodies have.

Charges and payments are documents of their sender, named by FT1-2 and dated by MSH-7, so that the same lines in any
order of messages come to the same books: the last word on a document holds, and a void that comes first waits for
its charge.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from services.ledger.domain.feed_acts import EmrAdjustment, EmrDocument, EmrPerson
from services.ledger.feeds.charges import ChargeWords, brought
from services.ledger.feeds.hl7.model import PAYMENTS, Financial, Patient, Profile, Transaction
from shared.fields import IsoDate, Line, Method, NonNegativeCents, PositiveCents, ProcedureCode, ReasonCode

SOURCE: Final = "hl7:"
"""Before the sender in the source of documents: a sender's name cannot collide with the source of CloudEvents."""
_GROUP, _CONTRACTUAL = "CO", "45"
"""An AJ does not say who bears it: it is written off (CO), for the reason that FT1-7 names, else as above the fee
schedule (45), which is what practices write off. Anything else, a person adjusts by hand."""
_METHODS: Final = (
    ("credit_card", re.compile(r"CARD|CREDIT|VISA|AMEX|CC\b")),
    ("cash", re.compile(r"CASH")),
    ("check", re.compile(r"CHE?CK|CHK|CHEQUE|\bCK")),
    ("eft", re.compile(r"EFT|ACH\b|WIRE")),
)
_CONTROLS = re.compile(r"[\x00-\x1f]+")
_TIME = re.compile(r"(\d{8})(\d{2})?(\d{2})?(\d{2})?(?:\.(\d{1,9}))?([+-]\d{4})?", re.ASCII)


class _Person(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    account_number: Line
    first_name: Line | None
    last_name: Line | None
    date_of_birth: IsoDate | None


class _Charge(ChargeWords):
    patient: _Person


class _Payment(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    patient: _Person
    amount_cents: NonNegativeCents
    method: Method
    deposit_date: IsoDate
    check_number: Line | None
    batch_number: Line | None


class _Adjustment(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    account_number: Line
    date_of_service: IsoDate
    procedure_code: ProcedureCode | None
    reason_code: ReasonCode
    amount_cents: PositiveCents


@dataclass(frozen=True, slots=True)
class Asked:
    """What one FT1 comes to: an act, or why a person or nobody must look at it."""

    number: int
    """Which FT1 of the message."""
    amount_cents: int
    """Of a payment, as it is counted: charges do not balance against deposits."""
    key: str = ""
    """The transaction's name among all of its sender's."""
    act: EmrDocument | EmrAdjustment | None = None
    refused: str = ""
    ignored: str = ""
    fields: ValidationError | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where and when a message stands in the books."""

    location_id: UUID
    version: int
    prices: Mapping[str, int]
    """Cents of one unit, by procedure code."""
    procedures: Mapping[str, str]
    """The company's codes for those that its senders call by others."""

    def procedure(self, code: str) -> str:
        return self.procedures.get(code, code)


def source_of(financial: Financial) -> str:
    """The sender, as profiles and clients name it."""
    return f"{financial.header.sending_application}|{financial.header.sending_facility}"


def version_of(time: str, received: datetime) -> int:
    """MSH-7 as microseconds: the version of every document in the message. A time without a zone is taken as it is,
    since only the messages of one sender are compared; without a time, the message is as old as its arrival."""
    match = _TIME.fullmatch(time)
    try:
        if match is None:
            raise ValueError
        digits = match[1] + "".join(match[part] or "00" for part in (2, 3, 4))
        found = datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        if zone := match[6]:
            found -= timedelta(hours=int(zone[:3]), minutes=int(zone[0] + zone[3:]))
        return _micros(found + timedelta(seconds=float(f"0.{match[5] or 0}")))
    except (ValueError, OverflowError):
        return _micros(received)


def _micros(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def ask(financial: Financial, profile: Profile, place: Place) -> Iterator[Asked]:
    """Every FT1, in the order of the message: what it takes back and then brings again is the later state of it."""
    later = replace(place, version=place.version + 1)
    taken_back: set[str] = set()
    for transaction in financial.transactions:
        if transaction.void:
            taken_back.add(transaction.key)
        corrects = not transaction.void and transaction.key in taken_back
        try:
            yield _ask(transaction, financial, profile, later if corrects else place)
        except ValidationError as error:
            yield replace(_counted(transaction), refused="invalid", fields=error)


def paid_cents(one: Transaction) -> int:
    return (one.amount_cents or 0) if one.kind in PAYMENTS else 0


def payment_type(kind: str) -> str:
    return "copay" if kind == "CO" else "other"


def _counted(one: Transaction) -> Asked:
    return Asked(one.sequence, paid_cents(one), one.key)


def _ask(one: Transaction, financial: Financial, profile: Profile, place: Place) -> Asked:
    counted = _counted(one)
    if one.void:
        return replace(counted, act=_void(one, financial, place))
    amount_cents = one.amount_cents
    if amount_cents is None and (price := place.prices.get(place.procedure(one.procedure))):
        amount_cents = price * one.units
    if amount_cents is None:
        return replace(counted, refused="missing_amount")
    if one.kind in PAYMENTS:
        if amount_cents < 0:
            return replace(counted, refused="negative_payment")
        return replace(counted, act=_payment(one, financial, profile, place, amount_cents))
    if one.kind == "CG":
        return replace(counted, act=_charge(one, financial, profile, place, amount_cents))
    if amount_cents <= 0:
        # What raises a balance again is the reversal of something, and a message does not say of what.
        return (
            replace(counted, refused="negative_adjustment") if amount_cents else replace(counted, ignored="zero_amount")
        )
    return replace(counted, act=_adjustment(one, financial, place, amount_cents))


def _void(one: Transaction, financial: Financial, place: Place) -> EmrDocument:
    return EmrDocument(
        **_document(one, financial, place, "charge"),
        content_hash=hashlib.sha256(b"void").digest(),
        deleted=True,
        taken_back_cents=one.amount_cents,
    )


def _charge(one: Transaction, financial: Financial, profile: Profile, place: Place, amount_cents: int) -> EmrDocument:
    read = _Charge(
        patient=_person(financial.patient),
        date_of_service=one.service_date,
        procedure_code=place.procedure(one.procedure),
        modifiers=list(one.modifiers),
        units=one.units,
        amount_cents=amount_cents,
        diagnosis_codes=list(dict.fromkeys(one.diagnoses)),
    )
    return _state(one, financial, profile, place, "charge", read.patient, read.words())


def _payment(one: Transaction, financial: Financial, profile: Profile, place: Place, amount_cents: int) -> EmrDocument:
    read = _Payment(
        patient=_person(financial.patient),
        amount_cents=amount_cents,
        method=_method(one, profile),
        deposit_date=one.service_date,
        check_number=_line(one.payment_reference),
        batch_number=_line(one.batch),
    )
    words = read.model_dump(exclude={"patient"}) | {"payment_type": payment_type(one.kind)}
    return _state(one, financial, profile, place, "payment", read.patient, words)


def _state(
    one: Transaction,
    financial: Financial,
    profile: Profile,
    place: Place,
    kind: str,
    person: _Person,
    words: dict[str, Any],
) -> EmrDocument:
    """The words are what two states are compared by, but for the batch: another batch is not another payment."""
    said = sorted((name, value) for name, value in words.items() if name != "batch_number")
    return EmrDocument(
        **_document(one, financial, place, kind),
        content_hash=hashlib.sha256(repr((person.account_number, said)).encode()).digest(),
        person=EmrPerson(person.account_number, person.first_name or "", person.last_name or "", person.date_of_birth),
        replaces="replacement" in profile.voids,
        **brought(words),
    )


def _document(one: Transaction, financial: Financial, place: Place, kind: str) -> dict[str, Any]:
    return {
        "source": SOURCE + source_of(financial),
        "kind": kind,
        "external_id": one.key,
        "external_version": place.version,
        "clinic": financial.clinic,
        "location_id": place.location_id,
    }


def _adjustment(one: Transaction, financial: Financial, place: Place, amount_cents: int) -> EmrAdjustment:
    read = _Adjustment(
        account_number=financial.patient.account_number,
        date_of_service=one.service_date,
        procedure_code=place.procedure(one.procedure) or None,
        reason_code=one.code if re.fullmatch(r"[A-Z0-9]{1,5}", one.code) else _CONTRACTUAL,
        amount_cents=amount_cents,
    )
    return EmrAdjustment(
        source=SOURCE + source_of(financial),
        charge_ref=one.reference_key or None,
        account_number=read.account_number,
        date_of_service=read.date_of_service,
        procedure_code=read.procedure_code or "",
        group_code=_GROUP,
        reason_code=read.reason_code,
        amount_cents=read.amount_cents,
    )


def _person(patient: Patient) -> _Person:
    return _Person(
        account_number=patient.account_number,
        first_name=_line(patient.given_name),
        last_name=_line(patient.family_name),
        date_of_birth=patient.birth_date,
    )


def _line(text: str) -> str | None:
    """The text on one line: escapes may bring line breaks into any value (chapter 2.7)."""
    return _CONTROLS.sub(" ", text).strip() or None


def _method(one: Transaction, profile: Profile) -> Any:
    """What is agreed for the code, else what the code or its description sounds like."""
    agreed = dict(profile.methods).get(one.code)
    if agreed:
        return agreed
    heard = (method for text in (one.code, one.description) for method, sound in _METHODS if sound.search(text.upper()))
    return next(heard, "other")
