"""Rows about CSV files: the profiles that a company has, and what its files' rows are counted as."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from services.ledger.domain.feed_items import FeedItem
from services.ledger.feeds.csvfile.profile import Profile
from services.ledger.feeds.intake import Feed
from shared.db import acquire, reading
from shared.errors import NotFound
from shared.ids import uuid7

FORMAT: Final = "csv"
_DOCUMENT = "select name, profile, changed_by, changed_at from csv_profile where company_id = $1"
# An item that is counted already keeps its outcome, and its exception is there.
_SET_ASIDE = """
with aside as (
    select * from json_to_recordset($3) as a (
        item_id uuid, exception_id uuid, item_key text, reason text, amount_cents bigint, detail json, raw text)
), counted as (
    insert into feed_item (company_id, feed_id, item_id, item_key, outcome, reason, amount_cents)
    select $1, $2, item_id, item_key, 'quarantined', reason, amount_cents from aside
    on conflict do nothing returning item_id
)
insert into feed_exception (company_id, exception_id, feed_id, item_key, reason, quarantined, detail, raw, source)
select $1, exception_id, $2, item_key, reason, true, detail, raw, $4 from aside join counted using (item_id)
on conflict do nothing
"""


async def read_profiles(pool: asyncpg.Pool, company_id: UUID) -> list[dict[str, Any]]:
    """The company's profiles by name."""
    async with reading(pool, company_id) as connection:
        return [_document(row) for row in await connection.fetch(f"{_DOCUMENT} order by name", company_id)]


async def read_profile(pool: asyncpg.Pool, company_id: UUID, name: str) -> dict[str, Any]:
    """One of them as a document; or NotFound."""
    async with reading(pool, company_id) as connection:
        row = await connection.fetchrow(f"{_DOCUMENT} and name = $2", company_id, name)
    if row is None:
        raise NotFound()
    return _document(row)


def _document(row: asyncpg.Record) -> dict[str, Any]:
    who = {"changed_by": row["changed_by"], "changed_at": row["changed_at"]}
    # As the model has it, so that fields which came later are there with their defaults.
    return {"name": row["name"], **Profile.model_validate_json(row["profile"]).model_dump(), **who}


async def profile_of(pool: asyncpg.Pool, company_id: UUID, name: str) -> Profile | None:
    async with reading(pool, company_id) as connection:
        found = await connection.fetchval(
            "select profile from csv_profile where company_id = $1 and name = $2", company_id, name
        )
    return None if found is None else Profile.model_validate_json(found)


async def write_profile(pool: asyncpg.Pool, company_id: UUID, name: str, profile: Profile, user_id: UUID) -> None:
    async with acquire(pool) as connection:
        await connection.execute(
            "insert into csv_profile (company_id, name, profile, changed_by) values ($1, $2, $3, $4)"
            " on conflict (company_id, name) do update set profile = excluded.profile,"
            " changed_by = excluded.changed_by, changed_at = clock_timestamp()"
            " where csv_profile.profile <> excluded.profile",
            *(company_id, name, profile.model_dump_json(), user_id),
        )


async def delete_profile(pool: asyncpg.Pool, company_id: UUID, name: str) -> None:
    """Feeds that came by it keep what it was; or NotFound."""
    async with acquire(pool) as connection:
        found = await connection.fetchval(
            "delete from csv_profile where company_id = $1 and name = $2 returning true", company_id, name
        )
    if found is None:
        raise NotFound()


async def set_aside(pool: asyncpg.Pool, feed: Feed, items: Collection[tuple[FeedItem, str, dict[str, Any]]]) -> None:
    """Quarantine items that must not reach the books, each with its reason and detail."""
    rows = [
        {
            "item_id": str(item.item_id),
            "exception_id": str(uuid7()),
            "item_key": item.item_key,
            "reason": reason,
            "amount_cents": item.amount_cents,
            "detail": detail,
            "raw": item.raw,
        }
        for item, reason, detail in items
    ]
    if rows:
        async with acquire(pool) as connection:
            await connection.execute(
                _SET_ASIDE, feed.company_id, feed.feed_id, orjson.dumps(rows).decode(), feed.source
            )
