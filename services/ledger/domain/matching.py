"""Which charge does a line of a remittance mean? Only a single answer is an answer (feeds.md 1.2, section 5 item 4).

A claim's charges are those of the patient whose account number is the claim id, and those known under the claim id
or a line's control number. Among them a line means the charge that goes by its control number; else the one with its
submitted (else adjudicated) code, its date and its amount. Where several are left the modifiers decide, then a person.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from services.ledger.domain.books import Books, Charge
from services.ledger.domain.feed_acts import (
    WHOLE,
    RemittanceClaim,
    RemittanceLine,
    external_ids,
    line_key,
    line_names,
)
from shared.records import record

NOT_OUR_CLAIM, PREDETERMINATION = "23", "25"


@record
class Match:
    """A line and its charge. A claim without lines is its own line."""

    claim: RemittanceClaim
    line: RemittanceLine
    charge: Charge


@dataclass(frozen=True, slots=True)
class Miss:
    """Something a person must look at: the reason and its numbers."""

    reason: str
    claim: RemittanceClaim
    detail: dict[str, Any]


def match_claims(books: Books, claims: Sequence[RemittanceClaim]) -> tuple[list[Match], list[Miss]]:
    """Every line's charge, or why there is none; one finding for a claim that cannot be applied at all."""
    matches: list[Match] = []
    misses: list[Miss] = []
    names = _Names(books)
    for claim in claims:
        if claim.problem:
            misses.append(Miss(claim.problem, claim, claim.problem_detail))
        elif claim.status == PREDETERMINATION:
            misses.append(Miss("predetermination", claim, {"paid_cents": claim.paid_cents}))
        else:
            _match_claim(names, claim, matches, misses)
    return matches, misses


class _Names:
    """The charges that stand, by what they and their patients are called: a payer may pay thousands at once."""

    def __init__(self, books: Books) -> None:
        self._external: dict[str, list[Charge]] = defaultdict(list)
        self._account: dict[str, list[Charge]] = defaultdict(list)
        for charge in books.charges.values():
            if charge.state != "void":
                self._account[books.patients[charge.patient_id].account_number].append(charge)
                if charge.external_id:
                    self._external[charge.external_id].append(charge)

    def find(self, names: Iterable[str], account: str | None = None) -> list[Charge]:
        """Every charge with one of the names, and those of the account, once."""
        found = [charge for name in names for charge in self._external.get(name, ())]
        if account is not None:
            found += self._account.get(account, ())
        return list({charge.charge_id: charge for charge in found}.values())


def _match_claim(names: _Names, claim: RemittanceClaim, matches: list[Match], misses: list[Miss]) -> None:
    candidates = [] if claim.status == NOT_OUR_CLAIM else _charges_of(names, claim)
    lines = _lines_as_paid(claim)
    if not lines:
        misses.append(Miss("claim_level_adjustment", claim, _claim_level(claim)))
        return
    if not claim.by_name:
        lines = tuple(filter(_says_something, lines))
        if not lines:
            return
    names_of = [line_names(claim, line) for line in lines]
    taken = frozenset().union(*names_of)
    fitting = [_fitting(candidates, claim, line, mine, taken) for line, mine in zip(lines, names_of, strict=True)]
    # Two lines that mean one charge: which of them it is, nobody can tell.
    meant = Counter(found[0].charge_id for found in fitting if len(found) == 1)
    if not all(fitting):
        _join_split_lines(candidates, claim, lines, fitting, meant, taken)
    found: list[Match] = []
    missed: list[Miss] = []
    for line, charges in zip(lines, fitting, strict=True):
        if len(charges) == 1 and meant[charges[0].charge_id] == 1:
            found.append(Match(claim, line, charges[0]))
            continue
        reason = "ambiguous_line" if charges else "unmatched_claim"
        charged = None if claim.by_name else line.charge_cents
        numbers = {"line": line.ordinal, "procedure_code": line.procedure_code, "charge_cents": charged}
        missed.append(Miss(reason, claim, {**numbers, "paid_cents": line.paid_cents, "candidates": len(charges)}))
    if not found and all(miss.reason == "unmatched_claim" for miss in missed):
        charged = None if claim.by_name else claim.charge_cents
        detail = {"charge_cents": charged, "paid_cents": claim.paid_cents, "lines": len(claim.lines)}
        missed = [Miss("unmatched_claim", claim, detail)]
    matches += found
    misses += missed


def _charges_of(names: _Names, claim: RemittanceClaim) -> list[Charge]:
    """The charges of our claim. Only where none goes by its id may line numbers name them: those need not be unique."""
    ours = {claim.claim_id, *claim.other_ids}
    ours |= {name for line in claim.lines for name in line_names(claim, line) - {line.control_number}}
    account = None if claim.by_name else claim.claim_id
    return names.find(ours, account) or names.find(set(external_ids(claim)))


def _fitting(
    candidates: list[Charge], claim: RemittanceClaim, line: RemittanceLine, mine: Set[str], taken: Set[str]
) -> list[Charge]:
    """The charges that a line may mean: those that go by its own names (`mine`) first, never by another line's (`taken`
    are the names of all lines)."""
    same_amount = [one for one in candidates if claim.by_name or one.amount_cents == abs(line.charge_cents)]
    named = [charge for charge in same_amount if charge.external_id in mine]
    if len(named) == 1:
        return named
    code, day = line.submitted_code or line.procedure_code, line.date_of_service or claim.date_of_service
    fitting = [
        charge
        for charge in named or same_amount
        if (charge.external_id in mine or charge.external_id not in taken)
        and code in ("", charge.procedure_code)
        and day in (None, charge.date_of_service)
    ]
    if len(fitting) > 1 and line.modifiers:
        fitting = [charge for charge in fitting if set(charge.modifiers) == set(line.modifiers)] or fitting
    return fitting


def _join_split_lines(
    candidates: list[Charge],
    claim: RemittanceClaim,
    lines: Sequence[RemittanceLine],
    fitting: list[list[Charge]],
    meant: Counter[UUID],
    taken: Set[str],
) -> None:
    """Lines that no charge fits, but all that carry one number together: a payer has told one of ours in parts, some
    units paid and others not. Each part is then of that charge."""
    parts: dict[str, list[int]] = defaultdict(list)
    for place, line in enumerate(lines):
        if line.control_number and not fitting[place]:
            parts[line.control_number].append(place)
    for places in parts.values():
        if len(places) > 1:
            whole = replace(lines[places[0]], charge_cents=sum(lines[place].charge_cents for place in places))
            charges = _fitting(candidates, claim, whole, line_names(claim, whole), taken)
            if len(charges) == 1 and charges[0].charge_id not in meant:
                meant[charges[0].charge_id] = 1
                for place in places:
                    fitting[place] = charges


def _says_something(line: RemittanceLine) -> bool:
    """A code that only reports something is charged 0.00, and the books have no such charges."""
    return bool(line.charge_cents or line.paid_cents or any(cents for _, _, cents in line.adjustments))


def _lines_as_paid(claim: RemittanceClaim) -> tuple[RemittanceLine, ...]:
    """The lines, with what was adjusted for the claim as a whole: it was taken off what they say was paid
    (feeds.md 1.2: sum SVC03 - claim-level CAS = CLP04). It is the only line's; or every line's, where one reason took
    all that they say was paid. Else nobody can tell which line was paid less: none."""
    whole = [row for row in claim.adjustments if row[2]]
    if not claim.lines:
        return (_as_line(claim),)
    if not whole:
        return claim.lines
    if len(claim.lines) == 1:
        return (_paid_less(claim.lines[0], whole),)
    if len(whole) == 1 and not claim.paid_cents:
        group, reason, _ = whole[0]
        return tuple(_paid_less(line, [(group, reason, line.paid_cents)]) for line in claim.lines)
    return ()


def _paid_less(line: RemittanceLine, rows: Sequence[tuple[str, str, int]]) -> RemittanceLine:
    paid_cents = line.paid_cents - sum(cents for _, _, cents in rows)
    return replace(line, paid_cents=paid_cents, adjustments=(*line.adjustments, *rows))


def _claim_level(claim: RemittanceClaim) -> dict[str, Any]:
    lines_paid_cents = sum(line.paid_cents for line in claim.lines)
    return {
        "adjustments": [list(row) for row in claim.adjustments],
        "paid_cents": claim.paid_cents,
        "lines_paid_cents": lines_paid_cents,
        "difference_cents": lines_paid_cents - claim.paid_cents,
    }


def _as_line(claim: RemittanceClaim) -> RemittanceLine:
    """A claim reported without service lines, taken as one line of any procedure."""
    return RemittanceLine(
        ordinal=WHOLE,
        procedure_code="",
        submitted_code=None,
        modifiers=(),
        date_of_service=claim.date_of_service,
        charge_cents=claim.charge_cents,
        paid_cents=claim.paid_cents,
        control_number=None,
        adjustments=claim.adjustments,
    )


def key_of(match: Match) -> str | None:
    """The line's key for dedupe across files; None where the payer gave no control number to tell lines apart."""
    return line_key(match.claim, match.line.ordinal) if match.claim.payer_control_number else None
