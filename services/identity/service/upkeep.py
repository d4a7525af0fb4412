"""What has to be done from time to time: turn the signing keys, forget what has ended."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from services.identity.sealing import Sealer
from services.identity.service.keys import rotate_when_due
from services.identity.store import ROLE, factors, failures, sessions
from shared.bus import pause
from shared.db import BUSY_OR_AWAY, acquire, create_pool
from shared.errors import Unavailable

_SECONDS: Final = 60.0
log = structlog.get_logger("upkeep")


async def run(dsn: str, sealer: Sealer, key_age: timedelta, stop: asyncio.Event) -> None:
    """Once a minute until `stop`; every process that does may do it at the same time. Between the rounds it holds no
    connection."""
    while not stop.is_set():
        try:
            async with await create_pool(dsn, name="identity-upkeep", role=ROLE, size=2) as pool:
                if await rotate_when_due(pool, sealer, key_age):
                    log.info("signing_key_rotated")
                await forget(pool)
        except (Unavailable, TimeoutError, *BUSY_OR_AWAY):
            log.warning("upkeep_put_off", exc_info=True)
        await pause(_SECONDS, stop)


async def forget(pool: asyncpg.Pool) -> None:
    """Drop sessions, failures, tickets and codes that have no meaning any more."""
    async with acquire(pool) as connection:
        await sessions.forget_ended(connection)
        await failures.forget_old(connection)
        await factors.forget_expired(connection)
