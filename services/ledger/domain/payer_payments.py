"""Rules of a payer's payment that comes as a document with versions, not as an 835: the receipt is money received and
is posted; what matches is applied; what does not stays unapplied, each with an exception. Nothing is plugged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from services.ledger.domain import emr
from services.ledger.domain.books import Books, Payment, Words
from services.ledger.domain.commands import Command
from services.ledger.domain.document_acts import PayerPayment, key_of
from services.ledger.domain.draft import Draft
from services.ledger.domain.emr_documents import same_payment, says_the_same
from services.ledger.domain.feed_acts import EmrDocument
from services.ledger.domain.journal import Journal
from services.ledger.domain.matching import match_claims
from services.ledger.domain.outcomes import SAME_PAYMENT, NotApplied
from services.ledger.domain.payments import new_payment, unapply_all
from services.ledger.domain.remittances import apply_matches, known_payer, locations_of, payer_of, report, shared
from services.ledger.domain.traces import Told, is_told_by, other_total, repeated, tell, told_before


def payer_payment(books: Books, journal: Journal, command: Command, act: PayerPayment) -> dict[str, Any]:
    """Answers `{outcome: posted|ignored|duplicate, reason, document_id}`; raises Invalid for what needs a person.

    A newer state with other content takes all of the older one back, on the same receipt, and is applied anew."""
    state = act.state
    known = books.documents.get(state.name)
    existing = books.payments[known.document_id] if known and known.document_id else None
    found = existing.payment_id if existing else None
    if known is not None and (answer := emr.seen(known, state)) is not None:
        return {**answer, "document_id": found}
    if answer := same_payment(books, state, act.same_as):
        return answer
    told = Told("fhir", key_of(state.source, state.external_id), *_total(state))
    if answer := _told_by_an_835(books, journal, act, existing, told):
        return answer
    emr.check_day(books, state)
    if existing:
        emr.check_payment(books, existing, state)
    if says_the_same(books, state):
        emr.keep(books, journal, state, found)
        return {"outcome": "duplicate", "reason": "same_content", "document_id": found}
    if state.words is None and (existing is None or existing.words.withdrawn):
        emr.keep(books, journal, state, found)
        return {"outcome": "ignored", "reason": state.withheld or "nothing_to_delete", "document_id": found}
    draft = Draft(books, journal, "payer_payment", command.actor.user_id, command.correlation_id)
    if existing:
        unapply_all(draft, existing)
    if existing and state.words is None:
        draft.correct(existing, replace(existing.words, amount_cents=0, withdrawn=True))
    else:
        existing = _receive(books, draft, command, act, existing)
        tell(books, journal, existing, told)
    draft.close()
    payment_id = existing.payment_id if existing else None
    emr.keep(books, journal, state, payment_id)
    return {"outcome": "posted", "reason": None, "document_id": payment_id}


def _total(state: EmrDocument) -> tuple[str, int]:
    """Trace and total as the state says them."""
    words = state.words or {"check_number": None, "amount_cents": 0}
    return words["check_number"] or "", words["amount_cents"]


def _told_by_an_835(
    books: Books, journal: Journal, act: PayerPayment, existing: Payment | None, told: Told
) -> dict[str, Any] | None:
    """The answer to a state of a payment that an 835 has told of too: its receipt stands as the first of them has
    posted it. Raises NotApplied where the totals differ."""
    state = act.state
    standing = existing if existing and not existing.words.withdrawn else None
    if standing is not None and is_told_by(books, standing, "x12"):
        if state.deleted:  # The other one still holds.
            emr.keep(books, journal, state, standing.payment_id)
            return {"outcome": "ignored", "reason": SAME_PAYMENT, "document_id": standing.payment_id}
        same: Payment | None = standing
        if standing.words.amount_cents != told.amount_cents:
            raise other_total(standing, told)
    elif state.words is not None:
        same = told_before(books, told, known_payer(books, act.payer_id, act.payer_name, act.payer_ids))
        if same is not None and standing is not None:
            raise NotApplied("conflict", {"message": "It has a receipt of its own, and now the trace of another one"})
    else:
        return None
    if same is None:
        return None
    emr.keep(books, journal, state, existing.payment_id if existing else None)
    _name(books, journal, act, same, same.version)
    return repeated(books, journal, same, told)


def _receive(books: Books, draft: Draft, command: Command, act: PayerPayment, existing: Payment | None) -> Payment:
    """The receipt with what is applied of it. What is taken back comes first: it may free what the others need."""
    matches, misses = match_claims(books, act.claims)
    payer = payer_of(books, draft, act.payer_id, act.payer_name, act.payer_ids)
    words = Words(payer_id=payer.payer_id, location_id=shared(locations_of(matches)), **(act.state.words or {}))
    if existing is None:
        payment = new_payment(books, draft, command, words, external_id=act.state.external_id)
    else:
        payment = existing
        draft.correct(payment, words)
    for row in act.provider_level:
        draft.move("provider_level", "unapplied", row.amount_cents, detail=row.reason_code, payment=payment)
    apply_matches(books, draft, payment, sorted(matches, key=lambda match: match.line.paid_cents), misses)
    report(books, draft.journal, act, payment.payment_id, misses)
    _name(books, draft.journal, act, payment, draft.version)
    return payment


def _name(books: Books, journal: Journal, act: PayerPayment, payment: Payment, version: int) -> None:
    """Let the receipt be found by whoever knows the same money under another name."""
    for name in act.same_as:
        key = key_of(act.state.source, name)
        if key in books.remittances:
            continue
        books.remittances[key] = payment.payment_id
        journal.add(
            "remittance",
            company_id=books.company_id,
            payment_key=key,
            content_hash=act.state.content_hash,
            payment_id=payment.payment_id,
            version=version,
        )
