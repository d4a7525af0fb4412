"""Rows about claims (migration 0009): what was said about them, append-only; their state is the last of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg
import orjson

from services.ledger.domain.feed_items import FeedItem, Statements
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.remittance_claims import NUMBER
from services.ledger.feeds.x12.acknowledgements import Source
from shared.db import acquire, page_of, reading
from shared.errors import NotFound

State = Literal[
    "accepted",
    "rejected",
    "pending",
    "finalized",
    "forwarded",
    "paid",
    "zero_paid",
    "denied",
    "reversed",
    "predetermined",
]
# A filter is asked twice: of every row, by an index, and of the one that holds.
_CLAIMS: Final = """
select c.claim_id as id, c.claim_number, s.state, s.effective_date, s.source, s.codes,
    (select h.payer from claim_state h where h.company_id = c.company_id and h.claim_id = c.claim_id
        and h.payer is not null order by h.effective_date desc, h.standing desc, h.entry_no desc limit 1) as payer,
    (select h.payer_control_number from claim_state h where h.company_id = c.company_id and h.claim_id = c.claim_id
        and h.payer_control_number is not null
        order by h.effective_date desc, h.standing desc, h.entry_no desc limit 1) as payer_control_number,
    (select h.charge_cents from claim_state h where h.company_id = c.company_id and h.claim_id = c.claim_id
        and h.charge_cents is not null and h.state <> 'reversed'
        order by h.effective_date desc, h.standing desc, h.entry_no desc limit 1) as charge_cents,
    (select coalesce(sum(h.paid_cents), 0)::bigint from claim_state h
        where h.company_id = c.company_id and h.claim_id = c.claim_id and h.state <> 'predetermined') as paid_cents
from claim c
cross join lateral (
    select * from claim_state h where h.company_id = c.company_id and h.claim_id = c.claim_id
    order by h.effective_date desc, h.standing desc, h.entry_no desc limit 1
) s
where c.company_id = $1 and ($2::uuid is null or c.claim_id = $2) and ($3::uuid is null or c.claim_id < $3)
    and ($5::text is null or c.claim_id in (
        select w.claim_id from claim_state w where w.company_id = $1 and w.state = $5))
    and ($6::date is null and $7::date is null or c.claim_id in (
        select w.claim_id from claim_state w where w.company_id = $1
            and w.effective_date between coalesce($6, '-infinity') and coalesce($7, 'infinity')))
    and ($5::text is null or s.state = $5)
    and ($6::date is null or s.effective_date >= $6) and ($7::date is null or s.effective_date <= $7)
order by c.claim_id desc limit $4
"""
_HISTORY: Final = """
select state, effective_date, recorded_at, source, feed_id, item_key, payer, payer_control_number,
    clearinghouse_number, batch_reference, codes, charge_cents, paid_cents
from claim_state where company_id = $1 and claim_id = $2 order by effective_date, standing, entry_no
"""


async def note(pool: asyncpg.Pool, company_id: UUID, said: Statements | None) -> None:
    """Add what an item of a feed says about claims, in one statement; what was added before is not added again."""
    if said is None or not said.statements:
        return
    text = orjson.dumps(said.statements, default=str).decode()
    async with acquire(pool) as connection:
        await connection.execute(
            "select note_claims($1, $2, $3, $4, $5, $6)",
            company_id,
            said.feed_id,
            said.item_key,
            said.said_by,
            said.said_for,
            text,
        )


async def is_first(pool: asyncpg.Pool, feed: Feed, item: FeedItem, source: Source, key: str) -> bool:
    """Whether this is the item that brings the content: the first of all, or the one that was interrupted at it."""
    async with acquire(pool) as connection:
        await connection.execute(
            "insert into acknowledgement"
            " (company_id, content_key, feed_id, item_key, standard, sender, effective_date)"
            " values ($1, $2, $3, $4, $5, $6, coalesce($7, current_date)) on conflict do nothing",
            feed.company_id,
            key,
            feed.feed_id,
            item.item_key,
            source.standard,
            source.sender[:NUMBER],
            source.made_on,
        )
        row = await connection.fetchrow(
            "select feed_id, item_key from acknowledgement where company_id = $1 and content_key = $2",
            feed.company_id,
            key,
        )
    return row is not None and (row["feed_id"], row["item_key"]) == (feed.feed_id, item.item_key)


async def keep_verdicts(
    pool: asyncpg.Pool, feed: Feed, key: str, verdicts: Sequence[tuple[Any, ...]], batches: Collection[str]
) -> None:
    """Keep the verdicts of a TA1, 997, 999 or 277, and tell the claims that are known to be concerned.

    `batches`: the numbers under which the claims of the same piece were sent."""
    references = sorted(batches)
    if not (verdicts or references):
        return
    async with acquire(pool) as connection:
        await connection.executemany(
            "insert into acknowledgement_verdict (company_id, content_key, verdict_no, kind, accepted, status, codes,"
            " interchange_control, group_control, set_id, reference)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) on conflict do nothing",
            [(feed.company_id, key, *verdict) for verdict in verdicts],
        )
        await connection.execute(
            "select link_verdicts($1, $2, $3)", feed.company_id, [key] if verdicts else [], references
        )


async def read_page(
    pool: asyncpg.Pool,
    company_id: UUID,
    cursor: UUID | None,
    limit: int,
    state: State | None,
    since: date | None,
    until: date | None,
) -> dict[str, Any]:
    """Claims as they stand, the one that was heard of last first; the days are those of their state."""
    async with reading(pool, company_id) as connection:
        rows = await connection.fetch(_CLAIMS, company_id, None, cursor, limit + 1, state, since, until)
    return page_of(rows, limit, "id")


async def read_one(pool: asyncpg.Pool, company_id: UUID, claim_id: UUID) -> dict[str, Any]:
    """A claim with everything that was said about it, oldest first; raises NotFound."""
    async with reading(pool, company_id) as connection:
        row = await connection.fetchrow(_CLAIMS, company_id, claim_id, None, 1, None, None, None)
        if row is None:
            raise NotFound()
        history = await connection.fetch(_HISTORY, company_id, claim_id)
    return {**row, "history": [dict(one) for one in history]}
