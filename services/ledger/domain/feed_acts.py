"""What feeds may ask of the books: the states of documents in an EMR, and the remittances of payers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from uuid import UUID

from services.ledger.domain.wants import Wants
from shared.records import record

CORRECTION: Final = "CR"
"""The group code of corrections and reversals in 4010, which does not say what is corrected."""
REVERSAL: Final = "22"
_ADJUDICATED: Final = ("1", "2", "3", "4", "19", "20", "21")
"""CLP02 of what a reversal takes back."""
WHOLE: Final = 0
"""The line that a claim without lines is."""
PRIOR_PAYER: Final = "23"
"""The reason (CARC, with group OA) for what earlier payers paid and wrote off: posted when their own remittance came,
so it is neither posted nor taken back."""


@dataclass(frozen=True, slots=True)
class EmrPerson:
    """A patient as the EMR knows him. A name or day of birth that it leaves out must be known here already."""

    account_number: str
    first_name: str
    last_name: str
    date_of_birth: date | None


@dataclass(frozen=True, slots=True)
class EmrDocument:
    """One state of a payment or charge in the EMR: posted, changed or deleted. `words` is None where the state brings
    nothing into the books: deleted, or `withheld` for the reason given."""

    source: str
    kind: str
    external_id: str
    external_version: int
    clinic: str
    content_hash: bytes
    """Of the document's data: the same version with another hash is a conflict."""
    deleted: bool = False
    withheld: str | None = None
    person: EmrPerson | None = None
    words: dict[str, Any] | None = None
    location_id: UUID | None = None
    """The clinic's location, where the sender's words for it were looked up before."""
    replaces: bool = True
    """A later state may change what an earlier one said. Else it repeats it, or is a conflict."""
    taken_back_cents: int | None = None
    """Of a deletion, the amount that is taken back, where the sender states it: all of it, or it is no deletion."""
    known_as: str | None = None
    """What payers call a charge, where that is not the sender's own name for it."""

    @property
    def name(self) -> tuple[str, str, str]:
        """What the books know the document by."""
        return self.source, self.kind, self.external_id

    def wants(self, wants: Wants) -> None:
        wants.add("clinic", None if self.location_id else self.clinic)
        wants.add("location", self.location_id)
        wants.add("document", self.name)
        if self.person:
            wants.add("account", self.person.account_number)
        if self.kind == "charge":
            wants.add("waiting", (self.source, self.external_id))
            wants.add("waiting", ("", self.person.account_number) if self.person else None)


@dataclass(frozen=True, slots=True)
class EmrAdjustment:
    """A write-off that the EMR made on a charge, which it names by its own id, or by patient, day and code."""

    source: str
    charge_ref: str | None
    account_number: str
    date_of_service: date
    procedure_code: str
    group_code: str
    reason_code: str
    amount_cents: int

    @property
    def waits_for(self) -> tuple[str, str]:
        """What its charge goes by: source and name, or nothing and the patient's account number."""
        return (self.source, self.charge_ref) if self.charge_ref else ("", self.account_number)

    def wants(self, wants: Wants) -> None:
        if self.charge_ref:
            wants.add("document", (self.source, "charge", self.charge_ref))
        else:
            wants.add("account_charges", self.account_number)
            wants.add("account", self.account_number)


@dataclass(frozen=True, slots=True)
class ProviderLevel:
    """One PLB amount: positive reduces the payment (RFI 2184)."""

    reason_code: str
    amount_cents: int


@record
class RemittanceLine:
    """One service line of a claim: what was paid and adjusted, and how to find its charge."""

    ordinal: int
    procedure_code: str
    submitted_code: str | None
    modifiers: tuple[str, ...]
    date_of_service: date | None
    charge_cents: int
    paid_cents: int
    control_number: str | None
    adjustments: tuple[tuple[str, str, int], ...] = ()


@record
class RemittanceClaim:
    """One claim of a remittance. `problem` is what its own arithmetic broke, with the numbers."""

    claim_id: str
    payer_control_number: str
    status: str
    charge_cents: int
    paid_cents: int
    date_of_service: date | None
    lines: tuple[RemittanceLine, ...] = ()
    adjustments: tuple[tuple[str, str, int], ...] = ()
    problem: str | None = None
    problem_detail: dict[str, Any] = field(default_factory=dict)
    ordinal: int = 0
    """Its place in the remittance: payers repeat claim ids and control numbers."""
    other_ids: tuple[str, ...] = ()
    """Further names of the same claim."""
    by_name: bool = False
    """What was charged is not stated: only its names tell which charge is meant."""


@dataclass(frozen=True, slots=True)
class PostRemittance:
    """The receipt of one 835 transaction, all unapplied, with its provider-level amounts (D13, D16)."""

    payment_key: str
    content_hash: bytes
    method: str
    amount_cents: int
    deposit_date: date
    check_number: str
    payer_name: str
    payer_ids: tuple[str, ...]
    feed_id: UUID
    item_key: str
    provider_level: tuple[ProviderLevel, ...] = ()
    claims: tuple[RemittanceClaim, ...] = ()
    more_claims: bool = False
    """More chunks follow, so that not all matches are known: the location is the one that is told."""
    location_id: UUID | None = None
    payer_id: UUID | None = None
    """The payer that the company has mapped these names to."""
    twins: frozenset[str] = frozenset()
    """Its payment key under the other names of its payee."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What a person needs to see when it is a twin of what was posted."""

    def wants(self, wants: Wants) -> None:
        wants.add("payer", self.payer_id)
        wants.add("era_payer", *self.payer_ids)
        wants.add("payer_name", self.payer_name)
        wants.add("payer_code", *self.payer_ids, self.payer_name)
        wants.add("trace", self.check_number)
        wants_claims(wants, self.claims)


@dataclass(frozen=True, slots=True)
class ApplyRemittance:
    """A chunk of a remittance's claims, applied to its receipt."""

    payment_key: str
    feed_id: UUID
    item_key: str
    claims: tuple[RemittanceClaim, ...]

    def wants(self, wants: Wants) -> None:
        wants.add("receipt", self.payment_key)
        wants_claims(wants, self.claims)


@dataclass(frozen=True, slots=True)
class LocateRemittance:
    """Another location for a receipt than was told with it: the one that its matched charges share, or none."""

    payment_key: str
    location_id: UUID | None

    def wants(self, wants: Wants) -> None:
        wants.add("remittance", self.payment_key)


def wants_claims(wants: Wants, claims: Iterable[RemittanceClaim]) -> None:
    """Every charge that a claim could mean, and the lines that were applied before."""
    accounts: list[str] = []
    names: list[str] = []
    lines: list[str] = []
    for claim in claims:
        accounts.append(claim.claim_id)
        names += external_ids(claim)
        for ordinal in [line.ordinal for line in claim.lines] or [WHOLE]:
            lines.append(line_key(claim, ordinal))
            lines += counterparts(claim, ordinal)
        rows = (*claim.adjustments, *(row for line in claim.lines for row in line.adjustments))
        if any(row[0] == CORRECTION for row in rows):
            wants.add("settled", claim.claim_id, *external_ids(claim))
    wants.add("account_charges", *accounts)
    wants.add("external_charges", *names)
    wants.add("line", *lines)


def external_ids(claim: RemittanceClaim) -> Iterable[str]:
    """The names under which a claim's charges may be known anywhere in the company: our claim id, and its lines'
    names, where they do more than count the lines (1, 2, 3)."""
    yield from (claim.claim_id, *claim.other_ids)
    for line in claim.lines:
        yield from (name for name in line_names(claim, line) if len(name) > 3)


def line_names(claim: RemittanceClaim, line: RemittanceLine) -> set[str]:
    """A line's control number (REF*6R), alone and after the claim id."""
    return {line.control_number, f"{claim.claim_id}-{line.control_number}"} if line.control_number else set()


def line_key(claim: RemittanceClaim, ordinal: int, status: str | None = None) -> str:
    """Line-level dedupe (feeds.md 0.6); lines of a claim without the payer's control number are not compared."""
    return f"{claim.claim_id}|{claim.payer_control_number}|{claim.status if status is None else status}|{ordinal}"


def counterparts(claim: RemittanceClaim, ordinal: int) -> list[str]:
    """Keys of what takes the line back; of a reversal, keys of what it may take back."""
    statuses = _ADJUDICATED if claim.status == REVERSAL else (REVERSAL,)
    return [line_key(claim, ordinal, status) for status in statuses]
