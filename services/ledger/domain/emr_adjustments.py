"""Adjustments that an EMR makes on a charge: the rule of a write-off by hand, on a charge that has to be found."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from services.ledger.domain.books import Books, Charge
from services.ledger.domain.charges import adjust, open_charge, over_applied
from services.ledger.domain.commands import Adjustment, Command
from services.ledger.domain.draft import Draft
from services.ledger.domain.feed_acts import EmrAdjustment
from services.ledger.domain.journal import Journal
from shared.errors import Invalid


def emr_adjustment(books: Books, journal: Journal, command: Command, act: EmrAdjustment) -> dict[str, Any]:
    """Answers `{outcome, reason, document_id}`; raises Invalid for what needs a person."""
    charge = open_charge(books, _find(books, act).charge_id, "charge")
    if act.amount_cents > charge.balance_cents:
        raise over_applied("amount_cents", "the adjustment", charge.balance_cents)
    draft = Draft(books, journal, "emr_adjustment", command.actor.user_id, command.correlation_id)
    adjust(draft, charge, Adjustment(charge.charge_id, act.group_code, act.reason_code, act.amount_cents))
    draft.close()
    return {"outcome": "posted", "reason": None, "document_id": None, "charge_id": charge.charge_id}


def _find(books: Books, act: EmrAdjustment) -> Charge:
    """By the EMR's own name for the charge; without one by patient, day and code, if only one fits."""
    if act.charge_ref:
        known = books.documents.get((act.source, "charge", act.charge_ref))
        found = [books.charges[known.document_id]] if known and known.document_id else []
    else:
        patient = books.patient_by_account(act.account_number)
        found = [charge for charge in books.charges.values() if patient and _fits(charge, act, patient.patient_id)]
    if len(found) > 1:
        raise Invalid("More than one charge fits the adjustment", code="ambiguous_charge")
    if not found:
        raise Invalid("The charge of the adjustment is not here", code="unknown_charge")
    return found[0]


def _fits(charge: Charge, act: EmrAdjustment, patient_id: UUID) -> bool:
    return (
        charge.patient_id == patient_id
        and charge.date_of_service == act.date_of_service
        and charge.state != "void"
        and act.procedure_code in ("", charge.procedure_code)
    )
