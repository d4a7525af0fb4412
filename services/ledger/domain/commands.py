"""What callers may ask of the books: plain immutable data, parsed and typed at the edge.

Each act says which parts of the books it must see (`wants`), so that one query can load them for a whole batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import UUID


class Wants:
    """What to load for one company, by kind: locations, payers, patients, accounts, charges, ..."""

    def __init__(self) -> None:
        self.by_kind: dict[str, set[Any]] = defaultdict(set)

    def add(self, kind: str, *values: Any) -> None:
        self.by_kind[kind].update(value for value in values if value is not None)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. Rows of a feed are the integration's, whoever sends it (D8)."""

    user_id: UUID
    affiliation: str
    source: str = "manual"


@dataclass(frozen=True, slots=True)
class FeedItem:
    """The thing in a feed that a command came from: its outcome is written with the posting."""

    feed_id: UUID
    item_id: UUID
    item_key: str
    amount_cents: int = 0
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class Application:
    charge_id: UUID
    amount_cents: int


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A CAS triplet, or a write-off by hand. Group PR moves the amount to the patient instead of writing it off."""

    charge_id: UUID
    group_code: str
    reason_code: str
    amount_cents: int


@dataclass(frozen=True, slots=True)
class NewPatient:
    account_number: str
    first_name: str
    last_name: str
    date_of_birth: date
    payer_id: UUID | None = None

    def wants(self, wants: Wants) -> None:
        wants.add("account", self.account_number)
        wants.add("payer", self.payer_id)


@dataclass(frozen=True, slots=True)
class NewPayer:
    code: str
    name: str
    payer_class: str | None = None
    era_payer_ids: tuple[str, ...] = ()

    def wants(self, wants: Wants) -> None:
        wants.add("payer_code", self.code)


@dataclass(frozen=True, slots=True)
class NewPhysician:
    npi: str
    first_name: str
    last_name: str

    def wants(self, wants: Wants) -> None:
        wants.add("npi", self.npi)


@dataclass(frozen=True, slots=True)
class ChangeParty:
    """Changed fields of a patient, payer or physician; only what the caller gave."""

    kind: str
    party_id: UUID
    changes: dict[str, Any]

    def wants(self, wants: Wants) -> None:
        wants.add(self.kind, self.party_id)
        wants.add("account", self.changes.get("account_number"))
        wants.add("payer_code", self.changes.get("code"))
        wants.add("npi", self.changes.get("npi"))
        wants.add("payer", self.changes.get("payer_id"))


@dataclass(frozen=True, slots=True)
class PostCharge:
    patient_id: UUID
    location_id: UUID
    date_of_service: date
    procedure_code: str
    units: int
    amount_cents: int
    diagnosis_codes: tuple[str, ...]
    modifiers: tuple[str, ...] = ()
    payer_id: UUID | None = None
    delayed: bool = False
    external_id: str | None = None

    def wants(self, wants: Wants) -> None:
        wants.add("patient", self.patient_id)
        wants.add("location", self.location_id)
        wants.add("payer", self.payer_id)


@dataclass(frozen=True, slots=True)
class ChangeCharge:
    """`changes` holds only what the caller gave."""

    charge_id: UUID
    changes: dict[str, Any]

    def wants(self, wants: Wants) -> None:
        wants.add("charge", self.charge_id)
        wants.add("payer", self.changes.get("payer_id"))


@dataclass(frozen=True, slots=True)
class SetChargeState:
    """Release a delayed charge, or void one."""

    charge_id: UUID
    state: str

    def wants(self, wants: Wants) -> None:
        wants.add("charge", self.charge_id)


@dataclass(frozen=True, slots=True)
class AdjustCharge:
    adjustment: Adjustment

    def wants(self, wants: Wants) -> None:
        wants.add("charge", self.adjustment.charge_id)


@dataclass(frozen=True, slots=True)
class TransferCharge:
    """Move part of a charge's balance to the payer or to the patient."""

    charge_id: UUID
    to: str
    amount_cents: int

    def wants(self, wants: Wants) -> None:
        wants.add("charge", self.charge_id)


@dataclass(frozen=True, slots=True)
class PostPayment:
    method: str
    amount_cents: int
    deposit_date: date
    location_id: UUID | None = None
    check_number: str | None = None
    payer_id: UUID | None = None
    patient_id: UUID | None = None
    batch_number: str | None = None
    memo: str | None = None
    external_id: str | None = None
    applications: tuple[Application, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()

    def wants(self, wants: Wants) -> None:
        wants.add("location", self.location_id)
        wants.add("payer", self.payer_id)
        wants.add("patient", self.patient_id)
        wants.add("charge", *(a.charge_id for a in self.applications), *(a.charge_id for a in self.adjustments))


@dataclass(frozen=True, slots=True)
class ApplyPayment:
    payment_id: UUID
    applications: tuple[Application, ...]
    adjustments: tuple[Adjustment, ...] = ()

    def wants(self, wants: Wants) -> None:
        wants.add("payment", self.payment_id)
        wants.add("charge", *(a.charge_id for a in self.applications), *(a.charge_id for a in self.adjustments))


@dataclass(frozen=True, slots=True)
class CorrectPayment:
    """`changes` holds only what the caller gave, among the words that a person may correct."""

    payment_id: UUID
    changes: dict[str, Any]

    def wants(self, wants: Wants) -> None:
        wants.add("payment", self.payment_id)
        wants.add("location", self.changes.get("location_id"))


@dataclass(frozen=True, slots=True)
class ReversePayment:
    payment_id: UUID
    deposit_date: date | None = None
    memo: str | None = None

    def wants(self, wants: Wants) -> None:
        wants.add("payment", self.payment_id)


@dataclass(frozen=True, slots=True)
class RefundPayment:
    payment_id: UUID
    amount_cents: int
    method: str | None = None
    check_number: str | None = None
    deposit_date: date | None = None
    batch_number: str | None = None
    memo: str | None = None

    def wants(self, wants: Wants) -> None:
        wants.add("payment", self.payment_id)


@dataclass(frozen=True, slots=True)
class DeclareBatch:
    """Control totals of a batch, as the poster counted them before posting."""

    batch_number: str
    control_total_cents: int | None = None
    control_count: int | None = None

    def wants(self, wants: Wants) -> None:
        """Nothing: a batch is a label."""


@dataclass(frozen=True, slots=True)
class EmrPerson:
    account_number: str
    first_name: str
    last_name: str
    date_of_birth: date


@dataclass(frozen=True, slots=True)
class EmrDocument:
    """One state of a payment or charge in the EMR: posted, changed or deleted (`words` is None)."""

    source: str
    kind: str
    external_id: str
    external_version: int
    clinic: str
    person: EmrPerson | None = None
    words: dict[str, Any] | None = None

    def wants(self, wants: Wants) -> None:
        wants.add("clinic", self.clinic)
        wants.add("document", (self.source, self.kind, self.external_id))
        if self.person:
            wants.add("account", self.person.account_number)


@dataclass(frozen=True, slots=True)
class ProviderLevel:
    """One PLB amount: positive reduces the payment (RFI 2184)."""

    reason_code: str
    amount_cents: int


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
    """More chunks follow: the receipt's location is settled after the last of them."""

    def wants(self, wants: Wants) -> None:
        wants.add("era_payer", *self.payer_ids)
        wants.add("payer_name", self.payer_name)
        wants.add("payer_code", *self.payer_ids, self.payer_name)
        wants_claims(wants, self.claims)


@dataclass(frozen=True, slots=True)
class ApplyRemittance:
    """A chunk of a remittance's claims, applied to its receipt."""

    payment_key: str
    feed_id: UUID
    item_key: str
    claims: tuple[RemittanceClaim, ...]
    last: bool = False

    def wants(self, wants: Wants) -> None:
        wants.add("remittance", self.payment_key)
        wants_claims(wants, self.claims)


def wants_claims(wants: Wants, claims: Iterable[RemittanceClaim]) -> None:
    """Every charge that a claim could mean, and the lines that were applied before."""
    for claim in claims:
        wants.add("account_charges", claim.claim_id)
        wants.add("external_charges", *external_ids(claim))
        wants.add("line", *(line_key(claim, line.ordinal) for line in claim.lines))


def external_ids(claim: RemittanceClaim) -> Iterable[str]:
    """The names under which a claim's charges may be known: our claim id, and each line's control number alone
    or after the claim id."""
    yield claim.claim_id
    for line in claim.lines:
        if line.control_number:
            yield line.control_number
            yield f"{claim.claim_id}-{line.control_number}"


def line_key(claim: RemittanceClaim, ordinal: int) -> str:
    """Line-level dedupe (feeds.md 0.6); lines of a claim without the payer's control number are not compared."""
    return f"{claim.claim_id}|{claim.payer_control_number}|{claim.status}|{ordinal}"


Act = (
    NewPatient
    | NewPayer
    | NewPhysician
    | ChangeParty
    | PostCharge
    | ChangeCharge
    | SetChargeState
    | AdjustCharge
    | TransferCharge
    | PostPayment
    | ApplyPayment
    | CorrectPayment
    | ReversePayment
    | RefundPayment
    | DeclareBatch
    | EmrDocument
    | PostRemittance
    | ApplyRemittance
)


@dataclass(frozen=True, slots=True)
class Command:
    """An act, who asks for it, and the key under which its answer is remembered for ever."""

    company_id: UUID
    key: str
    route: str
    body_hash: bytes
    actor: Actor
    correlation_id: str
    act: Act
    item: FeedItem | None = None
