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


def uuid7() -> UUID:
    """A time-ordered id: 48 bits of Unix milliseconds, then 74 random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
