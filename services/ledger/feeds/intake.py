"""Rows about feeds: what arrived, its raw form, what became of each item.

Counts are never stored: they are counted from the items, so `received = posted + duplicates + ignored + quarantined`
holds by construction.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from services.ledger.deciding import UnknownCompany
from services.ledger.domain.feed_items import FeedItem
from shared.db import acquire, page_of, reading
from shared.errors import NotFound, Problem, Unavailable
from shared.ids import uuid7

_BEAT_SECONDS: Final = 10.0
_ABANDONED_AFTER: Final = timedelta(minutes=2)
_DOCUMENT = """
select f.feed_id, f.format, f.channel, f.state, f.received_at, f.byte_count,
    coalesce(i.received, 0) as received, coalesce(i.posted, 0) as posted, coalesce(i.duplicates, 0) as duplicates,
    coalesce(i.ignored, 0) as ignored, coalesce(i.quarantined, 0) as quarantined,
    (select count(*) from feed_exception e where e.company_id = f.company_id and e.feed_id = f.feed_id) as exceptions,
    coalesce(i.control_total_cents, 0)::bigint as control_total_cents,
    coalesce(i.posted_total_cents, 0)::bigint as posted_total_cents,
    (coalesce(i.control_total_cents, 0) - coalesce(i.posted_total_cents, 0))::bigint as difference_cents,
    array(select distinct r.kind from feed_reply r where r.company_id = f.company_id and r.feed_id = f.feed_id
        order by r.kind) as acknowledgements
from feed f
cross join lateral (
    select count(*) as received, count(*) filter (where outcome = 'posted') as posted,
        count(*) filter (where outcome = 'duplicate') as duplicates,
        count(*) filter (where outcome = 'ignored') as ignored,
        count(*) filter (where outcome = 'quarantined') as quarantined,
        sum(amount_cents) as control_total_cents, sum(posted_cents) as posted_total_cents
    from feed_item i where i.company_id = f.company_id and i.feed_id = f.feed_id
) i
where f.company_id = $1 and ($2::uuid is null or f.feed_id = $2)
    and ($3::text is null or feed_belongs_to(f.channel, f.sender, $3))
    and ($4::uuid is null or (f.received_at, f.feed_id) < (
        select c.received_at, c.feed_id from feed c where c.company_id = $1 and c.feed_id = $4))
order by f.received_at desc, f.feed_id desc limit $5
"""

_CLOSE = "update feed set state = 'done' where company_id = $1 and feed_id = $2"
_ADD_CHUNK = (
    "insert into feed_chunk (company_id, feed_id, chunk_no, bytes) values ($1, $2, $3, $4) on conflict do nothing"
)


@dataclass(frozen=True, slots=True)
class Feed:
    """A feed that is being read."""

    company_id: UUID
    feed_id: UUID
    format: str
    source: str
    """`emr` or `era`: the source of what it posts."""


async def open_feed(
    pool: asyncpg.Pool,
    feed: Feed,
    *,
    channel: str,
    sender: str,
    body_hash: bytes | None,
    byte_count: int = 0,
    chunks: Sequence[bytes] = (),
    reading: str | None = None,
) -> None:
    """Keep the feed and its raw form; `byte_count` is of what comes in pieces, `reading` how it is to be read (JSON).
    Opening it again changes nothing."""
    async with acquire(pool) as connection, connection.transaction():
        await connection.execute(
            "insert into feed (company_id, feed_id, format, channel, sender, body_hash, byte_count, reading)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing",
            feed.company_id,
            feed.feed_id,
            feed.format,
            channel,
            sender,
            body_hash,
            byte_count or sum(map(len, chunks)),
            reading,
        )
        await connection.executemany(
            _ADD_CHUNK,
            [(feed.company_id, feed.feed_id, number, chunk) for number, chunk in enumerate(chunks)],
        )


async def add_chunk(pool: asyncpg.Pool, feed: Feed, number: int, chunk: bytes) -> None:
    """One more piece of the raw form of a large feed."""
    async with acquire(pool) as connection:
        await connection.execute(_ADD_CHUNK, feed.company_id, feed.feed_id, number, chunk)


async def unfinished(
    pool: asyncpg.Pool, company_id: UUID, body_hash: bytes, format: str, reading: str | None = None
) -> UUID | None:
    """The feed of the same bytes, read in the same way, that was interrupted: to be finished, not begun anew."""
    found: UUID | None = await pool.fetchval(
        "select feed_id from feed where company_id = $1 and body_hash = $2 and state = 'processing'"
        " and format = $3 and reading is not distinct from $4::jsonb order by feed_id limit 1",
        company_id,
        body_hash,
        format,
        reading,
    )
    return found


async def opened(pool: asyncpg.Pool, company_id: UUID, feed_id: UUID) -> asyncpg.Record | None:
    """`state, body_hash, reading` of a feed; None when there is none."""
    return await pool.fetchrow(
        "select state, body_hash, reading from feed where company_id = $1 and feed_id = $2", company_id, feed_id
    )


async def abandoned(pool: asyncpg.Pool) -> list[Feed]:
    """Feeds on which nobody has worked for a while, now taken up by the caller: no one else is given them."""
    rows = await pool.fetch(
        "update feed set worked_at = clock_timestamp() where (company_id, feed_id) in ("
        "  select f.company_id, f.feed_id from feed f"
        "  where f.state = 'processing' and f.worked_at < clock_timestamp() - $1::interval"
        "  order by f.worked_at limit 10 for update skip locked)"
        " returning company_id, feed_id, format",
        _ABANDONED_AFTER,
    )
    return [
        Feed(row["company_id"], row["feed_id"], row["format"], "era" if row["format"] == "x12" else "emr")
        for row in rows
    ]


class Pulse:
    """Says every now and then that a long feed is not abandoned."""

    def __init__(self, pool: asyncpg.Pool, feed: Feed) -> None:
        self._pool, self._feed = pool, feed
        self._last = time.monotonic()

    async def beat(self) -> None:
        if time.monotonic() - self._last <= _BEAT_SECONDS:
            return
        async with acquire(self._pool) as connection:
            await connection.execute(
                "update feed set worked_at = clock_timestamp() where company_id = $1 and feed_id = $2",
                self._feed.company_id,
                self._feed.feed_id,
            )
        self._last = time.monotonic()


async def is_whole(pool: asyncpg.Pool, feed: Feed) -> bool:
    """Whether all of the raw form was stored before the interruption."""
    found: bool = await pool.fetchval(
        "select f.byte_count = coalesce(sum(length(c.bytes)), 0) from feed f"
        " left join feed_chunk c on c.company_id = f.company_id and c.feed_id = f.feed_id"
        " where f.company_id = $1 and f.feed_id = $2 group by f.byte_count",
        feed.company_id,
        feed.feed_id,
    )
    return found


async def close_feed(pool: asyncpg.Pool, feed: Feed) -> None:
    async with acquire(pool) as connection:
        await connection.execute(_CLOSE, feed.company_id, feed.feed_id)


async def give_up(pool: asyncpg.Pool, feed: Feed) -> None:
    """Close a feed that cannot be finished: its sender got no answer and sends it again. One whose file lies in the
    watched directory is begun again by whoever takes that up."""
    async with acquire(pool) as connection:
        await connection.execute(f"{_CLOSE} and channel <> 'watched'", feed.company_id, feed.feed_id)


async def counted(pool: asyncpg.Pool, feed: Feed, item_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these have an outcome from before an interruption."""
    rows = await pool.fetch(
        "select item_id from feed_item where company_id = $1 and feed_id = $2 and item_id = any ($3)",
        *(feed.company_id, feed.feed_id, item_ids),
    )
    return {row["item_id"] for row in rows}


async def record(
    pool: asyncpg.Pool,
    feed: Feed,
    item: FeedItem,
    outcome: str,
    reason: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """The outcome of an item that never reached the books: ignored, or quarantined with the rule and its numbers."""
    async with acquire(pool) as connection, connection.transaction():
        first = await connection.fetchval(
            "insert into feed_item (company_id, feed_id, item_id, item_key, outcome, reason, amount_cents)"
            " values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing returning true",
            feed.company_id,
            feed.feed_id,
            item.item_id,
            item.item_key,
            outcome,
            reason,
            item.amount_cents,
        )
        if first and outcome == "quarantined":
            await connection.execute(
                "insert into feed_exception"
                " (company_id, exception_id, feed_id, item_key, reason, quarantined, detail, raw, source)"
                " values ($1, $2, $3, $4, $5, true, $6, $7, $8) on conflict do nothing",
                feed.company_id,
                uuid7(),
                feed.feed_id,
                item.item_key,
                reason,
                orjson.dumps(detail or {}).decode(),
                item.raw,
                feed.source,
            )


async def record_failure(pool: asyncpg.Pool, feed: Feed, item: FeedItem, problem: Problem | None) -> None:
    """A refusal was recorded with its batch. A failure rolled its record back, so it is quarantined here; and what
    could not be tried is raised, to come again: what was posted by then answers as it did."""
    if isinstance(problem, Unavailable | UnknownCompany):
        raise Unavailable("The books are away; send the feed again") from problem
    if problem is not None and problem.status >= 500:
        await record(pool, feed, item, "quarantined", problem.code, {"message": problem.detail})


async def read_feed(pool: asyncpg.Pool, company_id: UUID, feed_id: UUID, sender: str | None = None) -> dict[str, Any]:
    """The feed's document; `sender` limits an EMR client to its own feeds. Raises NotFound."""
    async with reading(pool, company_id) as connection:
        row = await connection.fetchrow(_DOCUMENT, company_id, feed_id, sender, None, 1)
    if row is None:
        raise NotFound()
    return dict(row)


async def read_feeds(
    pool: asyncpg.Pool, company_id: UUID, sender: str | None, cursor: UUID | None, limit: int
) -> dict[str, Any]:
    """Feeds, newest first."""
    async with reading(pool, company_id) as connection:
        rows = await connection.fetch(_DOCUMENT, company_id, None, sender, cursor, limit + 1)
    return page_of(rows, limit, "feed_id")


async def read_raw(pool: asyncpg.Pool, company_id: UUID, feed_id: UUID) -> AsyncIterator[bytes]:
    """The raw form, chunk by chunk; whoever takes them slowly holds no connection meanwhile."""
    number = 0
    while True:
        async with reading(pool, company_id) as connection:
            chunk = await connection.fetchval(
                "select bytes from feed_chunk where company_id = $1 and feed_id = $2 and chunk_no = $3",
                company_id,
                feed_id,
                number,
            )
        if chunk is None:
            break
        yield chunk
        number += 1
    if number == 0:
        async for message in _messages(pool, company_id, feed_id):
            yield message


async def _messages(pool: asyncpg.Pool, company_id: UUID, feed_id: UUID) -> AsyncIterator[bytes]:
    """The raw form of a feed that came message by message (MLLP)."""
    last = 0
    while True:
        async with reading(pool, company_id) as connection:
            row = await connection.fetchrow(
                "select message_no, raw from feed_message where company_id = $1 and feed_id = $2 and message_no > $3"
                " order by message_no limit 1",
                company_id,
                feed_id,
                last,
            )
        if row is None:
            break
        last = row["message_no"]
        yield row["raw"].strip(b"\r\n") + b"\r"
