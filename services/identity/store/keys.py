"""Signing keys with their states and dates."""

# ruff: noqa: S608 -- what is put into statements is this module's own list of columns

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from shared.db import Connection, Record


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as stored. `private_jwk` is sealed (base64) and empty once the key signs no more; `public_jwk` is JSON."""

    kid: str
    state: str
    private_jwk: str
    public_jwk: str | None
    created_at: datetime
    active_at: datetime | None
    retired_at: datetime | None
    compromised_at: datetime | None


_COLUMNS: Final = "kid, state, private_jwk, public_jwk, created_at, active_at, retired_at, compromised_at"


def _row(record: Record) -> KeyRow:
    return KeyRow(**record)


async def keys(connection: Connection) -> list[KeyRow]:
    """Every key there ever was, oldest first."""
    return [
        _row(record)
        for record in await connection.fetch(f"select {_COLUMNS} from signing_key order by created_at, kid")
    ]


async def published(connection: Connection, retired_for: timedelta) -> tuple[list[str], datetime | None]:
    """Public parts of the keys that verifiers should know: the next one, the active one, and those that retired a
    short while ago, but none that is compromised; and when the last one was compromised."""
    rows = await connection.fetch(
        "select public_jwk from signing_key where compromised_at is null"
        " and (state <> 'retired' or retired_at > clock_timestamp() - $1::interval) order by created_at, kid",
        retired_for,
    )
    compromised = await connection.fetchval("select max(compromised_at) from signing_key")
    return [row["public_jwk"] for row in rows], compromised


async def active(connection: Connection) -> KeyRow:
    record = await connection.fetchrow(f"select {_COLUMNS} from signing_key where state = 'active'")
    if record is None:
        raise RuntimeError("there is no active signing key: the service has not been started on this database")
    return _row(record)


async def insert(connection: Connection, kid: str, private_jwk: str, public_jwk: str, state: str) -> None:
    await connection.execute(
        "insert into signing_key (kid, private_jwk, public_jwk, state, created_at, active_at)"
        " values ($1, $2, $3, $4, clock_timestamp(), case when $4 = 'active' then clock_timestamp() end)",
        kid,
        private_jwk,
        public_jwk,
        state,
    )


async def set_parts(connection: Connection, kid: str, private_jwk: str, public_jwk: str) -> None:
    await connection.execute(
        "update signing_key set private_jwk = $2, public_jwk = $3 where kid = $1", kid, private_jwk, public_jwk
    )


async def retire(connection: Connection, kid: str, *, compromised: bool = False) -> None:
    """It signs no more, and its private part is gone."""
    await connection.execute(
        "update signing_key set state = 'retired', private_jwk = '', changed_at = clock_timestamp(),"
        " retired_at = coalesce(retired_at, clock_timestamp()),"
        " compromised_at = case when $2 then clock_timestamp() else compromised_at end where kid = $1",
        kid,
        compromised,
    )


async def activate_next(connection: Connection) -> None:
    await connection.execute(
        "update signing_key set state = 'active', changed_at = clock_timestamp(), active_at = clock_timestamp()"
        " where state = 'next'"
    )


async def rotation_due(connection: Connection, after: timedelta, published_for: timedelta) -> bool:
    """Whether the active key has signed for long enough and the next one been public for long enough."""
    found: bool = await connection.fetchval(
        "select exists (select from signing_key"
        "  where state = 'active' and active_at <= clock_timestamp() - $1::interval)"
        " and exists (select from signing_key"
        "  where state = 'next' and created_at <= clock_timestamp() - $2::interval)",
        after,
        published_for,
    )
    return found
