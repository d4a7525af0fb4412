"""The event log with its outbox: append-only."""

from __future__ import annotations

from typing import Final

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
