"""Named points at which a test can kill the process, so that "any process at any moment" can be counted out.

`CRASH_AT=relay.after_read#3` sends SIGKILL to this process at its third pass through that point; without the variable
`point()` does nothing. The names are a type: a misspelt one does not pass mypy, and a test walks the list.
"""

import os
import signal
from itertools import count
from typing import Final, Literal, get_args

CrashPoint = Literal[
    "ledger.before_append",
    "ledger.after_commit",
    "relay.after_read",
    "relay.after_publish_before_mark",
    "relay.after_mark",
    "publisher.after_confirm",
    "consumer.after_receive",
    "consumer.after_handle_before_ack",
    "consumer.after_ack",
    "csv.after_chunk",
    "fhir.after_chunk",
    "watched.after_claim",
    "watched.after_commit",
    "watched.after_move",
    "seal.before_commit",
    "seal.after_commit",
    "seal.mid_heads",
]
POINTS: Final[tuple[str, ...]] = get_args(CrashPoint)


def _aim(text: str) -> tuple[str, int]:
    """`name#k`, where k is 1 when left out. A name that does not exist would make the test prove nothing: refuse it."""
    name, _, hit = text.partition("#")
    if text and name not in POINTS:
        raise ValueError(f"CRASH_AT names no crash point: {name}")
    return name, int(hit or 1)


_name, _hit = _aim(os.environ.get("CRASH_AT", ""))
_passes = count(1)


def point(name: CrashPoint) -> None:
    """Die here, if this is the pass that the test asked for."""
    if name == _name and next(_passes) == _hit:
        os.kill(os.getpid(), signal.SIGKILL)
