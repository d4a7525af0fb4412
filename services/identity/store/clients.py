"""Machine clients."""

# ruff: noqa: S608 -- what is put into statements is this module's own list of columns

from __future__ import annotations

from collections.abc import Mapping, Sequence
from secrets import compare_digest
from typing import Any, Final
from uuid import UUID

from services.identity.domain import Client
from shared.db import Connection, Record

_COLUMNS: Final = "id, client_id, name, kind, company_ids, sources, active, version"


def _client(row: Record | Mapping[str, Any]) -> Client:
    return Client(**{**row, "company_ids": tuple(row["company_ids"]), "sources": tuple(row["sources"])})


async def client(connection: Connection, client_key: UUID) -> Client | None:
    row = await connection.fetchrow(f"select {_COLUMNS} from client where id = $1", client_key)
    return _client(row) if row else None


async def client_by_id(connection: Connection, client_id: str, secret_hash: bytes) -> tuple[Client | None, bool]:
    """The active client with this id, and whether this is its secret. Hashes are compared, so timing says nothing of
    the secret."""
    row = await connection.fetchrow(
        f"select {_COLUMNS}, secret_hash from client where client_id = $1 and active", client_id
    )
    if row is None:
        return None, False
    fields = dict(row)
    right = compare_digest(fields.pop("secret_hash"), secret_hash)
    return _client(fields), right


async def list_clients(connection: Connection, company_id: UUID | None, after: UUID | None, limit: int) -> list[Client]:
    """Active EMR clients of a company (None: of all) in order of creation."""
    rows = await connection.fetch(
        f"select {_COLUMNS} from client where active and kind = 'emr' and ($1::uuid is null or $1 = any(company_ids))"
        " and ($2::uuid is null or id > $2) order by id limit $3",
        company_id,
        after,
        limit,
    )
    return [_client(row) for row in rows]


async def taken_sources(connection: Connection, sources: Sequence[str]) -> bool:
    found: bool = await connection.fetchval(
        "select exists (select from client where active and sources && $1::text[])", list(sources)
    )
    return found


async def save_client(connection: Connection, client: Client, secret_hash: bytes | None = None) -> None:
    """Insert, or update the one with this id; None keeps the secret."""
    if secret_hash is None:
        await connection.execute(
            "update client set active = $2, version = $3 where id = $1", client.id, client.active, client.version
        )
        return
    await connection.execute(
        f"insert into client ({_COLUMNS}, secret_hash) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        " on conflict (client_id) do update set secret_hash = excluded.secret_hash",
        client.id,
        client.client_id,
        client.name,
        client.kind,
        client.company_ids,
        client.sources,
        client.active,
        client.version,
        secret_hash,
    )
