"""Reads: one document by id, lists by keyset, control totals, the event log. Documents are built by the same code that
builds the answer of a write, from the same state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.ledger import store
from services.ledger.domain import documents
from services.ledger.domain.books import Books
from services.ledger.domain.wants import Wants
from shared.db import Connection, Record, page_of, reading
from shared.errors import NotFound

READER: Final = "ledger_reader"
"""The role of everything that is read for a caller."""
_KINDS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "patient": ("patients", documents.patient_document),
    "payer": ("payers", documents.payer_document),
    "physician": ("physicians", documents.physician_document),
    "charge": ("charges", documents.charge_document),
    "payment": ("payments", documents.payment_document),
}

# A filter is asked twice: of every revision, by an index and before anything else is looked up, and of the last one.
# Among 100,000 payments a batch or a check is found in a tenth of the time.
_PAYMENT_IDS = """
select p.payment_id as id from payment p
cross join lateral (
    select * from payment_revision r where r.company_id = p.company_id and r.payment_id = p.payment_id
    order by r.version desc limit 1
) r
where p.company_id = $1 and ($2::uuid is null or p.payment_id < $2)
    and ($4::text is null or p.payment_id in (
        select w.payment_id from payment_revision w where w.company_id = $1 and w.batch_number = $4))
    and ($5::text is null or p.payment_id in (
        select w.payment_id from payment_revision w where w.company_id = $1 and w.check_number = $5))
    and ($6::date is null and $7::date is null or p.payment_id in (
        select w.payment_id from payment_revision w where w.company_id = $1
            and w.deposit_date between coalesce($6, '-infinity') and coalesce($7, 'infinity')))
    and ($4::text is null or r.batch_number = $4) and ($5::text is null or r.check_number = $5)
    and ($6::date is null or r.deposit_date >= $6) and ($7::date is null or r.deposit_date <= $7)
    and (not $8 or (
        not r.withdrawn and p.reverses_id is null and p.refunds_id is null
        and not exists (select from payment v where v.company_id = p.company_id and v.reverses_id = p.payment_id)
        and (
            select coalesce(sum(
                case 'unapplied' when t.credit then t.amount_cents when t.debit then -t.amount_cents end), 0)
            from transfer t where t.company_id = p.company_id and t.payment_id in (
                select p.payment_id union all
                select f.payment_id from payment f where f.company_id = p.company_id and f.refunds_id = p.payment_id)
        ) > 0))
order by p.payment_id desc limit $3
"""

_CHARGE_IDS = """
select h.charge_id as id from charge h
cross join lateral (
    select * from charge_revision r where r.company_id = h.company_id and r.charge_id = h.charge_id
    order by r.version desc limit 1
) r
cross join lateral (
    select coalesce(sum(
        case when t.debit like 'receivable%' and t.credit like 'receivable%' then 0
             when t.debit like 'receivable%' then t.amount_cents else -t.amount_cents end), 0) as balance
    from transfer t where t.company_id = h.company_id and t.charge_id = h.charge_id
) b
where h.company_id = $1 and ($2::uuid is null or h.charge_id < $2)
    and ($4::uuid is null or h.charge_id in (
        select w.charge_id from charge_revision w where w.company_id = $1 and w.patient_id = $4))
    and ($6::date is null and $7::date is null or h.charge_id in (
        select w.charge_id from charge_revision w where w.company_id = $1
            and w.date_of_service between coalesce($6, '-infinity') and coalesce($7, 'infinity')))
    and ($4::uuid is null or r.patient_id = $4) and ($5::uuid is null or r.location_id = $5)
    and ($6::date is null or r.date_of_service >= $6) and ($7::date is null or r.date_of_service <= $7)
    and ($8::text is null or $8 =
        case when r.state <> 'active' then r.state when b.balance = 0 then 'closed' else 'active' end)
    and ($9 or r.state <> 'delayed')
order by h.charge_id desc limit $3
"""

_PATIENT_IDS = """
select patient_id as id from patient
where company_id = $1 and ($2::uuid is null or patient_id < $2)
    and ($4::text is null or account_number = $4)
    and ($5::text is null or starts_with(upper(last_name), upper($5)))
    and ($6::text is null or starts_with(upper(first_name), upper($6)))
    and ($7::date is null or date_of_birth = $7)
order by patient_id desc limit $3
"""

_PAYER_IDS = """
select payer_id as id from payer
where company_id = $1 and ($2::uuid is null or payer_id < $2)
    and ($4::text is null or code = $4) and ($5::text is null or starts_with(upper(name), upper($5)))
order by payer_id desc limit $3
"""

_PHYSICIAN_IDS = """
select referring_physician_id as id from referring_physician
where company_id = $1 and ($2::uuid is null or referring_physician_id < $2)
    and ($4::text is null or npi = $4) and ($5::text is null or starts_with(upper(last_name), upper($5)))
order by referring_physician_id desc limit $3
"""

_IDS = {
    "payment": _PAYMENT_IDS,
    "charge": _CHARGE_IDS,
    "patient": _PATIENT_IDS,
    "payer": _PAYER_IDS,
    "physician": _PHYSICIAN_IDS,
}

_HISTORY = """
select r.version as company_version, p.posted_at as changed_at, p.actor_id as changed_by, r.amount_cents, r.method,
    r.check_number, r.batch_number, r.deposit_date, r.location_id, r.memo, r.withdrawn
from payment_revision r join posting p on p.company_id = r.company_id and p.version = r.version
where r.company_id = $1 and r.payment_id = $2 order by r.version
"""

_BATCHES = """
select coalesce(w.batch_number, d.batch_number) as batch_number, d.control_total_cents, d.control_count,
    coalesce(w.posted_cents, 0)::bigint as posted_cents, coalesce(w.payments, 0) as payments
from (
    select r.batch_number, sum(r.amount_cents) as posted_cents, count(*) filter (where not r.withdrawn) as payments
    from payment_revision r
    where r.company_id = $1 and r.batch_number is not null
        and not exists (select from payment_revision n where n.company_id = r.company_id and n.payment_id = r.payment_id
                        and n.version > r.version)
    group by r.batch_number
) w
full join (
    select distinct on (batch_number) * from batch where company_id = $1 order by batch_number, version desc
) d using (batch_number)
where ($2::text is null or coalesce(w.batch_number, d.batch_number) > $2)
    and ($4::text is null or coalesce(w.batch_number, d.batch_number) = $4)
order by 1 limit $3
"""

# Independent of the events: sums over transfers, under each receipt's words as of the version asked for.
_CONTROL_TOTALS = """
select r.location_id, r.deposit_date, p.posting_date, p.source, p.affiliation,
    count(*) filter (where not r.withdrawn) as payments,
    sum(r.amount_cents)::bigint as amount_cents, sum(t.applied)::bigint as applied_cents,
    sum(t.adjusted)::bigint as adjusted_cents, sum(t.provider_level)::bigint as provider_level_cents,
    sum(t.unapplied)::bigint as unapplied_cents
from payment p
cross join lateral (
    select * from payment_revision r
    where r.company_id = p.company_id and r.payment_id = p.payment_id and r.version <= $2
    order by r.version desc limit 1
) r
cross join lateral (
    select
        coalesce(sum(case when debit = 'unapplied' and credit like 'receivable%' then amount_cents
                          when credit = 'unapplied' and debit like 'receivable%' then -amount_cents end), 0) as applied,
        coalesce(sum(case 'adjustment' when debit then amount_cents when credit then -amount_cents end), 0) as adjusted,
        coalesce(sum(case 'provider_level' when credit then amount_cents when debit then -amount_cents end), 0)
            as provider_level,
        coalesce(sum(case 'unapplied' when credit then amount_cents when debit then -amount_cents end), 0) as unapplied
    from transfer t where t.company_id = p.company_id and t.payment_id = p.payment_id and t.version <= $2
) t
where p.company_id = $1 and p.version <= $2
group by 1, 2, 3, 4, 5 order by 1 nulls first, 2, 3, 4, 5
"""


async def read_books(pool: asyncpg.Pool, company_id: UUID, kind: str, ids: Sequence[UUID]) -> Books | None:
    """The state of some objects; None for a company without books."""
    async with reading(pool, company_id) as connection:
        return await _load(connection, company_id, kind, ids)


async def _load(connection: Connection, company_id: UUID, kind: str, ids: Sequence[UUID]) -> Books | None:
    wants = Wants()
    wants.add(kind, *ids)
    return (await store.load(connection, {company_id: wants})).get(company_id)


async def read_documents(pool: asyncpg.Pool, company_id: UUID, kind: str, ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """Documents in the order of `ids`; what is absent or another company's is left out."""
    async with reading(pool, company_id) as connection:
        return await _documents(connection, company_id, kind, ids)


async def _documents(connection: Connection, company_id: UUID, kind: str, ids: Sequence[UUID]) -> list[dict[str, Any]]:
    books = await _load(connection, company_id, kind, ids) if ids else None
    if books is None:
        return []
    where, document = _KINDS[kind]
    found = getattr(books, where)
    return [document(found[one]) for one in ids if one in found]


async def read_document(pool: asyncpg.Pool, company_id: UUID, kind: str, one: UUID) -> dict[str, Any]:
    """The document, or NotFound."""
    found = await read_documents(pool, company_id, kind, [one])
    if not found:
        raise NotFound()
    return found[0]


async def read_page(
    pool: asyncpg.Pool, company_id: UUID, kind: str, cursor: UUID | None, limit: int, *filters: Any
) -> dict[str, Any]:
    """`{items, next}`, newest first; the cursor is the last id of the page before."""
    async with reading(pool, company_id) as connection:
        rows = await connection.fetch(_IDS[kind], company_id, cursor, limit + 1, *filters)
        ids = page_of(rows, limit, "id", itemgetter("id"))
        return {**ids, "items": await _documents(connection, company_id, kind, ids["items"])}


async def read_history(pool: asyncpg.Pool, company_id: UUID, payment_id: UUID) -> list[dict[str, Any]]:
    """Every set of words that a receipt has had, oldest first; or NotFound."""
    async with reading(pool, company_id) as connection:
        rows = await connection.fetch(_HISTORY, company_id, payment_id)
    if not rows:
        raise NotFound()
    return [dict(row) for row in rows]


async def read_batches(
    pool: asyncpg.Pool, company_id: UUID, cursor: str | None, limit: int, number: str | None = None
) -> dict[str, Any]:
    """Batches with declared and posted totals, by number."""
    async with reading(pool, company_id) as connection:
        rows = await connection.fetch(_BATCHES, company_id, cursor, limit + 1, number)
    return page_of(rows, limit, "batch_number", _batch)


def _batch(row: Record) -> dict[str, Any]:
    declared = row["control_total_cents"]
    return {**dict(row), "difference_cents": None if declared is None else row["posted_cents"] - declared}


async def read_control_totals(pool: asyncpg.Pool, company_id: UUID, as_of_version: int | None) -> dict[str, Any]:
    """Sums per location, dates, source and affiliation, from the transfers, as of a company version (default: now)."""
    async with reading(pool, company_id) as connection:
        head = await connection.fetchval("select version from company_book where company_id = $1", company_id) or 0
        version = head if as_of_version is None else min(as_of_version, head)
        rows = await connection.fetch(_CONTROL_TOTALS, company_id, version)
    return {"company_id": company_id, "as_of_version": version, "items": [dict(row) for row in rows]}


async def read_events(pool: asyncpg.Pool, company_id: UUID, after_version: int, limit: int) -> dict[str, Any]:
    """The company's events after a version, in order: `{items: [envelope], next: version or null}`."""
    async with reading(pool, company_id) as connection:
        rows = await connection.fetch(
            "select version, payload from event where company_id = $1 and version > $2 order by first_version limit $3",
            company_id,
            after_version,
            limit + 1,
        )
    return page_of(rows, limit, "version", itemgetter("payload"))


async def read_heads(pool: asyncpg.Pool) -> list[dict[str, Any]]:
    """The version of every company's books. `pool`: the service's own, as no one company is asked for."""
    rows = await pool.fetch("select company_id, version from company_book where version > 0 order by company_id")
    return [dict(row) for row in rows]
