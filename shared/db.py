"""PostgreSQL pools with every limit set, and the numbers that tests and metrics read from them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from shared.errors import Unavailable
from shared.tls import database_context

Record = asyncpg.Record
Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

_ACQUIRE_SECONDS: Final = 5.0
_COMMAND_SECONDS: Final = 30.0
TRANSIENT: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    asyncpg.TooManyConnectionsError,
    ConnectionError,
    OSError,
)
"""Errors after which the same work may be tried again on a new connection."""
BUSY_OR_AWAY: Final = (
    *TRANSIENT,
    asyncpg.InternalClientError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)
"""Errors that are the database's state and not the request's fault: 503 when nothing below has dealt with them."""

_SESSION: Final = {
    "timezone": "UTC",
    "jit": "off",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
}
# Plans made from the statistics of a nearly empty table go on being used as it grows (measured: 219 us an item
# became 1,200 within 8,000 payments). Small keyed reads and writes always want their index.
KEYED_PLANS: Final = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off"}


async def create_pool(
    dsn: str, *, name: str, role: str | None = None, size: int = 10, settings: Mapping[str, str] | None = None
) -> asyncpg.Pool:
    """A pool of at most `size` connections. `role`: the group role that the session takes on, which owns nothing
    and can only do what the migrations granted it."""
    server = {**_SESSION, **(settings or {}), "application_name": name, **({"role": role} if role else {})}
    return await asyncpg.create_pool(
        dsn,
        ssl=database_context(dsn),
        min_size=1,
        max_size=size,
        timeout=_ACQUIRE_SECONDS,
        command_timeout=_COMMAND_SECONDS,
        server_settings=server,
        reset=_keep_session,
    )


async def connect(
    dsn: str,
    *,
    role: str | None = None,
    command_seconds: float | None = None,
    settings: Mapping[str, str] | None = None,
) -> asyncpg.Connection[Record]:
    """A connection outside of any pool, for what holds it long or runs once. `role` as for `create_pool`."""
    server = {**(settings or {}), **({"role": role} if role else {})}
    return await asyncpg.connect(
        dsn, ssl=database_context(dsn), timeout=10, command_timeout=command_seconds, server_settings=server
    )


async def _keep_session(_: Any) -> None:
    """Nothing to reset: every setting that matters is transaction-local, and a reset costs a round trip."""


@asynccontextmanager
async def acquire(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
    """One connection for one piece of work; busy or away is 503, not a wait for ever."""
    try:
        connection = await pool.acquire(timeout=_ACQUIRE_SECONDS)
    except (TimeoutError, OSError, *TRANSIENT):
        raise Unavailable("The database is busy or away") from None
    try:
        yield connection
    finally:
        await asyncio.shield(pool.release(connection))


@asynccontextmanager
async def reading(
    pool: asyncpg.Pool,
    company_id: UUID,
    locations: Literal["*"] | Collection[UUID] = "*",
    poster: Literal["*"] | UUID = "*",
) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
    """One snapshot of what a caller may see: rows of his company, where it applies only those of these locations and
    of this poster. Everything that is read for a caller is read in here, on a pool whose role is a service's reader:
    the policies of the tables ask these settings, and without them show nothing.

    Two round trips beside the queries: the settings go with the BEGIN, and end with the transaction."""
    begin = _BEGIN.format(UUID(str(company_id)), _one_or_many(locations), _one_or_many(poster))
    async with acquire(pool) as connection:
        try:
            await connection.execute(begin)
            yield connection
        finally:
            # Nothing was written, so a commit and a rollback are the same.
            if not connection.is_closed():
                await asyncio.shield(connection.execute("rollback"))


_BEGIN: Final = (
    "begin isolation level repeatable read, read only; set local app.company = '{}';"
    " set local app.locations = '{}'; set local app.poster = '{}'"
)


def page_of(rows: Sequence[Record], limit: int, cursor: str, item: Callable[[Record], Any] = dict) -> dict[str, Any]:
    """`{items, next}` of `rows`, which were asked for with one more than `limit`; `next` is the `cursor` column of the
    last row shown when there are more, else None."""
    shown = rows[:limit]
    return {"items": [item(row) for row in shown], "next": shown[-1][cursor] if len(rows) > limit else None}


def _one_or_many(value: Literal["*"] | UUID | Collection[UUID]) -> str:
    """A setting's text, made of parsed ids only."""
    if value == "*":
        return "*"
    return ",".join(str(UUID(str(one))) for one in ([value] if isinstance(value, UUID) else value))


async def ping(pool: asyncpg.Pool) -> None:
    """Raises when the database does not answer within two seconds: a readiness check."""
    async with asyncio.timeout(2):
        await pool.fetchval("select 1")
