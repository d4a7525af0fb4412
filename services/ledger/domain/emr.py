"""Rules of what an EMR sends: the highest version of a document wins, in whatever order versions arrive (P8).

A document's state is (version, deleted); a state that is not above the one we know changes nothing. A change or a
deletion becomes compensating postings on the same receipt or charge, so that any order of the same events ends in
the same figures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from services.ledger.domain.books import Books, Charge, FeedDocument, Patient, Words
from services.ledger.domain.charges import set_state
from services.ledger.domain.commands import Command, EmrDocument, EmrPerson
from services.ledger.domain.journal import Draft, Journal
from services.ledger.domain.payments import new_payment, unapply_all
from shared.errors import Invalid
from shared.ids import uuid7


def emr_document(books: Books, journal: Journal, command: Command, act: EmrDocument) -> dict[str, Any]:
    """Answers `{outcome: posted|ignored|duplicate, reason, document_id}`; raises Invalid for what needs a person."""
    location = next((one for one in books.locations.values() if one.emr_location_id == act.clinic), None)
    if location is None:
        raise Invalid.field(
            "data.emr_clinic_id", "unknown_clinic", "No location of the client's companies has this clinic"
        )
    known = books.documents.get((act.source, act.kind, act.external_id))
    deleted = act.words is None
    if known is not None:
        if (act.external_version, deleted) < (known.external_version, known.deleted):
            return {"outcome": "ignored", "reason": "stale_version", "document_id": known.document_id}
        if (act.external_version, deleted) == (known.external_version, known.deleted):
            if not deleted and known.content_hash != command.body_hash:
                raise Invalid.field("data", "conflict", "The same version was sent before with other content")
            return {"outcome": "duplicate", "reason": "same_version", "document_id": known.document_id}
    document_id = known.document_id if known else None
    _check(books, act, location.location_id, document_id)
    if not (deleted and document_id is None):
        draft = Draft(books, journal, f"emr_{act.kind}", command.actor.user_id, command.correlation_id)
        turn = _payment if act.kind == "payment" else _charge
        document_id = turn(books, draft, command, act, document_id, location.location_id)
        draft.close()
    books.documents[act.source, act.kind, act.external_id] = FeedDocument(
        act.external_version, document_id, deleted, command.body_hash
    )
    journal.add(
        "feed_document",
        company_id=books.company_id,
        source=act.source,
        kind=act.kind,
        external_id=act.external_id,
        external_version=act.external_version,
        document_id=document_id,
        deleted=deleted,
        content_hash=command.body_hash,
    )
    return {"outcome": "posted", "reason": None, "document_id": document_id}


def _payment(books: Books, draft: Draft, command: Command, act: EmrDocument, document_id: Any, location_id: Any) -> Any:
    existing = books.payments.get(document_id) if document_id else None
    if act.words is None:
        words = replace(existing.words, amount_cents=0, withdrawn=True) if existing else None
    else:
        patient_id = _patient(books, draft, act.person)
        words = Words(location_id=location_id, patient_id=patient_id, **act.words)
    if existing is None or words is None:
        return new_payment(books, draft, command, words, external_id=act.external_id).payment_id if words else None
    if existing.applied_cents > words.amount_cents:
        unapply_all(draft, existing)
    draft.correct(existing, words)
    return existing.payment_id


def _charge(books: Books, draft: Draft, command: Command, act: EmrDocument, document_id: Any, location_id: Any) -> Any:
    existing = books.charges.get(document_id) if document_id else None
    if act.words is None:
        if existing is not None and existing.state != "void":
            set_state(draft, existing, "void")
        return document_id
    patient_id = _patient(books, draft, act.person)
    payer_id = books.patients[patient_id].payer_id
    words = {"patient_id": patient_id, "location_id": location_id, **act.words}
    if existing is None or existing.state == "void":
        charge = Charge(
            charge_id=uuid7(),
            version=draft.version,
            posted_at=books.now,
            source=command.actor.source,
            external_id=act.external_id,
            poster_id=command.actor.user_id,
            state="active",
            payer_id=payer_id,
            **words,
        )
        draft.open_charge(charge)
        draft.move(charge.party, "revenue", charge.amount_cents, charge=charge)
        return charge.charge_id
    rise = words["amount_cents"] - existing.amount_cents
    draft.correct_charge(existing, **words)
    draft.move(existing.party, "revenue", rise, charge=existing)
    return existing.charge_id


def _check(books: Books, act: EmrDocument, location_id: Any, document_id: Any) -> None:
    """Refuse, before anything is drafted, a change that a person has to settle first."""
    if act.words is not None and act.person is None:
        raise Invalid.field("data.patient", "missing", "The patient is required")
    if document_id is None:
        return
    if act.kind == "payment":
        payment = books.payments[document_id]
        if payment.reversed_by is not None:
            raise Invalid.field("data", "already_reversed", "The payment was reversed by a person")
        if payment.refunded_cents > (act.words["amount_cents"] if act.words else 0):
            raise Invalid.field("data", "already_refunded", "More was refunded than would remain")
        return
    charge = books.charges[document_id]
    settled = charge.applied_cents + charge.adjusted_cents
    if charge.state == "void" or not (charge.applied_cents or charge.adjusted_cents):
        return
    # Money stands under the charge's patient, place and code: those cannot change beneath it.
    words, person = act.words, books.patients[charge.patient_id].account_number
    same = words is not None and (words["procedure_code"], location_id, act.person and act.person.account_number) == (
        charge.procedure_code,
        charge.location_id,
        person,
    )
    if words is None or not same or words["amount_cents"] < settled:
        raise Invalid.field("data", "charge_has_payments", "Money is applied to the charge")


def _patient(books: Books, draft: Draft, person: EmrPerson | None) -> Any:
    """The patient by account number; one that the ledger does not know is created from the feed."""
    if person is None:
        raise ValueError("checked before")
    patient = books.patient_by_account(person.account_number)
    if patient is None:
        patient = Patient(
            patient_id=uuid7(),
            account_number=person.account_number,
            first_name=person.first_name,
            last_name=person.last_name,
            date_of_birth=person.date_of_birth,
            payer_id=None,
            version=draft.version,
        )
        draft.patient(patient)
    return patient.patient_id
