"""The same payment of a payer, told by an 835 and by FHIR: it is posted by whichever comes first, and by that alone.

It is the same where the payer, as the company knows him, the trace (TRN02, paymentIdentifier) and the total are. What
one format tells under two names are two payments: payers use a trace again (RFI 1847), so a receipt answers to one
name in each format. Names that differ only in what the payee is called are of one payment (`told_otherwise`). Nothing
is known of zero pays by their trace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from services.ledger.domain.books import Books, Payer, Payment, Telling
from services.ledger.domain.journal import Journal
from services.ledger.domain.outcomes import SAME_PAYMENT, NotApplied

Format = Literal["x12", "fhir"]
_RULE: Final = "one payment, one total"


@dataclass(frozen=True, slots=True)
class Told:
    """What a format tells of a payment."""

    by: Format
    key: str
    """Its own name for it."""
    trace_number: str
    amount_cents: int
    twins: frozenset[str] = frozenset()
    """That name where its payee is called otherwise."""


def told_before(books: Books, told: Told, payer: Payer | None) -> Payment | None:
    """The receipt that another format has told of, and that is this payment, also where a person has reversed it.
    Raises NotApplied, with both totals, where only receipts of other totals stand: which of them was received, a person
    must find out, and reverses the other one."""
    if payer is None or not told.trace_number or not told.amount_cents:
        return None
    rows = books.tellings.get(told.trace_number, set())
    mine = {row.payment_id for row in rows if (row.by, row.key) == (told.by, told.key)}
    taken = {row.payment_id for row in rows if row.by == told.by} - mine
    others = {row.payment_id for row in rows if row.by != told.by} - taken
    found = _live(books, payer, others & mine) or _live(books, payer, others)
    same = next((one for one in found if one.words.amount_cents == told.amount_cents), None)
    if same is None and (standing := [one for one in found if not one.reversed_by]):
        raise other_total(standing[0], told)
    return same


def told_otherwise(books: Books, told: Told) -> bool:
    """Whether its own format has told of it under another name of its payee. Not every file has both of his names: it
    is enough that one of the two tells the other's."""
    rows = (row for row in books.tellings.get(told.trace_number, ()) if row.by == told.by)
    return any(row.key in told.twins or told.key in row.twins for row in rows)


def _live(books: Books, payer: Payer, ids: Iterable[UUID]) -> list[Payment]:
    found = [books.payments[one] for one in ids]
    standing = [one for one in found if one.words.payer_id == payer.payer_id and not one.words.withdrawn]
    return sorted(standing, key=lambda one: one.version)


def other_total(payment: Payment, told: Told) -> NotApplied:
    """The rule and its numbers."""
    known_cents = payment.words.amount_cents
    return NotApplied(
        "conflict",
        {
            "message": "Another format has told of the same payment, with another total",
            "rule": _RULE,
            "trace_number": told.trace_number,
            "payment_id": str(payment.payment_id),
            "stated_cents": told.amount_cents,
            "known_cents": known_cents,
            "difference_cents": told.amount_cents - known_cents,
        },
    )


def is_told_by(books: Books, payment: Payment, by: Format) -> bool:
    return any(
        row.by == by and row.payment_id == payment.payment_id for rows in books.tellings.values() for row in rows
    )


def tell(books: Books, journal: Journal, payment: Payment, told: Told) -> None:
    """Remember that a receipt was told of. Done once for each format and trace."""
    rows = books.tellings.setdefault(told.trace_number, set())
    row = Telling(told.by, told.key, payment.payment_id, told.twins)
    if not (told.trace_number and told.amount_cents) or any(
        (one.by, one.payment_id) == (row.by, row.payment_id) for one in rows
    ):
        return
    rows.add(row)
    journal.add(
        "payer_trace",
        company_id=books.company_id,
        trace_number=told.trace_number,
        told_by=row.by,
        payment_id=row.payment_id,
        told_key=row.key,
        twins=sorted(row.twins) or None,
    )


def repeated(books: Books, journal: Journal, payment: Payment, told: Told) -> dict[str, Any]:
    """The answer to a payment that another format has told of before."""
    tell(books, journal, payment, told)
    return {"outcome": "duplicate", "reason": SAME_PAYMENT, "document_id": payment.payment_id}
