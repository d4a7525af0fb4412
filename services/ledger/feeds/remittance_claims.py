"""The claims of an 835 as the books take them: alone, or in pieces of which each is posted with one append. A process
of its own may read them (`apart.py`), so nothing is imported here that it would not need."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Final

import orjson

from services.ledger.domain.feed_acts import RemittanceClaim, RemittanceLine
from services.ledger.feeds.spooled import Chunks
from services.ledger.feeds.x12.model import Adjustment, Claim, Header, Line, Transaction
from services.ledger.feeds.x12.remittance import placed_claims, read
from shared.records import record

NUMBER, NAME, CODE = 80, 200, 10
"""Longest numbers, names and codes: the standard has 50, 60 and 5, but an element may be as long as a segment."""
LINES_A_PIECE: Final = 300
"""Part of what the keys of later pieces mean: with another number an interrupted file could not be finished."""


@record
class Piece:
    """Part of a transaction's claims; the first comes with the receipt."""

    ordinal: int
    """The place of the transaction in its file."""
    number: int
    claims: tuple[RemittanceClaim, ...]
    last: bool
    content_hash: bytes
    """SHA-256 of the claims."""


def pieces_of(chunks: Chunks, wanted: Mapping[int, bool]) -> Iterator[Piece]:
    """Every piece of the wanted transactions, in file order. Where reversals come after other claims (True), they are
    taken out and go first (feeds.md 0.8): what they free is needed by their corrections, wherever those stand."""
    numbers: dict[int, int] = {}
    yield from _read_pieces(chunks, wanted, numbers)
    if late := {ordinal: True for ordinal, is_late in wanted.items() if is_late}:
        yield from _read_pieces(chunks, late, numbers, the_rest=True)


def _read_pieces(
    chunks: Chunks, wanted: Mapping[int, bool], numbers: dict[int, int], *, the_rest: bool = False
) -> Iterator[Piece]:
    """One reading of the file. `the_rest`: what the first one left out, numbered on from `numbers`."""
    current, is_late = 0, False
    number, lines = 0, 0
    held: list[RemittanceClaim] = []
    for event in read(chunks):
        if isinstance(event, Header):
            current, is_late = event.ordinal if event.ordinal in wanted else 0, wanted.get(event.ordinal, False)
            number, lines, held = numbers.get(event.ordinal, 0), 0, []
        elif not current:
            continue
        elif isinstance(event, Claim):
            if is_late and event.is_reversal == the_rest:
                continue
            if lines >= LINES_A_PIECE:
                yield _piece(current, number, held, last=False)
                number, lines, held = number + 1, 0, []
            held.append(claim_of(event))
            lines += max(1, len(event.lines))
        elif isinstance(event, Transaction):
            yield _piece(current, number, held, last=the_rest or not is_late)
            numbers[current] = number + 1
            current = 0


def _piece(ordinal: int, number: int, held: Sequence[RemittanceClaim], *, last: bool) -> Piece:
    claims = tuple(held)
    return Piece(ordinal, number, claims, last, hashlib.sha256(orjson.dumps(claims)).digest())


def groups_of(chunks: Chunks, wanted: Collection[int], most: int) -> Iterator[tuple[int, Sequence[RemittanceClaim]]]:
    """The claims of the wanted transactions, by their places in the file, so many at a time."""
    for ordinal, placed in groupby(placed_claims(chunks), key=itemgetter(0)):
        while ordinal in wanted and (group := [claim_of(claim) for _, claim in islice(placed, most)]):
            yield ordinal, group


def claim_of(claim: Claim) -> RemittanceClaim:
    finding = min(claim.problems, key=lambda problem: problem.code, default=None)
    numbers: dict[str, Any] = {}
    if finding is not None:
        same = [p for p in claim.problems if p.code == finding.code]
        lines: list[dict[str, Any]] = [{**dict(p.numbers), "line": p.line} for p in same]
        numbers = {"detail": finding.detail, "violations": lines}
    return RemittanceClaim(
        claim_id=claim.account[:NUMBER],
        payer_control_number=claim.icn[:NUMBER],
        status=claim.status[:CODE],
        charge_cents=claim.charge_cents,
        paid_cents=claim.paid_cents,
        date_of_service=claim.service_from,
        lines=tuple(_line(line) for line in claim.lines),
        adjustments=_triplets(claim.adjustments),
        problem=finding.code if finding else None,
        problem_detail=numbers,
        ordinal=claim.ordinal,
    )


def _line(line: Line) -> RemittanceLine:
    procedure, submitted = line.procedure, line.submitted
    coded = submitted or procedure
    return RemittanceLine(
        ordinal=line.ordinal,
        procedure_code=procedure.code if procedure else "",
        submitted_code=submitted.code if submitted else None,
        modifiers=coded.modifiers if coded else (),
        date_of_service=line.service_from,
        charge_cents=line.charge_cents,
        paid_cents=line.paid_cents,
        control_number=line.control_number[:NUMBER] or None,
        adjustments=_triplets(line.adjustments),
    )


def _triplets(rows: tuple[Adjustment, ...]) -> tuple[tuple[str, str, int], ...]:
    return tuple((row.group[:CODE], row.reason[:CODE], row.cents) for row in rows)
