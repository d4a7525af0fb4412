"""SQL of the write path: load and append, each one round trip for a whole batch; and the lock for a second try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
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
from services.ledger.domain.journal import FEED_WORK, TABLES, Journal
from services.ledger.domain.waiting import unparked
from services.ledger.domain.wants import Wants
from shared.config import Config
from shared.db import KEYED_PLANS, Connection, create_pool

MIGRATIONS: Final = Path(__file__).parent / "migrations"
ROLE: Final = "ledger_app"
HOLD = "select from company_book where company_id = any ($1) order by company_id for update"
_WANTED = "$2, $3, $4::json[]"
LOAD = f"select * from load_books($1, {_WANTED}) union all select * from load_waiting($1, {_WANTED})"  # noqa: S608
_BESIDE = (({"trace", "told"}, "load_traces"), ({"settled"}, "load_settled"))
"""Which kinds of wants ask for more than every batch does."""
_BOOKS = ("company_book", *TABLES, "event")
_LAST = len(_BOOKS) + 1
"""The payloads of the events come after the tables."""
APPEND = f"select append_books({', '.join(f'${place}' for place in range(1, _LAST + 1))})"
_WORK = [f"${place}" for place in range(_LAST + 1, _LAST + 1 + len(FEED_WORK))]
APPEND_WITH_FEED_WORK = f"{APPEND}, append_feed_work({', '.join(_WORK)})"


async def create_ledger_pool(config: Config, name: str, size: int = 10) -> asyncpg.Pool:
    """A pool of the service's own role, with plans fit for keyed work on tables that grow."""
    dsn = config.required("ledger_database_url")
    return await create_pool(dsn, name=name, role=ROLE, size=size, settings=KEYED_PLANS)


async def hold(connection: Connection, companies: Iterable[UUID]) -> None:
    """Lock the companies' rows, in one order, until the transaction ends."""
    await connection.execute(HOLD, sorted(companies))


async def load(connection: Connection, wants: Mapping[UUID, Wants]) -> dict[UUID, Books]:
    """The books of those companies that have any, with what the commands want to see, as of one moment."""
    groups = [
        (company, kind, list(some)) for company, one in wants.items() for kind, some in one.by_kind.items() if some
    ]
    companies, kinds = [company for company, _, _ in groups], [kind for _, kind, _ in groups]
    values = [encode(some) for _, _, some in groups]
    books: dict[UUID, Books] = {}
    asked = set(kinds)
    parts = [LOAD, *(f"select * from {name}({_WANTED})" for some, name in _BESIDE if asked & some)]  # noqa: S608
    for row in await connection.fetch(" union all ".join(parts), list(wants), companies, kinds, values):
        company_id, body = row["company_id"], orjson.loads(row["body"] or "null")
        if row["kind"] == "book":
            books[company_id] = _read_book(company_id, body)
        elif company_id in books:
            _READERS[row["kind"]](books[company_id], body)
    return books


@dataclass(frozen=True, slots=True)
class Append:
    """What is to be inserted, as it is sent."""

    statement: str
    arguments: list[Any]


def prepare(books: Iterable[Books], journal: Journal, events: list[dict[str, Any]]) -> Append:
    """Every row of a batch, and the books that are written to, as they were loaded."""
    payloads = [event.pop("payload") for event in events]
    rows: dict[str, list[dict[str, Any]]] = {**journal.rows, "event": events}
    rows["company_book"] = [
        {"company_id": one.company_id, "version": one.version, "writes": one.writes} for one in books
    ]
    # A posting by a person has no feed work, and need not call for it.
    work, statement = (FEED_WORK, APPEND_WITH_FEED_WORK) if any(rows.get(t) for t in FEED_WORK) else ((), APPEND)
    texts = [encode(rows[table]) if rows.get(table) else None for table in (*_BOOKS, *work)]
    return Append(statement, [*texts[: len(_BOOKS)], payloads, *texts[len(_BOOKS) :]])


async def append(connection: Connection, what: Append) -> None:
    """Insert a batch. Raises SerializationError when some of the books were written since the load."""
    await connection.execute(what.statement, *what.arguments)


def encode(value: Any) -> str:
    """JSON as the books write it: instants in UTC, bytes as PostgreSQL reads them."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z).decode()


def _plain(value: Any) -> str:
    if isinstance(value, FastUUID):  # A subclass, which the encoder does not take.
        return str(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    raise TypeError(type(value).__name__)


def _id(value: str | None) -> UUID | None:
    return None if value is None else FastUUID(value)


def _read_book(company_id: UUID, row: dict[str, Any]) -> Books:
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


def _read_charge(books: Books, row: dict[str, Any]) -> None:
    charge = Charge(
        charge_id=FastUUID(row["charge_id"]),
        version=row["version"],
        posted_at=datetime.fromisoformat(row["posted_at"]),
        source=row["source"],
        external_id=row["external_id"],
        poster_id=FastUUID(row["poster_id"]),
        state=row["state"],
        patient_id=FastUUID(row["patient_id"]),
        location_id=FastUUID(row["location_id"]),
        payer_id=_id(row["payer_id"]),
        date_of_service=date.fromisoformat(row["date_of_service"]),
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
    telling = Telling(row["told_by"], row["told_key"], FastUUID(row["payment_id"]))
    books.tellings.setdefault(row["trace_number"], set()).add(telling)


def _read_settled(books: Books, row: dict[str, Any]) -> None:
    charge_id = FastUUID(row["charge_id"])
    lines = books.settled.setdefault(charge_id, {}).setdefault(FastUUID(row["payer_id"]), Lines())
    lines.add(LineKey(row["debit"], row["credit"], row["detail"], charge_id), row["cents"])


def _read_waits(books: Books, _: None) -> None:
    books.waits = True


def _read_waiting(books: Books, row: dict[str, Any]) -> None:
    books.waiting.append(unparked(books.company_id, row))


_READERS: dict[str, Any] = {
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
