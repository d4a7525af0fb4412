"""The raw form of a stored feed, to be read as often as somebody wants, outside the event loop."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Generic, Self, TypeVar
from uuid import UUID

import asyncpg

from services.ledger.feeds import intake
from services.ledger.feeds.spooled import Spooled

_Item = TypeVar("_Item")


@asynccontextmanager
async def stored(pool: asyncpg.Pool, company_id: UUID, feed_id: UUID) -> AsyncIterator[Spooled]:
    """A copy of it, to be read as often as somebody wants."""
    with tempfile.TemporaryFile() as spool:
        async for chunk in intake.read_raw(pool, company_id, feed_id):
            await asyncio.to_thread(spool.write, chunk)
        yield Spooled.of(spool)


@asynccontextmanager
async def read_ahead(items: Iterator[_Item], most: int = 1) -> AsyncIterator[ReadAhead[_Item]]:
    """What a reading of a feed gives, outside the event loop: up to so many items are read while one is worked on."""
    found = ReadAhead(items, most)
    try:
        yield found
    finally:
        await found.stop()


class ReadAhead(Generic[_Item]):
    """Items in their order; those that were read already can be looked at before it is their turn."""

    def __init__(self, items: Iterator[_Item], most: int) -> None:
        self._items = items
        self._most = most
        self._found: deque[_Item] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Item:
        self._read_on()
        while not self._found:
            if self._reading is None:
                raise StopAsyncIteration
            await asyncio.shield(self._reading)
        item = self._found.popleft()
        self._read_on()
        return item

    def peek(self, count: int) -> list[_Item]:
        """The next ones, as far as they have been read."""
        return list(islice(self._found, count))

    async def stop(self) -> None:
        """Read no more: whoever goes on may close the file."""
        self._ended = True
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)
        if isinstance(self._items, Generator):
            await asyncio.to_thread(self._items.close)

    def _read_on(self) -> None:
        if self._reading is None and not self._ended and len(self._found) < self._most:
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        item = await asyncio.to_thread(next, self._items, None)
        self._reading = None
        if item is None:
            self._ended = True
        else:
            self._found.append(item)
            self._read_on()
