"""Slowing down guesses at passwords and codes: per account, per address and in all, never for good (ASVS 5.0 6.3.1,
quality 3.5 and case 79).

An attempt is counted as a failure before it is made, in the database, and taken back when it was none: whatever number
of processes and parallel guesses, no more are made than the limit allows, and a process that dies gives nothing away.
Within a process one account's attempts come one after the other, so that a burst of the owner's own sign-ins is not
mistaken for guessing.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import asyncpg

from services.identity.domain import nfkc
from services.identity.store import failures
from services.identity.store.failures import Limit
from shared.db import acquire
from shared.errors import TooManyRequests

_QUEUES: Final = 256
ACCOUNT: Final = Limit(free=10, longest=timedelta(minutes=5), forget=timedelta(days=1))
# Many people share an address behind a gateway, and one of them must not lock out the others for long.
ADDRESS: Final = Limit(free=200, longest=timedelta(minutes=1), forget=timedelta(minutes=15), drain=0.1)
# Guesses at many accounts from many addresses: together they come to a few a second, and nobody waits for long.
EVERYBODY: Final = Limit(free=1_000, longest=timedelta(seconds=10), forget=timedelta(minutes=15), drain=5)


class _Blocked(Exception):
    """Undoes a reservation of which one part was refused."""


class Attempt:
    """What came of an attempt: it has failed unless one of these is called."""

    right = False
    coded = False
    undecided = False

    def succeeded(self, *, coded: bool = False) -> None:
        """`coded`: with a second factor."""
        self.right, self.coded = True, coded

    def left_open(self) -> None:
        """Neither right nor wrong: something is still missing. It is not counted, and nothing is forgiven."""
        self.undecided = True


def account_name(user_name: str) -> str:
    """A name as typed, in the form in which accounts are looked up and attempts counted."""
    return nfkc(user_name[:1_000]).casefold().replace("\0", "")[:200]


def network(address: str) -> str:
    """What counts as one address: an IPv6 caller has a whole /64 to himself."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(known, ipaddress.IPv6Address):
        if known.ipv4_mapped:
            return str(known.ipv4_mapped)
        return str(ipaddress.ip_network((known, 64), strict=False))
    return str(known)


class Throttle:
    """Ask before verifying a password or code, and tell what came of it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._queues = [asyncio.Lock() for _ in range(_QUEUES)]

    @asynccontextmanager
    async def attempt(self, user_name: str, address: str) -> AsyncIterator[Attempt]:
        """One attempt at an account, existing or not (`account_name`). Raises TooManyRequests while the account, the
        address or everybody has to wait."""
        digest = hashlib.sha256(user_name.encode())
        limits = {"account:" + digest.hexdigest(): ACCOUNT, "address:" + network(address): ADDRESS, "all": EVERYBODY}
        async with self._queues[digest.digest()[0]]:
            await self._reserve(limits)
            attempt = Attempt()
            try:
                yield attempt
            except Exception:
                # Nothing was verified, so nothing was learned. A caller who went away (cancellation) stays counted.
                await self._settle(limits, forgiven=False)
                raise
            if attempt.right or attempt.undecided:
                await self._settle(limits, forgiven=attempt.right)

    async def _reserve(self, limits: dict[str, Limit]) -> None:
        try:
            async with acquire(self._pool) as connection, connection.transaction():
                # In one order everywhere; the row that all share comes last and is locked the shortest.
                for subject, limit in limits.items():
                    if not await failures.reserve(connection, subject, limit):
                        raise _Blocked()
        except _Blocked:
            async with acquire(self._pool) as connection:
                left = await failures.blocked_for(connection, list(limits))
            seconds = max(1, math.ceil(left.total_seconds()))
            raise TooManyRequests("Too many failed sign-ins", retry_after_seconds=seconds) from None

    async def _settle(self, limits: dict[str, Limit], *, forgiven: bool) -> None:
        async with acquire(self._pool) as connection, connection.transaction():
            for subject, limit in limits.items():
                if forgiven and limit is ACCOUNT:
                    await failures.forgive(connection, subject)
                else:
                    await failures.take_back(connection, subject, limit)
