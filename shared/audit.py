"""The audit: who did and saw what, when, from where. Ids and names of fields, never what stands in them (quality 3.1,
45 CFR 164.312(b)). Decision record 15 has the reasons.

What changes something is written down in its own transaction; what is only read by the `Recorder` (shared/recorder.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

import orjson
import structlog
from prometheus_client import Counter

from shared.db import Connection, Record

ALERTS: Final = Counter("security_alerts", "What somebody should look at, by kind", ["kind"], registry=None)
log = structlog.get_logger("audit")
_address: ContextVar[str | None] = ContextVar("address", default=None)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to whom, and which companies it concerns. `changed` names fields; `shown` are ids of objects that
    a list showed; `details` are ids, dates, numbers and words of ours."""

    id: UUID
    at: datetime
    action: str
    actor_id: UUID | None
    actor_name: str
    subject_id: str | None
    company_ids: tuple[UUID, ...]
    changed: tuple[str, ...] = ()
    request_id: str | None = None
    actor_role: str | None = None
    address: str | None = None
    status: int | None = None
    shown: tuple[UUID, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


COLUMNS: Final = {
    "id": "uuid",
    "at": "timestamptz",
    "action": "text",
    "actor_id": "uuid",
    "actor_name": "text",
    "subject_id": "text",
    "company_ids": "uuid[]",
    "changed": "text[]",
    "request_id": "text",
    "actor_role": "text",
    "address": "text",
    "status": "smallint",
    "shown": "uuid[]",
    "details": "jsonb",
}
NAMES: Final = ", ".join(COLUMNS)
# An entry of which nobody knows whether it was written is written again, once. Beside it goes a row that says "not yet
# sealed" (shared/seal.py).
_INSERT: Final = f"""
with entry as (
    insert into audit ({NAMES})
    select {NAMES} from jsonb_to_recordset($1::jsonb)
        as e ({", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())})
    order by id
    on conflict (id) do nothing
    returning id
)
insert into audit_unsealed (audit_id) select id from entry
"""  # noqa: S608 - this module's own names


async def insert(connection: Connection, entries: Iterable[AuditEntry]) -> None:
    """Write entries, in the transaction of the connection if there is one."""
    rows = [asdict(entry) for entry in entries]
    await connection.execute(_INSERT, orjson.dumps(rows, default=str, option=orjson.OPT_UTC_Z).decode())


async def listing(
    connection: Connection,
    company_id: UUID | None,
    *,
    before: UUID | None,
    limit: int,
    actor: UUID | None = None,
    subject: UUID | None = None,
    action: str | None = None,
    first: date | None = None,
    last: date | None = None,
) -> list[AuditEntry]:
    """Newest first; company None: of all. `first` and `last` are days in UTC, inclusive. Ids are time-ordered, so
    they are the order too."""
    wanted: list[tuple[str, Any]] = [
        ("company_ids @> array[{}::uuid]", company_id),
        ("id < {}::uuid", before),
        ("actor_id = {}::uuid", actor),
        ("(subject_id = {0}::uuid::text or shown @> array[{0}::uuid])", subject),
        ("action = {}::text", action),
        ("at >= {}::date", first),
        ("at < {}::date + 1", last),
    ]
    given = [(text, value) for text, value in wanted if value is not None]
    conditions = [text.format(f"${place}") for place, (text, _) in enumerate(given, 1)]
    where = " where " + " and ".join(conditions) if conditions else ""
    rows = await connection.fetch(
        f"select {NAMES} from audit{where} order by id desc limit ${len(given) + 1}",  # noqa: S608 - own names
        *(value for _, value in given),
        limit,
    )
    return [entry_of(row) for row in rows]


def entry_of(row: Record) -> AuditEntry:
    """An entry as it is stored."""
    lists = {name: tuple(row[name]) for name in ("company_ids", "changed", "shown")}
    return AuditEntry(**{**{name: row[name] for name in COLUMNS}, **lists, "details": orjson.loads(row["details"])})


def alert(kind: str, **fields: Any) -> None:
    """Tell whoever watches: a line at warning level with the event name `alert`, and a count. Ids and our own words
    only."""
    ALERTS.labels(kind).inc()
    log.warning("alert", kind=kind, **fields)


def current_address() -> str | None:
    """Where the request that is being worked on comes from; None outside of one."""
    return _address.get()


def remember_address(address: str) -> None:
    """For `current_address`, while the request is worked on."""
    _address.set(address)
