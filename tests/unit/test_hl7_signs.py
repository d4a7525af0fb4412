"""What FT1-10, FT1-11 and FT1-12 say together: a payment of a negative quantity is no money received (feeds.md 1.1)."""

from __future__ import annotations

import pytest

from services.ledger.feeds.hl7.dft import understand
from services.ledger.feeds.hl7.model import Financial, Profile
from services.ledger.feeds.hl7.reader import read
from tests.support.hl7_messages import ft1, message


def understood(line: str, **profile: object) -> Financial:
    return understand(read(message(line, control_id="C1")), Profile(**profile))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["PY", "CO"])
@pytest.mark.parametrize(
    ("quantity", "extended", "unit", "cents"),
    [
        ("1", "50.00", "", 5_000),
        ("", "50.00", "", 5_000),
        ("0", "50.00", "", 5_000),
        ("2", "50.00", "25.00", 5_000),
        ("2", "", "25.00", 5_000),
        ("-1", "50.00", "", -5_000),
        ("-1", "-50.00", "", -5_000),
        ("1", "-50.00", "", -5_000),
        ("-2", "", "25.00", -5_000),
        ("2", "", "-25.00", -5_000),
        ("-2", "", "-25.00", -5_000),
    ],
)
def test_a_payment_is_negative_where_anything_of_it_is(
    kind: str, quantity: str, extended: str, unit: str, cents: int
) -> None:
    found = understood(ft1(kind, "P1", extended, "CASH", quantity, f12=unit))
    assert [one.amount_cents for one in found.transactions] == [cents]
    assert found.stated_cents == cents


@pytest.mark.parametrize(
    ("sign", "quantity", "amount", "cents"),
    [
        ("negative_reduces", "1", "-20.00", 2_000),
        ("negative_reduces", "-1", "-20.00", 2_000),
        ("negative_reduces", "1", "20.00", -2_000),
        ("negative_reduces", "-1", "20.00", -2_000),
        ("positive_reduces", "1", "20.00", 2_000),
        ("positive_reduces", "-1", "20.00", -2_000),
        ("positive_reduces", "-1", "-20.00", -2_000),
    ],
)
def test_an_adjustment_taken_back_raises_the_balance(sign: str, quantity: str, amount: str, cents: int) -> None:
    """FT1-11 is already extended by the quantity: its sign is the one that was agreed."""
    found = understood(ft1("AJ", "X1", amount, "45", quantity, f31="C1"), adjustments=sign)
    assert [one.amount_cents for one in found.transactions] == [cents]
