"""Rows about HL7 messages: what was received and answered, what is agreed with senders, whom they write for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

import asyncpg
import orjson

from services.ledger.feeds.hl7.model import Profile
from services.ledger.feeds.hl7.profiles import ProfileIn
from services.ledger.feeds.intake import Feed
from shared.db import acquire, reading
from shared.ids import uuid7

FORMAT: Final = "hl7v2"
_TAKEN_BYTES: Final = 16 << 20
_KEEP = """
insert into feed_message (company_id, message_key, body_hash, feed_id, source, channel, raw, ack, state)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (company_id, message_key, body_hash) do update
    set state = excluded.state, ack = excluded.ack, feed_id = excluded.feed_id, received_at = clock_timestamp()
    where feed_message.state = 'refused' and excluded.state <> 'refused'
returning true
"""
_WAITING = """
select company_id, message_key, body_hash, feed_id, source, raw, received_at from (
    select m.*, sum(length(raw)) over (order by message_no) as bytes, row_number() over (order by message_no) as place
    from feed_message m where state = 'received' and
        case when $1::uuid is null then channel = 'mllp' or received_at < clock_timestamp() - interval '1 minute'
            else company_id = $2 and (feed_id = $1 or exists (
                select 1 from feed_item i
                where i.company_id = $2 and i.feed_id = $1 and i.item_key = m.message_key || ' FT1 1'
            )) end
    order by message_no limit 50
) m where bytes <= $3 or place = 1 order by message_no
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message as it came in: who sent it, by which key it is known."""

    source: str
    key: str
    """MSH-3, MSH-4 and MSH-10: with the content, the delivery (feeds.md 0.6)."""
    body_hash: bytes
    """SHA-256 of `reader.content_of`."""
    raw: bytes
    channel: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that was answered and is not yet posted."""

    feed: Feed
    source: str
    key: str
    body_hash: bytes
    raw: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Counted:
    """How the lines of a message that is not posted are counted: an amount for each, one outcome for all."""

    outcome: str
    reason: str
    amounts: Sequence[int]
    detail: dict[str, Any] | None = None
    """Of what a person must look at: one exception for the message as a whole."""
    raw: str | None = None


async def known(pool: asyncpg.Pool, company_id: UUID, key: str, body_hash: bytes) -> list[asyncpg.Record]:
    """The message itself, and the one of the same key that was accepted: `body_hash, ack, state`."""
    return await pool.fetch(
        "select body_hash, ack, state from feed_message"
        " where company_id = $1 and message_key = $2 and (body_hash = $3 or state <> 'refused')",
        company_id,
        key,
        body_hash,
    )


async def keep(
    pool: asyncpg.Pool, feed: Feed, arrival: Arrival, ack: bytes, state: str, counted: Counted | None
) -> bool:
    """Keep the message with its answer, and how it is counted when it is not posted. False when another one of its
    key was kept meanwhile: then all must be decided again."""
    try:
        row = (feed.company_id, arrival.key, arrival.body_hash, feed.feed_id, arrival.source, arrival.channel)
        async with acquire(pool) as connection:
            if counted is None:  # One statement commits by itself.
                return bool(await connection.fetchval(_KEEP, *row, arrival.raw, ack, state))
            async with connection.transaction():
                if not await connection.fetchval(_KEEP, *row, arrival.raw, ack, state):
                    return False
                await _count(connection, feed, arrival, counted)
                return True
    except asyncpg.UniqueViolationError:
        return False


async def count(pool: asyncpg.Pool, feed: Feed, arrival: Arrival, counted: Counted) -> None:
    """Count a message that is kept already: each delivery counts."""
    async with acquire(pool) as connection, connection.transaction():
        await _count(connection, feed, arrival, counted)


async def _count(connection: Any, feed: Feed, arrival: Arrival, counted: Counted) -> None:
    rows = [
        (feed.company_id, feed.feed_id, uuid7(), item_key(arrival.key, place), counted.outcome, counted.reason, cents)
        for place, cents in enumerate(counted.amounts, 1)
    ]
    await connection.executemany(
        "insert into feed_item (company_id, feed_id, item_id, item_key, outcome, reason, amount_cents)"
        " values ($1, $2, $3, $4, $5, $6, $7)",
        rows,
    )
    if counted.detail is not None:
        await connection.execute(
            "insert into feed_exception"
            " (company_id, exception_id, feed_id, item_key, reason, quarantined, detail, raw, source)"
            " values ($1, $2, $3, $4, $5, true, $6, $7, $8) on conflict do nothing",
            *(feed.company_id, uuid7(), feed.feed_id, arrival.key, counted.reason),
            *(orjson.dumps(counted.detail).decode(), counted.raw, feed.source),
        )


def item_key(message_key: str, number: int) -> str:
    """The name of a line among the items of a feed."""
    return f"{message_key} FT1 {number}"


def message_and_line(key: str) -> tuple[str, int]:
    """The other way round; line 0 for the message as a whole."""
    message, _, number = key.rpartition(" FT1 ")
    return (message, int(number)) if message and number.isdecimal() else (key, 0)


def item_id(message: Waiting, number: int) -> UUID:
    """The same whoever posts the message, and however often: it is counted once."""
    return uuid5(message.feed.feed_id, f"{message.key}\n{message.body_hash.hex()}\n{number}")


async def waiting(pool: asyncpg.Pool, feed: Feed | None = None) -> list[Waiting]:
    """Messages to post, oldest first: of a feed, with those that it brought again before anybody had posted them, so
    that whoever sends again knows that they are; or all that nobody else is about to post."""
    rows = await pool.fetch(_WAITING, feed.feed_id if feed else None, feed.company_id if feed else None, _TAKEN_BYTES)
    return [_waiting(row) for row in rows]


async def accepted(pool: asyncpg.Pool, company_id: UUID, key: str) -> Waiting | None:
    """The one message of this key that was accepted."""
    row = await pool.fetchrow(
        "select * from feed_message where company_id = $1 and message_key = $2 and state <> 'refused'", company_id, key
    )
    return None if row is None else _waiting(row)


async def of_key(pool: asyncpg.Pool, company_id: UUID, key: str) -> list[asyncpg.Record]:
    """Messages that came under a key, accepted or refused, for a caller to see: `source, raw`."""
    async with reading(pool, company_id) as connection:
        found: list[asyncpg.Record] = await connection.fetch(
            "select source, raw from feed_message where company_id = $1 and message_key = $2"
            " order by state = 'refused', message_no limit 50",
            *(company_id, key),
        )
    return found


def _waiting(row: asyncpg.Record) -> Waiting:
    feed = Feed(row["company_id"], row["feed_id"], FORMAT, "emr")
    return Waiting(feed, row["source"], row["message_key"], row["body_hash"], row["raw"], row["received_at"])


async def done(pool: asyncpg.Pool, messages: Iterable[Waiting]) -> None:
    async with acquire(pool) as connection:
        await connection.executemany(
            "update feed_message set state = 'done'"
            " where company_id = $1 and message_key = $2 and body_hash = $3 and state = 'received'",
            [(one.feed.company_id, one.key, one.body_hash) for one in messages],
        )


async def companies_of(pool: asyncpg.Pool, application: str, facility: str) -> set[UUID]:
    """For whom a sender may write: companies of the clients that are registered for both of its names, else for
    either."""
    both = f"{application}|{facility}"
    rows = await pool.fetch(
        "select d.company_id, bool_or($1 = any (c.sources)) as exact"
        " from directory_client c join directory_company d on d.company_id = any (c.company_ids)"
        " where c.active and c.kind = 'emr' and c.sources && $2::text[]"
        " group by d.company_id",
        both,
        [name for name in (both, application, facility) if name],
    )
    exact = {row["company_id"] for row in rows if row["exact"]}
    return exact or {row["company_id"] for row in rows}


async def read_profile(pool: asyncpg.Pool, company_id: UUID, source: str) -> ProfileIn:
    """What is agreed with the sender; the default with one that nothing was agreed with."""
    async with reading(pool, company_id) as connection:
        found = await connection.fetchval(
            "select profile from feed_profile where company_id = $1 and source = $2 and format = $3",
            company_id,
            source,
            FORMAT,
        )
    return ProfileIn() if found is None else ProfileIn.model_validate_json(found)


async def write_profile(pool: asyncpg.Pool, company_id: UUID, source: str, profile: ProfileIn) -> None:
    async with acquire(pool) as connection:
        await connection.execute(
            "insert into feed_profile (company_id, source, format, profile) values ($1, $2, $3, $4)"
            " on conflict (company_id, source, format) do update set profile = excluded.profile",
            *(company_id, source, FORMAT, profile.model_dump_json()),
        )


async def profile_of(pool: asyncpg.Pool, company_id: UUID, source: str) -> Profile:
    return (await read_profile(pool, company_id, source)).profile()


async def locations_of(pool: asyncpg.Pool, company_id: UUID) -> dict[UUID, str | None]:
    """Active locations with the clinics that senders call them."""
    rows = await pool.fetch(
        "select location_id, emr_location_id from directory_location where company_id = $1 and active", company_id
    )
    return {row["location_id"]: row["emr_location_id"] for row in rows}


async def read_fees(pool: asyncpg.Pool, company_id: UUID) -> list[dict[str, Any]]:
    """The fee schedule: `procedure_code`, `amount_cents`."""
    async with reading(pool, company_id) as connection:
        rows = await connection.fetch(
            "select procedure_code, amount_cents from fee_schedule where company_id = $1 order by procedure_code",
            company_id,
        )
    return [dict(row) for row in rows]


async def replace_fees(pool: asyncpg.Pool, company_id: UUID, fees: Mapping[str, int]) -> None:
    """These fees hold from now on, and no others."""
    codes, amounts = list(fees), list(fees.values())
    async with acquire(pool) as connection, connection.transaction():
        await connection.execute("select from company_book where company_id = $1 for update", company_id)
        await connection.execute(
            "delete from fee_schedule where company_id = $1 and procedure_code <> all ($2)", company_id, codes
        )
        await connection.execute(
            "insert into fee_schedule select $1, * from unnest($2::text[], $3::bigint[])"
            " on conflict (company_id, procedure_code) do update set amount_cents = excluded.amount_cents",
            company_id,
            codes,
            amounts,
        )


async def prices_of(pool: asyncpg.Pool, company_id: UUID, codes: Iterable[str]) -> dict[str, int]:
    rows = await pool.fetch(
        "select procedure_code, amount_cents from fee_schedule where company_id = $1 and procedure_code = any ($2)",
        company_id,
        list(codes),
    )
    return {row["procedure_code"]: row["amount_cents"] for row in rows}
