"""DFT messages made segment by segment, and what is understood of them."""

from __future__ import annotations

from services.ledger.feeds.hl7.dft import understand
from services.ledger.feeds.hl7.model import Financial, Profile, Transaction
from services.ledger.feeds.hl7.reader import read

MSH = r"MSH|^~\&|EMR|CLINIC|LEDGER|BILLING|20260115103000||DFT^P03^DFT_P03|EMR1|P|2.5.1|||NE|AL"
PID = "PID|1||SSN9^^^USA^SS~MRN1^^^CLINIC^MR||DOE&VAN^PAT^A||19700101|F||||||||||ACCT1"
PV1 = "PV1|1|O|PT^ROOM1^^EAST||||||||||||||||V7001"


def ft1(kind: str = "CG", **fields: str) -> str:
    """An FT1 with everything a charge needs; `f2="TX9"` sets FT1-2."""
    values = {1: "1", 2: "TX1", 4: "20260105", 6: kind, 7: "97110^EXERCISE^C4", 10: "1", 11: "60.00&USD", 26: "GP"}
    values |= {int(name[1:]): value for name, value in fields.items()}
    return "|".join(["FT1", *(values.get(position, "") for position in range(1, 32))])


def message(*lines: str, msh: str = MSH, pid: str = PID, pv1: str = PV1) -> bytes:
    return "\r".join(line for line in (msh, "EVN|P03", pid, pv1, *lines) if line).encode()


def understood(*lines: str, profile: Profile | None = None, **parts: str) -> Financial:
    return understand(read(message(*lines, **parts)), profile or Profile())


def only(*lines: str, profile: Profile | None = None, **parts: str) -> Transaction:
    financial = understood(*lines, profile=profile, **parts)
    assert financial.problems == ()
    (transaction,) = financial.transactions
    return transaction


def problems(*lines: str, profile: Profile | None = None, **parts: str) -> list[tuple[str, str, int, int | None]]:
    financial = understood(*lines, profile=profile, **parts)
    assert financial.transactions == ()
    return [(p.code, p.segment, p.sequence, p.field) for p in financial.problems]
