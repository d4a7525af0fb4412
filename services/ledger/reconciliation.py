"""Reads what a reconciliation compares, all as of one moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from services.ledger.domain.emr_facts import Cell, Document, Figures, Listed, Name, Report, State, Unplaced
from services.ledger.domain.reconcile import Reconciliation, Row
from services.ledger.domain.senders import Places, Senders, placed
from services.ledger.feeds import held
from services.ledger.feeds.hl7.acts import SOURCE as HL7
from shared.db import Connection, Record, reading

_CLIENTS = "select client_id, sources from directory_client where sources <> '{}'"
_LOCATIONS = "select location_id, emr_location_id from directory_location where company_id = $1 and active"
_MAPPED = "select alias, target from feed_mapping_now where company_id = $1 and kind = 'clinic'"
# Sources are few and documents many: from one source to the next by the index.
_SOURCES = """
with recursive known as (
    (select source from feed_document where company_id = $1 order by source limit 1)
    union all
    select (select d.source from feed_document d where d.company_id = $1 and d.source > k.source order by 1 limit 1)
    from known k where k.source is not null
)
select source from known where source is not null
"""
_REPORTS = """
select distinct on (source, clinic, day) source, clinic, day, location_id, reported_at, totals, payments
from emr_totals
where company_id = $1 and day between $2 and $3
order by source, clinic, day, reported_at desc, report_id desc
"""
# What stands, or once stood, under one of the days; and what the EMR lists or what waits, wherever it stands. Payers'
# payments have no type: no EMR reports them.
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
"""
_DATED: Final = 10**12
"""Versions from here on are microseconds since 1970, where a FHIR sender does not number them."""


async def reconcile(
    pool: asyncpg.Pool, company_id: UUID, first: date, last: date, location_id: UUID | None
) -> tuple[list[Row], list[Unplaced]]:
    """The rows of these days, and what waits in the quarantine and may belong to one of them; `location_id` limits them
    to a location."""
    async with reading(pool, company_id) as connection:
        clients = await connection.fetch(_CLIENTS)
        senders = Senders({row["client_id"]: row["sources"] for row in clients})
        reports = [_report(row) for row in await connection.fetch(_REPORTS, company_id, first, last)]
        places = await _places(connection, company_id, reports)
        # It may come long after its day, but not before it; the day may have begun earlier where the clinic is.
        waiting = await held.waiting(connection, company_id, first - timedelta(days=1), senders.clients)
        names = [(one.source, one.external_id) for one in waiting]
        documents = await _documents(connection, company_id, first, last, senders, reports, names)
    waits, unplaced = placed(waiting, senders, places, first, last, location_id)

    def wanted(cell: Cell) -> bool:
        return first <= cell[2] <= last and location_id in (None, cell[1])

    return Reconciliation(reports, documents, waits, wanted).rows(), _still(unplaced, senders, documents)


async def _places(connection: Connection, company_id: UUID, reports: Iterable[Report]) -> Places:
    known = await connection.fetch(_LOCATIONS, company_id)
    clinics = {row["emr_location_id"]: row["location_id"] for row in known if row["emr_location_id"]}
    mapped = {row["alias"]: UUID(row["target"]) for row in await connection.fetch(_MAPPED, company_id)}
    return Places.of(reports, clinics | mapped, [row["location_id"] for row in known])


async def _documents(
    connection: Connection,
    company_id: UUID,
    first: date,
    last: date,
    senders: Senders,
    reports: Iterable[Report],
    waiting: Iterable[Name],
) -> list[Document]:
    """Under the names that lists call them by."""
    told = {row["source"]: senders.reported_as(row["source"]) for row in await connection.fetch(_SOURCES, company_id)}
    listed = {
        (source, payment_id)
        for report in reports
        for source, reporter in told.items()
        if reporter == report.source
        for payment_id in report.payments or ()
    }
    names = [[name[place] for name in listed.union(waiting)] for place in (0, 1)]
    rows = await connection.fetch(_DOCUMENTS, company_id, first, last, *names)
    documents = []
    # What came as events has the first right to a name.
    for row in sorted(rows, key=lambda row: (row["source"] != told[row["source"]], row["source"])):
        source, external_id = senders.name(row["source"], row["external_id"])
        documents.append(replace(_document(row), source=source, external_id=external_id))
    return documents


def _still(unplaced: Iterable[Unplaced], senders: Senders, documents: Iterable[Document]) -> list[Unplaced]:
    """Without what came again meanwhile, and was posted."""
    versions = {(one.source, one.external_id): one.version for one in documents}

    def waits(one: Unplaced) -> bool:
        version = versions.get(senders.name(one.waits.source, one.waits.external_id))
        return version is None or version < one.waits.version

    return [one for one in unplaced if waits(one)]


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
        numbered=not row["source"].startswith(HL7) and row["external_version"] < _DATED,
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
