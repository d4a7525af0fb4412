"""Rules of patients, payers and referring physicians, and of a batch's declared totals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from services.ledger.domain.books import Books, Patient, Payer, Physician
from services.ledger.domain.charges import check_payer
from services.ledger.domain.commands import ChangeParty, Command, DeclareBatch, NewPatient, NewPayer, NewPhysician
from services.ledger.domain.documents import patient_document, payer_document, physician_document
from services.ledger.domain.draft import Draft
from services.ledger.domain.journal import Journal
from shared.errors import Invalid, NotFound
from shared.ids import uuid7


def new_patient(books: Books, journal: Journal, command: Command, act: NewPatient) -> dict[str, Any]:
    """A new patient; the account number is unique in the company."""
    patient = Patient(
        patient_id=uuid7(),
        account_number=act.account_number,
        first_name=act.first_name,
        last_name=act.last_name,
        date_of_birth=act.date_of_birth,
        payer_id=act.payer_id,
        version=0,
    )
    return _keep(books, journal, command, patient)


def new_payer(books: Books, journal: Journal, command: Command, act: NewPayer) -> dict[str, Any]:
    """A new payer; the code is unique in the company."""
    payer = Payer(uuid7(), act.code, act.name, act.payer_class, act.era_payer_ids, version=0)
    return _keep(books, journal, command, payer)


def new_physician(books: Books, journal: Journal, command: Command, act: NewPhysician) -> dict[str, Any]:
    """A new referring physician; the NPI is unique in the company."""
    return _keep(books, journal, command, Physician(uuid7(), act.npi, act.first_name, act.last_name, version=0))


def change_party(books: Books, journal: Journal, command: Command, act: ChangeParty) -> dict[str, Any]:
    """Changed fields of a patient, payer or physician."""
    parties: dict[str, dict[UUID, Any]] = {
        "patient": books.patients,
        "payer": books.payers,
        "physician": books.physicians,
    }
    party = parties[act.kind].get(act.party_id)
    if party is None:
        raise NotFound()
    return _keep(books, journal, command, replace(party, **act.changes))


def _keep(books: Books, journal: Journal, command: Command, party: Patient | Payer | Physician) -> dict[str, Any]:
    if isinstance(party, Patient):
        others = [p.patient_id for p in books.patients.values() if p.account_number == party.account_number]
        _unique(others, party.patient_id, "account_number")
        check_payer(books, party.payer_id)
    elif isinstance(party, Payer):
        _unique([p.payer_id for p in books.payers.values() if p.code == party.code], party.payer_id, "code")
    else:
        others = [p.referring_physician_id for p in books.physicians.values() if p.npi == party.npi]
        _unique(others, party.referring_physician_id, "npi")
    draft = Draft(books, journal, type(party).__name__.lower(), command.actor.user_id, command.correlation_id)
    party = replace(party, version=draft.version)
    if isinstance(party, Patient):
        draft.patient(party)
        document = patient_document(party)
    elif isinstance(party, Payer):
        draft.payer(party)
        document = payer_document(party)
    else:
        draft.physician(party)
        document = physician_document(party)
    draft.close()
    return document


def _unique(found: list[UUID], mine: UUID, field: str) -> None:
    if any(other != mine for other in found):
        raise Invalid.field(field, "taken", "Another one in the company has this value")


def declare_batch(books: Books, journal: Journal, command: Command, act: DeclareBatch) -> dict[str, Any]:
    """Control totals for a batch label; declaring again replaces them, and the history keeps both."""
    draft = Draft(books, journal, "batch", command.actor.user_id, command.correlation_id)
    journal.add(
        "batch",
        company_id=books.company_id,
        batch_number=act.batch_number,
        version=draft.version,
        control_total_cents=act.control_total_cents,
        control_count=act.control_count,
        declared_by=command.actor.user_id,
        declared_at=books.now,
    )
    draft.close()
    return {"batch_number": act.batch_number, "company_version": draft.version}
