"""Writes what receivers and payers answer to claims that were sent: TA1, 999, 277CA, in an interchange of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ISA = "ISA*00*          *00*          *ZZ*{sender:15}*ZZ*PTCLINIC       *{day}*1200*^*00501*{control:09}*{asks}*T*:~\n"


def interchange(
    *sets: str, control: int = 42, day: str = "260105", asks: int = 0, sender: str = "CLEARING", ta1: Sequence[str] = ()
) -> bytes:
    """One interchange: TA1 segments, then one group of these sets (from ST to SE, without their envelope)."""
    text = _ISA.format(sender=sender, day=day, control=control, asks=asks)
    text += "".join(f"{one}~\n" for one in ta1)
    if sets:
        group = "FA" if sets[0].startswith("ST*99") else "HN"
        text += f"GS*{group}*{sender}*PTCLINIC*20{day}*1200*{control}*X*005010X231A1~\n"
        text += "".join(sets) + f"GE*{len(sets)}*{control}~\n"
    return (text + f"IEA*{1 if sets else 0}*{control:09}~\n").encode()


def closed(set_id: str, control: str, *body: str) -> str:
    """A transaction set: its segments between ST and SE."""
    return "".join(f"{segment}~\n" for segment in (f"ST*{set_id}*{control}", *body, f"SE*{len(body) + 2}*{control}"))


def ack_999(*verdicts: tuple[str, str], control: str = "0001", group: str = "7") -> str:
    """A 999 on 837s: the control number (ST02) of each, and A or R."""
    sets = [segment for number, code in verdicts for segment in (f"AK2*837*{number}", f"IK5*{code}")]
    taken = sum(code == "A" for _, code in verdicts)
    status = "A" if taken == len(verdicts) else "P" if taken else "R"
    count = len(verdicts)
    return closed("999", control, f"AK1*HC*{group}", *sets, f"AK9*{status}*{count}*{count}*{taken}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a 277CA says about one claim."""

    claim: str
    status: str = "A2:20"
    action: str = "WQ"
    on: str = "20260105"
    cents: int = 18_000
    payer_number: str = ""
    clearing_number: str = ""


def status_277(*told: Told, control: str = "0001", batch: str = "", payer: str = "EXAMPLE HEALTH PLAN") -> str:
    """A 277CA; `batch` is BHT03 of the 837 that is answered."""
    body = ["BHT*0085*08*1*20260105*1200*TH", "HL*1**20*1", f"NM1*PR*2*{payer}", "TRN*1*SOURCE"]
    body += ["HL*2*1*21*1", "NM1*41*2*CLINIC", *([f"TRN*2*{batch}", "STC*A1:19*20260105*WQ*180"] if batch else [])]
    body += ["HL*3*2*19*1", "NM1*85*2*PRACTICE*****XX*1234567893"]
    for place, one in enumerate(told, 4):
        body += [f"HL*{place}*3*PT", "NM1*QC*1*DOE*PAT****MI*MBR1", f"TRN*2*{one.claim}"]
        body.append(f"STC*{one.status}*{one.on}*{one.action}*{one.cents / 100:.2f}")
        body += [f"REF*1K*{one.payer_number}"] if one.payer_number else []
        body += [f"REF*D9*{one.clearing_number}"] if one.clearing_number else []
    return closed("277", control, *body)
