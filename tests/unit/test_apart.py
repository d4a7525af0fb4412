"""Long files are read in a process of their own, with the same result, and nothing is left of it whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from bench.remittance import remittance
from services.ledger.feeds import apart as module
from services.ledger.feeds.apart import apart, items_apart
from services.ledger.feeds.csvfile.records import CsvUnreadable
from services.ledger.feeds.remittance_claims import Piece, pieces_of
from services.ledger.feeds.spooled import Chunks, Spooled
from services.ledger.feeds.x12.reader import X12Unreadable
from services.ledger.feeds.x12.remittance import contents, find_claims
from shared.errors import Unavailable
from tests.support.quiet import least

LINES = 12_000
CONTENT = bytes(module.LONG)


_files: list[BinaryIO] = []


def spooled(*content: bytes) -> Spooled:
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the others
    _files.append(file)
    file.writelines(content)
    return Spooled.of(file)


@pytest.fixture(scope="module", autouse=True)
def files() -> Iterator[None]:
    yield
    for file in _files:
        file.close()


@pytest.fixture(scope="module")
def long(files: None) -> Spooled:
    return spooled(*remittance(LINES, "T1"))


def whose(_chunks: Chunks, more: int = 1) -> Iterator[int]:
    for _ in range(more):
        yield os.getpid()


def without_end(_chunks: Chunks) -> Iterator[int]:
    yield os.getpid()
    time.sleep(600)


def fails(_chunks: Chunks) -> Iterator[int]:
    yield 1
    raise CsvUnreadable("row 7")


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def gone_soon(process: int) -> bool:
    until = time.monotonic() + 10
    while not is_gone(process) and time.monotonic() < until:
        time.sleep(0.01)
    return is_gone(process)


async def test_what_is_read_apart_is_what_is_read_here(long: Spooled) -> None:
    assert long.size > module.LONG
    assert await apart(contents, long) == contents(long)
    assert await apart(find_claims, long, {(1, 3), (1, 2_000)}) == find_claims(long, {(1, 3), (1, 2_000)})
    found: list[Piece] = list(items_apart(pieces_of, long, {1: False}))
    assert found == list(pieces_of(long, {1: False}))
    assert sum(len(claim.lines) for piece in found for claim in piece.claims) == LINES


def test_only_what_is_long_is_worth_a_process() -> None:
    ours = os.getpid()
    assert list(items_apart(whose, spooled(CONTENT[1:]))) == [ours]
    assert list(items_apart(whose, [CONTENT])) == [ours]
    (other,) = items_apart(whose, spooled(CONTENT))
    assert other != ours
    assert is_gone(other)


def test_where_no_process_is_free_it_is_read_here() -> None:
    file = spooled(CONTENT)
    begun = [items_apart(whose, file, 2) for _ in range(module._MOST + 1)]
    others = [next(one) for one in begun]
    assert [one for one in others if one == os.getpid()] == [others[-1]]
    begun[0].close()
    assert next(items_apart(whose, file)) not in (os.getpid(), *others)


async def test_what_fails_there_fails_here_after_what_was_read_before() -> None:
    found = items_apart(fails, spooled(CONTENT))
    assert next(found) == 1
    with pytest.raises(CsvUnreadable) as caught:
        next(found)
    assert caught.value.detail == "row 7"
    torn = spooled(*remittance(LINES, "T1"), b"ISA*")
    with pytest.raises(X12Unreadable) as here:
        contents(torn)
    with pytest.raises(X12Unreadable) as there:
        await apart(contents, torn)
    assert there.value.detail == here.value.detail


def test_whoever_stops_early_ends_the_process() -> None:
    found = items_apart(without_end, spooled(CONTENT))
    other = next(found)
    assert not is_gone(other)
    found.close()
    assert is_gone(other)


def test_a_process_that_dies_is_an_interruption() -> None:
    found = items_apart(without_end, spooled(CONTENT))
    os.kill(next(found), signal.SIGKILL)
    with pytest.raises(Unavailable):
        next(found)


def test_where_no_process_can_be_started_the_file_is_to_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    file = spooled(CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nonexistent")
        for _ in range(module._MOST + 1):
            with pytest.raises(Unavailable):
                next(items_apart(whose, file))
    assert next(items_apart(whose, file)) != os.getpid(), "and its place is free again"


_DIES = """
import os, signal
from services.ledger.feeds.apart import items_apart
from tests.unit.test_apart import CONTENT, spooled, without_end

found = items_apart(without_end, spooled(CONTENT))
print(next(found), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_whoever_started_it() -> None:
    """Also when it has nothing to write for a long time, so that no broken pipe tells it."""
    died = subprocess.run([sys.executable, "-c", _DIES], stdout=subprocess.PIPE, check=False)
    assert died.returncode == -signal.SIGKILL
    assert gone_soon(int(died.stdout))


def test_it_is_given_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://secret")
    found = items_apart(without_end, spooled(CONTENT))
    environment = Path(f"/proc/{next(found)}/environ").read_bytes()
    found.close()
    assert b"PYTHONPATH" in environment
    assert b"secret" not in environment


@pytest.mark.measured
async def test_the_event_loop_goes_on_meanwhile(long: Spooled) -> None:
    async def longest() -> float:
        """How long the loop was away at the most, while a file was surveyed three times."""
        reading = asyncio.gather(*(apart(contents, long) for _ in range(3)))
        seconds, last = 0.0, time.monotonic()
        while not reading.done():
            await asyncio.sleep(0.001)
            seconds, last = max(seconds, time.monotonic() - last), time.monotonic()
        return seconds

    assert await least(0.05, longest) < 0.05
