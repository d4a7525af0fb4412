"""`python -m services.ledger.feeds.reading_process DESCRIPTOR`: the process in which a long file is read (`apart.py`).

Little is imported here: it is started for each reading. What it is to do comes through its standard input, pickled;
what it finds goes to its standard output, each item in a tuple, and at the end None or what went wrong.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import threading
from contextlib import suppress

from services.ledger.feeds.spooled import Spooled


def _serve(descriptor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started it.
    reading, more = pickle.load(sys.stdin.buffer)  # noqa: S301 - from who started it
    threading.Thread(target=_end_with_the_other, daemon=True).start()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    end: Exception | None = None
    try:
        for item in reading(Spooled(descriptor), *more):
            _send((item,))
    except Exception as error:
        end = error
    _send(end)


def _send(what: object) -> None:
    sys.stdout.buffer.write(pickle.dumps(what))
    sys.stdout.buffer.flush()


def _end_with_the_other() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # Nobody takes from it any more.
        _serve(int(sys.argv[1]))
