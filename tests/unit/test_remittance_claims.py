"""The claims of an 835 in pieces: all of them once, in the order in which they are posted, and an end to each."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.ledger.feeds import remittance_claims
from services.ledger.feeds.remittance_claims import Piece, pieces_of
from services.ledger.feeds.x12.remittance import contents
from tests.support.feed_work import check, claim, service
from tests.support.x12_builder import ClaimPayment, Payment, Service, x12_file


def reversal(account: str) -> ClaimPayment:
    return claim(account, Service(charge_cents=-10_000, adjustments=()), status="22")


def paid(account: str) -> ClaimPayment:
    return claim(account, service())


EARLY = check(reversal("A"), paid("B"), paid("C"), trace="EARLY")
LATE = check(paid("D"), paid("E"), reversal("F"), paid("G"), reversal("H"), trace="LATE")
ONLY = check(reversal("I"), trace="ONLY")


def cut(payments: Sequence[Payment], wanted: Sequence[int]) -> list[Piece]:
    body = x12_file(payments)
    found = {one.ordinal: one.late_reversals for one in contents([body]).transactions}
    return list(pieces_of([body], {ordinal: found[ordinal] for ordinal in wanted}))


@pytest.mark.parametrize("lines", [1, 2, 300])
def test_every_claim_comes_once_late_reversals_first_and_the_last_piece_says_so(
    monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    monkeypatch.setattr(remittance_claims, "LINES_A_PIECE", lines)
    pieces = cut((EARLY, LATE, ONLY), (1, 2, 3))
    claims = {
        ordinal: [one.claim_id for piece in pieces if piece.ordinal == ordinal for one in piece.claims]
        for ordinal in (1, 2, 3)
    }
    assert claims == {1: ["A", "B", "C"], 2: ["F", "H", "D", "E", "G"], 3: ["I"]}
    for ordinal in claims:
        mine = [piece for piece in pieces if piece.ordinal == ordinal]
        assert [piece.number for piece in mine] == list(range(len(mine)))
        assert [piece.last for piece in mine] == [False] * (len(mine) - 1) + [True]


def test_only_what_is_wanted_is_read() -> None:
    assert {piece.ordinal for piece in cut((EARLY, LATE, ONLY), (2,))} == {2}
