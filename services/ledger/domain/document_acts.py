"""What a feed may ask of the books with one resource: documents that stand or fall together, and payers' payments."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from services.ledger.domain.feed_acts import EmrDocument, ProviderLevel, RemittanceClaim, wants_claims
from services.ledger.domain.wants import Wants


@dataclass(frozen=True, slots=True)
class Whole:
    """One state of a document, with all lines that it has in that state. A document without lines is its own line."""

    state: EmrDocument
    """Its version decides about all of them; where there are lines, it brings nothing into the books itself."""
    lines: tuple[EmrDocument, ...] = ()
    lined: bool = False
    """Whether another state may have lines: those that this one lacks are taken back."""
    held: tuple[str, ...] = ()
    """Names of the lines that the books held when somebody looked, ..."""
    held_at: tuple[int, bool] | None = None
    """... and the state (version, deleted) that the document had then."""


@dataclass(frozen=True, slots=True)
class EmrDocuments:
    """The documents of one resource: all of them are posted, or none."""

    wholes: tuple[Whole, ...]
    same_as: tuple[str, ...] = ()
    """Of a payment, the names under which the same money may be known."""

    def wants(self, wants: Wants) -> None:
        for whole in self.wholes:
            for state in (whole.state, *whole.lines):
                state.wants(wants)
            source, kind, _ = whole.state.name
            wants.add("document", *((source, kind, name) for name in whole.held))
            if kind == "payment":
                wants_payment(wants, whole.state, self.same_as)


@dataclass(frozen=True, slots=True)
class PayerPayment:
    """One state of a payer's payment for many claims. It is told no location: that is the one of its charges."""

    state: EmrDocument
    payer_name: str
    payer_ids: tuple[str, ...]
    payer_id: UUID | None
    """The payer that the company has mapped these names to."""
    provider_level: tuple[ProviderLevel, ...]
    claims: tuple[RemittanceClaim, ...]
    same_as: tuple[str, ...]
    feed_id: UUID
    item_key: str

    def wants(self, wants: Wants) -> None:
        self.state.wants(wants)
        wants.add("remittance", *(key_of(self.state.source, name) for name in self.same_as))
        wants_payment(wants, self.state, self.same_as)
        wants.add("payer", self.payer_id)
        wants.add("era_payer", *self.payer_ids)
        wants.add("payer_name", self.payer_name or None)
        wants.add("payer_code", *self.payer_ids, self.payer_name or None)
        wants.add("trace", (self.state.words or {}).get("check_number"))
        wants.add("told", self.state.name)
        wants_claims(wants, self.claims)


def key_of(source: str, name: str) -> str:
    """What a payer's payment is found by under another name."""
    return f"{source} {name}"


def wants_payment(wants: Wants, state: EmrDocument, same_as: tuple[str, ...]) -> None:
    """Every payment that may be the same money."""
    wants.add("document", *((state.source, "payment", name) for name in same_as))
    wants.add("remittance", key_of(state.source, state.external_id))
