"""Reads what a reconciliation compares, all as of one moment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from services.ledger.domain.emr_facts import Cell, Document, Figures, Held, Listed, Name, Report, State
from services.ledger.domain.reconcile import Reconciliation, Row
from shared.db import Connection, Record, reading

_SOURCES = "select sources from directory_client where client_id = $1 and active"
_REPORTS = """
select distinct on (source, clinic, day) source, clinic, day, location_id, reported_at, totals, payments
from emr_totals
where company_id = $1 and day between $2 and $3 and ($4::text[] is null or source = any ($4))
order by source, clinic, day, reported_at desc, report_id desc
"""
# What stands, or once stood, under one of the days; and what the EMR lists, wherever it stands. Payers' payments have
# no type: no EMR reports them.
_DOCUMENTS = """
select d.source, d.external_id, d.external_version, d.deleted, d.document_id, (
    select json_agg(json_build_array(g.posted_at, r.location_id, r.deposit_date, r.payment_type, r.amount_cents,
        r.withdrawn, g.kind = 'correction') order by r.version)
    from payment_revision r join posting g on g.company_id = r.company_id and g.version = r.version
    where r.company_id = d.company_id and r.payment_id = d.document_id) as states
from (
    select d.* from feed_document d
    where d.company_id = $1 and d.kind = 'payment' and d.document_id in (
        select r.payment_id from payment_revision r where r.company_id = $1 and r.deposit_date between $2 and $3
            and r.payment_type is not null)
    union
    select d.* from unnest($4::text[], $5::text[]) as w (source, external_id)
    join feed_document d on d.company_id = $1 and d.kind = 'payment'
        and (d.source, d.external_id) = (w.source, w.external_id)
) d
where $6::text[] is null or d.source = any ($6)
"""
# An event may come long after its day, but not before it; the day may have begun earlier where the clinic is.
_HELD = """
select e.exception_id, e.raw
from feed_exception e join feed f on f.company_id = e.company_id and f.feed_id = e.feed_id and f.format = 'emr'
where e.company_id = $1 and e.state = 'open' and e.quarantined and e.raw is not null and e.created_at >= $2
"""
_PAYMENT: Final = "emr.payment."


async def reconcile(
    pool: asyncpg.Pool, company_id: UUID, first: date, last: date, location_id: UUID | None, client_id: str | None
) -> list[Row]:
    """The rows of these days; `location_id` limits them to a location, `client_id` to the sources of an EMR client."""
    async with reading(pool, company_id) as connection:
        sources = await connection.fetchval(_SOURCES, client_id) or [] if client_id else None
        rows = await connection.fetch(_REPORTS, company_id, first, last, sources)
        reports = [_report(row) for row in rows]
        listed = [(report.source, payment_id) for report in reports for payment_id in report.payments or ()]
        names = [[name[place] for name in listed] for place in (0, 1)]
        rows = await connection.fetch(_DOCUMENTS, company_id, first, last, *names, sources)
        documents = [_document(row) for row in rows]
        held = await _held(connection, company_id, first, reports)

    def wanted(cell: Cell) -> bool:
        return first <= cell[2] <= last and location_id in (None, cell[1])

    return Reconciliation(reports, documents, held, wanted).rows()


def _report(row: Record) -> Report:
    payments = orjson.loads(row["payments"] or "null")
    return Report(
        source=row["source"],
        clinic=row["clinic"],
        location_id=row["location_id"],
        day=row["day"],
        reported_at=row["reported_at"],
        totals={
            one["payment_type"]: Figures(one["payments"], one["amount_cents"]) for one in orjson.loads(row["totals"])
        },
        payments=None
        if payments is None
        else {
            one["payment_id"]: Listed(one["payment_version"], one["amount_cents"], one["payment_type"])
            for one in payments
        },
    )


def _document(row: Record) -> Document:
    states: Sequence[Any] = orjson.loads(row["states"] or "[]")
    return Document(
        source=row["source"],
        external_id=row["external_id"],
        version=row["external_version"],
        deleted=row["deleted"],
        payment_id=row["document_id"],
        states=tuple(
            State(
                datetime.fromisoformat(at),
                UUID(location) if location else None,
                date.fromisoformat(day),
                payment_type or "other",
                cents,
                withdrawn,
                corrected,
            )
            for at, location, day, payment_type, cents, withdrawn, corrected in states
        ),
    )


async def _held(connection: Connection, company_id: UUID, first: date, reports: Iterable[Report]) -> dict[Name, Held]:
    """The newest quarantined event of each payment, at the clinics and days that are reported."""
    places = {(report.source, report.clinic): report.location_id for report in reports}
    found: dict[Name, Held] = {}
    for row in await connection.fetch(_HELD, company_id, first - timedelta(days=1)):
        event = json.loads(row["raw"])
        name = event["source"], _text(event, "payment_id")
        one = _read(row["exception_id"], event, places)
        if one is not None and (name not in found or found[name].version < one.version):
            found[name] = one
    return found


def _read(exception_id: UUID, event: Mapping[str, Any], places: Mapping[tuple[str, str], UUID]) -> Held | None:
    """A payment's event as far as it can be read; what cannot be read explains nothing."""
    data = event["data"] if isinstance(event["data"], dict) else {}
    version, cents = data.get("payment_version"), data.get("amount_cents")
    if not event["type"].startswith(_PAYMENT) or not isinstance(version, int) or not _text(event, "payment_id"):
        return None
    if event["type"].endswith(".deleted.v1"):
        return Held(exception_id, version, None, 0)
    location_id = places.get((event["source"], _text(event, "emr_clinic_id")))
    try:
        day = date.fromisoformat(_text(event, "transaction_date"))
    except ValueError:
        return None
    if location_id is None or not isinstance(cents, int):
        return None
    return Held(exception_id, version, (event["source"], location_id, day, _text(event, "payment_type")), cents)


def _text(event: Mapping[str, Any], name: str) -> str:
    value = event["data"].get(name) if isinstance(event["data"], dict) else None
    return value if isinstance(value, str) else ""
