"""The raw form of a stored feed, to be read as often as somebody wants, outside the event loop."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import BinaryIO, Final, TypeVar
from uuid import UUID

import asyncpg

from services.ledger.feeds import intake

PIECE: Final = 1 << 20

_Item = TypeVar("_Item")
Chunks = Callable[[], Iterable[bytes]]


@asynccontextmanager
async def stored(pool: asyncpg.Pool, company_id: UUID, feed_id: UUID) -> AsyncIterator[Chunks]:
    """Each call of what this gives starts reading the feed from its beginning."""
    with tempfile.TemporaryFile() as spool:
        async for chunk in intake.read_raw(pool, company_id, feed_id):
            await asyncio.to_thread(spool.write, chunk)
        yield lambda: pieces(spool)


@asynccontextmanager
async def ahead(items: Iterator[_Item]) -> AsyncIterator[AsyncIterator[_Item]]:
    """What a reading of a feed gives, outside the event loop; the next one is read while the last is worked on."""
    async with aclosing(_ahead(items)) as found:
        yield found


async def _ahead(items: Iterator[_Item]) -> AsyncGenerator[_Item, None]:
    next_one = asyncio.create_task(asyncio.to_thread(next, items, None))
    try:
        while (item := await next_one) is not None:
            next_one = asyncio.create_task(asyncio.to_thread(next, items, None))
            yield item
    finally:
        await asyncio.gather(next_one, return_exceptions=True)  # Whoever goes on may close the file.


def with_next(items: Iterable[_Item]) -> Iterator[tuple[_Item, _Item | None]]:
    """Each with the one that comes after it."""
    last: _Item | None = None
    for item in items:
        if last is not None:
            yield last, item
        last = item
    if last is not None:
        yield last, None


def pieces(spool: BinaryIO) -> Iterator[bytes]:
    """The content of a file from its beginning."""
    spool.seek(0)
    while piece := spool.read(PIECE):
        yield piece
