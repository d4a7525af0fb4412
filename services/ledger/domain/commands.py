"""What callers may ask of the books: plain immutable data, parsed and typed at the edge.

Each act says which parts of the books it must see (`wants`), so that one query can load them for a whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from services.ledger.domain.document_acts import EmrDocuments, PayerPayment
from services.ledger.domain.feed_acts import (
    ApplyRemittance,
    EmrAdjustment,
    EmrDocument,
    LocateRemittance,
    PostRemittance,
)
from services.ledger.domain.feed_items import FeedItem, Retry, Statements
from services.ledger.domain.later_acts import EmrTotals, RetryAdjustment, RetryClaim
from services.ledger.domain.wants import Wants
from shared.records import record


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. Rows of a feed are the integration's, whoever sends it (D8)."""

    user_id: UUID
    affiliation: str
    source: str = "manual"


@dataclass(frozen=True, slots=True)
class Application:
    charge_id: UUID
    amount_cents: int


@record
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
        wants.name("patient", self.patient_id)
        wants.name("charged_patient", self.patient_id)
        wants.name("location", self.location_id)
        wants.name("payer", self.payer_id)


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
        wants.name("location", self.location_id)
        wants.name("payer", self.payer_id)
        wants.name("patient", self.patient_id)
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
    | EmrAdjustment
    | EmrDocuments
    | PayerPayment
    | PostRemittance
    | ApplyRemittance
    | LocateRemittance
    | RetryClaim
    | RetryAdjustment
    | EmrTotals
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
    retry: Retry | None = None
    said: Statements | None = None
