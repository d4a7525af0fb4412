"""Slowing down guesses at passwords: per account and per address, never for good (ASVS 5.0 6.3.1, quality case 79).

Failures are counted in the database, so that all processes count together. Within a process one account's attempts
come one after the other: a thousand parallel guesses are a thousand in a row, and a burst of the owner's own
sign-ins is not mistaken for guessing.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import asyncpg

from services.identity.store import sessions
from services.identity.store.sessions import Limit
from shared.db import acquire
from shared.errors import TooManyRequests

_QUEUES: Final = 256
_ACCOUNT: Final = Limit(free=10, longest=timedelta(minutes=5), forget=timedelta(days=1))
# Many people share an address behind a proxy, and one of them must not lock out the others for long.
_ADDRESS: Final = Limit(free=200, longest=timedelta(minutes=1), forget=timedelta(minutes=15))


class Throttle:
    """Ask before verifying a password, and tell what came of it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._queues = [asyncio.Lock() for _ in range(_QUEUES)]

    @asynccontextmanager
    async def attempt(self, user_name: str, address: str) -> AsyncIterator[Attempt]:
        """One attempt at an account, existing or not; it has failed unless `succeeded` is called. Raises
        TooManyRequests while the account or the address has to wait."""
        digest = hashlib.sha256(user_name.encode())
        account = "account:" + digest.hexdigest()
        async with self._queues[digest.digest()[0]]:
            await self._refuse_when_blocked([account, "address:" + address])
            attempt = Attempt()
            yield attempt
            async with acquire(self._pool) as connection:
                if attempt.right:
                    await sessions.forgive(connection, account)
                    await sessions.forget_old(connection)
                else:
                    await sessions.record_failure(connection, account, _ACCOUNT)
                    await sessions.record_failure(connection, "address:" + address, _ADDRESS)

    async def _refuse_when_blocked(self, subjects: list[str]) -> None:
        async with acquire(self._pool) as connection:
            left = await sessions.blocked_for(connection, subjects)
        if left is not None:
            raise TooManyRequests("Too many failed sign-ins", retry_after_seconds=math.ceil(left.total_seconds()))


class Attempt:
    """Whether the password was right."""

    right = False

    def succeeded(self) -> None:
        self.right = True
