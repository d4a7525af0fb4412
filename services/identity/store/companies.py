"""Companies and locations."""

# ruff: noqa: S608 -- what is put into statements is this module's own list of columns

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter
from typing import Final
from uuid import UUID

from services.identity.domain import Company, Location, LocationGrant
from shared.db import Connection, Record

_COMPANY: Final = "id, code, name, service_type, time_zone, close_policy, npis, active, version, mfa_required"
_LOCATION: Final = "company_id, id, code, name, emr_location_id, active, version"
_company_values, _location_values = (attrgetter(*columns.split(", ")) for columns in (_COMPANY, _LOCATION))


def _company(row: Record) -> Company:
    return Company(**{**row, "npis": tuple(row["npis"])})


def _location(row: Record) -> Location:
    return Location(**row)


async def insert_company(connection: Connection, company: Company) -> None:
    await connection.execute(
        f"insert into company ({_COMPANY}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        *_company_values(company),
    )


async def update_company(connection: Connection, company: Company) -> None:
    await connection.execute(
        "update company set code = $2, name = $3, service_type = $4, time_zone = $5, close_policy = $6, npis = $7,"
        " active = $8, version = $9, mfa_required = $10 where id = $1",
        *_company_values(company),
    )


async def company(connection: Connection, company_id: UUID) -> Company | None:
    row = await connection.fetchrow(f"select {_COMPANY} from company where id = $1", company_id)
    return _company(row) if row else None


async def companies(connection: Connection, ids: Iterable[UUID]) -> dict[UUID, Company]:
    """Those of the companies that exist."""
    rows = await connection.fetch(f"select {_COMPANY} from company where id = any($1::uuid[]) order by code", list(ids))
    return {row["id"]: _company(row) for row in rows}


async def list_companies(
    connection: Connection, only: Collection[UUID] | None, after: UUID | None, limit: int
) -> list[Company]:
    """In order of creation; `only` None: all of them."""
    rows = await connection.fetch(
        f"select {_COMPANY} from company where ($1::uuid[] is null or id = any($1)) and ($2::uuid is null or id > $2)"
        " order by id limit $3",
        None if only is None else list(only),
        after,
        limit,
    )
    return [_company(row) for row in rows]


async def insert_location(connection: Connection, location: Location) -> None:
    await connection.execute(
        f"insert into location ({_LOCATION}) values ($1, $2, $3, $4, $5, $6, $7)",
        *_location_values(location),
    )


async def update_location(connection: Connection, location: Location) -> None:
    await connection.execute(
        "update location set code = $3, name = $4, emr_location_id = $5, active = $6, version = $7"
        " where company_id = $1 and id = $2",
        *_location_values(location),
    )


async def location(connection: Connection, company_id: UUID, location_id: UUID) -> Location | None:
    row = await connection.fetchrow(
        f"select {_LOCATION} from location where company_id = $1 and id = $2", company_id, location_id
    )
    return _location(row) if row else None


async def list_locations(
    connection: Connection, company_id: UUID, only: Collection[UUID] | None, after: UUID | None, limit: int
) -> list[Location]:
    rows = await connection.fetch(
        f"select {_LOCATION} from location where company_id = $1 and ($2::uuid[] is null or id = any($2))"
        " and ($3::uuid is null or id > $3) order by id limit $4",
        company_id,
        None if only is None else list(only),
        after,
        limit,
    )
    return [_location(row) for row in rows]


async def locations(connection: Connection, ids: Iterable[UUID]) -> list[Location]:
    """Those of the locations that exist, in whatever company."""
    rows = await connection.fetch(
        f"select {_LOCATION} from location where id = any($1::uuid[]) order by code", list(ids)
    )
    return [_location(row) for row in rows]


async def location_grants(
    connection: Connection, location_ids: Iterable[UUID], company_ids: Iterable[UUID]
) -> tuple[LocationGrant, ...]:
    """Those of the locations that belong to the companies."""
    rows = await connection.fetch(
        "select company_id, id from location where company_id = any($2::uuid[]) and id = any($1::uuid[]) order by id",
        list(location_ids),
        list(company_ids),
    )
    return tuple(LocationGrant(row["company_id"], row["id"]) for row in rows)
