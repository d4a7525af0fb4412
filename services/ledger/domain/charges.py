"""Rules of charges: what is owed, by whom, and how it may change."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from services.ledger.domain.books import PATIENT, PAYER, Books, Charge, Payment
from services.ledger.domain.commands import (
    AdjustCharge,
    Adjustment,
    ChangeCharge,
    Command,
    PostCharge,
    SetChargeState,
    TransferCharge,
)
from services.ledger.domain.documents import charge_document
from services.ledger.domain.draft import Draft
from services.ledger.domain.journal import Journal
from shared.errors import Invalid, NotFound
from shared.ids import uuid7
from shared.money import MAX_CENTS, dollars

TO_PATIENT = "PR"
"""The group code that moves an amount to the patient."""


def post_charge(books: Books, journal: Journal, command: Command, act: PostCharge) -> dict[str, Any]:
    """A new charge: receivable / revenue."""
    if not books.has_patient(act.patient_id):
        raise Invalid.field("patient_id", "unknown_patient", "There is no such patient")
    check_location(books, act.location_id)
    check_payer(books, act.payer_id)
    draft = Draft(books, journal, "charge", command.actor.user_id, command.correlation_id)
    charge = Charge(
        charge_id=uuid7(),
        version=draft.version,
        posted_at=books.now,
        source=command.actor.source,
        external_id=act.external_id,
        poster_id=command.actor.user_id,
        state="delayed" if act.delayed else "active",
        patient_id=act.patient_id,
        location_id=act.location_id,
        payer_id=act.payer_id,
        date_of_service=act.date_of_service,
        procedure_code=act.procedure_code,
        modifiers=act.modifiers,
        units=act.units,
        diagnosis_codes=act.diagnosis_codes,
        amount_cents=act.amount_cents,
    )
    draft.open_charge(charge)
    draft.move(charge.party, "revenue", act.amount_cents, charge=charge)
    draft.close()
    return charge_document(charge)


def change_charge(books: Books, journal: Journal, command: Command, act: ChangeCharge) -> dict[str, Any]:
    """Corrected words; a change of amount is a compensating transfer, never below what is settled already."""
    charge = open_charge(books, act.charge_id)
    check_payer(books, act.changes.get("payer_id"))
    amount_cents = act.changes.get("amount_cents", charge.amount_cents)
    if charge.amount_cents - amount_cents > max(charge.balance_cents, 0):
        raise over_applied("amount_cents", "the new amount", charge.balance_cents)
    changes = {name: value for name, value in act.changes.items() if value != getattr(charge, name)}
    if not changes:
        return charge_document(charge)
    changes.pop("amount_cents", None)
    draft = Draft(books, journal, "charge_correction", command.actor.user_id, command.correlation_id)
    rewrite(draft, charge, **changes)
    change_amount(draft, charge, amount_cents)
    draft.close()
    return charge_document(charge)


def rewrite(draft: Draft, charge: Charge, **changes: Any) -> None:
    """New words. With its first payer a charge is the payer's to pay, with its last payer gone the patient's."""
    before = charge.party
    draft.correct_charge(charge, **changes)
    if charge.party != before:
        draft.move(charge.party, before, charge.due[before], charge=charge)


def change_amount(draft: Draft, charge: Charge, amount_cents: int) -> None:
    """Compensate the difference: receivable / revenue, or the other way round."""
    for party, cents in split(charge.due, charge.party, charge.amount_cents - amount_cents):
        draft.move("revenue", party, cents, charge=charge)
    charge.amount_cents = amount_cents
    draft.revise_charge(charge)


def set_charge_state(books: Books, journal: Journal, command: Command, act: SetChargeState) -> dict[str, Any]:
    """Release a delayed charge (`active`), or void one that has no money applied."""
    charge = open_charge(books, act.charge_id)
    if act.state == "active" and charge.state != "delayed":
        raise Invalid.field("status", "not_delayed", "Only a delayed charge can be released")
    if act.state == "void" and charge.applied_cents:
        raise Invalid.field("status", "has_payments", "Money is applied to this charge; reverse or move it first")
    draft = Draft(books, journal, f"charge_{act.state}", command.actor.user_id, command.correlation_id)
    set_state(draft, charge, act.state)
    draft.close()
    return charge_document(charge)


def set_state(draft: Draft, charge: Charge, state: str) -> None:
    """`void` takes back what is still owed; what was written off stays written off against the revenue."""
    if state == "void":
        for party in (PAYER, PATIENT):
            draft.move("revenue", party, charge.due[party], charge=charge)
        charge.amount_cents = charge.adjusted_cents
    charge.state = state
    draft.revise_charge(charge)


def adjust_charge(books: Books, journal: Journal, command: Command, act: AdjustCharge) -> dict[str, Any]:
    """A write-off without a payment."""
    charge = open_charge(books, act.adjustment.charge_id)
    most = charge.due[PAYER] if act.adjustment.group_code == TO_PATIENT else charge.balance_cents
    if act.adjustment.amount_cents > most:
        raise over_applied("amount_cents", "the adjustment", most)
    draft = Draft(books, journal, "adjustment", command.actor.user_id, command.correlation_id)
    adjust(draft, charge, act.adjustment)
    draft.close()
    return charge_document(charge)


def transfer_charge(books: Books, journal: Journal, command: Command, act: TransferCharge) -> dict[str, Any]:
    """Move part of the balance between payer and patient."""
    charge = open_charge(books, act.charge_id)
    source, target = (PAYER, PATIENT) if act.to == "patient" else (PATIENT, PAYER)
    if act.to == "payer" and charge.payer_id is None:
        raise Invalid.field("to", "no_payer", "The charge has no payer")
    if act.amount_cents > charge.due[source]:
        raise over_applied("amount_cents", "the transfer", charge.due[source])
    draft = Draft(books, journal, "transfer", command.actor.user_id, command.correlation_id)
    draft.move(target, source, act.amount_cents, charge=charge)
    draft.close()
    return charge_document(charge)


def adjust(draft: Draft, charge: Charge, row: Adjustment, payment: Payment | None = None) -> None:
    """Adjustment / receivable; group PR is no write-off but a move to the patient (feeds.md 1.2)."""
    detail = f"{row.group_code}:{row.reason_code}"
    if row.group_code == TO_PATIENT:
        draft.move(PATIENT, PAYER, row.amount_cents, detail=detail, charge=charge, payment=payment)
        return
    for party, cents in split(charge.due, charge.party, row.amount_cents):
        draft.move("adjustment", party, cents, detail=detail, charge=charge, payment=payment)


def split(due: dict[str, int], first: str, cents: int) -> list[tuple[str, int]]:
    """How an amount comes off what is owed: off `first`'s part, then off the other's. What is given back, or more
    than is owed, is `first`'s."""
    other = PATIENT if first == PAYER else PAYER
    beyond = min(cents - max(due[first], 0), due[other])
    return [(first, cents - beyond), (other, beyond)] if beyond > 0 else [(first, cents)]


def open_charge(books: Books, charge_id: UUID, field: str | None = None) -> Charge:
    """The charge, or 404 (422 naming `field` when a body mentions it); void charges take nothing."""
    charge = books.charges.get(charge_id)
    if charge is None:
        if field is None:
            raise NotFound()
        raise Invalid.field(field, "unknown_charge", "There is no such charge")
    if charge.state == "void":
        raise Invalid.field(field or "status", "charge_void", "The charge is void")
    return charge


def check_location(books: Books, location_id: UUID | None) -> None:
    if location_id is None:
        return
    location = books.locations.get(location_id)
    if location is None:
        raise Invalid.field("location_id", "unknown_location", "There is no such location")
    if not location.active:
        raise Invalid.field("location_id", "inactive_location", "The location is not active")


def check_payer(books: Books, payer_id: UUID | None) -> None:
    if payer_id is not None and not books.has_payer(payer_id):
        raise Invalid.field("payer_id", "unknown_payer", "There is no such payer")


def over_applied(field: str, what: str, open_cents: int) -> Invalid:
    most = dollars(min(max(open_cents, 0), MAX_CENTS))
    return Invalid.field(field, "over_applied", f"Above the open balance: {what} may take at most {most}")
