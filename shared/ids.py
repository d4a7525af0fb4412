"""Identifiers. Ids are UUIDv7 made by the server (RFC 9562 section 5.7); the standard library has it from 3.14."""

from __future__ import annotations

import os
import time
from uuid import UUID

INTEGRATION_POSTER_ID = UUID(int=1)
"""The poster of every row that came by a feed, whoever sent it (product.md D8)."""
INTEGRATION_POSTER_NAME = "Integration Import, Not mapped to a user"

NO_COMPANY = UUID(int=0)
"""Owner of feed items whose company cannot be told (unknown source or clinic)."""


_random: list[bytes] = []
os.register_at_fork(after_in_child=_random.clear)


def uuid7() -> UUID:
    """A time-ordered id: 48 bits of Unix milliseconds, then 74 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(_ten_bytes())
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def _ten_bytes() -> bytes:
    # Asked for by the hundred: each time the system is asked, another thread may take over.
    try:
        return _random.pop()
    except IndexError:
        many = os.urandom(1_280)
        _random.extend(many[start : start + 10] for start in range(10, len(many), 10))
        return many[:10]
