"""The state of one company's books, as far as a batch of commands needs it.

Loaded in one snapshot, changed in memory by each accepted command, and thrown away after the commit.
Figures are never stored: they are sums over transfers (`Lines`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

if TYPE_CHECKING:
    from services.ledger.domain.commands import Command

PAYER, PATIENT = "receivable_payer", "receivable_patient"
RECEIVABLES = (PAYER, PATIENT)


class LineKey(NamedTuple):
    """What a transfer concerns: two accounts, a detail (method, group and reason, PLB reason) and a charge."""

    debit: str
    credit: str
    detail: str
    charge_id: UUID | None

    def swapped(self) -> LineKey:
        return LineKey(self.credit, self.debit, self.detail, self.charge_id)


class Lines:
    """Net transfers of one receipt. A transfer and its swap cancel out, so a reversed application leaves nothing."""

    __slots__ = ("net",)

    def __init__(self) -> None:
        self.net: dict[LineKey, int] = {}

    def add(self, key: LineKey, cents: int) -> None:
        if (key.credit, key.debit, key.detail, key.charge_id) in self.net:
            key, cents = key.swapped(), -cents
        total = self.net.get(key, 0) + cents
        if total:
            self.net[key] = total
        else:
            self.net.pop(key, None)

    def oriented(self) -> list[tuple[LineKey, int]]:
        """Every net line with a positive amount."""
        return [(key, cents) if cents > 0 else (key.swapped(), -cents) for key, cents in self.net.items()]

    def between(self, debit: str, credits: tuple[str, ...]) -> int:
        """Net cents debited to one account and credited to any of the others."""
        total = 0
        for key, cents in self.net.items():
            if key.debit == debit and key.credit in credits:
                total += cents
            elif key.credit == debit and key.debit in credits:
                total -= cents
        return total


@dataclass(slots=True)
class Charge:
    """A charge and its balances, in cents. `due` is by who is asked to pay."""

    charge_id: UUID
    version: int
    posted_at: datetime
    source: str
    external_id: str | None
    poster_id: UUID
    state: str
    patient_id: UUID
    location_id: UUID
    payer_id: UUID | None
    date_of_service: date
    procedure_code: str
    modifiers: tuple[str, ...]
    units: int
    diagnosis_codes: tuple[str, ...]
    amount_cents: int
    due: dict[str, int] = field(default_factory=lambda: {PAYER: 0, PATIENT: 0})
    applied_cents: int = 0
    adjusted_cents: int = 0
    touched_version: int = 0

    @property
    def balance_cents(self) -> int:
        return self.due[PAYER] + self.due[PATIENT]

    @property
    def party(self) -> str:
        """Who is asked to pay a new charge first."""
        return PAYER if self.payer_id else PATIENT


@dataclass(frozen=True, slots=True)
class Words:
    """What a receipt says beside its figures; corrected by a new revision, never edited."""

    amount_cents: int
    method: str
    deposit_date: date
    check_number: str | None = None
    batch_number: str | None = None
    location_id: UUID | None = None
    payer_id: UUID | None = None
    patient_id: UUID | None = None
    memo: str | None = None
    payment_type: str | None = None
    withdrawn: bool = False


@dataclass(slots=True)
class Payment:
    """A receipt: its words now, and its net transfers."""

    payment_id: UUID
    version: int
    posted_at: datetime
    posting_date: date
    poster_id: UUID
    affiliation: str
    source: str
    external_id: str | None
    words: Words
    reverses_id: UUID | None = None
    refunds_id: UUID | None = None
    reversed_by: UUID | None = None
    refunded_cents: int = 0
    lines: Lines = field(default_factory=Lines)
    touched_version: int = 0

    @property
    def applied_cents(self) -> int:
        return self.lines.between("unapplied", RECEIVABLES)

    @property
    def adjusted_cents(self) -> int:
        return self.lines.between("adjustment", RECEIVABLES)

    @property
    def provider_level_cents(self) -> int:
        """Positive raises the payment, negative reduces it (D16)."""
        return self.lines.between("unapplied", ("provider_level",))

    @property
    def unapplied_cents(self) -> int:
        return self.words.amount_cents - self.applied_cents - self.provider_level_cents

    @property
    def available_cents(self) -> int:
        """What may still be applied or refunded; a refund is a receipt of its own and leaves these figures alone."""
        return self.unapplied_cents - self.refunded_cents


@dataclass(frozen=True, slots=True)
class Patient:
    patient_id: UUID
    account_number: str
    first_name: str
    last_name: str
    date_of_birth: date
    payer_id: UUID | None
    version: int


@dataclass(frozen=True, slots=True)
class Payer:
    payer_id: UUID
    code: str
    name: str
    payer_class: str | None
    era_payer_ids: tuple[str, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Physician:
    referring_physician_id: UUID
    npi: str
    first_name: str
    last_name: str
    version: int


@dataclass(frozen=True, slots=True)
class Location:
    location_id: UUID
    emr_location_id: str | None
    active: bool


@dataclass(frozen=True, slots=True)
class Remembered:
    """An idempotency key that was accepted before."""

    route: str
    actor_id: UUID
    body_hash: bytes
    response: str


@dataclass(frozen=True, slots=True)
class FeedDocument:
    """The EMR's name for a document, and the highest version of it that arrived."""

    external_version: int
    document_id: UUID | None
    deleted: bool
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class Telling:
    """That a format, under a name of its own, has told of a payer's payment."""

    by: str
    key: str
    payment_id: UUID
    twins: frozenset[str] = frozenset()
    """That name where the payee is called otherwise."""


@dataclass(slots=True)
class Books:
    """One company's books at one moment. `writes` counts what was ever written to them: an append that finds another
    count is refused. `now` and `today` (in the company's time zone) were read after the version."""

    company_id: UUID
    version: int
    now: datetime
    today: date
    day_ends: datetime
    writes: int = 0
    npis: tuple[str, ...] = ()
    keys: dict[str, Remembered] = field(default_factory=dict)
    locations: dict[UUID, Location] = field(default_factory=dict)
    payers: dict[UUID, Payer] = field(default_factory=dict)
    patients: dict[UUID, Patient] = field(default_factory=dict)
    physicians: dict[UUID, Physician] = field(default_factory=dict)
    charges: dict[UUID, Charge] = field(default_factory=dict)
    payments: dict[UUID, Payment] = field(default_factory=dict)
    documents: dict[tuple[str, str, str], FeedDocument] = field(default_factory=dict)
    remittances: dict[str, UUID] = field(default_factory=dict)
    applied_lines: dict[str, set[UUID]] = field(default_factory=dict)
    """Lines of remittances that were applied, with the receipts that did, but for those that were reversed since."""

    settled: dict[UUID, dict[UUID | None, Lines]] = field(default_factory=dict)
    """What each payer's receipts have done to a charge; loaded where a reversal does not say it itself."""

    tellings: dict[str, set[Telling]] = field(default_factory=dict)
    """Who has told of payers' payments, by trace number."""

    waits: bool = False
    """Whether anything in the company waits for a charge."""
    waiting: list[Command] = field(default_factory=list)
    """What waited for the charges that this batch brings, oldest first."""

    remembered: bool = False
    """Not loaded: whom a command refers to is taken on trust, and proved by the append (`warm.py`)."""

    def has_patient(self, patient_id: UUID) -> bool:
        return self.remembered or patient_id in self.patients

    def has_payer(self, payer_id: UUID) -> bool:
        return self.remembered or payer_id in self.payers

    def patient_by_account(self, account_number: str) -> Patient | None:
        return next((p for p in self.patients.values() if p.account_number == account_number), None)

    def payer_by_code(self, code: str) -> Payer | None:
        return next((p for p in self.payers.values() if p.code == code), None)
