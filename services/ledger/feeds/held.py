"""Payments of EMRs that wait in the quarantine, read from their raw form by what is agreed now, as a retry reads them.

Payers' payments are not among them: no EMR reports those. What cannot be read is handed out with what is known of it.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final, get_args
from uuid import UUID

from services.ledger.domain.emr_facts import Waits
from services.ledger.domain.senders import OWN
from services.ledger.feeds.cloudevents import PaymentType
from services.ledger.feeds.csv_posting import CsvFile, line_of
from services.ledger.feeds.csvfile.profile import Profile as CsvProfile
from services.ledger.feeds.csvfile.reader import Row, read
from services.ledger.feeds.csvfile.records import CsvUnreadable
from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.model import Outcome, PaymentFact, VoidFact
from services.ledger.feeds.fhir_acts import SOURCE as FHIR_SOURCE
from services.ledger.feeds.fhir_acts import index_of
from services.ledger.feeds.hl7.acts import SOURCE, payment_type, version_of
from services.ledger.feeds.hl7.model import PAYMENTS, Profile, Transaction
from services.ledger.feeds.hl7.profiles import ProfileIn
from services.ledger.feeds.hl7_intake import Examined, examined_now, text_of
from services.ledger.feeds.hl7_store import message_and_line
from shared.db import Connection, Record
from shared.money import MAX_CENTS

_MOST_BYTES: Final = 16 << 20
"""Of stored files in one answer. Items of further ones are there with what was counted of them."""
_OPEN = """
select e.exception_id, e.feed_id, e.item_key, e.raw, f.format, f.byte_count, f.reading,
    (select i.amount_cents from feed_item i where i.company_id = e.company_id and i.feed_id = e.feed_id
        and i.item_key = e.item_key and i.outcome = 'quarantined' limit 1) as amount_cents
from feed_exception e join feed f on f.company_id = e.company_id and f.feed_id = e.feed_id
where e.company_id = $1 and e.state = 'open' and e.quarantined and e.created_at >= $2
    and f.format in ('emr', 'hl7v2', 'fhir', 'csv')
order by e.exception_id desc
"""
_MESSAGES = """
select message_key, source, raw, received_at, state from feed_message where company_id = $1 and message_key = any ($2)
"""
_AGREED = "select source, profile from feed_profile where company_id = $1 and format = 'hl7v2' and source = any ($2)"
_CHUNKS = "select bytes from feed_chunk where company_id = $1 and feed_id = $2 order by chunk_no"
_TYPES: Final = frozenset(get_args(PaymentType))
_EVENT: Final = "emr.payment."
_NOTICES: Final = ("PaymentNotice", "")


async def waiting(
    connection: Connection, company_id: UUID, since: date, clients: Mapping[str, Sequence[str]]
) -> list[Waits]:
    """What waits since a day, newest first. `clients`: the company's EMRs with their sources."""
    found: list[Waits] = []
    messages: list[Record] = []
    files: dict[UUID, list[Record]] = defaultdict(list)
    for row in await connection.fetch(_OPEN, company_id, since):
        if row["format"] == "hl7v2":
            messages.append(row)
        elif row["raw"] is not None:
            found += _event(row)
        elif row["format"] != "emr":
            files[row["feed_id"]].append(row)
    found += await _messages(connection, company_id, messages)
    left = _MOST_BYTES
    for rows in files.values():
        left -= rows[0]["byte_count"]
        if left < 0:
            found += [_counted(row) for row in rows if row["format"] == "csv" or row["amount_cents"]]
            continue
        body = b"".join([row["bytes"] for row in await connection.fetch(_CHUNKS, company_id, rows[0]["feed_id"])])
        if rows[0]["format"] == "csv":
            found += await _rows(connection, company_id, rows, body)
        else:
            found += await asyncio.to_thread(lambda rows, body: list(_notices(rows, body, clients)), rows, body)
    return found


def _counted(row: Record, source: str = "") -> Waits:
    """What is known of an item that cannot be read."""
    return Waits(row["exception_id"], source, amount_cents=row["amount_cents"] or None)


# ---- events, and rows of CSV files, which are events


def _event(row: Record) -> Iterator[Waits]:
    event = json.loads(row["raw"])
    if event["type"].startswith(_EVENT):
        data = event["data"] if isinstance(event["data"], dict) else {}
        yield _said(row["exception_id"], event["source"], data, deleted=event["type"].endswith(".deleted.v1"))


def _said(exception_id: UUID, source: str, data: Mapping[str, Any], *, deleted: bool) -> Waits:
    """The data of a payment's event as far as it can be read."""

    def text(name: str) -> str:
        value = data.get(name)
        return value if isinstance(value, str) else ""

    version, cents, kind = data.get("payment_version"), data.get("amount_cents"), text("payment_type")
    try:
        day = date.fromisoformat(text("transaction_date"))
    except ValueError:
        day = None
    return Waits(
        exception_id=exception_id,
        source=source,
        # Of which version it is, is a part of its name: without it nobody knows whether it is the newest.
        external_id=text("payment_id") if type(version) is int else "",
        version=version if type(version) is int else 1,
        deleted=deleted,
        clinics=(text("emr_clinic_id"),) if text("emr_clinic_id") else (),
        day=day,
        payment_type=kind if kind in _TYPES else "",
        amount_cents=cents if type(cents) is int and abs(cents) <= MAX_CENTS else None,
    )


async def _rows(connection: Connection, company_id: UUID, rows: Sequence[Record], body: bytes) -> list[Waits]:
    """Rows that could not be read, or whose file does not add up, by the profile of now."""
    file = CsvFile.model_validate_json(rows[0]["reading"])
    statement = "select profile from csv_profile where company_id = $1 and name = $2"
    if (agreed := await connection.fetchval(statement, company_id, file.name)) is not None:
        file = CsvFile(name=file.name, profile=CsvProfile.model_validate_json(agreed))
    return await asyncio.to_thread(lambda: list(_lines(rows, file, body)))


def _lines(rows: Sequence[Record], file: CsvFile, body: bytes) -> Iterator[Waits]:
    if file.profile.kind != "payment":
        return
    wanted = {line_of(row["item_key"]): row for row in rows}
    try:
        for one in read([body], file.profile):
            if isinstance(one, Row) and (row := wanted.pop(one.line, None)):
                yield _said(row["exception_id"], file.source, one.said, deleted=one.change == "deleted")
    except CsvUnreadable:
        pass  # By the profile of now it is another file.
    yield from (_counted(row, file.source) for row in wanted.values())


# ---- HL7 v2


async def _messages(connection: Connection, company_id: UUID, rows: Sequence[Record]) -> list[Waits]:
    """Lines of messages that were accepted, and all payments of those that were refused."""
    keys = {message_and_line(row["item_key"])[0] for row in rows}
    stored = await connection.fetch(_MESSAGES, company_id, list(keys)) if keys else []
    agreed = await connection.fetch(_AGREED, company_id, list({one["source"] for one in stored})) if stored else []
    profiles = {one["source"]: ProfileIn.model_validate_json(one["profile"]).profile() for one in agreed}
    return await asyncio.to_thread(lambda: list(_of_messages(rows, stored, profiles)))


def _of_messages(rows: Sequence[Record], stored: Sequence[Record], profiles: Mapping[str, Profile]) -> Iterator[Waits]:
    kept: dict[str, list[tuple[Record, Examined]]] = defaultdict(list)
    for one in stored:
        examined = examined_now(one["raw"], profiles.get(one["source"], Profile()))
        kept[one["message_key"]].append((one, examined))
    for row in rows:
        key, number = message_and_line(row["item_key"])
        message = _meant(row, number, kept[key])
        yield from _payments(row, number, *message) if message else [_counted(row)]


def _meant(row: Record, number: int, kept: Iterable[tuple[Record, Examined]]) -> tuple[Record, Examined] | None:
    """Which message of its key: of a line, or where its text is not kept, the one that was accepted."""
    for message, examined in kept:
        accepted = message["state"] != "refused"
        if accepted if number or row["raw"] is None else text_of(message["raw"], examined) == row["raw"]:
            return message, examined
    return None


def _payments(row: Record, number: int, message: Record, examined: Examined) -> Iterator[Waits]:
    financial, source = examined.financial, SOURCE + message["source"]
    lines = [one for one in (*financial.transactions, *financial.legible) if number in (0, one.sequence)]
    for one in lines:
        if one.kind in PAYMENTS:
            yield _payment(row["exception_id"], source, financial.clinic, one, message["received_at"], examined)
    if number:
        unread = bool(row["amount_cents"]) and not lines
    else:
        unread = financial.unread > 0 or not (financial.lines or financial.header.message_type == "BAR")
    if unread:
        yield Waits(row["exception_id"], source, amount_cents=row["amount_cents"] if number else None)


def _payment(
    exception_id: UUID, source: str, clinic: str, one: Transaction, received_at: datetime, examined: Examined
) -> Waits:
    return Waits(
        exception_id=exception_id,
        source=source,
        external_id=one.key,
        version=version_of(examined.financial.header.time, received_at),
        clinics=(clinic,) if clinic else (),
        at_only_location=True,
        day=one.service_date,
        payment_type=payment_type(one.kind),
        amount_cents=one.amount_cents,
    )


# ---- FHIR


def _notices(rows: Sequence[Record], body: bytes, clients: Mapping[str, Sequence[str]]) -> Iterator[Waits]:
    """Notices, and entries of which nobody can tell what they are."""
    sender = (json.loads(rows[0]["reading"] or "null") or {}).get("client_id")
    own = sender or (next(iter(clients)) if len(clients) == 1 else "")
    by_index = {index_of(row["item_key"]): row for row in rows}
    for outcome in outcomes(body):
        row = by_index.get(outcome.index)
        if row is not None and outcome.kind in _NOTICES:
            yield _notice(row["exception_id"], outcome, own)


def _notice(exception_id: UUID, outcome: Outcome, client_id: str) -> Waits:
    stated = outcome.source or (f"{OWN}{client_id}" if client_id else "")
    fact = next(iter((*outcome.facts, *outcome.legible)), None)
    paid = fact if isinstance(fact, PaymentFact) else None
    return Waits(
        exception_id=exception_id,
        source=FHIR_SOURCE + stated if stated else "",
        external_id=outcome.key,
        version=outcome.version,
        deleted=isinstance(fact, VoidFact),
        clinics=paid.clinics if paid else (),
        at_only_location=paid is not None and not paid.clinics,
        day=paid.payment_date if paid else None,
        payment_type="other" if outcome.kind else "",
        amount_cents=paid.amount_cents if paid else outcome.amount_cents or None,
    )
