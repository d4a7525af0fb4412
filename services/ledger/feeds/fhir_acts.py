"""From what FHIR resources say to acts on the books: one act for each resource, so that it is posted whole or not at
all. Charges and patients' payments are documents of their sender with versions, as those of an EMR; a reconciliation
is a payment of a payer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from pydantic import ValidationError

from services.ledger.domain.document_acts import EmrDocuments, PayerPayment, Whole
from services.ledger.domain.emr_documents import IN_LINES
from services.ledger.domain.feed_acts import EmrDocument, EmrPerson, ProviderLevel, RemittanceClaim
from services.ledger.feeds.charges import ChargeWords, brought
from services.ledger.feeds.event_data import EXTERNAL_ID
from services.ledger.feeds.fhir.model import ChargeFact, ClaimAmount, Outcome, PaymentFact, Person, VoidFact
from services.ledger.feeds.mappings import Mappings
from shared.errors import told
from shared.web.bodies import field_errors

SOURCE: Final = "fhir:"
"""Before the sender in the source of documents: a sender's name cannot collide with the source of CloudEvents."""
NOTHING_TO_POST: Final = "nothing_to_post"
_MAX_SOURCE: Final = 190
_LINED: Final = ("Claim", "Invoice")
_PAYMENTS: Final = ("PaymentNotice", "PaymentReconciliation")
_OF_NO_CLAIM: Final = ("adjustment", "advance")
_METHOD: Final = "other"
"""R4 does not say how a payment was made."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a company's resources are read by."""

    mappings: Mappings
    clinics: Mapping[str, UUID]
    """Locations by what EMRs call them."""
    only_location: UUID | None
    """The company's location, when it has but one: for a resource that names none."""
    sources: frozenset[str]
    """What the sender may name in meta.source."""
    own_source: str | None
    """The source of a resource that names none; None where that cannot be told."""

    def source(self, stated: str) -> str | None:
        """The source of documents; None for one that is not registered."""
        if not stated:
            return self.own_source
        fits = len(stated) <= _MAX_SOURCE and re.fullmatch(EXTERNAL_ID, stated)
        return SOURCE + stated if fits and stated in self.sources else None

    def location(self, clinics: Sequence[str]) -> UUID | None:
        """Of the names of a place the first that is known, or was mapped; without any name the only location."""
        if not clinics:
            return self.only_location
        found = (self.mappings.clinics.get(one) or self.clinics.get(one) for one in clinics)
        return next((location_id for location_id in found if location_id), None)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one resource comes to: an act, or why a person or nobody must look at it."""

    index: int
    item_key: str
    amount_cents: int
    """Of a payment, as it is counted: charges do not balance against deposits."""
    is_remittance: bool
    act: EmrDocuments | PayerPayment | None = None
    ignored: str = ""
    refused: tuple[str, dict[str, Any]] | None = None


class _Refused(Exception):
    def __init__(self, reason: str, detail: dict[str, Any]) -> None:
        self.reason, self.detail = reason, detail


def index_of(item_key: str) -> int:
    """The place in its input that an item is named by."""
    return int(item_key.split(maxsplit=1)[0])


def ask(outcome: Outcome, known: Known, feed_id: UUID) -> Asked:
    """What becomes of one resource in this company."""
    paid = outcome.amount_cents if outcome.kind in _PAYMENTS else 0
    name = outcome.key or outcome.kind or "?"
    asked = Asked(outcome.index, f"{outcome.index} {name}", paid, outcome.kind == "PaymentReconciliation")
    emptied = outcome.reason == NOTHING_TO_POST and outcome.key and outcome.kind in _LINED
    if outcome.state == "ignored" and not emptied:
        return replace(asked, amount_cents=0, ignored=outcome.reason)
    if outcome.state == "refused":
        return replace(asked, refused=_issues(outcome))
    try:
        source = known.source(outcome.source)
        if source is None:
            raise _Refused("unknown_source", {"source": outcome.source[:_MAX_SOURCE] or None})
        act = _Reading(outcome, known, source, feed_id, asked.item_key).act()
    except _Refused as refusal:
        return replace(asked, refused=(refusal.reason, refusal.detail))
    return replace(asked, act=act)


def _issues(outcome: Outcome) -> tuple[str, dict[str, Any]]:
    """The first error is the reason; all of them with their places and numbers are the detail."""
    errors = [issue for issue in outcome.issues if issue.severity != "warning"]
    rows = [
        {"field": one.expression, "code": one.code, "message": one.diagnostics, **dict(one.numbers)} for one in errors
    ]
    return errors[0].code, {"errors": rows}


@dataclass(frozen=True, slots=True)
class _Reading:
    """One resource on its way to an act."""

    outcome: Outcome
    known: Known
    source: str
    feed_id: UUID
    item_key: str

    def act(self) -> EmrDocuments | PayerPayment:
        facts = self.outcome.facts
        first = facts[0] if facts else None
        if isinstance(first, PaymentFact):
            return self._reconciliation(first) if first.kind == "reconciliation" else self._notice(first)
        if isinstance(first, VoidFact):
            return self._void(first)
        return self._charges([fact for fact in facts if isinstance(fact, ChargeFact)])

    # ---- charges

    def _charges(self, facts: Sequence[ChargeFact]) -> EmrDocuments:
        """The document with its lines, and each charge item that it bills as a document of its own."""
        if self.outcome.kind not in _LINED:
            return EmrDocuments(tuple(Whole(self._charge(fact)) for fact in facts))
        lines = tuple(self._charge(fact) for fact in facts if fact.document_key == self.outcome.key)
        others = tuple(Whole(self._charge(fact)) for fact in facts if fact.document_key != self.outcome.key)
        state = self._state(
            "charge",
            self.outcome.key,
            self.outcome.version,
            content_hash=_hash([(line.external_id, line.content_hash) for line in lines]),
            withheld=IN_LINES if facts else NOTHING_TO_POST,
        )
        return EmrDocuments((Whole(state, lines, lined=True), *others))

    def _charge(self, fact: ChargeFact) -> EmrDocument:
        """What it is compared by leaves out what a patient is called: that may come along or not."""
        said = (
            fact.service_date,
            fact.procedure_code,
            fact.modifiers,
            fact.units,
            fact.amount_cents,
            fact.diagnosis_codes,
        )
        try:
            read = ChargeWords(
                date_of_service=fact.service_date,
                procedure_code=self.known.mappings.procedures.get(fact.procedure_code, fact.procedure_code),
                modifiers=list(fact.modifiers),
                units=fact.units,
                amount_cents=fact.amount_cents,
                diagnosis_codes=list(fact.diagnosis_codes),
            )
        except ValidationError as error:
            raise _Refused("invalid", {"errors": told(field_errors(error))}) from None
        return self._state(
            "charge",
            fact.key,
            fact.version,
            content_hash=_hash((fact.patient.account_number, fact.clinics, said)),
            person=_person(fact.patient),
            known_as=fact.claim_id,
            **self._brings(read.words(), fact.clinics),
        )

    def _brings(self, words: dict[str, Any], clinics: Sequence[str]) -> dict[str, Any]:
        """Nothing is nothing, and needs no place."""
        found = brought(words)
        if "withheld" in found:
            return found
        location_id = self.known.location(clinics)
        if location_id is None:
            raise _Refused("unknown_clinic", {"source": self.source, "emr_clinic_ids": list(clinics)})
        return {**found, "location_id": location_id}

    # ---- payments

    def _notice(self, fact: PaymentFact) -> EmrDocuments:
        """A payment of the patient whom it is for: a notice does not say who paid."""
        if fact.patient is None:
            raise _Refused("missing_patient", {})
        words = {
            "amount_cents": fact.amount_cents,
            "method": _METHOD,
            "check_number": fact.trace_number or None,
            "deposit_date": fact.payment_date,
            "payment_type": "other",
        }
        said = fact.amount_cents, fact.payment_date, fact.trace_number
        state = self._state(
            "payment",
            fact.key,
            fact.version,
            content_hash=_hash((fact.patient.account_number, fact.clinics, said)),
            person=_person(fact.patient),
            **self._brings(words, fact.clinics),
        )
        return EmrDocuments((Whole(state),), fact.same_as)

    def _reconciliation(self, fact: PaymentFact) -> PayerPayment:
        """What it says about no claim is between payer and practice, as PLB is: an amount that lowers the payment
        counts as positive there (RFI 2184). Of a claim without money nothing is known that could be posted."""
        payer_name, payer_ids = (fact.payer.name, fact.payer.ids) if fact.payer else ("", ())
        said = [(d.kind, d.amount_cents, d.claim_ids, d.detail_id) for d in fact.details]
        details = [(number, detail) for number, detail in enumerate(fact.details, 1) if detail.amount_cents]
        words = {
            "amount_cents": fact.amount_cents,
            "method": _METHOD,
            "check_number": fact.trace_number or None,
            "deposit_date": fact.payment_date,
        }
        something = fact.amount_cents or details
        state = self._state(
            "payment",
            fact.key,
            fact.version,
            content_hash=_hash((sorted(words.items()), payer_name, payer_ids, said)),
            **({"words": words} if something else {"withheld": "zero_amount"}),
        )
        return PayerPayment(
            state=state,
            payer_name=payer_name,
            payer_ids=payer_ids,
            payer_id=self.known.mappings.payer((*payer_ids, payer_name)),
            provider_level=tuple(ProviderLevel(d.kind, -d.amount_cents) for _, d in details if _of_no_claim(d)),
            claims=tuple(_claim(number, detail) for number, detail in details if not _of_no_claim(detail)),
            same_as=fact.same_as,
            feed_id=self.feed_id,
            item_key=self.item_key,
        )

    # ---- both

    def _void(self, fact: VoidFact) -> EmrDocuments | PayerPayment:
        """The lines that it lists are taken back with all others that the books hold of the document."""
        gone = {"content_hash": _hash("void"), "deleted": True}
        state = self._state(fact.kind, fact.document_key, fact.version, **gone)
        if self.outcome.kind != "PaymentReconciliation":
            return EmrDocuments((Whole(state, lined=self.outcome.kind in _LINED),))
        return PayerPayment(state, "", (), None, (), (), (), self.feed_id, self.item_key)

    def _state(self, kind: str, key: str, version: int, **said: Any) -> EmrDocument:
        return EmrDocument(source=self.source, kind=kind, external_id=key, external_version=version, clinic="", **said)


def _of_no_claim(detail: ClaimAmount) -> bool:
    return not detail.claim_ids and detail.kind in _OF_NO_CLAIM


def _claim(number: int, detail: ClaimAmount) -> RemittanceClaim:
    claim_id, *others = detail.claim_ids or ("",)
    return RemittanceClaim(
        claim_id=claim_id,
        payer_control_number="",
        status="",
        charge_cents=0,
        paid_cents=detail.amount_cents,
        date_of_service=None,
        ordinal=number,
        other_ids=tuple(others),
        by_name=True,
    )


def _person(person: Person) -> EmrPerson:
    return EmrPerson(person.account_number, person.first_name, person.last_name, person.birth_date)


def _hash(said: Any) -> bytes:
    return hashlib.sha256(repr(said).encode()).digest()
