"""What the other services have to know of changes of access (docs/decisions/0014-revocation.md)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from services.identity.store import access
from shared.access.revocation import LONGEST_LIFE_SECONDS
from shared.db import acquire

_CLOCKS: Final = timedelta(minutes=5)
"""How far the clocks of identity's processes may differ."""


class AccessVersions:
    """The changes that a token which is good now may not know of; older ones concern tokens that have ended."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def changes(self, after: int, limit: int) -> Sequence[tuple[int, str]]:
        """Positions in the log, and `AccessState`s as JSON, in order."""
        since = datetime.now(UTC) - timedelta(seconds=LONGEST_LIFE_SECONDS) - _CLOCKS
        async with acquire(self._pool) as connection:
            return await access.changes(connection, since, after, limit)
