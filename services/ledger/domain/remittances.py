"""Rules of an 835 (D13, D16): the receipt is money received and is always posted; what matches is applied; the rest
stays unapplied, and each claim or line that needs a person becomes an exception with its numbers. Nothing is plugged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

from services.ledger.domain.books import PATIENT, PAYER, Books, Charge, Payer, Payment, Words
from services.ledger.domain.charges import TO_PATIENT, adjust
from services.ledger.domain.commands import Adjustment, Command
from services.ledger.domain.denials import DENIED_LINE, denied, to_post
from services.ledger.domain.document_acts import PayerPayment
from services.ledger.domain.draft import Draft
from services.ledger.domain.feed_acts import (
    CORRECTION,
    REVERSAL,
    ApplyRemittance,
    LocateRemittance,
    PostRemittance,
    counterparts,
)
from services.ledger.domain.journal import Journal
from services.ledger.domain.later_acts import RetryClaim
from services.ledger.domain.matching import Match, Miss, key_of, match_claims
from services.ledger.domain.outcomes import NotApplied
from services.ledger.domain.payments import apply_cents, latest_deposit_date, new_payment
from services.ledger.domain.reversals import standing, with_groups
from services.ledger.domain.traces import Told, repeated, tell, told_before, told_otherwise
from shared.errors import NotFound
from shared.ids import uuid7

_GROUPS = ("CO", "PR", "OA", "PI")
_TWIN = "It was posted before, under another name of its payee"
_REASON = re.compile(r"[1-3]?[0-9]{1,2}|[ABDPWY][0-9]{1,2}")
"""What may be a reason (CARC). Numbers are given out upwards and have come to some 300, letters have their series: so
there is no list that ages and then refuses what is new (pyx12 64)."""


def post_remittance(books: Books, journal: Journal, command: Command, act: PostRemittance) -> dict[str, Any]:
    """The receipt of BPR02 with its provider-level amounts, and the first chunk of claims."""
    told = Told("x12", act.payment_key, act.check_number, act.amount_cents, act.twins)
    if told_otherwise(books, told):
        raise NotApplied("conflict", {**act.numbers, "message": _TWIN})
    if known := told_before(books, told, known_payer(books, act.payer_id, act.payer_name, act.payer_ids)):
        return {**_document(known, ()), **repeated(books, journal, known, told)}
    _check_date(books, act.deposit_date)
    matches, misses = match_claims(books, act.claims)
    draft = Draft(books, journal, "remittance", command.actor.user_id, command.correlation_id)
    payer = payer_of(books, draft, act.payer_id, act.payer_name, act.payer_ids)
    words = Words(
        amount_cents=act.amount_cents,
        method=act.method,
        deposit_date=act.deposit_date,
        check_number=act.check_number,
        payer_id=payer.payer_id,
        location_id=act.location_id if act.more_claims else shared(locations_of(matches)),
    )
    payment = new_payment(books, draft, command, words)
    for row in act.provider_level:
        draft.move("provider_level", "unapplied", row.amount_cents, detail=row.reason_code, payment=payment)
    journal.add(
        "remittance",
        company_id=books.company_id,
        payment_key=act.payment_key,
        content_hash=act.content_hash,
        payment_id=payment.payment_id,
        version=draft.version,
    )
    books.remittances[act.payment_key] = payment.payment_id
    tell(books, journal, payment, told)
    apply_matches(books, draft, payment, matches, misses)
    report(books, journal, act, payment.payment_id, misses)
    draft.close()
    return _document(payment, matches)


def _check_date(books: Books, day: date) -> None:
    """Money is announced some days ahead, as in a person's payment; a later day is a slip. How long ago is free: who
    moves here brings the remittances of years."""
    if day > (latest := latest_deposit_date(books)):
        numbers = {"field": "BPR16", "deposit_date": str(day), "latest": str(latest)}
        raise NotApplied("deposit_date_range", {**numbers, "message": "The payment date is too far ahead"})


def apply_remittance(books: Books, journal: Journal, command: Command, act: ApplyRemittance) -> dict[str, Any]:
    """A further chunk of claims. Only the receipt's words are loaded: what was applied before is not needed. Of one
    that a person has reversed meanwhile all the money is gone, and nothing more is applied."""
    payment = _receipt(books, act.payment_key)
    if payment.reversed_by:
        return _document(payment, ())
    matches, misses = match_claims(books, act.claims)
    draft = Draft(books, journal, "remittance_claims", command.actor.user_id, command.correlation_id)
    apply_matches(books, draft, payment, matches, misses)
    report(books, journal, act, payment.payment_id, misses)
    draft.close()
    return _document(payment, matches)


def locate_remittance(books: Books, journal: Journal, command: Command, act: LocateRemittance) -> dict[str, Any]:
    """The receipt under another location, once all of its claims are known (D14): not without its reversal."""
    payment = _receipt(books, act.payment_key)
    if payment.reversed_by:
        return _document(payment, ())
    draft = Draft(books, journal, "correction", command.actor.user_id, command.correlation_id)
    draft.correct(payment, replace(payment.words, location_id=act.location_id))
    draft.close()
    return _document(payment, ())


def _receipt(books: Books, payment_key: str) -> Payment:
    payment_id = books.remittances.get(payment_key)
    if payment_id is None:
        raise NotFound()
    return books.payments[payment_id]


def _document(payment: Payment, matches: Sequence[Match]) -> dict[str, Any]:
    """The answer of a chunk: where the receipt is booked, and the locations of what the chunk matched."""
    booked, matched = payment.words.location_id, sorted(locations_of(matches))
    document: dict[str, Any] = {"outcome": "posted", "reason": None, "document_id": payment.payment_id}
    return {**document, "location_id": booked, "locations": matched}


def apply_matches(books: Books, draft: Draft, payment: Payment, matches: Sequence[Match], misses: list[Miss]) -> None:
    """Apply every line that may be applied; why another may not is added to `misses`."""
    for match in matches:
        key = key_of(match)
        refusal = line_refusal(books, payment, match, key)
        if refusal is not None:
            misses.append(refusal)
            continue
        _apply_line(draft, payment, match, misses)
        if key is None:
            continue
        books.applied_lines.setdefault(key, set()).add(payment.payment_id)
        draft.journal.add(
            "remittance_line",
            company_id=books.company_id,
            line_key=key,
            payment_id=payment.payment_id,
            charge_id=match.charge.charge_id,
            version=draft.version,
        )


def line_refusal(books: Books, payment: Payment, match: Match, key: str | None) -> Miss | None:
    """Why a matched line must not be applied: it was before, or it is above the open balance or below zero."""
    charge, paid = match.charge, match.line.paid_cents
    if match.claim.status == REVERSAL and match.line.charge_cents > 0:  # applied as it stands, it would pay again
        return _miss("positive_reversal", match, charge)
    if key is not None and _is_repeated(books, payment, match, key):
        taken_back = min(match.line.charge_cents, paid) < 0 and match.claim.status != REVERSAL
        return _miss("unmarked_reversal" if taken_back else "duplicate_line", match, charge)
    if paid > charge.balance_cents or -paid > charge.applied_cents:
        return _miss("over_applied", match, charge)
    return None


def _is_repeated(books: Books, payment: Payment, match: Match, key: str) -> bool:
    """Whether other payments have brought the line, and it stands. Within one payment a payer may use the same numbers
    for different claims. Across payments one who keeps his number pays again what he took back, and takes that back
    again: a line may come once more than its reversal, and its reversal as often as the line."""
    payments = books.applied_lines.get(key)
    before = len(payments - {payment.payment_id}) if payments else 0
    if not before:
        return False
    across = sum(len(books.applied_lines.get(other, ())) for other in counterparts(match.claim, match.line.ordinal))
    return before >= across if match.claim.status == REVERSAL else before > across


def _apply_line(draft: Draft, payment: Payment, match: Match, misses: list[Miss]) -> None:
    """Apply what was paid, then what was adjusted: write-offs first, what they add before what they take off, then the
    move of the patient's part, which is what remains."""
    books, charge, payer_id = draft.books, match.charge, payment.words.payer_id
    apply_cents(draft, payment, charge.charge_id, match.line.paid_cents)
    rows = with_groups(books, payer_id, match, to_post(match))
    fit = None
    if len(rows) > 1:
        fit = _fit_together(charge, rows)
        rows.sort(key=lambda row: 2 if row[0] == TO_PATIENT else row[2] > 0)
    for group, reason, cents in rows:
        numbers: dict[str, Any] = {"group_code": group, "reason_code": reason, "adjustment_cents": cents}
        refusal = adjustment_refusal(charge, group, reason, cents, fit)
        if refusal:
            if group == CORRECTION:
                before = standing(books, payer_id, charge.charge_id)
                numbers["adjusted_before"] = {":".join(code): posted for code, posted in before.items()}
            misses.append(_miss(refusal, match, charge, **numbers))
        elif group != TO_PATIENT or (charge.payer_id and -charge.due[PATIENT] <= cents <= charge.due[PAYER]):
            # The patient's part moves only while the payer still owes it; a charge without a payer is all his.
            adjust(draft, charge, Adjustment(charge.charge_id, group, reason, cents), payment)
            if not _REASON.fullmatch(reason):
                misses.append(_miss("unknown_code", match, charge, **numbers, posted=True))
    if not match.line.paid_cents and charge.due[charge.party] > 0 and (left := denied(match)):
        numbers = {"charge_cents": match.line.charge_cents, "denied_cents": sum(cents for _, _, cents in left)}
        misses.append(_miss(DENIED_LINE, match, charge, **numbers, adjustments=[list(row) for row in left]))


def _fit_together(charge: Charge, rows: Sequence[tuple[str, str, int]]) -> bool | None:
    """Whether write-offs that go both ways fit as a sum: what a payer adds (an incentive, CARC 144; what he paid above
    the charge, 94) makes room for what he takes off, so neither is posted alone. None where all go one way."""
    written_off = [cents for group, reason, cents in rows if group != TO_PATIENT and _is_known(group, reason)]
    both_ways = min(written_off, default=0) < 0 < max(written_off, default=0)
    return _fits(charge, sum(written_off)) if both_ways else None


def adjustment_refusal(charge: Charge, group: str, reason: str, cents: int, fit: bool | None = None) -> str | None:
    """Why an adjustment of a matched line must not post; what kind of adjustment it is has to be known. `fit`: as of
    its line, where that decides for all of them."""
    if not _is_known(group, reason):
        return "unknown_code"
    if group == TO_PATIENT or (_fits(charge, cents) if fit is None else fit):
        return None
    return "over_applied"


def _is_known(group: str, reason: str) -> bool:
    return group in _GROUPS and reason.isalnum() and len(reason) <= 5


def _fits(charge: Charge, cents: int) -> bool:
    """No more is written off than is open, and no more is taken back than was written off."""
    return -charge.adjusted_cents <= cents <= charge.balance_cents


def _miss(reason: str, match: Match, charge: Charge, **numbers: Any) -> Miss:
    detail = {
        "line": match.line.ordinal,
        "procedure_code": match.line.procedure_code,
        "charge_id": str(charge.charge_id),
        "paid_cents": match.line.paid_cents,
        "open_balance_cents": charge.balance_cents,
        "applied_cents": charge.applied_cents,
        **numbers,
    }
    return Miss(reason, match.claim, detail)


def report(
    books: Books,
    journal: Journal,
    act: PostRemittance | ApplyRemittance | RetryClaim | PayerPayment,
    payment_id: UUID,
    misses: Sequence[Miss],
) -> None:
    """What could not be applied, as exceptions of the receipt."""
    for miss in misses:
        journal.add(
            "feed_exception",
            company_id=books.company_id,
            exception_id=uuid7(),
            feed_id=act.feed_id,
            item_key=act.item_key,
            reason=miss.reason,
            quarantined=False,
            detail={
                "claim": miss.claim.ordinal,
                "claim_id": miss.claim.claim_id,
                "claim_status": miss.claim.status,
                **miss.detail,
            },
            raw=None,
            payment_id=payment_id,
            source="era",
        )


def locations_of(matches: Sequence[Match]) -> frozenset[UUID]:
    return frozenset(match.charge.location_id for match in matches)


def shared(locations: frozenset[UUID]) -> UUID | None:
    """D14: the location that all matched charges share, else none."""
    return next(iter(locations)) if len(locations) == 1 else None


def payer_of(books: Books, draft: Draft, mapped: UUID | None, payer_name: str, payer_ids: tuple[str, ...]) -> Payer:
    """The payer as he is known; one not yet known posts under the name in the file."""
    if payer := known_payer(books, mapped, payer_name, payer_ids):
        return payer
    code = next((code for code in (*payer_ids, payer_name) if books.payer_by_code(code) is None), str(uuid7()))
    payer = Payer(uuid7(), code, payer_name, None, payer_ids, draft.version)
    draft.payer(payer)
    return payer


def known_payer(books: Books, mapped: UUID | None, payer_name: str, payer_ids: tuple[str, ...]) -> Payer | None:
    """The payer by mapping, by its ids, by code, by name."""
    if mapped in books.payers:
        return books.payers[mapped]
    name = payer_name.upper()
    for payer in books.payers.values():
        if set(payer_ids) & set(payer.era_payer_ids) or payer.code in payer_ids:
            return payer
    for payer in books.payers.values():
        if payer.name.upper() == name:
            return payer
    return None
