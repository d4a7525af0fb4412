"""Our TA1 and 999 to what came in, where an interchange asks for them (ISA14): made once for a feed, and kept.

ISA13 is not unique in reality (feeds.md 1.2), so no interchange is called a duplicate: the same file again is a feed
of its own, and gets answers of its own.
"""

from __future__ import annotations

from collections.abc import Container
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg

from services.ledger.feeds.apart import apart
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.spooled import Chunks
from services.ledger.feeds.x12.replies import Interchange, implementation_ack_999, interchanges, ta1
from shared.db import acquire, reading
from shared.errors import NotFound

_SUPPORTED: Final = frozenset(("277", "835"))
_KEEP = """
insert into feed_reply (company_id, feed_id, reply_no, kind, bytes)
select $1, $2, r.* from unnest($3::integer[], $4::text[], $5::bytea[]) as r on conflict do nothing
"""


async def answer(pool: asyncpg.Pool, feed: Feed, chunks: Chunks, faulty: Container[int]) -> None:
    """Answer every interchange that asks for it. `faulty`: ordinals of transactions whose content cannot be read."""
    asking = await apart(_asking, chunks)
    async with acquire(pool) as connection:
        # Each answer is an interchange of its own, with a number that no other has: else it is a duplicate (TA1 025).
        rows = await connection.fetch("select nextval('x12_control') as n from generate_series(1, $1)", 2 * len(asking))
        numbers = iter([row["n"] for row in rows])
        at = datetime.now(UTC)
        replies: list[tuple[str, bytes]] = []
        for interchange in asking:
            one, other = next(numbers), next(numbers)
            replies.append(("TA1", ta1(interchange, control=one, at=at)))
            ack = implementation_ack_999(interchange, control=other, at=at, faulty=faulty, supported=_SUPPORTED)
            if ack is not None:
                replies.append(("999", ack))
        # One statement, so that a feed has all of its answers or none: whoever works it off again finds them here.
        kinds, texts = [kind for kind, _ in replies], [text for _, text in replies]
        await connection.execute(_KEEP, feed.company_id, feed.feed_id, list(range(len(replies))), kinds, texts)


def _asking(chunks: Chunks) -> list[Interchange]:
    """Who is to be answered. An interchange without a group is a TA1 itself, which nobody answers."""
    return [one for one in interchanges(chunks) if one.wants_reply and one.groups]


async def read_answers(pool: asyncpg.Pool, company_id: UUID, feed_id: UUID) -> bytes:
    """Every answer to a feed, one interchange after the other; raises NotFound where there is none."""
    async with reading(pool, company_id) as connection:
        found: bytes | None = await connection.fetchval(
            "select string_agg(bytes, '' order by reply_no) from feed_reply where company_id = $1 and feed_id = $2",
            company_id,
            feed_id,
        )
    if found is None:
        raise NotFound()
    return found
