"""Tests that measure have the machine to themselves, and get it although others keep coming."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support import quiet


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(quiet.tempfile, "tempdir", str(tmp_path))
    return uuid4().hex


class Guest(threading.Thread):
    """Comes, stays until it is told to go."""

    def __init__(self, run: str, *, alone: bool = False) -> None:
        super().__init__(daemon=True)
        self._run_id, self._alone = run, alone
        self.inside, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with quiet.room(self._run_id, alone=self._alone):
            self.inside.set()
            self.leave.wait(10)

    def end(self) -> None:
        self.leave.set()
        self.join(10)
        assert not self.is_alive()


def test_many_share_the_room(run: str) -> None:
    guests = [Guest(run) for _ in range(3)]
    assert all(guest.inside.wait(5) for guest in guests)
    for guest in guests:
        guest.end()


def test_who_wants_to_be_alone_waits_and_is_not_overtaken(run: str) -> None:
    first = Guest(run)
    assert first.inside.wait(5)
    measuring = Guest(run, alone=True)
    assert not measuring.inside.wait(0.3)
    late = Guest(run)
    assert not late.inside.wait(0.3)
    first.end()
    assert measuring.inside.wait(5)
    assert not late.inside.wait(0.3)
    measuring.end()
    assert late.inside.wait(5)
    late.end()
    quiet.clear(run)
    assert not list(Path(quiet.tempfile.gettempdir()).iterdir())


async def test_what_is_measured_once_too_long_is_measured_again_twice_at_most() -> None:
    for values, found, times in (
        ([0.5], 0.5, 1),
        ([3.0, 0.5], 0.5, 2),
        ([3.0, 2.0, 4.0, 0.1], 2.0, 3),
    ):
        left = iter(values)
        taken: list[float] = []

        async def measure(left: Iterator[float] = left, taken: list[float] = taken) -> float:
            taken.append(next(left))
            return taken[-1]

        assert await quiet.least(1.0, measure) == found
        assert len(taken) == times
