"""What `store.load` gets, row by row, as the books have it. Charges are typed rows, everything else is JSON."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as FastUUID

from services.ledger.domain.books import (
    PATIENT,
    PAYER,
    Books,
    Charge,
    FeedDocument,
    LineKey,
    Lines,
    Location,
    Patient,
    Payer,
    Payment,
    Physician,
    Remembered,
    Telling,
    Words,
)
from services.ledger.domain.waiting import unparked
from shared.db import Record


def _id(value: str | None) -> UUID | None:
    return None if value is None else FastUUID(value)


def read_book(company_id: UUID, row: dict[str, Any]) -> Books:
    return Books(
        company_id,
        row["version"],
        datetime.fromisoformat(row["now"]),
        date.fromisoformat(row["today"]),
        datetime.fromisoformat(row["day_ends"]),
        writes=row["writes"],
        npis=tuple(row["npis"]),
    )


def _read_key(books: Books, row: dict[str, Any]) -> None:
    books.keys[row["key"]] = Remembered(
        row["route"], FastUUID(row["actor_id"]), bytes.fromhex(row["body_hash"][2:]), row["response"]
    )


def _read_location(books: Books, row: dict[str, Any]) -> None:
    location = Location(FastUUID(row["location_id"]), row["emr_location_id"], row["active"])
    books.locations[location.location_id] = location


def _read_payer(books: Books, row: dict[str, Any]) -> None:
    payer = Payer(
        FastUUID(row["payer_id"]),
        row["code"],
        row["name"],
        row["payer_class"],
        tuple(row["era_payer_ids"]),
        row["version"],
    )
    books.payers[payer.payer_id] = payer


def _read_physician(books: Books, row: dict[str, Any]) -> None:
    physician = Physician(
        FastUUID(row["referring_physician_id"]), row["npi"], row["first_name"], row["last_name"], row["version"]
    )
    books.physicians[physician.referring_physician_id] = physician


def _read_patient(books: Books, row: dict[str, Any]) -> None:
    patient = Patient(
        patient_id=FastUUID(row["patient_id"]),
        account_number=row["account_number"],
        first_name=row["first_name"],
        last_name=row["last_name"],
        date_of_birth=date.fromisoformat(row["date_of_birth"]),
        payer_id=_id(row["payer_id"]),
        version=row["version"],
    )
    books.patients[patient.patient_id] = patient


def _read_charge(books: Books, row: Record) -> None:
    charge = Charge(
        charge_id=row["charge_id"],
        version=row["version"],
        posted_at=row["posted_at"],
        source=row["source"],
        external_id=row["external_id"],
        poster_id=row["poster_id"],
        state=row["state"],
        patient_id=row["patient_id"],
        location_id=row["location_id"],
        payer_id=row["payer_id"],
        date_of_service=row["date_of_service"],
        procedure_code=row["procedure_code"],
        modifiers=tuple(row["modifiers"]),
        units=row["units"],
        diagnosis_codes=tuple(row["diagnosis_codes"]),
        amount_cents=row["amount_cents"],
        due={PAYER: row["payer_due"], PATIENT: row["patient_due"]},
        applied_cents=row["applied_cents"],
        adjusted_cents=row["adjusted_cents"],
        touched_version=row["touched_version"],
    )
    books.charges[charge.charge_id] = charge


def _read_payment(books: Books, row: dict[str, Any]) -> None:
    payment = Payment(
        payment_id=FastUUID(row["payment_id"]),
        version=row["version"],
        posted_at=datetime.fromisoformat(row["posted_at"]),
        posting_date=date.fromisoformat(row["posting_date"]),
        poster_id=FastUUID(row["poster_id"]),
        affiliation=row["affiliation"],
        source=row["source"],
        external_id=row["external_id"],
        words=Words(
            amount_cents=row["amount_cents"],
            method=row["method"],
            deposit_date=date.fromisoformat(row["deposit_date"]),
            check_number=row["check_number"],
            batch_number=row["batch_number"],
            location_id=_id(row["location_id"]),
            payer_id=_id(row["payer_id"]),
            patient_id=_id(row["patient_id"]),
            memo=row["memo"],
            payment_type=row["payment_type"],
            withdrawn=row["withdrawn"],
        ),
        reverses_id=_id(row["reverses_id"]),
        refunds_id=_id(row["refunds_id"]),
        reversed_by=_id(row["reversed_by"]),
        refunded_cents=row["refunded_cents"],
        touched_version=row["touched_version"],
    )
    for debit, credit, detail, charge_id, cents in row["lines"]:
        payment.lines.add(LineKey(debit, credit, detail, _id(charge_id)), cents)
    books.payments[payment.payment_id] = payment


def _read_receipt(books: Books, row: dict[str, Any]) -> None:
    """A receipt without its lines, unless somebody else in the batch needs them too."""
    if FastUUID(row["payment_id"]) not in books.payments:
        _read_payment(books, row)


def _read_document(books: Books, row: dict[str, Any]) -> None:
    books.documents[row["source"], row["kind"], row["external_id"]] = FeedDocument(
        row["external_version"], _id(row["document_id"]), row["deleted"], bytes.fromhex(row["content_hash"][2:])
    )


def _read_remittance(books: Books, row: dict[str, Any]) -> None:
    books.remittances[row["payment_key"]] = FastUUID(row["payment_id"])


def _read_line(books: Books, row: dict[str, Any]) -> None:
    books.applied_lines.setdefault(row["line_key"], set()).add(FastUUID(row["payment_id"]))


def _read_trace(books: Books, row: dict[str, Any]) -> None:
    telling = Telling(row["told_by"], row["told_key"], FastUUID(row["payment_id"]), frozenset(row["twins"] or ()))
    books.tellings.setdefault(row["trace_number"], set()).add(telling)


def _read_settled(books: Books, row: dict[str, Any]) -> None:
    charge_id = FastUUID(row["charge_id"])
    lines = books.settled.setdefault(charge_id, {}).setdefault(FastUUID(row["payer_id"]), Lines())
    lines.add(LineKey(row["debit"], row["credit"], row["detail"], charge_id), row["cents"])


def _read_waits(books: Books, _: None) -> None:
    books.waits = True


def _read_waiting(books: Books, row: dict[str, Any]) -> None:
    books.waiting.append(unparked(books.company_id, row))


READERS: Final[dict[str, Any]] = {
    "key": _read_key,
    "location": _read_location,
    "payer": _read_payer,
    "physician": _read_physician,
    "patient": _read_patient,
    "charge": _read_charge,
    "payment": _read_payment,
    "document": _read_document,
    "remittance": _read_remittance,
    "receipt": _read_receipt,
    "line": _read_line,
    "trace": _read_trace,
    "settled": _read_settled,
    "waits": _read_waits,
    "waiting": _read_waiting,
}
