"""Sealing: the audit, and in the ledger the postings, as one chain of hashes a company (quality 3.5).

It is done behind everything else, so that nothing waits for it: a row is sealed seconds after its commit, in the order
in which the sealer finds it, which is one in which rows were committed. A seal is

    hash = SHA-256 of {company_id, kind, prev_hash, ref, row_hash, seq} as canonical JSON

where `row_hash` is the SHA-256 of the row as canonical JSON. Whoever alters, removes, inserts or swaps rows breaks the
chain at that place; whoever writes the whole chain anew is found out by the heads (shared/seal_heads.py), which are
kept outside of the database. Any number of sealers may run: one of them works, the others wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

import asyncpg
import orjson
import structlog

from shared.audit import NAMES, entry_of
from shared.bus import pause
from shared.crash import point
from shared.db import BUSY_OR_AWAY, Connection, acquire
from shared.errors import Unavailable
from shared.ids import NO_COMPANY

LOCK: Final = 0x7365616C  # "seal"; advisory locks belong to one database
NOTHING_BEFORE: Final = bytes(32)
"""`prev_hash` of a company's first seal."""
_BATCH: Final = 500
_SECONDS: Final = 2.0
_HEADS_SECONDS: Final = 3_600.0
log = structlog.get_logger("seal")

Key = tuple[UUID, str]
"""A company, and the name of a row within what is sealed of it."""


class Source(Protocol):
    """One kind of rows that are sealed."""

    @property
    def kind(self) -> str: ...

    async def waiting(self, connection: Connection, limit: int) -> Sequence[Key]:
        """The first rows that are committed and not sealed, in the order to seal them in. Only the sealer asks."""

    async def sealed(self, connection: Connection, keys: Sequence[Key]) -> None:
        """Note, in the transaction of their seals, that these are waiting no more."""

    async def rows(self, connection: Connection, keys: Sequence[Key]) -> Mapping[Key, Mapping[str, Any]]:
        """What is there of these rows, for the hash. A column that has no value must be left out, so that one added
        later changes no hash."""

    def unsealed(self, connection: Connection) -> AsyncIterator[tuple[UUID, str]]:
        """Rows that nobody seals and nobody has sealed, each with what it is: somebody put them there."""


@dataclass(frozen=True, slots=True)
class Seal:
    company_id: UUID
    seq: int
    kind: str
    ref: str
    row_hash: bytes
    prev_hash: bytes

    @property
    def hash(self) -> bytes:
        facts = asdict(self)
        return digest({name: value.hex() if isinstance(value, bytes) else value for name, value in facts.items()})


@dataclass(frozen=True, slots=True)
class Head:
    """How far a company's chain has come."""

    company_id: UUID
    seq: int
    hash: bytes


def digest(value: Mapping[str, Any]) -> bytes:
    """SHA-256 of canonical JSON: sorted names, no white space, ids as text, instants in UTC."""
    return hashlib.sha256(orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)).digest()


async def seal(connection: Connection, sources: Sequence[Source], limit: int = _BATCH) -> int:
    """Seal what is waiting, at most `limit` rows of each source, in one transaction; how many. 0 also when another
    sealer is at work."""
    async with connection.transaction():
        if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", LOCK):
            return 0
        done = 0
        for source in sources:
            keys = await source.waiting(connection, limit)
            if keys:
                await _append(connection, source, keys)
                await source.sealed(connection, keys)
                done += len(keys)
        point("seal.before_commit")
    if done:
        point("seal.after_commit")
    return done


async def _append(connection: Connection, source: Source, keys: Sequence[Key]) -> None:
    rows = await source.rows(connection, keys)
    heads = {head.company_id: head for head in await read_heads(connection, {company_id for company_id, _ in keys})}
    seals = []
    for company_id, ref in keys:
        before = heads.get(company_id)
        seq, prev_hash = (before.seq + 1, before.hash) if before else (1, NOTHING_BEFORE)
        one = Seal(company_id, seq, source.kind, ref, digest(rows[company_id, ref]), prev_hash)
        heads[company_id] = Head(company_id, seq, one.hash)
        seals.append((*(getattr(one, name) for name in _COLUMNS), one.hash))
    await connection.executemany(
        "insert into audit_seal (company_id, seq, kind, ref, row_hash, prev_hash, hash)"
        " values ($1, $2, $3, $4, $5, $6, $7)",
        seals,
    )


_COLUMNS: Final = ("company_id", "seq", "kind", "ref", "row_hash", "prev_hash")


async def read_heads(connection: Connection, companies: set[UUID]) -> list[Head]:
    rows = await connection.fetch(
        "select s.company_id, s.seq, s.hash from unnest($1::uuid[]) as c (company_id) cross join lateral"
        " (select * from audit_seal a where a.company_id = c.company_id order by a.seq desc limit 1) s",
        list(companies),
    )
    return [Head(row["company_id"], row["seq"], row["hash"]) for row in rows]


async def all_heads(connection: Connection) -> list[Head]:
    """The head of every chain, by a walk over the index from company to company."""
    found: list[Head] = []
    last = await connection.fetchval("select company_id from audit_seal order by company_id limit 1")
    while last is not None:
        found += await read_heads(connection, {last})
        last = await connection.fetchval(
            "select company_id from audit_seal where company_id > $1 order by company_id limit 1", last
        )
    return found


@dataclass(frozen=True, slots=True)
class AuditRows:
    """The audit. An entry that concerns several companies is in the chain of each; one that concerns none is in that
    of no company. Those of one entry are sealed together."""

    kind: str = "audit"

    async def waiting(self, connection: Connection, limit: int) -> Sequence[Key]:
        rows = await connection.fetch(
            "select u.audit_id, a.company_ids from audit_unsealed u join audit a on a.id = u.audit_id"
            " order by u.place limit $1",
            limit,
        )
        return [(company, str(row["audit_id"])) for row in rows for company in _companies(row["company_ids"])]

    async def sealed(self, connection: Connection, keys: Sequence[Key]) -> None:
        await connection.execute(
            "delete from audit_unsealed where audit_id = any ($1::uuid[])", [UUID(ref) for _, ref in keys]
        )

    async def rows(self, connection: Connection, keys: Sequence[Key]) -> Mapping[Key, Mapping[str, Any]]:
        found = await connection.fetch(
            f"select {NAMES} from audit where id = any ($1::uuid[])",  # noqa: S608 - names of our own
            [UUID(ref) for _, ref in keys],
        )
        facts: dict[str, dict[str, Any]] = {}
        for row in found:
            values = asdict(entry_of(row))
            facts[str(row["id"])] = {name: value for name, value in values.items() if value not in (None, (), {})}
        return {key: facts[key[1]] for key in keys if key[1] in facts}

    async def unsealed(self, connection: Connection) -> AsyncIterator[tuple[UUID, str]]:
        query = (
            "select c.company_id, a.id::text as ref from audit a cross join lateral unnest("
            " case when a.company_ids = '{}' then array[$1::uuid] else a.company_ids end) as c (company_id)"
            " where not exists (select from audit_seal s where s.kind = $2 and s.ref = a.id::text"
            " and s.company_id = c.company_id)"
            " and not exists (select from audit_unsealed u where u.audit_id = a.id)"
        )
        async for row in connection.cursor(query, NO_COMPANY, self.kind):
            yield row["company_id"], f"{self.kind} {row['ref']}"


def _companies(ids: Sequence[UUID]) -> Sequence[UUID]:
    return list(dict.fromkeys(ids)) or [NO_COMPANY]


class Keeper(Protocol):
    """Who keeps heads outside of the database."""

    def keep(self, heads: Sequence[Head], at: datetime) -> int: ...


async def run(pool: asyncpg.Pool, sources: Sequence[Source], stop: asyncio.Event, keeper: Keeper | None = None) -> None:
    """Seal until `stop`, and hand the heads to the keeper every hour, first as soon as all is sealed. It holds no
    connection while there is nothing to do."""
    kept_at = -float("inf")
    while not stop.is_set():
        done = 0
        try:
            async with acquire(pool) as connection:
                done = await seal(connection, sources)
                if keeper is not None and not done and time.monotonic() - kept_at > _HEADS_SECONDS:
                    await asyncio.to_thread(keeper.keep, await all_heads(connection), datetime.now(UTC))
                    kept_at = time.monotonic()
        except (Unavailable, TimeoutError, asyncpg.UniqueViolationError, *BUSY_OR_AWAY):
            log.warning("seal_put_off", exc_info=True)
        await pause(0 if done else _SECONDS, stop)


async def seal_all(pool: asyncpg.Pool, sources: Sequence[Source], keeper: Keeper | None = None) -> int:
    """Seal what is waiting now, and have the heads kept; how many rows were sealed."""
    total = 0
    async with acquire(pool) as connection:
        while done := await seal(connection, sources):
            total += done
        if keeper is not None:
            await asyncio.to_thread(keeper.keep, await all_heads(connection), datetime.now(UTC))
    return total


@asynccontextmanager
async def snapshot(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """One moment of the database, for as long as it is read."""
    async with acquire(pool) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("set local statement_timeout = 0")
        yield connection
