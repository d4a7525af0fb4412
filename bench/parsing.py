"""P7: what the readers of feeds manage on one core, against their goals: the floor of these rows is the goal itself, so
a ratio of one or more means that it is met.

Rates are by the processor time of this process, since nothing here waits for anything: what else the machine does at
the same time does not count against a reader.

X12: bytes of an 835 that is read from a file with every balancing check, never held as a whole (goal 5 MB/s).
HL7: DFT messages from bytes to what they ask of the books (goal 20,000/s).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bench.remittance import spooled
from bench.rounds import Result, measure
from services.ledger.feeds.hl7.dft import understand
from services.ledger.feeds.hl7.reader import read
from services.ledger.feeds.spooled import Spooled
from services.ledger.feeds.x12 import remittance
from services.ledger.feeds.x12.model import Claim, Transaction

_X12_GOAL: Final = 5e6
_HL7_GOAL: Final = 20_000.0
_LINES: Final = 100_000
_MESSAGES: Final = 20_000


def parsing(_: str) -> list[Result]:
    """The ratios to the goals; no database is needed."""
    spool, size = spooled(_LINES, "PARSING")
    messages = [_message(n) for n in range(_MESSAGES)]

    def balanced() -> None:
        lines = 0
        for event in remittance.read(Spooled.of(spool)):
            if isinstance(event, Claim | Transaction):
                assert not event.problems, event.problems
                lines += len(event.lines) if isinstance(event, Claim) else 0
        assert lines == _LINES, lines

    def understood() -> None:
        for raw in messages:
            found = understand(read(raw))
            assert found.lines == 1, found.problems

    with spool:
        return [
            measure("x12_parse (bytes; floor: goal)", lambda: _X12_GOAL, _rate(size, balanced)),
            measure("hl7_parse (messages; floor: goal)", lambda: _HL7_GOAL, _rate(_MESSAGES, understood)),
        ]


def _rate(amount: int, work: Callable[[], None]) -> Callable[[], float]:
    def measured() -> float:
        started = time.process_time()
        work()
        return amount / (time.process_time() - started)

    return measured


def _message(n: int) -> bytes:
    return (
        f"MSH|^~\\&|EMR|CLINIC|LEDGER|BILLING|20260115103000||DFT^P03^DFT_P03|C{n}|P|2.5.1\r"
        "EVN|P03|20260115103000\r"
        f"PID|1||MRN{n}^^^CLINIC^MR||DOE^PAT||19700101|F||||||||||ACCT{n}\r"
        f"PV1|1|O|PT^ROOM1||||||||||||||||V{n}\r"
        f"FT1|1|TX{n}|B1|20260105|20260115|CG|97110|||2|120.00||||||||M54.50||||||GP\r"
    ).encode()
