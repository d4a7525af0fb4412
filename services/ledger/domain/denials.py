"""What of a line's adjustments is posted as it stands there, and what a payer denied, which is work for a person."""

from __future__ import annotations

from typing import Final

from services.ledger.domain.charges import TO_PATIENT
from services.ledger.domain.feed_acts import PRIOR_PAYER, RemittanceClaim
from services.ledger.domain.matching import Match

DENIED_LINE: Final = "denied_line"
"""The reason of the exception."""
_DENIED: Final = "4"
_CONTRACTUAL: Final = frozenset({"45", "253"})
"""Fee schedule and sequestration: written off even where nothing was paid. Any other reason on an unpaid line is a
denial to be worked, not an automatic write-off."""
_PRIOR: Final = ("OA", PRIOR_PAYER)

Triplet = tuple[str, str, int]
"""Group code, reason code, cents."""


def to_post(match: Match) -> list[Triplet]:
    """What of a line is posted as it stands there."""
    if _is_denied_whole(match.claim):
        return []
    rows = [row for row in match.line.adjustments if row[:2] != _PRIOR]
    return rows if match.line.paid_cents else [row for row in rows if not _is_denial(row)]


def denied(match: Match) -> list[Triplet]:
    """What of an unpaid line neither was paid nor is posted. Of a claim denied whole nothing: that one is worked from
    the list of claims, which has it as denied."""
    if match.line.paid_cents or _is_denied_whole(match.claim):
        return []
    return [row for row in match.line.adjustments if row[2] > 0 and row[:2] != _PRIOR and _is_denial(row)]


def _is_denied_whole(claim: RemittanceClaim) -> bool:
    return claim.status == _DENIED and not claim.paid_cents


def _is_denial(row: Triplet) -> bool:
    return row[0] != TO_PATIENT and row[1] not in _CONTRACTUAL
