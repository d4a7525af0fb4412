"""Which charge does a line of a remittance mean? Only a single answer is an answer (feeds.md 1.2, section 5 item 4).

A claim's charges are those of the patient whose account number is the claim id, and those known under the claim id
or a line's control number. Among them a line means the charge with its submitted (else adjudicated) code, its date
and its amount. Where several are left the control number decides, then the modifiers, then a person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.ledger.domain.books import Books, Charge
from services.ledger.domain.feed_acts import RemittanceClaim, RemittanceLine, external_ids, line_key

NOT_OUR_CLAIM, PREDETERMINATION = "23", "25"


@dataclass(frozen=True, slots=True)
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
    for claim in claims:
        if claim.problem:
            misses.append(Miss(claim.problem, claim, claim.problem_detail))
        elif claim.status == PREDETERMINATION:
            misses.append(Miss("predetermination", claim, {"paid_cents": claim.paid_cents}))
        else:
            _match_claim(books, claim, matches, misses)
    return matches, misses


def _match_claim(books: Books, claim: RemittanceClaim, matches: list[Match], misses: list[Miss]) -> None:
    candidates = [] if claim.status == NOT_OUR_CLAIM else _charges_of(books, claim)
    found: list[Match] = []
    missed: list[Miss] = []
    for line in claim.lines or (_as_line(claim),):
        fitting = _fitting(candidates, claim, line)
        if len(fitting) == 1:
            found.append(Match(claim, line, fitting[0]))
        else:
            reason = "ambiguous_line" if fitting else "unmatched_claim"
            numbers = {"line": line.ordinal, "procedure_code": line.procedure_code, "charge_cents": line.charge_cents}
            missed.append(Miss(reason, claim, {**numbers, "paid_cents": line.paid_cents, "candidates": len(fitting)}))
    if not found and all(miss.reason == "unmatched_claim" for miss in missed):
        detail = {"charge_cents": claim.charge_cents, "paid_cents": claim.paid_cents, "lines": len(claim.lines)}
        missed = [Miss("unmatched_claim", claim, detail)]
    matches += found
    misses += missed


def _charges_of(books: Books, claim: RemittanceClaim) -> list[Charge]:
    names = set(external_ids(claim))
    return [
        charge
        for charge in books.charges.values()
        if charge.state != "void"
        and (charge.external_id in names or books.patients[charge.patient_id].account_number == claim.claim_id)
    ]


def _fitting(candidates: list[Charge], claim: RemittanceClaim, line: RemittanceLine) -> list[Charge]:
    codes = {code for code in (line.submitted_code or line.procedure_code,) if code}
    day = line.date_of_service or claim.date_of_service
    fitting = [
        charge
        for charge in candidates
        if (not codes or charge.procedure_code in codes)
        and (day is None or charge.date_of_service == day)
        and charge.amount_cents == abs(line.charge_cents)
    ]
    if len(fitting) > 1 and line.control_number:
        names = {line.control_number, f"{claim.claim_id}-{line.control_number}"}
        fitting = [charge for charge in fitting if charge.external_id in names] or fitting
    if len(fitting) > 1 and line.modifiers:
        fitting = [charge for charge in fitting if set(charge.modifiers) == set(line.modifiers)] or fitting
    return fitting


def _as_line(claim: RemittanceClaim) -> RemittanceLine:
    """A claim reported without service lines, taken as one line of any procedure."""
    return RemittanceLine(
        ordinal=0,
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
