"""Parts of a posted remittance that waited for a person, tried again: the same rules as when it came, on today's books.

What is refused changes nothing and says why. A claim of which a part can be applied is applied as far as it can be; the
rest becomes exceptions of their own, as it would have at first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

from services.ledger.domain.books import Books, Payment
from services.ledger.domain.charges import adjust, open_charge
from services.ledger.domain.commands import Adjustment, Command
from services.ledger.domain.draft import Draft
from services.ledger.domain.journal import Journal
from services.ledger.domain.later_acts import RetryAdjustment, RetryClaim
from services.ledger.domain.matching import Match, Miss, key_of, match_claims
from services.ledger.domain.outcomes import NotApplied
from services.ledger.domain.payments import live_payment
from services.ledger.domain.remittances import adjustment_refusal, apply_matches, line_refusal, report, shared


def retry_claim(books: Books, journal: Journal, command: Command, act: RetryClaim) -> dict[str, Any]:
    """Apply what can be applied of a claim, within what its receipt still has unapplied."""
    payment = live_payment(books, act.payment_id)
    found, missed = match_claims(books, (act.claim,))
    matches = [match for match in found if act.line in (None, match.line.ordinal)]
    misses = [miss for miss in missed if act.line in (None, miss.detail.get("line", act.line))]
    refused = [(match, line_refusal(books, payment, match, key_of(match))) for match in matches]
    ready = [match for match, refusal in refused if refusal is None]
    if not ready:
        _refuse([*misses, *(refusal for _, refusal in refused if refusal)])
    paid_cents = sum(match.line.paid_cents for match in ready)
    if paid_cents > max(payment.available_cents, 0):
        # Its money was applied, refunded or taken back in another way meanwhile.
        raise NotApplied("over_applied", {"paid_cents": paid_cents, "unapplied_cents": payment.available_cents})
    before = _location(books, payment)
    draft = Draft(books, journal, "remittance_retry", command.actor.user_id, command.correlation_id)
    apply_matches(books, draft, payment, matches, misses)
    report(books, journal, act, payment.payment_id, misses)
    _settle_location(draft, payment, before, ready)
    draft.close()
    return {"outcome": "posted", "reason": None, "document_id": payment.payment_id}


def _refuse(misses: Iterable[Miss]) -> None:
    miss = next(iter(misses))
    raise NotApplied(miss.reason, miss.detail)


def _settle_location(draft: Draft, payment: Payment, before: UUID | None, ready: list[Match]) -> None:
    """D14 again, with the new charges; but where a person has said another location, that one stays."""
    now = _location(draft.books, payment, {match.charge.location_id for match in ready})
    if payment.words.location_id == before != now:
        draft.correct(payment, replace(payment.words, location_id=now))


def _location(books: Books, payment: Payment, more: Iterable[UUID] = ()) -> UUID | None:
    settled = {books.charges[key.charge_id].location_id for key in payment.lines.net if key.charge_id}
    return shared(frozenset({*settled, *more}))


def retry_adjustment(books: Books, journal: Journal, command: Command, act: RetryAdjustment) -> dict[str, Any]:
    """Post an adjustment that was above the open balance when its line was applied."""
    payment = live_payment(books, act.payment_id)
    charge = open_charge(books, act.charge_id, "charge_id")
    refusal = adjustment_refusal(charge, act.group_code, act.reason_code, act.amount_cents)
    if refusal:
        codes = {"group_code": act.group_code, "reason_code": act.reason_code}
        numbers = {"adjustment_cents": act.amount_cents, "open_balance_cents": charge.balance_cents}
        raise NotApplied(refusal, {**codes, **numbers, "charge_id": str(charge.charge_id)})
    draft = Draft(books, journal, "remittance_retry", command.actor.user_id, command.correlation_id)
    adjust(draft, charge, Adjustment(charge.charge_id, act.group_code, act.reason_code, act.amount_cents), payment)
    draft.close()
    return {"outcome": "posted", "reason": None, "document_id": payment.payment_id}
