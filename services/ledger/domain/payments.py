"""Rules of receipts: posting, applying, correcting, reversing, refunding. History is only ever added to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from services.ledger.domain.books import PATIENT, PAYER, Books, Charge, Lines, Payment, Words
from services.ledger.domain.charges import (
    TO_PATIENT,
    adjust,
    check_location,
    check_payer,
    open_charge,
    over_applied,
    set_state,
    split,
)
from services.ledger.domain.commands import (
    Adjustment,
    Application,
    ApplyPayment,
    Command,
    CorrectPayment,
    PostPayment,
    RefundPayment,
    ReversePayment,
)
from services.ledger.domain.documents import payment_document
from services.ledger.domain.draft import Draft
from services.ledger.domain.journal import Journal
from shared.errors import Invalid, NotFound
from shared.ids import uuid7

_DAYS_BACK, _DAYS_AHEAD = 366, 31


def post_payment(books: Books, journal: Journal, command: Command, act: PostPayment) -> dict[str, Any]:
    """A receipt by a person: cash / unapplied, then its applications and adjustments."""
    if act.payer_id is None and act.patient_id is None:
        raise Invalid.field("payer_id", "payer_or_patient", "Name the payer, the patient, or both")
    if act.amount_cents == 0 and not act.adjustments:
        raise Invalid.field("amount_cents", "zero_amount", "A payment of zero must carry adjustments")
    check_deposit_date(books, act.deposit_date)
    check_location(books, act.location_id)
    check_payer(books, act.payer_id)
    if act.patient_id is not None and not books.has_patient(act.patient_id):
        raise Invalid.field("patient_id", "unknown_patient", "There is no such patient")
    check_settlement(books, act.payer_id, act.applications, act.adjustments, act.amount_cents)
    draft = Draft(books, journal, "payment", command.actor.user_id, command.correlation_id)
    payment = new_payment(
        books,
        draft,
        command,
        Words(
            amount_cents=act.amount_cents,
            method=act.method,
            deposit_date=act.deposit_date,
            check_number=act.check_number,
            batch_number=act.batch_number,
            location_id=act.location_id,
            payer_id=act.payer_id,
            patient_id=act.patient_id,
            memo=act.memo,
        ),
        external_id=act.external_id,
    )
    _settle(draft, payment, act.applications, act.adjustments)
    draft.close()
    return payment_document(payment)


def new_payment(books: Books, draft: Draft, command: Command, words: Words, **more: Any) -> Payment:
    """Open a receipt in this posting; its poster and source are the command's actor's."""
    payment = Payment(
        payment_id=uuid7(),
        version=draft.version,
        posted_at=books.now,
        posting_date=books.today,
        poster_id=command.actor.user_id,
        affiliation=command.actor.affiliation,
        source=command.actor.source,
        external_id=more.pop("external_id", None),
        words=words,
        **more,
    )
    draft.open_payment(payment)
    return payment


def apply_payment(books: Books, journal: Journal, command: Command, act: ApplyPayment) -> dict[str, Any]:
    """Apply existing money to charges: unapplied / receivable."""
    payment = live_payment(books, act.payment_id)
    check_settlement(books, payment.words.payer_id, act.applications, act.adjustments, payment.available_cents)
    draft = Draft(books, journal, "application", command.actor.user_id, command.correlation_id)
    _settle(draft, payment, act.applications, act.adjustments)
    draft.close()
    return payment_document(payment)


def correct_payment(books: Books, journal: Journal, command: Command, act: CorrectPayment) -> dict[str, Any]:
    """Other words for the same receipt; the old ones stay in history."""
    payment = find_payment(books, act.payment_id)
    if "deposit_date" in act.changes:
        check_deposit_date(books, act.changes["deposit_date"])
    if "location_id" in act.changes:
        check_location(books, act.changes["location_id"])
    words = replace(payment.words, **act.changes)
    if words == payment.words:
        return payment_document(payment)
    draft = Draft(books, journal, "correction", command.actor.user_id, command.correlation_id)
    draft.correct(payment, words)
    draft.close()
    return payment_document(payment)


def reverse_payment(books: Books, journal: Journal, command: Command, act: ReversePayment) -> dict[str, Any]:
    """A receipt that takes another one back: every net transfer with its sides swapped, linked to the original.

    It is dated today unless told otherwise, so that a day that was reconciled stays as it was."""
    original = live_payment(books, act.payment_id)
    if original.refunded_cents:
        raise Invalid.field("payment", "already_refunded", "Part of the payment was refunded")
    check_can_be_unapplied(books, original, "payment")
    deposit_date = act.deposit_date or books.today
    check_deposit_date(books, deposit_date)
    draft = Draft(books, journal, "reversal", command.actor.user_id, command.correlation_id)
    words = replace(original.words, amount_cents=-original.words.amount_cents, deposit_date=deposit_date, memo=act.memo)
    reversal = new_payment(books, draft, command, words, reverses_id=original.payment_id)
    _undo(draft, original.lines, reversal)
    original.reversed_by = reversal.payment_id
    for receipts in books.applied_lines.values():
        receipts.discard(original.payment_id)
    draft.close()
    return payment_document(reversal)


def refund_payment(books: Books, journal: Journal, command: Command, act: RefundPayment) -> dict[str, Any]:
    """Money given back out of what is unapplied: a receipt of its own with a negative amount, linked to the original,
    whose own figures do not change (a reconciled deposit stays reconciled)."""
    original = live_payment(books, act.payment_id)
    if act.amount_cents > original.available_cents:
        raise Invalid.field("amount_cents", "over_refunded", "Above what is unapplied and not yet refunded")
    deposit_date = act.deposit_date or books.today
    check_deposit_date(books, deposit_date)
    draft = Draft(books, journal, "refund", command.actor.user_id, command.correlation_id)
    words = replace(
        original.words,
        amount_cents=-act.amount_cents,
        method=act.method or original.words.method,
        check_number=act.check_number,
        batch_number=act.batch_number if act.batch_number is not None else original.words.batch_number,
        deposit_date=deposit_date,
        memo=act.memo,
    )
    refund = new_payment(books, draft, command, words, refunds_id=original.payment_id)
    original.refunded_cents += act.amount_cents
    draft.close()
    return payment_document(refund)


def check_settlement(
    books: Books,
    payer_id: UUID | None,
    applications: Sequence[Application],
    adjustments: Sequence[Adjustment],
    available_cents: int,
) -> None:
    """Applications within the money, applications plus adjustments within each charge's open balance (Q6), and what
    moves to the patient within what the payer still owes."""
    taken: dict[UUID, int] = defaultdict(int)
    due: dict[UUID, dict[str, int]] = {}
    for index, row in enumerate(applications):
        field = f"applications.{index}"
        charge = open_charge(books, row.charge_id, f"{field}.charge_id")
        if row.charge_id in taken:
            raise Invalid.field(f"{field}.charge_id", "duplicate_charge", "A charge may be named once")
        taken[row.charge_id] = row.amount_cents
        if row.amount_cents > charge.balance_cents:
            raise over_applied(f"{field}.amount_cents", "this charge", charge.balance_cents)
        due[row.charge_id] = {**charge.due}
        for party, cents in split(charge.due, _first(payer_id, charge), row.amount_cents):
            due[row.charge_id][party] -= cents
    if sum(taken.values()) > available_cents:
        raise over_applied("applications", "the applications", available_cents)
    for index, adjustment in _in_order(adjustments):
        field = f"adjustments.{index}"
        charge = open_charge(books, adjustment.charge_id, f"{field}.charge_id")
        left = due.setdefault(charge.charge_id, {**charge.due})
        taken[charge.charge_id] += adjustment.amount_cents
        if taken[charge.charge_id] > charge.balance_cents:
            raise over_applied(f"{field}.amount_cents", "this charge", charge.balance_cents)
        if adjustment.group_code == TO_PATIENT:
            if adjustment.amount_cents > left[PAYER]:
                raise over_applied(f"{field}.amount_cents", "the patient's part", left[PAYER])
            left[PAYER] -= adjustment.amount_cents
        else:
            for party, cents in split(left, charge.party, adjustment.amount_cents):
                left[party] -= cents


def _settle(
    draft: Draft, payment: Payment, applications: Sequence[Application], adjustments: Sequence[Adjustment]
) -> None:
    for row in applications:
        apply_cents(draft, payment, row.charge_id, row.amount_cents)
    for _, adjustment in _in_order(adjustments):
        adjust(draft, draft.books.charges[adjustment.charge_id], adjustment, payment)


def _in_order(adjustments: Sequence[Adjustment]) -> list[tuple[int, Adjustment]]:
    """What moves to the patient is what remains: it comes after the write-offs. Each with its place in the request."""
    return sorted(enumerate(adjustments), key=lambda row: row[1].group_code == TO_PATIENT)


def apply_cents(draft: Draft, payment: Payment, charge_id: UUID, cents: int) -> None:
    """Unapplied / receivable: a payer's money settles the payer's part first, a patient's the patient's."""
    charge = draft.books.charges[charge_id]
    for party, part in split(charge.due, _first(payment.words.payer_id, charge), cents):
        draft.move("unapplied", party, part, charge=charge, payment=payment)


def _first(payer_id: UUID | None, charge: Charge) -> str:
    return PAYER if payer_id and charge.payer_id else PATIENT


def unapply_all(draft: Draft, payment: Payment) -> None:
    """Take every application back, and the adjustments that came with them."""
    _undo(draft, payment.lines, payment)


def _undo(draft: Draft, lines: Lines, payment: Payment) -> None:
    """Every net transfer but the cash itself with its sides swapped, under `payment`."""
    for key, cents in lines.oriented():
        if "cash" in (key.debit, key.credit):
            continue
        charge = draft.books.charges[key.charge_id] if key.charge_id else None
        draft.move(key.credit, key.debit, cents, detail=key.detail, charge=charge, payment=payment)
        if charge and charge.state == "void":
            set_state(draft, charge, "void")  # What was written off is owed again, and a void charge owes nothing.


def check_can_be_unapplied(books: Books, payment: Payment, field: str) -> None:
    """A charge is void when, all in all, no money is applied to it. When that was so because another payment had
    taken this one's money back, giving it back a second time is for a person to sort out."""
    for key in payment.lines.net:
        applied = "unapplied" in (key.debit, key.credit)
        if applied and key.charge_id and books.charges[key.charge_id].state == "void":
            raise Invalid.field(field, "charge_void", "The money is applied to a void charge")


def find_payment(books: Books, payment_id: UUID) -> Payment:
    payment = books.payments.get(payment_id)
    if payment is None:
        raise NotFound()
    return payment


def live_payment(books: Books, payment_id: UUID) -> Payment:
    """A payment that still stands: neither reversed nor itself a reversal, refund or withdrawn row."""
    payment = find_payment(books, payment_id)
    if payment.reversed_by is not None:
        raise Invalid.field("payment", "already_reversed", "The payment was reversed")
    if payment.reverses_id is not None or payment.refunds_id is not None or payment.words.withdrawn:
        raise Invalid.field(
            "payment", "not_a_receipt", "A reversal, refund or withdrawn payment takes no further postings"
        )
    return payment


def latest_deposit_date(books: Books) -> date:
    """The last day that money may be said to come in."""
    return books.today + timedelta(days=_DAYS_AHEAD)


def check_deposit_date(books: Books, day: date) -> None:
    if not books.today - timedelta(days=_DAYS_BACK) <= day <= latest_deposit_date(books):
        raise Invalid.field(
            "deposit_date",
            "deposit_date_range",
            f"At most {_DAYS_BACK} days back and {_DAYS_AHEAD} days ahead of today",
        )
