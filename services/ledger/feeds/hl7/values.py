"""The HL7 data types that carry meaning here (chapter 2A): NM, the money in CP and MO, and the day of DT, DTM and TS.

Each raises ValueError for what is not of its type, and remembers what it has seen: feeds repeat themselves.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from functools import lru_cache

from shared.money import MAX_CENTS

# Bounded, so that a product of two stays within the 28 digits of a decimal and nothing is ever rounded.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,11}(?:\.[0-9]{0,6})?|\.[0-9]{1,6})")
_TIME = re.compile(r"([0-9]{8})(?:[0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]{1,9})?)?)?)?(?:[+-][0-9]{4})?")
_FIRST_DAY, _LAST_DAY = date(1900, 1, 1), date(2199, 12, 31)


@lru_cache(maxsize=8192)
def number(text: str) -> Decimal:
    """NM: digits with an optional sign and point; no comma, currency sign, exponent or NaN."""
    if not _NUMBER.fullmatch(text):
        raise ValueError("not a number")
    return Decimal(text)


@lru_cache(maxsize=8192)
def cents(amount: Decimal) -> int:
    """Dollars as cents, exactly: a fraction of a cent is refused, `120.0000` is not one."""
    scaled = amount * 100
    value = int(scaled)
    if value != scaled or abs(value) > MAX_CENTS:
        raise ValueError("not an amount of whole cents in range")
    return value


@lru_cache(maxsize=8192)
def day(text: str) -> date:
    """CCYYMMDD, with or without a time. The day is the sender's: it is not shifted between time zones. Of a second the
    standard has four digits, and senders write as many as their clocks have."""
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError("not a date")
    digits = match[1]
    found = date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    if not _FIRST_DAY <= found <= _LAST_DAY:
        raise ValueError("not a date that anything can have happened on")
    return found
