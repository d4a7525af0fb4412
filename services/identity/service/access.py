"""Changes of access: what the other services have to know of them, and what identity asks itself at each call
(docs/decisions/0014-revocation.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg

from services.identity.domain import CLOCKS
from services.identity.store import access
from shared.access.principal import Principal
from shared.access.revocation import LONGEST_LIFE_SECONDS, stale
from shared.access.tokens import KeyCache, TokenVerifier
from shared.db import acquire


class AccessVersions:
    """The changes that a token which is good now may not know of; older ones concern tokens that have ended."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def changes(self, after: int, limit: int) -> Sequence[tuple[int, str]]:
        """Positions in the log, and `AccessState`s as JSON, in order."""
        since = datetime.now(UTC) - timedelta(seconds=LONGEST_LIFE_SECONDS) - CLOCKS
        async with acquire(self._pool) as connection:
            return await access.changes(connection, since, after, limit)


class CurrentVerifier(TokenVerifier):
    """What guards identity's own routes. The database is at hand, so nothing has to be heard: a token counts while its
    holder's version of rights is the one it says, and is refused with `token_stale` from then on."""

    def __init__(self, keys: KeyCache, pool: Callable[[], asyncpg.Pool], *, issuer: str, audience: str) -> None:
        super().__init__(keys, issuer=issuer, audience=audience)
        self._pool = pool

    async def verify(self, token: str) -> Principal:
        principal = await super().verify(token)
        async with acquire(self._pool()) as connection:
            if await access.current_version(connection, principal.subject) != principal.authz_version:
                raise stale()
        return principal
