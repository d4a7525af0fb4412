"""The event log with its outbox, and the audit: both append-only."""

# ruff: noqa: S608 -- what is put into statements is this module's own list of columns

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from shared.contracts.envelope import Event, encode
from shared.db import Connection


async def lock(connection: Connection) -> None:
    """Make this the one administrative change until its transaction ends."""
    await connection.execute("select from event_counter for update")


async def append(connection: Connection, event: Event[object], entity: str, version: int) -> None:  # type: ignore[type-var]
    """Write an event at the next position, to be published; `version` is the entity's, and unique in the log."""
    position = await connection.fetchval("update event_counter set position = position + 1 returning position")
    await connection.execute(
        "insert into event (position, event_id, type, entity, entity_version, occurred_at, payload)"
        " values ($1, $2, $3, $4, $5, $6, $7)",
        position,
        event.id,
        event.type,
        entity,
        version,
        event.time,
        encode(event),
    )
    await connection.execute("insert into outbox (outbox_id) values ($1)", position)


async def events(connection: Connection, after: int, limit: int) -> list[tuple[int, str]]:
    """Positions and envelopes, in order. Positions are gapless in commit order: a reader that goes on from the last
    one it saw misses nothing."""
    rows = await connection.fetch(
        "select position, payload from event where position > $1 order by position limit $2", after, limit
    )
    return [(row["position"], row["payload"]) for row in rows]


OUTBOX: Final = (
    "select o.outbox_id, e.event_id, e.type, e.type as routing_key, e.payload as body, e.occurred_at"
    " from outbox o join event e on e.position = o.outbox_id order by o.outbox_id limit $1"
)
"""The relay's question (shared/outbox.py)."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to whom, and which companies it concerns. `changed` names fields, never their values."""

    id: UUID
    at: datetime
    action: str
    actor_id: UUID | None
    actor_name: str
    subject_id: str | None
    company_ids: tuple[UUID, ...]
    changed: tuple[str, ...] = ()
    request_id: str | None = None


_AUDIT: Final = "id, at, action, actor_id, actor_name, subject_id, company_ids, changed, request_id"


async def insert_audit(connection: Connection, entry: AuditEntry) -> None:
    await connection.execute(
        f"insert into audit ({_AUDIT}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        entry.id,
        entry.at,
        entry.action,
        entry.actor_id,
        entry.actor_name,
        entry.subject_id,
        entry.company_ids,
        entry.changed,
        entry.request_id,
    )


async def list_audit(
    connection: Connection, company_id: UUID | None, before: UUID | None, limit: int
) -> Sequence[AuditEntry]:
    """Newest first; None: of all companies. Ids are time-ordered, so they are the order too."""
    rows = await connection.fetch(
        f"select {_AUDIT} from audit where ($1::uuid is null or company_ids @> array[$1::uuid])"
        " and ($2::uuid is null or id < $2) order by id desc limit $3",
        company_id,
        before,
        limit,
    )
    return [
        AuditEntry(**{**row, "company_ids": tuple(row["company_ids"]), "changed": tuple(row["changed"])})
        for row in rows
    ]
