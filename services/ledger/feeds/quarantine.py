"""Rows of the quarantine: what waits for a person, and who did what about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from shared.db import acquire, page_of, reading
from shared.errors import NotFound
from shared.ids import NO_COMPANY

_COLUMNS = """
    e.exception_id as id, e.feed_id, e.item_key, e.source, e.reason, e.quarantined, e.detail, e.payment_id,
    e.created_at, e.state, e.state_by, e.state_at, e.state_note"""
_PAGE = """
select {columns} from feed_exception e join feed f on f.company_id = e.company_id and f.feed_id = e.feed_id
where e.company_id = $1 and ($2::uuid is null or e.exception_id {beyond} $2) and ($4::uuid is null or e.feed_id = $4)
    and ($5::text is null or e.source = $5) and ($6::text is null or e.reason = $6)
    and ($7::text is null or e.state = $7) and ($8::text is null or feed_belongs_to(f.channel, f.sender, $8))
order by e.exception_id {order} limit $3
"""
_NEWEST = _PAGE.format(columns=_COLUMNS, beyond="<", order="desc")
_OLDEST = _PAGE.format(columns=_COLUMNS, beyond=">", order="asc")
_ONE = f"""
select {_COLUMNS}, f.format, f.channel, e.raw
from feed_exception e join feed f on f.company_id = e.company_id and f.feed_id = e.feed_id
where e.company_id = $1 and e.exception_id = $2 and ($3::text is null or feed_belongs_to(f.channel, f.sender, $3))
"""  # noqa: S608
_HISTORY = """
select h.done_at, h.actor_id, u.display_name as actor_name, h.action, h.reason, h.detail, h.note
from exception_history h left join directory_user u on u.user_id = h.actor_id
where h.company_id = $1 and h.exception_id = $2 order by h.entry_no
"""
# An event that an EMR client sent by HTTP is bounded by that client's own sources, also when it is tried again.
_WAITING = """
select e.company_id, e.exception_id, e.feed_id, e.item_key, e.reason, e.quarantined, e.detail, e.raw, e.payment_id,
    e.state, e.created_at, f.format, c.client_id
from feed_exception e join feed f on f.company_id = e.company_id and f.feed_id = e.feed_id
left join directory_client c on c.client_id = f.sender and f.channel = 'http'
"""
_NAMED = _WAITING + "where e.company_id = $1 and e.exception_id = any ($2) order by e.exception_id"
_FOUND = (
    _WAITING
    + """
where e.company_id = $1 and e.state = 'open' and ($2::uuid is null or e.exception_id > $2)
    and ($4::uuid is null or e.feed_id = $4) and ($5::text is null or e.reason = $5)
order by e.exception_id limit $3
"""
)
# Only what seems to be of a source that is registered by now, so that what stays unknown cannot stand before it.
_UNOWNED = (
    _WAITING
    + """
where e.company_id = $1 and e.state = 'open' and ($3::text is null or e.reason = $3) and exists (
    select from directory_client k cross join unnest(k.sources) as s (name)
    where k.active and $2::uuid = any (k.company_ids) and strpos(e.item_key, s.name) > 0)
order by e.exception_id limit $4
"""
)
# Who closes what is closed changes nothing: the first one's word stands.
_CLOSE = """
with closed as (
    update feed_exception set state = $3, state_by = $4, state_at = clock_timestamp(), state_note = $5
    where company_id = $1 and exception_id = $2 and state = 'open' returning company_id, exception_id
), noted as (
    insert into exception_history (company_id, exception_id, actor_id, action, note)
    select company_id, exception_id, $4, $3, $5 from closed
)
select state from feed_exception where company_id = $1 and exception_id = $2
"""
_NOTE = """
insert into exception_history (company_id, exception_id, actor_id, action, reason, detail)
select e.company_id, e.exception_id, $1, 'retry_failed', w.reason, w.detail
from json_to_recordset($2) as w (exception_id uuid, company_id uuid, reason text, detail json)
join feed_exception e on e.company_id = w.company_id and e.exception_id = w.exception_id and e.state = 'open'
returning exception_id
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An exception as far as a retry needs it."""

    company_id: UUID
    exception_id: UUID
    feed_id: UUID
    item_key: str
    reason: str
    quarantined: bool
    detail: dict[str, Any]
    raw: str | None
    payment_id: UUID | None
    state: str
    created_at: datetime
    format: str
    client_id: str | None
    """The EMR client that sent it; None for a person, and for what came over the bus."""


async def read_page(
    pool: asyncpg.Pool, company_id: UUID, cursor: UUID | None, limit: int, oldest_first: bool, *filters: Any
) -> dict[str, Any]:
    """Exceptions by age; `filters`: feed_id, source, reason, state, sender."""
    async with reading(pool, company_id) as connection:
        rows = await connection.fetch(_OLDEST if oldest_first else _NEWEST, company_id, cursor, limit + 1, *filters)
    return page_of(rows, limit, "id", lambda row: dict(row) | {"detail": orjson.loads(row["detail"])})


async def read_one(
    pool: asyncpg.Pool, company_id: UUID, exception_id: UUID, sender: str | None = None
) -> dict[str, Any]:
    """One exception with its history and its `raw` form, where that is kept beside it; or NotFound."""
    async with reading(pool, company_id) as connection:
        row = await connection.fetchrow(_ONE, company_id, exception_id, sender)
        if row is None:
            raise NotFound()
        history = await connection.fetch(_HISTORY, company_id, exception_id)
    return {
        **dict(row),
        "detail": orjson.loads(row["detail"]),
        "history": [dict(entry) | {"detail": orjson.loads(entry["detail"] or "null")} for entry in history],
    }


async def named(pool: asyncpg.Pool, company_id: UUID, ids: Sequence[UUID]) -> list[Waiting]:
    """These exceptions, open or not; what is absent or another company's is left out."""
    async with reading(pool, company_id) as connection:
        return _waiting(await connection.fetch(_NAMED, company_id, list(ids)))


async def found(
    pool: asyncpg.Pool, company_id: UUID, cursor: UUID | None, limit: int, feed_id: UUID | None, reason: str | None
) -> list[Waiting]:
    """Open exceptions, oldest first."""
    async with reading(pool, company_id) as connection:
        return _waiting(await connection.fetch(_FOUND, company_id, cursor, limit, feed_id, reason))


async def unowned(pool: asyncpg.Pool, company_id: UUID, reason: str | None, limit: int) -> list[Waiting]:
    """What came over the bus, could not be told whose it was, and may be this company's. It is not to be shown, only
    retried: its clinic decides. `pool`: the service's own, as it is not yet anybody's."""
    return _waiting(await pool.fetch(_UNOWNED, NO_COMPANY, company_id, reason, limit))


def _waiting(rows: Sequence[asyncpg.Record]) -> list[Waiting]:
    return [Waiting(**{**row, "detail": orjson.loads(row["detail"])}) for row in rows]


async def close(pool: asyncpg.Pool, company_id: UUID, exception_id: UUID, state: str, user_id: UUID, note: str) -> None:
    """A person resolved or dismissed an exception: who, when and why; or NotFound."""
    async with acquire(pool) as connection:
        found = await connection.fetchval(_CLOSE, company_id, exception_id, state, user_id, note)
    if found is None:
        raise NotFound()


async def note_failures(
    pool: asyncpg.Pool, user_id: UUID, failures: Mapping[UUID, tuple[UUID, str, dict[str, Any]]]
) -> set[UUID]:
    """Keep why retries failed, by exception: (its company, the reason now, its numbers). Answers those still open."""
    rows = [
        {"exception_id": str(one), "company_id": str(company_id), "reason": reason, "detail": detail}
        for one, (company_id, reason, detail) in failures.items()
    ]
    async with acquire(pool) as connection:
        noted = await connection.fetch(_NOTE, user_id, orjson.dumps(rows).decode())
    return {row["exception_id"] for row in noted}
