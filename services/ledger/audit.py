"""What the ledger seals beside its audit: the log of postings (quality 3.5), an event with its postings and their
transfers at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from services.ledger.store import ROLE
from shared.db import Connection
from shared.seal import AuditRows, Key
from shared.seal_service import Sealing

# Long texts are hashed where they are. Instants count as numbers, which no setting of a session spells differently.
_ROWS: Final = """
with wanted as (
    select e.* from unnest($1::uuid[], $2::bigint[]) as k (company_id, first_version)
    join event e on e.company_id = k.company_id and e.first_version = k.first_version
)
select e.company_id, e.first_version, e.version, e.event_id, e.type,
    extract(epoch from e.occurred_at)::text as occurred_at,
    encode(sha256(convert_to(e.payload, 'UTF8')), 'hex') as payload,
    encode(sha256(convert_to(p.text, 'UTF8')), 'hex') as postings,
    encode(sha256(convert_to(t.text, 'UTF8')), 'hex') as transfers
from wanted e
cross join lateral (
    select coalesce(json_agg(json_build_array(version, posting_id, kind, actor_id, correlation_id,
        extract(epoch from posted_at), posting_date) order by version)::text, '') as text
    from posting p where p.company_id = e.company_id and p.version between e.first_version and e.version
) p
cross join lateral (
    select coalesce(json_agg(json_build_array(version, ordinal, debit, credit, detail, charge_id, payment_id,
        amount_cents) order by version, ordinal)::text, '') as text
    from transfer t where t.company_id = e.company_id and t.version between e.first_version and e.version
) t
"""
# In the order of versions, which is that of commits: a company's row is locked while its version is raised.
_WAITING: Final = """
select e.company_id, e.first_version
from company_book b
left join seal_progress p on p.company_id = b.company_id
cross join lateral (
    select company_id, first_version from event e
    where e.company_id = b.company_id and e.version > coalesce(p.version, 0)
    order by version limit $1
) e
where b.version > coalesce(p.version, 0)
    and not exists (select from audit_seal s where s.kind = 'posting' and s.ref = e.first_version::text
        and s.company_id = e.company_id)
order by e.company_id, e.first_version limit $1
"""
_SEALED: Final = """
insert into seal_progress as p (company_id, version)
select e.company_id, max(e.version) from unnest($1::uuid[], $2::bigint[]) as k (company_id, first_version)
join event e on e.company_id = k.company_id and e.first_version = k.first_version
group by e.company_id
on conflict (company_id) do update set version = greatest(p.version, excluded.version)
"""
_UNSEALED: Final = """
select e.company_id, 'posting ' || e.first_version as ref from event e
join seal_progress g on g.company_id = e.company_id and e.version <= g.version
where not exists (select from audit_seal s where s.kind = 'posting' and s.ref = e.first_version::text
    and s.company_id = e.company_id)
union all
select p.company_id, 'posting ' || p.version || ' without an event' from posting p
where not exists (
    select from (select first_version from event e where e.company_id = p.company_id and e.version >= p.version
        order by e.version limit 1) e where e.first_version <= p.version)
union all
select t.company_id, 'transfer ' || t.version || '/' || t.ordinal || ' without a posting' from transfer t
where not exists (select from posting p where p.company_id = t.company_id and p.version = t.version)
"""


@dataclass(frozen=True, slots=True)
class PostingRows:
    """The postings; a row is named by the first version of its event."""

    kind: str = "posting"

    async def waiting(self, connection: Connection, limit: int) -> Sequence[Key]:
        rows = await connection.fetch(_WAITING, limit)
        return [(row["company_id"], str(row["first_version"])) for row in rows]

    async def sealed(self, connection: Connection, keys: Sequence[Key]) -> None:
        await connection.execute(_SEALED, *_columns(keys))

    async def rows(self, connection: Connection, keys: Sequence[Key]) -> Mapping[Key, Mapping[str, Any]]:
        rows = await connection.fetch(_ROWS, *_columns(keys))
        return {(row["company_id"], str(row["first_version"])): dict(row) for row in rows}

    async def unsealed(self, connection: Connection) -> AsyncIterator[tuple[UUID, str]]:
        async for row in connection.cursor(_UNSEALED):
            yield row["company_id"], row["ref"]


def _columns(keys: Sequence[Key]) -> tuple[list[UUID], list[int]]:
    return [company_id for company_id, _ in keys], [int(ref) for _, ref in keys]


SEALING: Final = Sealing("ledger", ROLE, (PostingRows(), AuditRows()))
