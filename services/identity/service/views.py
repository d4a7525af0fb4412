"""What is only read: oneself, the audit, the event log, the public keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from services.identity.domain import Company, Location, User
from services.identity.service.acts import current_user
from services.identity.service.keys import jwks
from services.identity.store import companies, log
from shared.access.policy import BREAK_GLASS
from shared.access.principal import Principal
from shared.db import acquire


@dataclass(frozen=True, slots=True)
class Me:
    """The caller. `user` is None for a machine client and in an emergency; `locations` None for all."""

    user: User | None
    companies: Sequence[Company]
    locations: Sequence[Location] | None


class Views:
    """Reads of what other use cases wrote."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def me(self, caller: Principal) -> Me:
        async with acquire(self._pool) as connection:
            if caller.user_type == "client" or caller.role == BREAK_GLASS:
                found = await companies.companies(connection, [caller.company_id] if caller.company_id else [])
                return Me(None, list(found.values()), None)
            user = await current_user(connection, caller)
            found = await companies.companies(connection, user.company_ids)
            claimed = user.claimed_locations(caller.company_id)
            mine = None if claimed == "*" else await companies.locations(connection, claimed)
        return Me(user, [company for company in found.values() if company.active], mine)

    @property
    def pool(self) -> asyncpg.Pool:
        return self._pool

    async def events(self, after: int, limit: int) -> Sequence[tuple[int, str]]:
        async with acquire(self._pool) as connection:
            return await log.events(connection, after, limit)

    async def public_keys(self) -> dict[str, Any]:
        async with acquire(self._pool) as connection:
            return await jwks(connection)
