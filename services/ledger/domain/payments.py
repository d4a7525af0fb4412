"""Rules of receipts: posting, applying, correcting, reversing, refunding. History is only ever added to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from services.ledger.domain.books import PATIENT, PAYER, Books, Payment, Words
from services.ledger.domain.charges import adjust, check_location, check_payer, open_charge, over_applied
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
from services.ledger.domain.journal import Draft, Journal
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
    if act.patient_id is not None and act.patient_id not in books.patients:
        raise Invalid.field("patient_id", "unknown_patient", "There is no such patient")
    check_settlement(books, act.applications, act.adjustments, act.amount_cents)
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
    payment = _live_payment(books, act.payment_id)
    check_settlement(books, act.applications, act.adjustments, payment.available_cents)
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
    original = _live_payment(books, act.payment_id)
    if original.refunded_cents:
        raise Invalid.field("payment", "already_refunded", "Part of the payment was refunded")
    deposit_date = act.deposit_date or books.today
    check_deposit_date(books, deposit_date)
    draft = Draft(books, journal, "reversal", command.actor.user_id, command.correlation_id)
    words = replace(original.words, amount_cents=-original.words.amount_cents, deposit_date=deposit_date, memo=act.memo)
    reversal = new_payment(books, draft, command, words, reverses_id=original.payment_id)
    for key, cents in original.lines.oriented():
        if "cash" not in (key.debit, key.credit):
            charge = books.charges[key.charge_id] if key.charge_id else None
            draft.move(key.credit, key.debit, cents, detail=key.detail, charge=charge, payment=reversal)
    original.reversed_by = reversal.payment_id
    draft.close()
    return payment_document(reversal)


def refund_payment(books: Books, journal: Journal, command: Command, act: RefundPayment) -> dict[str, Any]:
    """Money given back out of what is unapplied: a receipt of its own with a negative amount, linked to the original,
    whose own figures do not change (a reconciled deposit stays reconciled)."""
    original = _live_payment(books, act.payment_id)
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
    books: Books, applications: Sequence[Application], adjustments: Sequence[Adjustment], available_cents: int
) -> None:
    """Applications within the money, applications plus adjustments within each charge's open balance (Q6)."""
    taken: dict[UUID, int] = defaultdict(int)
    seen: set[UUID] = set()
    for index, row in enumerate(applications):
        field = f"applications.{index}"
        open_charge(books, row.charge_id, f"{field}.charge_id")
        if row.charge_id in seen:
            raise Invalid.field(f"{field}.charge_id", "duplicate_charge", "A charge may be named once")
        seen.add(row.charge_id)
        taken[row.charge_id] += row.amount_cents
        if taken[row.charge_id] > books.charges[row.charge_id].balance_cents:
            raise over_applied(f"{field}.amount_cents", "this charge", books.charges[row.charge_id].balance_cents)
    if sum(taken.values()) > available_cents:
        raise over_applied("applications", "the applications", max(available_cents, 0))
    for index, adjustment in enumerate(adjustments):
        field = f"adjustments.{index}"
        charge = open_charge(books, adjustment.charge_id, f"{field}.charge_id")
        taken[charge.charge_id] += adjustment.amount_cents
        if taken[charge.charge_id] > charge.balance_cents:
            raise over_applied(f"{field}.amount_cents", "this charge", charge.balance_cents)


def _settle(
    draft: Draft, payment: Payment, applications: Sequence[Application], adjustments: Sequence[Adjustment]
) -> None:
    for row in applications:
        apply_cents(draft, payment, row.charge_id, row.amount_cents)
    for adjustment in adjustments:
        adjust(draft, draft.books.charges[adjustment.charge_id], adjustment, payment)


def apply_cents(draft: Draft, payment: Payment, charge_id: UUID, cents: int) -> None:
    """Unapplied / receivable: a payer's money settles the payer's part, a patient's the patient's."""
    charge = draft.books.charges[charge_id]
    party = PAYER if payment.words.payer_id and charge.payer_id else PATIENT
    draft.move("unapplied", party, cents, charge=charge, payment=payment)


def unapply_all(draft: Draft, payment: Payment) -> None:
    """Take every application back, and the adjustments that came with them."""
    for key, cents in payment.lines.oriented():
        if key.charge_id:
            draft.move(
                key.credit,
                key.debit,
                cents,
                detail=key.detail,
                charge=draft.books.charges[key.charge_id],
                payment=payment,
            )


def find_payment(books: Books, payment_id: UUID) -> Payment:
    payment = books.payments.get(payment_id)
    if payment is None:
        raise NotFound()
    return payment


def _live_payment(books: Books, payment_id: UUID) -> Payment:
    """A payment that still stands: neither reversed nor itself a reversal, refund or withdrawn row."""
    payment = find_payment(books, payment_id)
    if payment.reversed_by is not None:
        raise Invalid.field("payment", "already_reversed", "The payment was reversed")
    if payment.reverses_id is not None or payment.refunds_id is not None or payment.words.withdrawn:
        raise Invalid.field(
            "payment", "not_a_receipt", "A reversal, refund or withdrawn payment takes no further postings"
        )
    return payment


def check_deposit_date(books: Books, day: date) -> None:
    if not books.today - timedelta(days=_DAYS_BACK) <= day <= books.today + timedelta(days=_DAYS_AHEAD):
        raise Invalid.field(
            "deposit_date",
            "deposit_date_range",
            f"At most {_DAYS_BACK} days back and {_DAYS_AHEAD} days ahead of today",
        )
