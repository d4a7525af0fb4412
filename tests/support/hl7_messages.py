"""HL7 v2 messages made to measure, the copied samples by their numbers, and what an answer says."""

from __future__ import annotations

from tests.support.hl7_samples import COPIED


def sample(name: str) -> bytes:
    return next(COPIED.glob(f"{name}*")).read_bytes()


def message(
    *lines: str, control_id: str, time: str = "20260115103000", account: str = "ACCT5001", event: str = "P03"
) -> bytes:
    """A DFT with these FT1 segments."""
    return "\r".join(
        (
            f"MSH|^~\\&|EMR|CLINIC|LEDGER|BILLING|{time}||DFT^{event}^DFT_{event}|{control_id}|P|2.5.1",
            f"EVN|{event}|{time}",
            f"PID|1||MRN1^^^CLINIC^MR||DOE^PAT||19700101|F||||||||||{account}",
            "PV1|1|O|PT^ROOM1||||||||||||||||V7001",
            *lines,
            "",
        )
    ).encode()


def ft1(kind: str, name: str, amount: str, code: str = "97110", quantity: int | str = 1, **more: str) -> str:
    """An FT1 on 5 January; `more`: other fields by number (f31="TX1")."""
    fields = {1: "1", 2: name, 3: "B1", 4: "20260105", 5: "20260115", 6: kind, 7: code, 10: str(quantity), 11: amount}
    fields[19] = "M54.50"
    fields |= {int(field[1:]): value for field, value in more.items()}
    return "|".join(["FT1", *(fields.get(n, "") for n in range(1, 32))]).rstrip("|")


def codes(answer: bytes) -> list[str]:
    return [line.split("|")[1] for line in answer.decode().split("\r") if line.startswith("MSA")]
