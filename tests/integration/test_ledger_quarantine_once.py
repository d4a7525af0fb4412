"""What was quarantined is kept once, and told apart by all of its bytes, with a hash that nobody can make collide."""

from __future__ import annotations

from services.ledger.domain.feed_items import FeedItem
from services.ledger.feeds import intake
from services.ledger.feeds.intake import Feed
from shared.ids import uuid7
from tests.support.ledger import LedgerStack

RAWS = [
    None,
    "x",
    "X",
    "x ",
    "\\",
    "\\\\",
    "\\x00",
    "\\000",
    "a\\b",
    "Zoë",
    "Zoe\u0308",
    "\U0001f600",
    "\n",
    "x" * 100_000,
]
"""Among them what `decode(..., 'escape')` would take for escapes."""


async def test_what_differs_in_a_byte_is_kept_and_what_comes_again_is_not(stack: LedgerStack) -> None:
    company, pool = await stack.company(), stack.ledger.pool
    feed = Feed(company.company_id, uuid7(), "emr", "emr")
    await intake.open_feed(pool, feed, channel="http", sender="s", body_hash=None, chunks=[b"x"])
    for _ in range(2):
        for raw in RAWS:
            await intake.record(pool, feed, FeedItem(feed.feed_id, uuid7(), "key", 0, raw), "quarantined", "why")
    kept = await stack.owner.fetch("select raw from feed_exception where feed_id = $1", feed.feed_id)
    assert sorted((row["raw"] or "") for row in kept) == sorted(raw or "" for raw in RAWS)
    same = await stack.owner.fetch(
        "select raw from feed_exception where feed_id = $1 and raw is not null"
        " and sha256(decode(replace(raw, '\\', '\\\\'), 'escape')) <> sha256(convert_to(raw, 'UTF8'))",
        feed.feed_id,
    )
    assert same == [], "what the index computes is the hash of the text's own bytes"


async def test_nothing_in_the_database_uses_md5(stack: LedgerStack) -> None:
    named = await stack.owner.fetch(
        "select indexdef as text from pg_indexes where schemaname = 'public' union all"
        " select prosrc from pg_proc where pronamespace = 'public'::regnamespace"
    )
    assert len(named) > 20
    assert [row["text"] for row in named if "md5" in row["text"].lower()] == []
