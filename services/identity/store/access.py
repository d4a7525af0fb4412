"""Versions of rights: raised by what makes the tokens of a user stale, asked at each call, and told from the event
log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from shared.contracts.identity_events import ACCESS_CHANGED
from shared.db import Connection


async def current_version(connection: Connection, subject: UUID) -> int | None:
    """The version of rights of an active user or client; None for nobody."""
    version: int | None = await connection.fetchval(
        "select authz_version from app_user where id = $1 and active"
        " union all select version from client where id = $1 and active",
        subject,
    )
    return version


async def advance(connection: Connection, user_id: UUID) -> int:
    """The user's next version of rights. It locks his row, which comes before those of his sessions."""
    version: int = await connection.fetchval(
        "update app_user set authz_version = authz_version + 1 where id = $1 returning authz_version", user_id
    )
    return version


async def advance_members(connection: Connection, company_id: UUID) -> list[tuple[UUID, int]]:
    """The same for every member of a company: ids and new versions."""
    rows = await connection.fetch(
        "update app_user u set authz_version = authz_version + 1 from user_company m"
        " where m.company_id = $1 and m.user_id = u.id returning u.id, u.authz_version",
        company_id,
    )
    return [(row["id"], row["authz_version"]) for row in rows]


async def changes(connection: Connection, since: datetime, after: int, limit: int) -> Sequence[tuple[int, str]]:
    """Positions and data of the changes of access since an instant, in order. The log is in order of time, but for
    differences of clocks, so its end is found by going backwards."""
    rows = await connection.fetch(
        "select position, payload::json ->> 'data' as data from event where type = $1 and position > greatest($3,"
        " coalesce((select position from event where occurred_at < $2 order by position desc limit 1), 0))"
        " order by position limit $4",
        ACCESS_CHANGED,
        since,
        after,
        limit,
    )
    return [(row["position"], row["data"]) for row in rows]
