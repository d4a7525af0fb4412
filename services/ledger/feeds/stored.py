"""The raw form of a stored feed, to be read as often as somebody wants, outside the event loop."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import BinaryIO, Final
from uuid import UUID

import asyncpg

from services.ledger.feeds import intake

PIECE: Final = 1 << 20

Chunks = Callable[[], Iterable[bytes]]


@asynccontextmanager
async def stored(pool: asyncpg.Pool, company_id: UUID, feed_id: UUID) -> AsyncIterator[Chunks]:
    """Each call of what this gives starts reading the feed from its beginning."""
    with tempfile.TemporaryFile() as spool:
        async for chunk in intake.read_raw(pool, company_id, feed_id):
            await asyncio.to_thread(spool.write, chunk)
        yield lambda: pieces(spool)


def pieces(spool: BinaryIO) -> Iterator[bytes]:
    """The content of a file from its beginning."""
    spool.seek(0)
    while piece := spool.read(PIECE):
        yield piece
