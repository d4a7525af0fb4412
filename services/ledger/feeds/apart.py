"""What takes long to read is read in a process of its own. A thread would share the interpreter with the event loop,
which then waits some milliseconds for each step of each request: for minutes, where a file has a gigabyte.

The process is given the open file and what is to be done with it, and sends what it finds through a pipe, so that it is
never far ahead of who takes it. It ends with the file, or when nobody takes from it any more: killed or not.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import IO, Any, Final, TypeVar, TypeVarTuple, cast

import structlog

from services.ledger.feeds.spooled import Chunks, Spooled
from shared.errors import Unavailable

LONG: Final = 1 << 19
"""Bytes from which on a reading takes as long as the start of a process, some 60 ms."""
_MOST: Final = 4
"""Processes at a time. Whoever finds none free reads in a thread."""
_OTHER_END: Final = "services.ledger.feeds.reading_process"

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_More = TypeVarTuple("_More")
_free = threading.BoundedSemaphore(_MOST)
log = structlog.get_logger("feeds")


async def apart(function: Callable[[Chunks, *_More], _Result], chunks: Chunks, *more: *_More) -> _Result:
    """`function(chunks, ...)`, which raises here what it raises there. It is a function of a module, and what it takes
    and gives can be pickled."""

    def first() -> _Result:
        with closing(items_apart(_once, chunks, function, *more)) as found:
            return next(found)

    return await asyncio.to_thread(first)


def _once(chunks: Chunks, function: Callable[[Chunks, *_More], _Result], *more: *_More) -> Iterator[_Result]:
    yield function(chunks, *more)


def items_apart(
    reading: Callable[[Chunks, *_More], Iterator[_Item]], chunks: Chunks, *more: *_More
) -> Generator[_Item, None, None]:
    """The same of a generator, item by item; to be read on in a thread. Whoever stops early closes it."""
    if not isinstance(chunks, Spooled) or chunks.size < LONG or not _free.acquire(blocking=False):
        yield from reading(chunks, *more)
        return
    try:
        yield from _read_apart(chunks, (reading, more))
    finally:
        _free.release()


def _read_apart(chunks: Spooled, wanted: tuple[Any, ...]) -> Iterator[Any]:
    with _started(chunks) as process:
        given, taken = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        try:
            given.write(pickle.dumps(wanted))
            given.flush()  # And left open: the other end goes when it is closed, by us or by the end of us.
            while (found := pickle.load(taken)) is not None:  # noqa: S301 - from our own process
                if isinstance(found, Exception):
                    raise found
                yield found[0]
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            process.kill()
            log.error("reading_process_died", code=process.wait())
            raise Unavailable("The reading of the file was interrupted; send it again") from None


def _started(chunks: Spooled) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            # Without what is run at the start of an interpreter: all that is needed is in its path.
            [sys.executable, "-S", "-P", "-m", _OTHER_END, str(chunks.descriptor)],
            env={"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},  # and none of our secrets
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[chunks.descriptor],
        )
    except OSError as error:  # No memory, or no process is left.
        log.error("reading_process_not_started", error=type(error).__name__)
        raise Unavailable("The file cannot be read now; send it again") from None
