"""Rules of what an EMR sends: the highest version of a document wins, in whatever order versions arrive (P8).

A document's state is (version, deleted); a state that is not above the one we know changes nothing. A change or a
deletion becomes compensating postings on the same receipt or charge, so that any order of the same events ends in
the same figures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from services.ledger.domain.books import Books, Charge, FeedDocument, Location, Patient, Payment, Words
from services.ledger.domain.charges import change_amount, rewrite, set_state
from services.ledger.domain.commands import Command
from services.ledger.domain.draft import Draft
from services.ledger.domain.feed_acts import EmrDocument, EmrPerson
from services.ledger.domain.journal import Journal
from services.ledger.domain.payments import check_can_be_unapplied, latest_deposit_date, new_payment, unapply_all
from shared.errors import Invalid
from shared.ids import uuid7


def emr_document(books: Books, journal: Journal, command: Command, act: EmrDocument) -> dict[str, Any]:
    """Answers `{outcome: posted|ignored|duplicate, reason, document_id}`; raises Invalid for what needs a person."""
    answer = check(books, act)
    if answer is not None:
        return answer
    known = books.documents.get(act.name)
    document_id = known.document_id if known else None
    repeats = _repeats(known, act)
    draft: Draft | None = None
    if not repeats:
        change = _payment if act.kind == "payment" else _charge
        draft, document_id = change(books, journal, command, act, document_id)
    if draft:
        draft.close()
    keep(books, journal, act, document_id)
    if draft:
        return {"outcome": "posted", "reason": None, "document_id": document_id}
    if repeats:
        return {"outcome": "duplicate", "reason": "same_content", "document_id": document_id}
    return {"outcome": "ignored", "reason": act.withheld or "nothing_to_delete", "document_id": document_id}


def check(books: Books, act: EmrDocument) -> dict[str, Any] | None:
    """Everything that speaks against a state, before anything is changed: raises Invalid for what needs a person,
    answers what is not above the state that we know, and None for what is to be posted."""
    location_id = _place(books, act)
    known = books.documents.get(act.name)
    document_id = known.document_id if known else None
    if known is not None and (answer := seen(known, act)) is not None:
        return {**answer, "document_id": document_id}
    _check_person(books, act)
    check_day(books, act)
    if document_id is None or _repeats(known, act):
        return None
    if act.kind == "charge":
        _check_charge(books, books.charges[document_id], act, location_id)
    else:
        check_payment(books, books.payments[document_id], act)
    return None


def keep(books: Books, journal: Journal, act: EmrDocument, document_id: UUID | None) -> None:
    """Remember the state as the one that we know."""
    books.documents[act.name] = FeedDocument(act.external_version, document_id, act.deleted, act.content_hash)
    journal.keep(
        "feed_document",
        act.name,
        company_id=books.company_id,
        source=act.source,
        kind=act.kind,
        external_id=act.external_id,
        external_version=act.external_version,
        document_id=document_id,
        deleted=act.deleted,
        content_hash=act.content_hash,
    )


def seen(known: FeedDocument, act: EmrDocument) -> dict[str, Any] | None:
    """The answer to a state that is not above the one we know."""
    told, ours = (act.external_version, act.deleted), (known.external_version, known.deleted)
    both_stand = not (act.deleted or known.deleted)
    if not act.replaces and both_stand and known.content_hash != act.content_hash:
        raise Invalid.field("data", "conflict", "The document was sent before with other content")
    if told > ours:
        return None
    if told < ours:
        return {"outcome": "ignored", "reason": "stale_version"}
    if not act.deleted and known.content_hash != act.content_hash:
        raise Invalid.field("data", "conflict", "The same version was sent before with other content")
    return {"outcome": "duplicate", "reason": "same_version"}


def _repeats(known: FeedDocument | None, act: EmrDocument) -> bool:
    """A later state that says the same, of a sender whose documents do not change: only its version is kept."""
    return known is not None and not (act.replaces or act.deleted or known.deleted)


def _place(books: Books, act: EmrDocument) -> UUID | None:
    """Where the state is booked. One that brings nothing into the books, and names no clinic, needs no place."""
    location = _location(books, act)
    if location is not None and location.active:
        return location.location_id
    if act.words is None and not act.clinic:
        return None
    raise Invalid.field("data.emr_clinic_id", "unknown_clinic", "No location of the client's companies has this clinic")


def _location(books: Books, act: EmrDocument) -> Location | None:
    if act.location_id is not None:
        return books.locations.get(act.location_id)
    return next((one for one in books.locations.values() if one.emr_location_id == act.clinic), None)


def check_day(books: Books, act: EmrDocument) -> None:
    """A payment may be announced some days ahead, as by hand; how long ago is free, as in an 835."""
    if act.kind == "payment" and act.words is not None and act.words["deposit_date"] > latest_deposit_date(books):
        raise Invalid.field("deposit_date", "deposit_date_range", "The payment date is too far ahead")


def _check_person(books: Books, act: EmrDocument) -> None:
    """A patient can only be created with all that a patient has."""
    person = act.person
    if act.words is None or person is None or books.patient_by_account(person.account_number):
        return
    for name in ("first_name", "last_name", "date_of_birth"):
        if not getattr(person, name):
            raise Invalid.field(f"patient.{name}", "missing", "The patient is not known here, and this was not sent")


def _payment(
    books: Books, journal: Journal, command: Command, act: EmrDocument, document_id: UUID | None
) -> tuple[Draft | None, UUID | None]:
    existing = books.payments[document_id] if document_id else None
    if act.words is None and (existing is None or existing.words.withdrawn):
        return None, document_id
    draft = _draft(books, journal, command, act)
    if act.words is None:
        words = replace(existing.words, amount_cents=0, withdrawn=True) if existing else None
    else:
        told = {"location_id": _place(books, act), "patient_id": _patient(books, draft, act.person), **act.words}
        # What an EMR does not speak of (memo, batch) is the practice's, and stays through its changes.
        words = replace(existing.words, withdrawn=False, **told) if existing else Words(**told)
    if existing is None or words is None:
        existing = new_payment(books, draft, command, words, external_id=act.external_id) if words else None
        return draft, existing.payment_id if existing else None
    if existing.applied_cents > words.amount_cents - existing.refunded_cents or words.withdrawn:
        unapply_all(draft, existing)
    draft.correct(existing, words)
    return draft, existing.payment_id


def check_payment(books: Books, payment: Payment, act: EmrDocument) -> None:
    """Refuse, before anything is drafted, a change that a person has to settle first."""
    if act.words is None and payment.words.withdrawn:
        return
    if payment.reversed_by is not None:
        raise Invalid.field("data", "already_reversed", "The payment was reversed by a person")
    if payment.refunded_cents > (act.words["amount_cents"] if act.words else 0):
        raise Invalid.field("data", "already_refunded", "More was refunded than would remain")
    check_can_be_unapplied(books, payment, "data")


def _charge(
    books: Books, journal: Journal, command: Command, act: EmrDocument, document_id: UUID | None
) -> tuple[Draft | None, UUID | None]:
    existing = books.charges[document_id] if document_id else None
    if act.words is None and (existing is None or existing.state == "void"):
        return None, document_id
    draft = _draft(books, journal, command, act)
    if act.words is None:
        if existing:
            set_state(draft, existing, "void")
        return draft, document_id
    patient_id = _patient(books, draft, act.person)
    words = {"patient_id": patient_id, "location_id": _place(books, act), **act.words}
    if existing is None:
        charge = Charge(
            charge_id=uuid7(),
            version=draft.version,
            posted_at=books.now,
            source=command.actor.source,
            external_id=act.known_as or act.external_id,
            poster_id=command.actor.user_id,
            state="active",
            payer_id=books.patients[patient_id].payer_id,
            **words,
        )
        draft.open_charge(charge)
        draft.move(charge.party, "revenue", charge.amount_cents, charge=charge)
        return draft, charge.charge_id
    if existing.patient_id != patient_id:
        words["payer_id"] = books.patients[patient_id].payer_id
    if existing.state == "void":
        words["state"] = "active"
    amount_cents = words.pop("amount_cents")
    rewrite(draft, existing, **words)
    change_amount(draft, existing, amount_cents)
    return draft, existing.charge_id


def _check_charge(books: Books, charge: Charge, act: EmrDocument, location_id: UUID | None) -> None:
    """Money stands under a charge's patient, place and code: those cannot change beneath it."""
    if act.words is None and charge.state == "void":
        return
    if act.taken_back_cents is not None and act.taken_back_cents != charge.amount_cents:
        raise Invalid.field("amount_cents", "partial_void", "What is taken back is not the amount of the charge")
    settled = charge.applied_cents + charge.adjusted_cents
    if not (charge.applied_cents or charge.adjusted_cents):
        return
    words, person = act.words, books.patients[charge.patient_id].account_number
    same = words is not None and (words["procedure_code"], location_id, act.person and act.person.account_number) == (
        charge.procedure_code,
        charge.location_id,
        person,
    )
    if words is None or not same or words["amount_cents"] < settled:
        raise Invalid.field("data", "charge_has_payments", "Money is applied to the charge")


def _draft(books: Books, journal: Journal, command: Command, act: EmrDocument) -> Draft:
    return Draft(books, journal, f"emr_{act.kind}", command.actor.user_id, command.correlation_id)


def _patient(books: Books, draft: Draft, person: EmrPerson | None) -> UUID:
    """The patient by account number; one that the ledger does not know is created from the feed."""
    if person is None:
        raise ValueError("a state with words has a person")
    patient = books.patient_by_account(person.account_number)
    if patient is None:
        if person.date_of_birth is None:
            raise ValueError("checked before")
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
