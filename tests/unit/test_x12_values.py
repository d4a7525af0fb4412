"""Amounts, dates and procedure codes as X12 writes them."""

from __future__ import annotations

from datetime import date

import pytest

from services.ledger.feeds.x12 import values
from services.ledger.feeds.x12.model import Procedure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("180", 18000),
        (".55", 55),
        ("100.", 10000),
        ("100.1", 10010),
        ("-6173.5", -617350),
        ("-.34", -34),
        ("0", 0),
        ("-0", 0),
        ("00", 0),
        ("", 0),
        ("99999999999.99", 9_999_999_999_999),
        ("000000000000001", 100),
    ],
)
def test_amounts(text: str, expected: int) -> None:
    assert values.cents(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("+1", "1,00", "1e3", "1 ", " 1", "1.234", "1.000", ".", "-", "--1", "-.", "1.2.3", "$1", "NaN", "1_0"),
        *("１", "Ⅷ", "100000000000", "-100000000000", "9" * 5000),
    ],
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        values.cents(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20260105", date(2026, 1, 5)),
        ("20990080", None),
        ("20260230", None),
        ("00000101", None),
        ("00010101", None),
        ("11111111", None),
        ("18991231", None),
        ("19000101", date(1900, 1, 1)),
        ("21991231", date(2199, 12, 31)),
        ("99991231", None),
        ("2026010", None),
        ("2026-1-5", None),
        ("２０２６０１０５", None),
        ("", None),
    ],
)
def test_days(text: str, expected: date | None) -> None:
    assert values.day(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("HC:97110:GP", Procedure("HC", "97110", ("GP",))),
        ("HC:97140:GP:59:KX:XU:A WORD", Procedure("HC", "97140", ("GP", "59", "KX", "XU"))),
        ("HC:97110GP", Procedure("HC", "97110", ("GP",))),
        ("hc:g0283:gp", Procedure("HC", "G0283", ("GP",))),
        ("HC:97110GP59:KX", Procedure("HC", "97110", ("GP", "59", "KX"))),
        ("HC:G0283GP", Procedure("HC", "G0283", ("GP",))),
        ("HC:97110::59", Procedure("HC", "97110", ("59",))),
        ("N4:68382005501", Procedure("N4", "68382005501")),
        ("NU:0450", Procedure("NU", "0450")),
        ("HC", Procedure("HC", "")),
        ("", None),
    ],
)
def test_procedures(text: str, expected: Procedure | None) -> None:
    assert values.procedure(text, ":") == expected
