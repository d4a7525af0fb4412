"""Rows about FHIR resources: who may send for a company, what the books hold of a document, what was not posted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from services.ledger.feeds.intake import Feed
from shared.db import acquire
from shared.ids import uuid7

FORMAT: Final = "fhir"
Name = tuple[str, str]
"""Source, and the key of a document."""
_CLIENTS = """
select client_id, sources from directory_client where active and kind = 'emr' and $1 = any (company_ids) order by 1
"""
_PLACES = """
select location_id, emr_location_id from directory_location where company_id = $1 and active
"""
# One statement, so that the document and its lines are of one moment. Each is looked up by itself (`offset 0`): as a
# join, a planner without statistics reads all documents of the company.
_HELD = """
select w.source, w.key, d.external_id, d.external_version, d.deleted
from unnest($2::text[], $3::text[]) as w (source, key)
cross join lateral (
    select external_id, external_version, deleted from feed_document
    where company_id = $1 and source = w.source and kind = 'charge' and external_id = w.key
    union all
    select external_id, external_version, deleted from feed_document
    where company_id = $1 and source = w.source and kind = 'charge' and strpos(external_id, '#') > 0
        and external_id ~>=~ (w.key || '#') and external_id ~<~ (w.key || '$') and not deleted
    offset 0
) d
"""
_RECORD = """
with sent as (
    select * from json_to_recordset($3) as s (
        item_id uuid, item_key text, outcome text, reason text, amount_cents bigint, detail json, source text,
        exception_id uuid)
), counted as (
    insert into feed_item (company_id, feed_id, item_id, item_key, outcome, reason, amount_cents)
    select $1, $2, item_id, item_key, outcome, reason, amount_cents from sent
    on conflict do nothing returning item_id
)
insert into feed_exception (company_id, exception_id, feed_id, item_key, reason, quarantined, detail, source)
select $1, s.exception_id, $2, s.item_key, s.reason, true, s.detail, s.source
from sent s join counted c using (item_id) where s.outcome = 'quarantined'
on conflict do nothing
"""


@dataclass(frozen=True, slots=True)
class Held:
    """What the books hold of a document: its state (version, deleted), and the names of the lines that stand."""

    at: tuple[int, bool] | None
    lines: tuple[str, ...]


NOTHING: Final = Held(None, ())


@dataclass(frozen=True, slots=True)
class Record:
    """The outcome of a resource that never reaches the books."""

    item_id: UUID
    item_key: str
    outcome: str
    reason: str
    amount_cents: int
    detail: dict[str, Any]
    source: str


async def clients(pool: asyncpg.Pool, company_id: UUID) -> dict[str, list[str]]:
    """The EMR clients that may write for the company, with their sources."""
    return {row["client_id"]: row["sources"] for row in await pool.fetch(_CLIENTS, company_id)}


async def places(pool: asyncpg.Pool, company_id: UUID) -> dict[UUID, str | None]:
    """Active locations with the clinics that senders call them."""
    return {row["location_id"]: row["emr_location_id"] for row in await pool.fetch(_PLACES, company_id)}


async def held(pool: asyncpg.Pool, company_id: UUID, names: Collection[Name]) -> dict[Name, Held]:
    """What the books hold of these documents; those that they do not know are left out."""
    if not names:
        return {}
    sources, keys = ([name[place] for name in names] for place in range(2))
    found: dict[Name, Held] = {}
    for row in await pool.fetch(_HELD, company_id, sources, keys):
        name = row["source"], row["key"]
        one = found.get(name, NOTHING)
        if row["external_id"] == row["key"]:
            found[name] = Held((row["external_version"], row["deleted"]), one.lines)
        else:
            found[name] = Held(one.at, (*one.lines, row["external_id"]))
    return found


async def content_hash(pool: asyncpg.Pool, company_id: UUID, source: str, key: str) -> bytes | None:
    """Of the state of a payment that the books know."""
    found: bytes | None = await pool.fetchval(
        "select content_hash from feed_document"
        " where company_id = $1 and source = $2 and kind = 'payment' and external_id = $3 and not deleted",
        company_id,
        source,
        key,
    )
    return found


async def record(pool: asyncpg.Pool, feed: Feed, rows: Sequence[Record]) -> None:
    """Count what is ignored or quarantined, in one go; what was counted before stays as it is."""
    if not rows:
        return
    sent = [
        {
            "item_id": str(row.item_id),
            "item_key": row.item_key,
            "outcome": row.outcome,
            "reason": row.reason,
            "amount_cents": row.amount_cents,
            "detail": row.detail,
            "source": row.source,
            "exception_id": str(uuid7()),
        }
        for row in rows
    ]
    async with acquire(pool) as connection:
        await connection.execute(_RECORD, feed.company_id, feed.feed_id, orjson.dumps(sent).decode())
