"""Access in an emergency: what was opened and what was ended early. Both are only ever inserted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from services.identity.domain import BreakGlass
from shared.db import Connection

_OPEN: Final = (
    "select g.id, g.company_id, g.user_id, g.reason, g.opened_at, g.expires_at from break_glass g"
    " where g.expires_at > $1 and not exists (select from break_glass_end e where e.id = g.id)"
)


async def insert(connection: Connection, grant: BreakGlass) -> None:
    await connection.execute(
        "insert into break_glass (id, company_id, user_id, reason, opened_at, expires_at)"
        " values ($1, $2, $3, $4, $5, $6)",
        grant.id,
        grant.company_id,
        grant.user_id,
        grant.reason,
        grant.opened_at,
        grant.expires_at,
    )


async def end(connection: Connection, grant_id: UUID, at: datetime, by: UUID) -> None:
    await connection.execute(
        "insert into break_glass_end (id, ended_at, ended_by) values ($1, $2, $3)", grant_id, at, by
    )


async def open_grant(connection: Connection, grant_id: UUID, now: datetime) -> BreakGlass | None:
    row = await connection.fetchrow(f"{_OPEN} and g.id = $2", now, grant_id)
    return BreakGlass(**row) if row else None


async def has_open(connection: Connection, user_id: UUID, company_id: UUID, now: datetime) -> bool:
    """Whether some grant of the user's for the company is open."""
    found = await connection.fetchrow(
        f"{_OPEN} and g.user_id = $2 and g.company_id = $3 limit 1", now, user_id, company_id
    )
    return found is not None


async def list_open(
    connection: Connection, company_id: UUID | None, after: UUID | None, limit: int, now: datetime
) -> Sequence[BreakGlass]:
    """In order of opening; company None: of all."""
    rows = await connection.fetch(
        f"{_OPEN} and ($2::uuid is null or g.company_id = $2) and ($3::uuid is null or g.id > $3)"
        " order by g.id limit $4",
        now,
        company_id,
        after,
        limit,
    )
    return [BreakGlass(**row) for row in rows]
