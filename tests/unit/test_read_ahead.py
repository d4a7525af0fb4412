"""What a feed's reading gives, while somebody works on what it gave before."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from services.ledger.feeds.stored import read_ahead


async def _read(times: int) -> None:
    """Give the reading time to go on."""
    for _ in range(times):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("most", [1, 3])
async def test_items_come_in_order_and_as_many_as_may_be_are_there_before_their_turn(most: int) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for n in range(1, 8):
            read.append(n)
            yield n

    async with read_ahead(items(), most) as found:
        got = []
        async for item in found:
            got.append(item)
            await _read(10)
            assert read == list(range(1, min(7, item + most) + 1))
            assert found.peek(2) == read[item : item + 2]
        assert got == list(range(1, 8))


async def test_what_fails_in_reading_fails_after_what_was_read_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the file is torn")

    got = []

    async def work() -> None:
        async with read_ahead(items(), 3) as found:
            await _read(10)
            async for item in found:
                got.append(item)

    with pytest.raises(ValueError, match="torn"):
        await work()
    assert got == [1, 2]


async def test_whoever_stops_early_may_close_the_file() -> None:
    """Nothing is being read any more, and nothing is read after."""
    reading, read = threading.Event(), []

    def items() -> Iterator[int]:
        for n in range(100):
            reading.set()
            time.sleep(0.03)
            reading.clear()
            read.append(n)
            yield n

    async with read_ahead(items(), 3) as found:
        async for _ in found:
            break
    assert not reading.is_set()
    count = len(read)
    await _read(10)
    assert len(read) == count < 10


async def test_who_is_called_off_while_waiting_leaves_no_reading_behind() -> None:
    entered, closed = threading.Event(), threading.Event()
    used_after_close: list[bool] = []

    def items() -> Iterator[int]:
        entered.set()
        time.sleep(0.1)
        used_after_close.append(closed.is_set())
        yield 1

    async def work() -> None:
        try:
            async with read_ahead(items()) as found:
                async for _ in found:
                    pass
        finally:
            closed.set()

    task = asyncio.create_task(work())
    await asyncio.to_thread(entered.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert used_after_close == [False]


async def test_what_was_not_read_to_its_end_is_closed() -> None:
    """It may hold a process, which ends with it, and not with the last who knows of it."""
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.set()

    reading = items()
    async with read_ahead(reading) as found:
        assert await anext(found) == 1
        assert not closed.is_set()
    assert closed.is_set()
