"""Refresh tokens, and the count of failed sign-ins."""

# ruff: noqa: S608 -- what is put into statements is this module's own list of columns

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from shared.db import Connection

_COLUMNS: Final = "token_hash, family, user_id, company_id, access_token_id, used, expires_at, family_expires_at"


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token as stored. `access_token_id` is the `jti` of the access token that came with it."""

    token_hash: bytes
    family: UUID
    user_id: UUID
    company_id: UUID | None
    access_token_id: UUID
    used: bool
    expires_at: datetime
    family_expires_at: datetime


async def owner(connection: Connection, token_hash: bytes) -> UUID | None:
    """Whose refresh token this is."""
    user_id: UUID | None = await connection.fetchval(
        "select user_id from refresh_token where token_hash = $1", token_hash
    )
    return user_id


async def refresh_token_for_update(connection: Connection, token_hash: bytes) -> RefreshToken | None:
    row = await connection.fetchrow(
        f"select {_COLUMNS} from refresh_token where token_hash = $1 for update", token_hash
    )
    return RefreshToken(**row) if row else None


async def insert_refresh_token(connection: Connection, token: RefreshToken) -> None:
    await connection.execute(
        f"insert into refresh_token ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8)",
        token.token_hash,
        token.family,
        token.user_id,
        token.company_id,
        token.access_token_id,
        token.used,
        token.expires_at,
        token.family_expires_at,
    )


async def mark_used(connection: Connection, token_hash: bytes) -> None:
    await connection.execute("update refresh_token set used = true where token_hash = $1", token_hash)


async def end_family(connection: Connection, family: UUID) -> None:
    await connection.execute("delete from refresh_token where family = $1", family)


async def end_family_of_access_token(connection: Connection, access_token_id: UUID) -> bool:
    """End the session that an access token belongs to; False when it belongs to none."""
    family = await connection.fetchval("select family from refresh_token where access_token_id = $1", access_token_id)
    if family is not None:
        await end_family(connection, family)
    return family is not None


async def session_is_open(connection: Connection, access_token_id: UUID) -> bool:
    found: bool = await connection.fetchval(
        "select exists (select from refresh_token where access_token_id = $1)", access_token_id
    )
    return found


async def end_sessions(connection: Connection, user_id: UUID) -> None:
    """End every session of a user: after a new password, or when he is deactivated."""
    await connection.execute("delete from refresh_token where user_id = $1", user_id)


async def forget_old(connection: Connection) -> None:
    """Drop what has no meaning any more. Cheap: both are index ranges that are usually empty."""
    await connection.execute("delete from refresh_token where family_expires_at < now()")
    await connection.execute("delete from login_failure where failed_at < now() - interval '1 day'")


@dataclass(frozen=True, slots=True)
class Limit:
    """How failures are held against somebody: the first `free` cost nothing, the next ones block for 1, 2, 4...
    seconds, never longer than `longest`, and all are forgotten after `forget` without one."""

    free: int
    longest: timedelta
    forget: timedelta


async def blocked_for(connection: Connection, subjects: list[str]) -> timedelta | None:
    """How long sign-ins of any of the subjects are still refused."""
    left: timedelta | None = await connection.fetchval(
        "select max(blocked_until) - clock_timestamp() from login_failure"
        " where subject = any($1::text[]) and blocked_until > clock_timestamp()",
        subjects,
    )
    return left


async def record_failure(connection: Connection, subject: str, limit: Limit) -> None:
    """Count a failure: a guesser slows down, an owner is never locked out for good."""
    await connection.execute(
        "insert into login_failure as f (subject, failures, failed_at, blocked_until)"
        " values ($1, 1, clock_timestamp(), clock_timestamp()) on conflict (subject) do update set"
        " failures = case when f.failed_at < clock_timestamp() - $4::interval then 1 else f.failures + 1 end,"
        " failed_at = clock_timestamp(),"
        " blocked_until = case when f.failed_at < clock_timestamp() - $4::interval or f.failures < $2::integer"
        "  then clock_timestamp()"
        "  else clock_timestamp()"
        "   + least($3::interval, interval '1 second' * power(2, least(f.failures - $2, 20))) end",
        subject,
        limit.free,
        limit.longest,
        limit.forget,
    )


async def forgive(connection: Connection, subject: str) -> None:
    """After a success there is nothing to hold against the account."""
    await connection.execute("delete from login_failure where subject = $1", subject)
