"""The count of failed sign-ins, by whom they are held against."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from shared.db import Connection


@dataclass(frozen=True, slots=True)
class Limit:
    """How failures are held against somebody: the first `free` cost nothing, the next ones block for 1, 2, 4...
    seconds, never longer than `longest`. `drain` of them are forgotten a second, and all after `forget` without one."""

    free: int
    longest: timedelta
    forget: timedelta
    drain: float = 0


_REMEMBERED: Final = timedelta(days=30)
_KEPT: Final = (
    "(case when f.failed_at < clock_timestamp() - $4::interval then 0 else"
    " greatest(0, f.failures - $5::float8 * extract(epoch from clock_timestamp() - f.failed_at)) end)"
)
"""Failures that still count."""


async def reserve(connection: Connection, subject: str, limit: Limit) -> int | None:
    """Count an attempt as failed before it is made, so that attempts of all processes at once cannot exceed the limit.
    The seconds that the subject has to wait if it does fail; None when it has to wait already. The row stays locked
    until the transaction ends."""
    seconds: float | None = await connection.fetchval(
        "insert into login_failure as f (subject, failures, failed_at, blocked_until)"  # noqa: S608 -- our own text
        " values ($1, 1, clock_timestamp(), clock_timestamp()) on conflict (subject) do update set"
        f" failures = {_KEPT} + 1, failed_at = clock_timestamp(),"
        f" blocked_until = clock_timestamp() + case when {_KEPT} < $2::float8 then interval '0'"
        f"  else least($3::interval, interval '1 second' * power(2, least({_KEPT} - $2::float8, 20))) end"
        " where f.blocked_until <= clock_timestamp()"
        " returning extract(epoch from blocked_until - failed_at)::float8",
        subject,
        float(limit.free),
        limit.longest,
        limit.forget,
        limit.drain,
    )
    return None if seconds is None else round(seconds)


async def take_back(connection: Connection, subject: str, limit: Limit) -> None:
    """The attempt was none, or was right: it does not count, and blocks nobody who is within his limit."""
    await connection.execute(
        "update login_failure set failures = greatest(0, failures - 1), blocked_until ="
        " case when failures - 1 <= $2::float8 then clock_timestamp() else blocked_until end where subject = $1",
        subject,
        float(limit.free),
    )


async def forgive(connection: Connection, subject: str) -> None:
    """After a success there is nothing to hold against the account."""
    await connection.execute("delete from login_failure where subject = $1", subject)


async def blocked_for(connection: Connection, subjects: list[str]) -> timedelta:
    """How long attempts of any of the subjects are still refused."""
    left: timedelta | None = await connection.fetchval(
        "select max(blocked_until) - clock_timestamp() from login_failure where subject = any($1::text[])", subjects
    )
    return max(left or timedelta(0), timedelta(0))


async def is_known(connection: Connection, account: str, place: str) -> bool:
    """Whether somebody has signed in with this account at this place within a month."""
    found: bool = await connection.fetchval(
        "select exists (select from known_place where account = $1 and place = $2"
        " and seen_at > clock_timestamp() - $3::interval)",
        account,
        place,
        _REMEMBERED,
    )
    return found


async def remember(connection: Connection, account: str, place: str) -> None:
    await connection.execute(
        "insert into known_place (account, place, seen_at) values ($1, $2, clock_timestamp())"
        " on conflict (account, place) do update set seen_at = excluded.seen_at",
        account,
        place,
    )


async def forget_old(connection: Connection) -> None:
    """Drop what no limit remembers any more."""
    await connection.execute("delete from login_failure where failed_at < clock_timestamp() - interval '1 day'")
    await connection.execute("delete from known_place where seen_at < clock_timestamp() - $1::interval", _REMEMBERED)
