"""Room for tests that measure time: while one of them runs, the other workers wait between two of theirs.

What other tests do at the time would be measured with it: a broker that starts takes both cores for seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path


@contextmanager
def room(run: str, *, alone: bool) -> Iterator[None]:
    """A place in the test run `run`, which any number share, or which one has `alone`."""
    turn_file, room_file = _files(run)
    with turn_file.open("w") as turn, room_file.open("w") as room:
        flock(turn, LOCK_EX)  # Who waits to be alone is not overtaken by those who come after.
        flock(room, LOCK_EX if alone else LOCK_SH)
        flock(turn, LOCK_UN)
        yield


def clear(run: str) -> None:
    """For a worker that is done: the others need not know of it any more."""
    for file in _files(run):
        file.unlink(missing_ok=True)


def _files(run: str) -> tuple[Path, Path]:
    folder = Path(tempfile.gettempdir())
    return folder / f"billing-test-turn-{run}", folder / f"billing-test-room-{run}"
