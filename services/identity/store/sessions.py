"""Sessions: families of refresh tokens, of which one row a session is unused and says how it stands."""

# ruff: noqa: S608 -- what is put into statements is this module's own list of columns

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from shared.db import Connection, Record

_COLUMNS: Final = (
    "token_hash, family, user_id, company_id, access_token_id, used, expires_at, family_expires_at, started_at,"
    " issued_at, methods"
)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token as stored. `family` is the session, `access_token_id` the `jti` of the access token that came
    with it, `methods` how its user proved himself (RFC 8176)."""

    token_hash: bytes
    family: UUID
    user_id: UUID
    company_id: UUID | None
    access_token_id: UUID
    used: bool
    expires_at: datetime
    family_expires_at: datetime
    started_at: datetime
    issued_at: datetime
    methods: tuple[str, ...] = ()

    @property
    def id(self) -> UUID:
        """The session's."""
        return self.family


def _token(row: Record) -> RefreshToken:
    return RefreshToken(**{**row, "methods": tuple(row["methods"])})


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
    return _token(row) if row else None


async def insert_refresh_token(connection: Connection, token: RefreshToken) -> None:
    await connection.execute(
        f"insert into refresh_token ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        token.token_hash,
        token.family,
        token.user_id,
        token.company_id,
        token.access_token_id,
        token.used,
        token.expires_at,
        token.family_expires_at,
        token.started_at,
        token.issued_at,
        token.methods,
    )


async def mark_used(connection: Connection, token_hash: bytes) -> None:
    await connection.execute("update refresh_token set used = true where token_hash = $1", token_hash)


async def end_family(connection: Connection, family: UUID) -> None:
    await connection.execute("delete from refresh_token where family = $1", family)


async def family_of_access_token(connection: Connection, access_token_id: UUID) -> UUID | None:
    """The session that an access token belongs to, if any."""
    family: UUID | None = await connection.fetchval(
        "select family from refresh_token where access_token_id = $1", access_token_id
    )
    return family


async def session_of(connection: Connection, access_token_id: UUID) -> RefreshToken | None:
    """The row of the session that an access token belongs to, as long as it is open."""
    row = await connection.fetchrow(
        f"select {_COLUMNS} from refresh_token where access_token_id = $1 and family_expires_at > clock_timestamp()",
        access_token_id,
    )
    return _token(row) if row else None


async def list_sessions(connection: Connection, user_id: UUID, limit: int) -> list[RefreshToken]:
    """The open sessions of a user, newest first, each by its unused row."""
    rows = await connection.fetch(
        f"select {_COLUMNS} from refresh_token where user_id = $1 and not used and expires_at > clock_timestamp()"
        " order by started_at desc, family limit $2",
        user_id,
        limit,
    )
    return [_token(row) for row in rows]


async def end_session(connection: Connection, user_id: UUID, family: UUID) -> bool:
    """End one session of a user; False when he has no such session."""
    done = await connection.execute("delete from refresh_token where user_id = $1 and family = $2", user_id, family)
    return done != "DELETE 0"


async def end_sessions(connection: Connection, user_id: UUID, *, but: UUID | None = None) -> None:
    """End every session of a user except one: after a new password, or when he is deactivated."""
    await connection.execute(
        "delete from refresh_token where user_id = $1 and family is distinct from $2::uuid", user_id, but
    )


async def set_methods(connection: Connection, family: UUID, methods: tuple[str, ...]) -> None:
    """The user has proved more of himself since the session began."""
    await connection.execute("update refresh_token set methods = $2 where family = $1", family, methods)


async def forget_ended(connection: Connection) -> None:
    """Drop sessions that have ended. Cheap: an index range that is usually empty."""
    await connection.execute("delete from refresh_token where family_expires_at < clock_timestamp()")
