"""Slowing down guesses at passwords, codes and clients' secrets, never for good, and writing them down (ASVS 5.0 6.3.1,
16.3.1; quality 3.5 and case 79).

An attempt is counted as a failure before it is made, in the database, and taken back when it was none: whatever number
of processes and parallel guesses, no more are made than the limit allows, and a process that dies gives nothing away.
Within a process one account's attempts come one after the other, so that a burst of the owner's own sign-ins is not
mistaken for guessing.

A person is counted by account, by address and with everybody; but where he has signed in within a month, by account
*and* address, and not with everybody: a stranger who guesses elsewhere, one time in five minutes or many times at many
accounts, must not hold him up there. A client is always counted so: its name is no secret. Our secrets have 256 bits;
what is slowed down is the noise, and guesses at a shorter one that somebody configured.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import asyncpg

from services.identity.domain import Client, User, nfkc
from services.identity.service.acts import own_act
from services.identity.store import failures
from services.identity.store.failures import Limit
from shared.address import UNKNOWN, network
from shared.db import acquire
from shared.errors import TooManyRequests

_QUEUES: Final = 256
ACCOUNT: Final = Limit(free=10, longest=timedelta(minutes=5), forget=timedelta(days=1))
# A service that has to renew its token can wait so long: it keeps the old one meanwhile (shared/identity_client.py).
CLIENT: Final = Limit(free=10, longest=timedelta(minutes=1), forget=timedelta(days=1))
# Many people share an address behind a gateway, and one of them must not lock out the others for long.
ADDRESS: Final = Limit(free=200, longest=timedelta(minutes=1), forget=timedelta(minutes=15), drain=0.1)
# Guesses at many accounts from many addresses: together they come to a few a second, and nobody waits for long.
EVERYBODY: Final = Limit(free=1_000, longest=timedelta(seconds=10), forget=timedelta(minutes=15), drain=5)


class _Blocked(Exception):
    """Undoes a reservation of which one part was refused."""


class Attempt:
    """What came of an attempt: it has failed unless one of these is called."""

    right = False
    signed_in = False
    coded = False
    undecided = False
    owner: User | Client | None = None
    """Whose account it is at, for the audit."""

    def succeeded(self, *, coded: bool = False) -> None:
        """With all that a sign-in takes, so what failed before is forgiven. `coded`: with a second factor."""
        self.right, self.signed_in, self.coded = True, True, coded

    def was_right(self) -> None:
        """But is less than a sign-in takes. It is not counted, and nothing is forgiven: who has a session and the
        password, and not the app, would have his guesses at its codes forgiven as often as he says the password."""
        self.right = True

    def left_open(self) -> None:
        """Neither right nor wrong: something is still missing. It is not counted, and nothing is forgiven."""
        self.undecided = True


def account_name(user_name: str) -> str:
    """A name as typed, in the form in which accounts are looked up and attempts counted."""
    return nfkc(user_name[:1_000]).casefold().replace("\0", "")[:200]


class Throttle:
    """Ask before verifying a password or code, and tell what came of it."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._queues = [asyncio.Lock() for _ in range(_QUEUES)]

    @asynccontextmanager
    async def attempt(
        self, user_name: str, address: str, failed: str = "sign_in_failed", **details: Any
    ) -> AsyncIterator[Attempt]:
        """One attempt at an account, existing or not (`account_name`). Raises TooManyRequests while the account, the
        address or everybody has to wait. When it fails, the audit says `failed` with the `details`."""
        digest = hashlib.sha256(user_name.encode())
        account, place = f"account:{digest.hexdigest()}", network(address)
        async with acquire(self._pool) as connection:
            at_home = await failures.is_known(connection, account, place)
        limits = {f"{account}@{place}" if at_home else account: ACCOUNT, f"address:{place}": ADDRESS}
        if not at_home:
            limits["everybody"] = EVERYBODY
        async with self._attempt(digest.digest()[0], limits, failed, details) as attempt:
            yield attempt
        if attempt.signed_in and place != UNKNOWN:
            async with acquire(self._pool) as connection:
                await failures.remember(connection, account, place)

    def client_attempt(self, client_id: str, address: str, failed: str) -> AbstractAsyncContextManager[Attempt]:
        """The same for a client, at this address."""
        place = network(address)
        digest = hashlib.sha256(f"{place} {client_id}".encode())
        limits = {f"client:{digest.hexdigest()}": CLIENT, f"address:{place}": ADDRESS}
        return self._attempt(digest.digest()[0], limits, failed, {"methods": ["client_secret"]})

    @asynccontextmanager
    async def _attempt(
        self, queue: int, limits: dict[str, Limit], failed: str, details: dict[str, Any]
    ) -> AsyncIterator[Attempt]:
        async with self._queues[queue]:
            waits = await self._reserve(limits)
            attempt = Attempt()
            try:
                yield attempt
            except Exception:
                # Nothing was verified, so nothing was learned. A caller who went away (cancellation) stays counted.
                await self._settle(limits, forgiven=False)
                raise
            if attempt.right or attempt.undecided:
                await self._settle(limits, forgiven=attempt.signed_in)
            else:
                await self._write_down(attempt, failed, details, waits)

    async def _reserve(self, limits: dict[str, Limit]) -> dict[str, int]:
        """The seconds that each subject will have to wait, if the attempt fails."""
        try:
            async with acquire(self._pool) as connection, connection.transaction():
                waits = {}
                # In one order everywhere; the row that all share comes last and is locked the shortest.
                for subject, limit in limits.items():
                    seconds = await failures.reserve(connection, subject, limit)
                    if seconds is None:
                        raise _Blocked()
                    waits[subject] = seconds
                return waits
        except _Blocked:
            async with acquire(self._pool) as connection:
                left = await failures.blocked_for(connection, list(limits))
            seconds = max(1, math.ceil(left.total_seconds()))
            raise TooManyRequests("Too many failed sign-ins", retry_after_seconds=seconds) from None

    async def _settle(self, limits: dict[str, Limit], *, forgiven: bool) -> None:
        async with acquire(self._pool) as connection, connection.transaction():
            for subject, limit in limits.items():
                if forgiven and limit in (ACCOUNT, CLIENT):
                    await failures.forgive(connection, subject)
                else:
                    await failures.take_back(connection, subject, limit)

    async def _write_down(self, attempt: Attempt, failed: str, details: dict[str, Any], waits: dict[str, int]) -> None:
        """The failure, and each wait that begins with it: by the account, the client, the address or everybody. What
        is refused during a wait was not tried; it is a request line."""
        async with acquire(self._pool) as connection, connection.transaction():
            await own_act(connection, attempt.owner, failed, **details)
            for subject, seconds in waits.items():
                if seconds:
                    of = subject.partition(":")[0]
                    await own_act(connection, attempt.owner, "sign_in_locked", of=of, seconds=seconds)
