"""What FHIR says about money, as plain data. Money is integer cents, dates are days as written, without a shift."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

from services.ledger.feeds.fhir.issues import Issue


@dataclass(frozen=True, slots=True)
class Person:
    """A patient. Of one that is not in the input no more is known than the number in the reference."""

    account_number: str
    """The medical record number, else another identifier, else the id of the resource."""
    first_name: str = ""
    last_name: str = ""
    birth_date: date | None = None

    @property
    def complete(self) -> bool:
        """Whether a patient whom the ledger does not know could be created from this."""
        return bool(self.account_number and self.first_name and self.last_name and self.birth_date)


@dataclass(frozen=True, slots=True)
class Party:
    """A payer: its name, and everything it is known by, best first."""

    name: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A state of one document in the sender's system. `key` and `version` are what a resend is recognised by."""

    key: str
    """Type and business identifier (`Claim/system|value`), else type and id, and the line after `#`."""
    document_key: str
    """The same for all lines of one resource: a line that a later version lacks is to be voided."""
    version: int
    """meta.versionId where it is a number, else meta.lastUpdated in microseconds, else 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeFact(Fact):
    """One line of service: a ChargeItem, an item of a Claim, a line of an Invoice."""

    claim_id: str
    """The value of the business identifier without its system: of a Claim what a payer returns as CLP01."""
    line: int
    """The sequence in its resource; 0 for a ChargeItem, which is a line by itself."""
    patient: Person
    clinics: tuple[str, ...]
    """Everything by which the place of service or the provider is known, best first."""
    service_date: date
    procedure_code: str
    modifiers: tuple[str, ...]
    units: int
    amount_cents: int
    diagnosis_codes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimAmount:
    """One detail of a reconciliation: what it says about one claim, or about no claim."""

    kind: str
    """`payment`, `adjustment` or `advance` (value set payment-type); anything else as sent."""
    amount_cents: int
    claim_ids: tuple[str, ...]
    """Everything the claim is known by, best first; empty for an amount that belongs to no claim."""
    response_ids: tuple[str, ...] = ()
    detail_id: str = ""
    date: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFact(Fact):
    """Money received: a PaymentReconciliation (from a payer) or a PaymentNotice that one has occurred."""

    kind: Literal["reconciliation", "notice"]
    amount_cents: int
    payment_date: date
    trace_number: str
    """paymentIdentifier: the check or EFT number; of a notice the name of the payment that it reports."""
    payer: Party | None
    patient: Person | None
    clinics: tuple[str, ...]
    details: tuple[ClaimAmount, ...] = ()
    same_as: tuple[str, ...] = ()
    """Keys under which the other kind of resource would report the same money: if one is known, this is no news."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidFact(Fact):
    """The document with this key does not hold, or no longer. `kind` says among which keys to look."""

    kind: Literal["charge", "payment"]


Facts = tuple[ChargeFact | PaymentFact | VoidFact, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of one resource: all of it is facts, or none of it is."""

    index: int
    path: str
    kind: str
    state: Literal["facts", "ignored", "refused"]
    facts: Facts = ()
    reason: str = ""
    """Why it is ignored."""
    issues: tuple[Issue, ...] = ()
    """Of a refused resource at least one is an error; otherwise they are warnings."""
    amount_cents: int = 0
    """The money it states, as far as it can be read: of facts the sum of their amounts."""
    legible: Facts = ()
    """Of a refused resource, what could be made out: to be shown, not posted."""
    key: str = ""
    """What the document of this resource is called, posted or not, where that could be made out."""
    version: int = 0
    source: str = ""
    """meta.source without its fragment, which many servers fill with the number of a request."""
