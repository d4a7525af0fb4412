"""The X12 data types that carry meaning here: R (amounts), DT (dates) and the procedure composite."""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache

from services.ledger.feeds.x12.model import Procedure

_LIMIT = 10**13
_DAY = re.compile(r"[0-9]{8}")
_FIRST_DAY, _LAST_DAY = date(1900, 1, 1), date(2199, 12, 31)
_HCPCS_AND_MODIFIERS = re.compile(r"([0-9A-Z][0-9]{3}[0-9A-Z])((?:[0-9A-Z]{2}){1,4})")


@lru_cache(maxsize=8192)
def cents(text: str) -> int:
    """Type R as cents: `.55`, `100.` and `-6173.5` are right; a comma, `+`, an exponent, a third decimal are not.

    Digits are moved, never calculated with, so nothing can be rounded. An omitted amount is zero; whether that was
    meant the balancing rules say.
    """
    if not text:
        return 0
    whole, _, fraction = text.removeprefix("-").partition(".")
    digits = whole + fraction.ljust(2, "0")
    if (
        not (whole or fraction)
        or len(fraction) > 2
        or len(digits) > 20
        or not (digits.isascii() and digits.isdecimal())
    ):
        raise ValueError("not an amount")
    value = int(digits)
    if value >= _LIMIT:
        raise ValueError("amount out of range")
    return -value if text[0] == "-" else value


def day(text: str) -> date | None:
    """CCYYMMDD. What is no day in the calendar, or a filler such as 00010101 or 99991231, is no date: the next best
    date is used instead."""
    return _day(text) if len(text) == 8 else None


def procedure(text: str, component: str) -> Procedure | None:
    """SVC01 and SVC06: qualifier, code, up to four modifiers."""
    return _procedure(text[:160], component) if text else None


@lru_cache(maxsize=4096)
def _day(text: str) -> date | None:
    if not _DAY.fullmatch(text):
        return None
    try:
        found = date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None
    return found if _FIRST_DAY <= found <= _LAST_DAY else None


@lru_cache(maxsize=4096)
def _procedure(text: str, component: str) -> Procedure:
    # Small letters are in X12 too; no code has any.
    qualifier, code, *rest = (*map(str.strip, text.upper().split(component)), "")
    modifiers = tuple(filter(None, rest[:4]))
    glued = _HCPCS_AND_MODIFIERS.fullmatch(code) if qualifier == "HC" else None
    if glued:
        # Some payers append the modifier without a separator: "97110GP" (openemr ParseERA).
        code, tail = glued.groups()
        modifiers = (*(tail[i : i + 2] for i in range(0, len(tail), 2)), *modifiers)
    return Procedure(qualifier, code, modifiers)
