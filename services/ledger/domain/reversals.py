"""Reversals of 4010, which put the group CR (corrections and reversals) in the place of the group that they negate.

What the payer negates is what his receipts have adjusted on the charge before, so its group is the one under which that
was posted. Where the books do not tell which one, it is left to a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from services.ledger.domain.books import PATIENT, PAYER, RECEIVABLES, Books, Lines
from services.ledger.domain.feed_acts import CORRECTION, PRIOR_PAYER
from services.ledger.domain.matching import Match

Code = tuple[str, str]
"""Group and reason."""
Triplet = tuple[str, str, int]
"""Group code, reason code, cents."""


def standing(books: Books, payer_id: UUID | None, charge_id: UUID) -> dict[Code, int]:
    """What the payer's receipts have adjusted on the charge and not taken back, in cents by group and reason."""
    found: dict[Code, int] = {}
    for key, cents in _settled(books, payer_id, charge_id).net.items():
        accounts = key.debit, key.credit
        if "adjustment" in accounts or set(accounts) == {PAYER, PATIENT}:
            group, _, reason = key.detail.partition(":")
            signed = cents if key.debit in ("adjustment", PATIENT) else -cents
            found[group, reason] = found.get((group, reason), 0) + signed
    return {code: cents for code, cents in found.items() if cents > 0}


def with_groups(books: Books, payer_id: UUID | None, match: Match, rows: Sequence[Triplet]) -> list[Triplet]:
    """The rows to be posted of a line whose payment was taken back already, with what CR takes back under the groups
    that it was posted under. A row whose group cannot be told stays as it is.

    The reason tells, where it stands under one group. Where reasons do not, a line that takes back all that the payer
    had paid takes back all that he had adjusted; the amounts may be more, since not all of them were posted."""
    back = [row for row in match.line.adjustments if _takes_back(row)]
    if not back:
        return list(rows)
    rest = [row for row in rows if not _takes_back(row)]
    settled = _settled(books, payer_id, match.charge.charge_id)
    before = standing(books, payer_id, match.charge.charge_id)
    for group, reason, cents in rest:
        if (group, reason) in before:
            before[group, reason] += cents
    found, unknown = _by_reason(back, before)
    if not unknown:
        return rest + found
    all_cents, stated_cents = sum(before.values()), -sum(cents for _, _, cents in back)
    something = all_cents or match.line.paid_cents
    nothing_paid = match.line.charge_cents < 0 and not settled.between("unapplied", RECEIVABLES)
    if something and nothing_paid and all_cents <= stated_cents:
        return rest + [(*code, -cents) for code, cents in before.items() if cents > 0]
    return rest + found + [row for row in unknown if row in rows]


def _by_reason(back: Sequence[Triplet], before: dict[Code, int]) -> tuple[list[Triplet], list[Triplet]]:
    """What is taken back under the one group in which its reason stands, and what there is no such group for."""
    left = dict(before)
    found: list[Triplet] = []
    unknown: list[Triplet] = []
    for row in back:
        _, reason, cents = row
        codes = [code for code, posted in left.items() if code[1] == reason and posted >= -cents]
        if len(codes) == 1:
            left[codes[0]] += cents
            found.append((*codes[0], cents))
        elif codes or reason != PRIOR_PAYER:
            unknown.append(row)
    return found, unknown


def _takes_back(row: Triplet) -> bool:
    return row[0] == CORRECTION and row[2] < 0


def _settled(books: Books, payer_id: UUID | None, charge_id: UUID) -> Lines:
    return books.settled.get(charge_id, {}).get(payer_id) or Lines()
