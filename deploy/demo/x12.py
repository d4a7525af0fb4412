"""Writes 835 remittance files that balance: each total is added up from the lines below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from deploy.demo.practice import NPI

Adjustment = tuple[str, str, int]
"""Group code, reason code, cents."""


@dataclass(frozen=True, slots=True)
class Line:
    """One service: what is not adjusted is paid."""

    code: str
    charge_cents: int
    adjustments: Sequence[Adjustment]

    @property
    def paid_cents(self) -> int:
        return self.charge_cents - sum(cents for _, _, cents in self.adjustments)


@dataclass(frozen=True, slots=True)
class Claim:
    """`status`: 1 processed as primary, 4 denied."""

    account: str
    day: date
    lines: Sequence[Line]
    status: str = "1"

    @property
    def paid_cents(self) -> int:
        return sum(line.paid_cents for line in self.lines)


@dataclass(frozen=True, slots=True)
class Remittance:
    """One payment. `withheld` are provider-level amounts, which reduce it."""

    trace: str
    payer_id: str
    payer: str
    day: date
    claims: Sequence[Claim]
    withheld: Sequence[tuple[str, int]] = ()

    @property
    def amount_cents(self) -> int:
        return sum(claim.paid_cents for claim in self.claims) - sum(cents for _, cents in self.withheld)


def file_of(control: int, remittances: Sequence[Remittance]) -> bytes:
    """One interchange with one group, a transaction for each remittance."""
    day = remittances[0].day
    inner = [segment for n, one in enumerate(remittances, 1) for segment in _transaction(f"{n:04}", one)]
    isa = ("ISA", "00", " " * 10, "00", " " * 10, "ZZ", f"{'CLEARING':15}", "ZZ", f"{'RIVERSIDE':15}")
    segments = (
        "*".join((*isa, f"{day:%y%m%d}", "0800", "^", "00501", f"{control:09}", "0", "P", ":")),
        f"GS*HP*CLEARING*RIVERSIDE*{day:%Y%m%d}*0800*{control}*X*005010X221A1",
        *inner,
        f"GE*{len(remittances)}*{control}",
        f"IEA*1*{control:09}",
    )
    return "".join(f"{segment}~\n" for segment in segments).encode()


def _transaction(control: str, one: Remittance) -> list[str]:
    day = f"{one.day:%Y%m%d}"
    method = "ACH" if one.amount_cents else "NON"
    segments = [
        f"ST*835*{control}",
        f"BPR*I*{_dollars(one.amount_cents)}*C*{method}{'*' * 12}{day}",
        f"TRN*1*{one.trace}*1512345678",
        f"DTM*405*{day}",
        f"N1*PR*{one.payer.upper()}*XV*{one.payer_id}",
        f"N1*PE*RIVERSIDE PHYSICAL THERAPY*XX*{NPI}",
        "LX*1",
        *(segment for claim in one.claims for segment in _claim(claim)),
        *(f"PLB*{NPI}*{one.day.year}1231*{reason}*{_dollars(cents)}" for reason, cents in one.withheld),
    ]
    return [*segments, f"SE*{len(segments) + 1}*{control}"]


def _claim(claim: Claim) -> list[str]:
    charged = sum(line.charge_cents for line in claim.lines)
    patients = sum(cents for line in claim.lines for group, _, cents in line.adjustments if group == "PR")
    totals = "*".join(map(_dollars, (charged, claim.paid_cents, patients)))
    segments = [f"CLP*{claim.account}*{claim.status}*{totals}*12*ICN{claim.account}{claim.day:%m%d}*11*1"]
    for line in claim.lines:
        segments.append(f"SVC*HC:{line.code}:GP*{_dollars(line.charge_cents)}*{_dollars(line.paid_cents)}**1")
        segments.append(f"DTM*472*{claim.day:%Y%m%d}")
        segments += (f"CAS*{group}*{reason}*{_dollars(cents)}" for group, reason, cents in line.adjustments)
    return segments


def _dollars(cents: int) -> str:
    whole, part = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}{whole}.{part:02}"
