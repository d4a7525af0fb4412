"""What an 835 (005010X221A1, and 004010X091A1 as far as it agrees) says, as plain data. Money is integer cents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from shared.records import record

Code = Literal[
    "envelope_mismatch",
    "transaction_unbalanced",
    "notification_with_money",
    "negative_payment",
    "claim_unbalanced",
    "line_unbalanced",
]
_WHOLE: tuple[Code, ...] = (
    "envelope_mismatch",
    "transaction_unbalanced",
    "notification_with_money",
    "negative_payment",
)
"""Those that keep a whole transaction from posting, the gravest first."""
Reference = tuple[str, str]
"""REF01 and REF02: what kind of number, and the number."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault, with the code of api.md, a sentence for a person, and for a balancing rule its numbers in cents."""

    code: Code
    detail: str
    numbers: tuple[tuple[str, int], ...] = ()
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """The control segments around a transaction: who sent it to whom, under which numbers."""

    sender: str = ""
    receiver: str = ""
    interchange_control: str = ""
    group_sender: str = ""
    group_receiver: str = ""
    group_control: str = ""
    version: str = ""
    transaction_control: str = ""


@dataclass(frozen=True, slots=True)
class Party:
    """N1 and the REF segments of its loop: payer (PR) or payee (PE)."""

    name: str = ""
    qualifier: str = ""
    identifier: str = ""
    references: tuple[Reference, ...] = ()

    def reference(self, qualifier: str) -> str:
        """REF02 of the first REF with this qualifier, or nothing."""
        return _first(self.references, qualifier)

    def references_of(self, qualifier: str) -> tuple[str, ...]:
        """REF02 of every REF with this qualifier."""
        return tuple(value for kind, value in self.references if kind == qualifier)


@dataclass(frozen=True, slots=True)
class Header:
    """Who pays whom how much by which payment: everything before the first claim."""

    ordinal: int
    envelope: Envelope
    handling: str = ""
    """BPR01: I information only, H notification, C payment with data, ..."""
    amount_cents: int = 0
    """BPR02, its sign turned when BPR03 says debit."""
    is_debit: bool = False
    """BPR03 D: the payer draws the money."""
    method_code: str = ""
    effective_date: date | None = None
    trace_number: str = ""
    """TRN02: the check or EFT number."""
    originator: str = ""
    """TRN03: "1" and the payer's EIN."""
    production_date: date | None = None
    payer: Party = Party()
    payee: Party = Party()

    @property
    def method(self) -> Literal["eft", "check", "other"]:
        """BPR04 in the ledger's words; NON, a zero pay, is other."""
        if self.method_code in ("ACH", "FWT", "BOP"):
            return "eft"
        return "check" if self.method_code == "CHK" else "other"

    @property
    def deposit_date(self) -> date | None:
        """BPR16, or DTM*405 where a payer leaves it out or writes what is no date."""
        return self.effective_date or self.production_date

    @property
    def payer_ids(self) -> tuple[str, ...]:
        """Everything the payer is known by, best first: N104, REF*2U, the EIN of TRN03."""
        known = (self.payer.identifier, *(v for q, v in self.payer.references if q == "2U"), self.originator)
        return tuple(dict.fromkeys(value for value in known if value))

    @property
    def payee_npis(self) -> tuple[str, ...]:
        """N104 where N103 says XX, REF*HPI; empty when the payee is named by tax id."""
        named = (self.payee.identifier,) if self.payee.qualifier == "XX" and self.payee.identifier else ()
        return named + self.payee.references_of("HPI")

    @property
    def payee_names(self) -> tuple[str, ...]:
        """What the payee goes by, best first: N104, REF*TJ, N102."""
        known = (self.payee.identifier, self.payee_tax_id, self.payee.name)
        return tuple(dict.fromkeys(value for value in known if value))

    @property
    def payee_tax_id(self) -> str:
        """REF*TJ, or N104 where N103 says FI."""
        return self.payee.reference("TJ") or (self.payee.identifier if self.payee.qualifier == "FI" else "")


@record
class Adjustment:
    """One triplet of a CAS: CARC, amount, quantity under a group code. Positive reduces the payment."""

    group: str
    reason: str
    cents: int
    quantity: str = ""


@record
class Procedure:
    """SVC01: qualifier (HC, NU, N4, AD, ...), code and modifiers."""

    qualifier: str
    code: str
    modifiers: tuple[str, ...] = ()


@record
class Line:
    """A service line (SVC). Its dates are the claim's where it has none of its own."""

    ordinal: int
    procedure: Procedure | None
    submitted: Procedure | None
    """SVC06: the code we sent, where the payer adjudicated another."""
    charge_cents: int
    paid_cents: int
    revenue_code: str
    units: str
    """SVC05; one when absent."""
    submitted_units: str
    """SVC07; the paid units when absent."""
    service_from: date | None
    service_to: date | None
    adjustments: tuple[Adjustment, ...]
    remarks: tuple[str, ...]
    references: tuple[Reference, ...]
    amounts: tuple[tuple[str, int], ...]
    """AMT: information only, never balances (RFI 1324, 2601)."""

    @property
    def control_number(self) -> str:
        """REF*6R: our own line number, the best match there is."""
        return _first(self.references, "6R")


@record
class Person:
    """NM1: a name, and the number by which the payer knows it."""

    last: str = ""
    first: str = ""
    middle: str = ""
    qualifier: str = ""
    identifier: str = ""


@record
class Claim:
    """A CLP loop, complete."""

    ordinal: int
    """Its place in the transaction: payers repeat CLP01 and CLP07 for different claims of one payment."""
    account: str
    """CLP01: our claim id (CLM01)."""
    status: str
    charge_cents: int
    paid_cents: int
    patient_cents: int
    """CLP05, informational: the sum of all PR adjustments except on reversals (RFI 2548)."""
    filing: str
    icn: str
    """CLP07: the payer's control number."""
    facility: str
    frequency: str
    patient: Person
    subscriber: Person | None
    corrected: Person | None
    rendering: Person | None
    service_from: date | None
    service_to: date | None
    received: date | None
    adjustments: tuple[Adjustment, ...]
    lines: tuple[Line, ...]
    remarks: tuple[str, ...]
    references: tuple[Reference, ...]
    amounts: tuple[tuple[str, int], ...]
    problems: tuple[Finding, ...] = ()

    @property
    def is_denied(self) -> bool:
        """CLP02 = 4: work for a person, not a write-off (openemr 7186)."""
        return self.status == "4"

    @property
    def is_reversal(self) -> bool:
        """CLP02 = 22: every amount is negated, same group codes as the original (RFI 1147, 1429)."""
        return self.status == "22"

    @property
    def is_predetermination(self) -> bool:
        """CLP02 = 25: an estimate. It must not post."""
        return self.status == "25"

    @property
    def is_forwarded(self) -> bool:
        """CLP02 = 19, 20, 21: processed, and sent on to the next payer (RFI 2025)."""
        return self.status in ("19", "20", "21")

    def line_key(self, line: Line | None = None) -> tuple[str, str, str, int]:
        """Names one line of one adjudication across deliveries; ordinal 0 is the claim itself."""
        return (self.account, self.icn, self.status, line.ordinal if line else 0)


@dataclass(frozen=True, slots=True)
class ProviderAdjustment:
    """One pair of a PLB: money between payer and provider that belongs to no claim."""

    provider: str
    fiscal_date: date | None
    reason: str
    reference: str
    cents: int
    """As sent: positive reduces the payment, negative increases it (RFI 2184)."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a whole transaction came to, known at its SE. Other sets than 835 carry their set id and nothing else."""

    ordinal: int
    set_id: str
    header: Header | None = None
    claims: int = 0
    lines: int = 0
    paid_cents: int = 0
    """Sum of CLP04."""
    provider_cents: int = 0
    """Sum of PLB, as sent."""
    provider: tuple[ProviderAdjustment, ...] = ()
    providers: tuple[str, ...] = ()
    """TS301 and PLB01: of whom the claims and the adjustments are."""
    rendering: tuple[str, ...] = ()
    """The NPIs of NM1*82, where every claim has one; told only by the survey, and only where N1*PE names no NPI."""
    content_hash: str = ""
    """Same for the same payment in another envelope, other separators, other line breaks. Only the survey tells it."""
    problems: tuple[Finding, ...] = ()
    faults: int = 0
    """How many of them are in its own segments: what a 999 rejects. Counts and control numbers it names itself."""
    late_reversals: bool = False
    """Some reversal comes after another claim: perhaps after its own correction (RFI 791: the order is free)."""

    @property
    def reason(self) -> Code | None:
        """Why it must be quarantined, the gravest first: what is damaged cannot be said to be unbalanced."""
        codes = {problem.code for problem in self.problems}
        return next((code for code in _WHOLE if code in codes), None)

    def blamed(self, problems: Sequence[Finding]) -> Transaction:
        """The same with faults of its envelope, which are found only at GE and IEA."""
        return replace(self, problems=(*self.problems, *problems))


@dataclass(frozen=True, slots=True)
class EnvelopeFault:
    """A fault of a group or interchange: it concerns the transactions `first` to `last`."""

    first: int
    last: int
    problems: tuple[Finding, ...]


Event = Header | Claim | ProviderAdjustment | Transaction | EnvelopeFault


def _first(references: Sequence[Reference], qualifier: str) -> str:
    return next((value for kind, value in references if kind == qualifier), "")
