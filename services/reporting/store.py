"""The statements that keep and fold events. Set-based: a batch of any size is a constant number of them.

Whoever writes for a company holds the lock of its `company_progress` row, taken in order of company: so one fold at a
time per company, whatever the number of consumers, and no deadlock. A rebuild takes the same lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints
from uuid import UUID

from services.reporting.projections import Line, PatientName, Payer, Projection
from shared.db import Connection

MIGRATIONS: Final = Path(__file__).parent / "migrations"
ROLE: Final = "reporting_app"
READER: Final = "reporting_reader"
"""The role of everything that is read for a caller (migrations/0003_rows.sql)."""

_TYPES: Final = {UUID: "uuid", int: "bigint", str: "text", date: "date", datetime: "timestamptz"}


def _rows(kind: type[Line] | type[PatientName] | type[Payer], first: int) -> str:
    """`unnest($first::uuid[], ...) as t (company_id, ...)`: the rows of a named tuple, one array for each field."""
    types = [_TYPES[(get_args(hint) or (hint,))[0]] for hint in get_type_hints(kind).values()]
    arrays = ", ".join(f"${first + place}::{name}[]" for place, name in enumerate(types))
    return f"unnest({arrays}) as t ({', '.join(kind._fields)})"


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    return [*zip(*rows, strict=True)] if rows else [()] * width


# The no-op update locks the row and returns its newest state, also where another transaction was waited for.
_LOCK: Final = """
insert into company_progress as p (company_id, version)
select c, 0 from unnest($1::uuid[]) as c
on conflict (company_id) do update set version = p.version
returning company_id, version
"""

# Runs after the lock, so its snapshot holds everything that others kept for these companies. `known`: the same event
# was kept before. Neither new nor known: other content under a version or an id that is taken.
_KEEP: Final = """
with offered as (
    select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::timestamptz[], $6::text[])
        with ordinality as o (company_id, first_version, version, event_id, event_time, body, place)
), kept as (
    insert into inbox (company_id, first_version, version, event_id, event_time, body)
    select company_id, first_version, o.version, event_id, o.event_time, body
      from offered o join company_progress p using (company_id)
     where first_version > p.version
     order by company_id, first_version
    on conflict do nothing
    returning company_id, first_version
)
select k.company_id is not null as new,
       case when i.body is null then false else i.body = o.body or i.body::jsonb = o.body::jsonb end as known
  from offered o
  left join kept k using (company_id, first_version)
  left join inbox i on k.company_id is null and i.company_id = o.company_id and i.first_version = o.first_version
 order by o.place
"""

_MEASURES: Final = ("receipt_count", "applied_cents", "adjusted_cents", "provider_level_cents", "unapplied_cents")
_WORDS: Final = "location_id, poster_id, affiliation, source, method, payer_id, batch_number"


def _rollup(by: str) -> str:
    table = f"balancing_{by}_day"
    key = f"company_id, {by}_date, {_WORDS}"
    sums = ", ".join(f"sum({name})" for name in _MEASURES)
    added = ", ".join(f"{name} = r.{name} + excluded.{name}" for name in _MEASURES)
    return f"""
    insert into {table} as r ({key}, {", ".join(_MEASURES)})
    select {key}, {sums} from line group by {key}
    on conflict ({key}) do update set {added}
    """  # noqa: S608 - names of our own


_PATIENT_AT: Final = 1 + len(Line._fields)
_PAYER_AT: Final = _PATIENT_AT + len(PatientName._fields)
_PROGRESS_AT: Final = _PAYER_AT + len(Payer._fields)

# Everything that a batch adds, in one statement. `more`: the event that comes next has been waiting in the inbox.
_FOLD: Final = f"""
with line as materialized (
    select * from {_rows(Line, 1)}
), lines as (
    insert into balancing_line ({", ".join(Line._fields)}) select * from line
), posting_days as ({_rollup("posting")}
), deposit_days as ({_rollup("deposit")}
), patients as (
    insert into patient_name as n ({", ".join(PatientName._fields)}) select * from {_rows(PatientName, _PATIENT_AT)}
    on conflict (company_id, patient_id) do update set version = excluded.version,
        account_number = excluded.account_number, first_name = excluded.first_name, last_name = excluded.last_name
    where n.version < excluded.version
), payers as (
    insert into payer as n ({", ".join(Payer._fields)}) select * from {_rows(Payer, _PAYER_AT)}
    on conflict (company_id, payer_id) do update set version = excluded.version, code = excluded.code,
        name = excluded.name, payer_class = excluded.payer_class
    where n.version < excluded.version
)
update company_progress p set version = reached.version, event_time = reached.event_time
  from unnest(${_PROGRESS_AT}::uuid[], ${_PROGRESS_AT + 1}::bigint[], ${_PROGRESS_AT + 2}::timestamptz[])
    as reached (company_id, version, event_time)
 where p.company_id = reached.company_id
returning p.company_id,
    exists (select from inbox i where i.company_id = p.company_id and i.first_version = p.version + 1) as more
"""  # noqa: S608 - names of our own

# The next waiting events, in order, as many as fit the bytes given but at least one.
_WAITING: Final = """
select body from (
    select first_version, body, sum(octet_length(body)) over (order by first_version) - octet_length(body) as before
      from inbox where company_id = $1 and first_version > $2 order by first_version limit 500
) as next where before < $3 order by first_version
"""

_READY: Final = """
select p.company_id from company_progress p
  join inbox i on i.company_id = p.company_id and i.first_version = p.version + 1
"""

_DERIVED: Final = ("balancing_line", "balancing_posting_day", "balancing_deposit_day", "patient_name", "payer")


@dataclass(frozen=True, slots=True)
class Offer:
    """An event as it goes into the inbox; `body` is the text as it came."""

    company_id: UUID
    first_version: int
    version: int
    event_id: UUID
    event_time: datetime
    body: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`new`: kept now. `known`: the same was kept before. Neither: it contradicts what was kept before."""

    new: bool
    known: bool


async def lock(connection: Connection, companies: Sequence[UUID]) -> dict[UUID, int]:
    """Lock the companies until the transaction ends; their versions folded so far, 0 for one never heard of."""
    return {row["company_id"]: row["version"] for row in await connection.fetch(_LOCK, sorted(set(companies)))}


async def keep(connection: Connection, offers: Sequence[Offer]) -> list[Verdict]:
    """Insert the events that are not in the inbox; a verdict for each. The companies must be locked."""
    columns = _columns(
        [(o.company_id, o.first_version, o.version, o.event_id, o.event_time, o.body) for o in offers], 6
    )
    return [Verdict(row["new"], row["known"]) for row in await connection.fetch(_KEEP, *columns)]


async def fold(
    connection: Connection, projection: Projection, reached: Mapping[UUID, tuple[int, datetime]]
) -> list[UUID]:
    """Add the rows and move the companies on to the version (and its time) reached. The companies must be locked.

    Answers those whose next event is waiting in the inbox."""
    rows = await connection.fetch(
        _FOLD,
        *_columns(projection.lines, len(Line._fields)),
        *_columns(projection.patients, len(PatientName._fields)),
        *_columns(projection.payers, len(Payer._fields)),
        *_columns([(company, version, at) for company, (version, at) in reached.items()], 3),
    )
    return [row["company_id"] for row in rows if row["more"]]


async def waiting(connection: Connection, company_id: UUID, after_version: int, limit_bytes: int) -> list[str]:
    """Bodies of kept events after a version, in order: as many as fit, at least one if there is any."""
    return [row["body"] for row in await connection.fetch(_WAITING, company_id, after_version, limit_bytes)]


async def ready(connection: Connection) -> list[UUID]:
    """Companies whose next event is in the inbox, not folded: left by a process that died between two batches."""
    return [row["company_id"] for row in await connection.fetch(_READY)]


async def progress(connection: Connection) -> dict[UUID, int]:
    """The version folded so far, of every company heard of."""
    rows = await connection.fetch("select company_id, version from company_progress")
    return {row["company_id"]: row["version"] for row in rows}


async def version_of(connection: Connection, company_id: UUID) -> int:
    """The version folded so far of one company, 0 for one never heard of."""
    version: int | None = await connection.fetchval(
        "select version from company_progress where company_id = $1", company_id
    )
    return version or 0


async def reset(connection: Connection, company_id: UUID) -> None:
    """Take away everything that was folded for a company. Needs the owner's rights, and the company locked."""
    for table in _DERIVED:
        await connection.execute(f"delete from {table} where company_id = $1", company_id)  # noqa: S608
    await connection.execute(
        "update company_progress set version = 0, event_time = null where company_id = $1", company_id
    )
