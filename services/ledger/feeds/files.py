"""A feed that is one file, uploaded or found in the watched directory: examined to its end, kept, and only then posted.

Whoever posts it may be interrupted at any line: it is posted again from its raw form, by the next one, and everything
in it is keyed by content, so nothing doubles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final
from uuid import UUID

from services.ledger.feeds import intake, remittances
from services.ledger.feeds.csv_posting import CsvFile
from services.ledger.feeds.fhir_input import FhirInput
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.spooled import PIECE, Chunks
from services.ledger.feeds.stored import stored
from services.ledger.feeds.x12.reader import X12Unreadable
from services.ledger.service import Ledger
from shared.errors import Invalid
from shared.ids import uuid7

MAX_BYTES: Final = 2 << 30

Post = Callable[[Ledger, Feed, str], Awaitable[None]]
"""Posts the file that was examined into a feed, under a correlation id, and closes the feed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read."""

    format: str
    source: str
    """`emr` or `era`: the source of what it posts."""
    examine: Callable[[Chunks], Awaitable[Post]]
    """Reads the file to its end; raises Invalid when it cannot be used."""
    kept: str | None = None
    """What the format does not say, kept with the feed as JSON."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Whose file it is, how it came, and what it is."""

    company_id: UUID
    channel: str
    sender: str
    body_hash: bytes
    """SHA-256."""
    byte_count: int
    spool: BinaryIO
    feed_id: UUID | None = None
    """Where the one who brings it has named the feed."""


async def _examine_x12(chunks: Chunks) -> Post:
    try:
        found = await remittances.examine(chunks)
    except X12Unreadable as error:
        raise Invalid.field("body", "x12_unreadable", str(error)) from None

    async def post(ledger: Ledger, feed: Feed, correlation_id: str) -> None:
        await remittances.process(ledger, feed, chunks, correlation_id, found)

    return post


X12: Final = Reading("x12", "era", _examine_x12)


def csv(file: CsvFile) -> Reading:
    """A file of rows, by the profile that its sender's files have."""
    return Reading("csv", "emr", file.examine, file.model_dump_json())


def fhir(input: FhirInput) -> Reading:
    """A resource or a Bundle, by the word of whoever sent it."""
    return Reading("fhir", "emr", input.examine, input.model_dump_json())


READINGS: Final[Mapping[str, Callable[[str | None], Reading]]] = {
    "x12": lambda _: X12,
    "csv": lambda kept: csv(CsvFile.model_validate_json(kept or "")),
    "fhir": lambda kept: fhir(FhirInput.model_validate_json(kept or "{}")),
}
"""How feeds are read that can be finished from their raw form, by format; from what was kept with them."""


@asynccontextmanager
async def turn(ledger: Ledger, arrival: Arrival) -> AsyncIterator[None]:
    """Wait until nobody else in this process is at the same bytes: else both would share a feed, and both be told that
    they had posted it."""
    key = arrival.company_id, arrival.body_hash
    lock = ledger.turns.setdefault(key, asyncio.Lock())
    async with lock:
        yield


async def keep(ledger: Ledger, reading: Reading, arrival: Arrival) -> Feed:
    """The feed's row and raw form; the interrupted feed of the same bytes, if there is one."""
    pool, company_id = ledger.pool, arrival.company_id
    await ledger.learn({company_id})
    feed_id = arrival.feed_id or await intake.unfinished(
        pool, company_id, arrival.body_hash, reading.format, reading.kept
    )
    feed = Feed(company_id, feed_id or uuid7(), reading.format, reading.source)
    await intake.open_feed(
        pool,
        feed,
        channel=arrival.channel,
        sender=arrival.sender,
        body_hash=arrival.body_hash,
        byte_count=arrival.byte_count,
        reading=reading.kept,
    )
    number = 0
    arrival.spool.seek(0)
    while piece := await asyncio.to_thread(arrival.spool.read, PIECE):
        await intake.add_chunk(pool, feed, number, piece)
        number += 1
    return feed


async def can_be_finished(ledger: Ledger, feed: Feed) -> bool:
    """Whether all is kept that it takes: the whole raw form, and what it is to be read by."""
    if feed.format not in READINGS or not await intake.is_whole(ledger.pool, feed):
        return False
    row = await intake.opened(ledger.pool, feed.company_id, feed.feed_id)
    return row is not None and (feed.format == X12.format or row["reading"] is not None)


async def work_off(ledger: Ledger, feed: Feed, correlation_id: str) -> None:
    """Post a stored feed from its raw form: after a 202, or after an interruption."""
    row = await intake.opened(ledger.pool, feed.company_id, feed.feed_id)
    reading = READINGS[feed.format](row["reading"] if row else None)
    async with stored(ledger.pool, feed.company_id, feed.feed_id) as chunks:
        post = await reading.examine(chunks)
        await post(ledger, feed, correlation_id)
