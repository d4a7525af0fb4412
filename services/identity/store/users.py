"""Users with their companies and locations."""

# ruff: noqa: S608 -- what is put into statements is this module's own list of columns

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from services.identity.domain import LocationGrant, User
from shared.access.policy import OPERATOR
from shared.db import Connection, Record

_COLUMNS: Final = (
    "id, user_name, first_name, last_name, email, user_type, role, affiliation, default_company_id, active, version,"
    " authz_version"
)
_SELECT: Final = (
    f"select {_COLUMNS}, password_hash,"
    " array(select company_id from user_company where user_id = u.id order by company_id) as company_ids,"
    " array(select array[company_id, location_id] from user_location where user_id = u.id order by location_id)"
    " as locations from app_user u"
)


def _user(row: Record) -> User:
    fields = dict(row)
    del fields["password_hash"]
    fields["company_ids"] = tuple(row["company_ids"])
    fields["locations"] = tuple(LocationGrant(*pair) for pair in row["locations"])
    return User(**fields)


async def user(connection: Connection, user_id: UUID) -> User | None:
    row = await connection.fetchrow(f"{_SELECT} where u.id = $1", user_id)
    return _user(row) if row else None


async def user_by_name(connection: Connection, user_name: str) -> tuple[User, str | None] | None:
    """The user with this name, in whatever case, and the hash of the password; one query whether he exists or not."""
    row = await connection.fetchrow(
        f'{_SELECT} where lower(u.user_name collate "C") = lower($1 collate "C")', user_name
    )
    return (_user(row), row["password_hash"]) if row else None


async def user_for_share(connection: Connection, user_id: UUID) -> tuple[User, str | None] | None:
    """The user and password hash as they stay until this transaction ends."""
    await connection.execute("select from app_user where id = $1 for share", user_id)
    row = await connection.fetchrow(f"{_SELECT} where u.id = $1", user_id)
    return (_user(row), row["password_hash"]) if row else None


async def list_users(connection: Connection, company_id: UUID | None, after: UUID | None, limit: int) -> list[User]:
    """Members of a company (None: everybody) in order of creation. The operator is nobody's colleague."""
    rows = await connection.fetch(
        f"{_SELECT} where u.role <> $1 and ($2::uuid is null or exists (select from user_company m"
        " where m.company_id = $2 and m.user_id = u.id)) and ($3::uuid is null or u.id > $3) order by u.id limit $4",
        OPERATOR,
        company_id,
        after,
        limit,
    )
    return [_user(row) for row in rows]


async def insert_user(
    connection: Connection, user: User, password_hash: str | None, initial_until: datetime | None = None
) -> None:
    await connection.execute(
        f"insert into app_user ({_COLUMNS}, password_hash, password_initial_until)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        user.id,
        user.user_name,
        user.first_name,
        user.last_name,
        user.email,
        user.user_type,
        user.role,
        user.affiliation,
        user.default_company_id,
        user.active,
        user.version,
        user.authz_version,
        password_hash,
        initial_until,
    )
    await _insert_companies(connection, user, user.company_ids)
    await _insert_locations(connection, user, user.locations)


async def update_user(connection: Connection, before: User, after: User) -> None:
    """Grants that go, go first and those that come, come last: what stays must fit the type and role of both."""
    gone = set(before.company_ids) - set(after.company_ids)
    await connection.execute(
        "delete from user_company where user_id = $1 and company_id = any($2::uuid[])", after.id, list(gone)
    )
    await connection.execute("delete from user_location where user_id = $1", after.id)
    await connection.execute(
        "update app_user set user_name = $2, first_name = $3, last_name = $4, email = $5, user_type = $6, role = $7,"
        " affiliation = $8, default_company_id = $9, active = $10, version = $11, authz_version = $12 where id = $1",
        after.id,
        after.user_name,
        after.first_name,
        after.last_name,
        after.email,
        after.user_type,
        after.role,
        after.affiliation,
        after.default_company_id,
        after.active,
        after.version,
        after.authz_version,
    )
    await _insert_companies(connection, after, [c for c in after.company_ids if c not in before.company_ids])
    await _insert_locations(connection, after, after.locations)


async def _insert_companies(connection: Connection, user: User, company_ids: Iterable[UUID]) -> None:
    await connection.execute(
        "insert into user_company (user_id, user_type, role, company_id, service_type)"
        " select $1::uuid, $2::text, $3::text, id, service_type from company where id = any($4::uuid[])",
        user.id,
        user.user_type,
        user.role,
        list(company_ids),
    )


async def _insert_locations(connection: Connection, user: User, grants: Sequence[LocationGrant]) -> None:
    await connection.execute(
        "insert into user_location (user_id, company_id, location_id)"
        " select $1::uuid, * from unnest($2::uuid[], $3::uuid[])",
        user.id,
        [grant.company_id for grant in grants],
        [grant.location_id for grant in grants],
    )


async def set_password(
    connection: Connection, user_id: UUID, password_hash: str, initial_until: datetime | None = None
) -> None:
    await connection.execute(
        "update app_user set password_hash = $2, password_initial_until = $3 where id = $1",
        user_id,
        password_hash,
        initial_until,
    )


async def initial_until(connection: Connection, user_id: UUID) -> datetime | None:
    """Until when the user's password serves to choose another, and for nothing else; None: it is his own."""
    until: datetime | None = await connection.fetchval(
        "select password_initial_until from app_user where id = $1", user_id
    )
    return until


async def replace_hash(connection: Connection, user_id: UUID, old: str, new: str) -> None:
    """Another hash of the same password, unless the password has changed meanwhile."""
    await connection.execute(
        "update app_user set password_hash = $3 where id = $1 and password_hash = $2", user_id, old, new
    )


async def companies_with_other_administrators(
    connection: Connection, company_ids: Iterable[UUID], roles: Sequence[str], except_user: UUID
) -> set[UUID]:
    """Those of the companies in which somebody else is active and has one of the roles."""
    rows = await connection.fetch(
        "select distinct m.company_id from user_company m join app_user u on u.id = m.user_id"
        " where m.company_id = any($1::uuid[]) and m.role = any($2::text[]) and u.active and u.id <> $3",
        list(company_ids),
        list(roles),
        except_user,
    )
    return {row["company_id"] for row in rows}
