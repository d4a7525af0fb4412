"""An item of a feed that somebody wants to see: as it was sent, and as it was understood."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import asdict
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger.feeds import fhir_retry, hl7_retry
from services.ledger.feeds.apart import apart, items_apart
from services.ledger.feeds.csv_retry import place_of, raw_lines
from services.ledger.feeds.remittance_facts import ordinal_of
from services.ledger.feeds.spooled import PIECE, Chunks
from services.ledger.feeds.stored import read_ahead, stored
from services.ledger.feeds.x12.model import Claim, Header, Transaction
from services.ledger.feeds.x12.reader import transaction_bytes
from services.ledger.feeds.x12.remittance import read
from shared.errors import NotFound


async def raw(pool: asyncpg.Pool, company_id: UUID, exception: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
    """The event, the row's lines, the resource, or the segments from ST to SE; or NotFound where no raw form of it is
    kept."""
    if exception["raw"] is not None:
        yield exception["raw"].encode()
    elif exception["format"] == "x12":
        ordinal = ordinal_of(exception["item_key"])
        async with (
            stored(pool, company_id, exception["feed_id"]) as chunks,
            read_ahead(items_apart(_blocks, chunks, ordinal)) as blocks,
        ):
            async for block in blocks:
                yield block
    elif exception["format"] == "csv":
        first, last = place_of(exception["detail"])
        async with (
            stored(pool, company_id, exception["feed_id"]) as chunks,
            read_ahead(items_apart(raw_lines, chunks, first, last)) as lines,
        ):
            async for line in lines:
                yield line
    elif exception["format"] == "fhir":
        async with stored(pool, company_id, exception["feed_id"]) as chunks:
            yield await asyncio.to_thread(fhir_retry.raw_resource, chunks, exception["item_key"])
    else:
        raise NotFound()


def _blocks(chunks: Chunks, ordinal: int) -> Iterator[bytes]:
    """A transaction in pieces worth a write."""
    held = bytearray()
    for segment in transaction_bytes(chunks, ordinal):
        held += segment
        if len(held) >= PIECE:
            yield bytes(held)
            held.clear()
    yield bytes(held)


async def decoded(pool: asyncpg.Pool, company_id: UUID, exception: Mapping[str, Any]) -> Any:
    """An event's attributes and data; a message with its line; a claim, or the facts of its transaction or resource;
    None for what is not understood."""
    if exception["format"] in ("emr", "csv") and exception["raw"] is not None:
        return json.loads(exception["raw"])
    if exception["format"] == "hl7v2":
        return await hl7_retry.decoded(pool, company_id, exception)
    if exception["format"] == "fhir":
        async with stored(pool, company_id, exception["feed_id"]) as chunks:
            return await asyncio.to_thread(fhir_retry.decoded_resource, chunks, exception["item_key"])
    if exception["format"] == "x12":
        place = ordinal_of(exception["item_key"]), exception["detail"].get("claim")
        async with stored(pool, company_id, exception["feed_id"]) as chunks:
            return await apart(_facts, chunks, *place)
    return None


def _facts(chunks: Chunks, ordinal: int, claim: int | None) -> dict[str, Any] | None:
    current = 0
    for event in read(chunks):
        if isinstance(event, Header):
            current = event.ordinal
        elif isinstance(event, Claim):
            if current == ordinal and event.ordinal == claim:
                return asdict(event)
        elif isinstance(event, Transaction) and event.ordinal == ordinal:
            return asdict(event)
    return None
