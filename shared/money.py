"""Money is integer cents (BIGINT, strict JSON integers). Dollars appear only where people read them."""

from __future__ import annotations

MAX_CENTS = 99_999_999_999
"""The largest single amount accepted, in cents: just under one billion dollars. Sums stay far inside BIGINT."""


def dollars(cents: int) -> str:
    """`123456 -> '1,234.56'`, `-5 -> '-0.05'`: for people, never for programs."""
    sign = "-" if cents < 0 else ""
    whole, part = divmod(abs(cents), 100)
    return f"{sign}{whole:,}.{part:02d}"
