"""Writes balanced 835 files. A line is given its charge and adjustments; every total above it is added up from there.

For tests and for demo data: nothing here is random, and nothing is read from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby

Cas = tuple[str, str, int]
"""Group code, reason code, cents."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """The separators of one interchange, and what is written after each terminator."""

    element: str = "*"
    component: str = ":"
    terminator: str = "~"
    newline: str = "\n"
    repetition: str = "^"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service line."""

    charge_cents: int
    adjustments: Sequence[Cas] = ()
    code: str = "97110"
    modifiers: Sequence[str] = ("GP",)
    units: int = 1
    on: date | None = date(2026, 1, 5)
    control_number: str = ""
    remarks: Sequence[str] = ()

    @property
    def paid_cents(self) -> int:
        """SVC03 by rule L."""
        return self.charge_cents - sum(cents for _, _, cents in self.adjustments)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPayment:
    """One CLP loop. With services its charge is their sum; without, it is given."""

    account: str
    services: Sequence[Service] = ()
    charge_only_cents: int = 0
    adjustments: Sequence[Cas] = ()
    status: str = "1"
    icn: str = ""
    last_name: str = "DOE"
    first_name: str = "PAT"
    member_id: str = "MBR000123"
    on: date | None = date(2026, 1, 5)

    @property
    def charge_cents(self) -> int:
        """CLP03."""
        return sum(s.charge_cents for s in self.services) if self.services else self.charge_only_cents

    @property
    def paid_cents(self) -> int:
        """CLP04 by rule C."""
        own = sum(cents for _, _, cents in self.adjustments)
        return (sum(s.paid_cents for s in self.services) if self.services else self.charge_cents) - own

    @property
    def patient_cents(self) -> int:
        """CLP05: all PR adjustments."""
        every = (*self.adjustments, *(cas for service in self.services for cas in service.adjustments))
        return sum(cents for group, _, cents in every if group == "PR")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLevel:
    """One PLB pair. Positive reduces the payment."""

    reason: str
    cents: int
    reference: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One ST: a check or an EFT. `amount_cents` only where it is meant not to balance."""

    trace: str
    claims: Sequence[ClaimPayment] = ()
    provider_level: Sequence[ProviderLevel] = ()
    amount_cents: int | None = None
    handling: str = "I"
    method: str = "ACH"
    on: date = date(2026, 1, 15)
    payer: str = "EXAMPLE HEALTH PLAN"
    payer_id: str = "12345"
    payer_ein: str = "512345678"
    payee: str = "EXAMPLE PHYSICAL THERAPY LLC"
    payee_npi: str = "1234567893"
    payee_tax_id: str = "987654321"

    @property
    def net_cents(self) -> int:
        """BPR02 by rule T."""
        return sum(c.paid_cents for c in self.claims) - sum(p.cents for p in self.provider_level)


@dataclass(frozen=True, slots=True)
class _Writer:
    syntax: Syntax
    segments: list[str] = field(default_factory=list)

    def add(self, *elements: str) -> None:
        """One segment; empty elements at its end are left out, as X12 wants."""
        text = self.syntax.element.join(elements)
        self.segments.append(text.rstrip(self.syntax.element))

    def cas(self, adjustments: Sequence[Cas]) -> None:
        """One CAS per group code and six adjustments."""
        for group, members in groupby(adjustments, key=lambda cas: cas[0]):
            triplets = [(reason, amount(cents), "") for _, reason, cents in members]
            for start in range(0, len(triplets), 6):
                self.add("CAS", group, *(part for triplet in triplets[start : start + 6] for part in triplet))


def amount(cents: int) -> str:
    """Type R, as terse as the standard has it: 98.36, 180, 63.7, .34, -.5."""
    whole, part = divmod(abs(cents), 100)
    fraction = f".{part:02}".rstrip("0") if part else ""
    return ("-" if cents < 0 else "") + (str(whole) if whole or not fraction else "") + fraction


def x12_file(payments: Iterable[Payment], *, control: str = "000000101", syntax: Syntax | None = None) -> bytes:
    """One interchange with one group, a transaction per payment. Concatenate for several interchanges."""
    syntax = syntax or Syntax()
    out = _Writer(syntax)
    sent, received = "PAYERID", "PTCLINIC"
    transactions = 0
    group = (sent, received, "20260115", "0830", "1", "X", "005010X221A1")
    out.add("GS", "HP", *group)
    for transactions, payment in enumerate(payments, 1):
        _payment(out, payment, f"{transactions:04}")
    out.add("GE", str(transactions), "1")
    out.add("IEA", "1", control)
    blank, parties = " " * 10, (f"{sent:15}", "ZZ", f"{received:15}")
    when = ("260115", "0830", syntax.repetition, "00501", control, "0", "T", syntax.component)
    isa = syntax.element.join(("ISA", "00", blank, "00", blank, "ZZ", *parties, *when))
    end = syntax.terminator + syntax.newline
    return (end.join((isa, *out.segments)) + end).encode()


def _payment(out: _Writer, payment: Payment, control: str) -> None:
    start = len(out.segments)
    day = f"{payment.on:%Y%m%d}"
    net = payment.net_cents if payment.amount_cents is None else payment.amount_cents
    out.add("ST", "835", control)
    # Below zero the payer draws it from the account, unless nothing is moved at all.
    debit = net < 0 and payment.method == "ACH"
    out.add("BPR", payment.handling, amount(-net if debit else net), "CD"[debit], payment.method, *[""] * 11, day)
    out.add("TRN", "1", payment.trace, f"1{payment.payer_ein}")
    out.add("DTM", "405", day)
    out.add("N1", "PR", payment.payer, *(("XV", payment.payer_id) if payment.payer_id else ()))
    out.add("N1", "PE", payment.payee, *(("XX", payment.payee_npi) if payment.payee_npi else ()))
    out.add("REF", "TJ", payment.payee_tax_id)
    for number, claim in enumerate(payment.claims):
        if not number:
            out.add("LX", "1")
        _claim(out, claim)
    for pair in payment.provider_level:
        what = out.syntax.component.join(filter(None, (pair.reason, pair.reference)))
        out.add("PLB", payment.payee_npi, f"{payment.on.year}1231", what, amount(pair.cents))
    out.add("SE", str(len(out.segments) - start + 1), control)


def _claim(out: _Writer, claim: ClaimPayment) -> None:
    totals = (amount(claim.charge_cents), amount(claim.paid_cents), amount(claim.patient_cents))
    icn = claim.icn or f"ICN-{claim.account}"
    out.add("CLP", claim.account, claim.status, *totals, "12", icn, "11", "1")
    out.cas(claim.adjustments)
    out.add("NM1", "QC", "1", claim.last_name, claim.first_name, "", "", "", "MI", claim.member_id)
    if claim.on:
        out.add("DTM", "232", f"{claim.on:%Y%m%d}")
    for service in claim.services:
        code = out.syntax.component.join(("HC", service.code, *service.modifiers))
        out.add("SVC", code, amount(service.charge_cents), amount(service.paid_cents), "", str(service.units))
        if service.on:
            out.add("DTM", "472", f"{service.on:%Y%m%d}")
        out.cas(service.adjustments)
        if service.control_number:
            out.add("REF", "6R", service.control_number)
        for remark in service.remarks:
            out.add("LQ", "HE", remark)
