"""Verifying the sealed chains: what was altered, removed, inserted, swapped or cut off, and where (quality 3.5).

It reads one moment of the database in the order of the chains, a few hundred rows at a time, whatever their number.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from uuid import UUID

import asyncpg

from shared.db import Connection
from shared.seal import NOTHING_BEFORE, Head, Key, Seal, Source, digest, snapshot
from shared.seal_heads import BadHead

_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """A bad place. `seq` is its place in the company's chain (None: not in it); `ref` the row."""

    company_id: UUID | None
    seq: int | None
    ref: str | None
    what: str


async def verify(
    pool: asyncpg.Pool, sources: Sequence[Source], heads: Iterable[tuple[int, Head]] = ()
) -> tuple[int, list[Finding]]:
    """How many seals there are, and the first bad place of each company. `heads` must have been written before."""
    found: dict[UUID | None, Finding] = {}
    seals = 0
    async with snapshot(pool) as connection:
        async with aclosing(_chains(connection, {source.kind: source for source in sources})) as places:
            async for place in places:
                if isinstance(place, Finding):
                    found.setdefault(place.company_id, place)
                else:
                    seals += place
        for source in sources:
            async for company_id, ref in source.unsealed(connection):
                finding = Finding(company_id, None, ref, "inserted: it was never sealed and nobody is going to")
                found.setdefault(company_id, finding)
        async for finding in _compared(connection, heads):
            found.setdefault(finding.company_id, finding)
    return seals, list(found.values())


async def _chains(connection: Connection, sources: Mapping[str, Source]) -> AsyncGenerator[Finding | int, None]:
    """The first bad place of each chain, and the number of seals of each chunk."""
    company: UUID | None = None
    seq, prev_hash, broken = 0, NOTHING_BEFORE, False
    while rows := await _next_seals(connection, company, seq):
        contents = await _contents(connection, sources, rows)
        for row in rows:
            if row["company_id"] != company:
                company, seq, prev_hash, broken = row["company_id"], 0, NOTHING_BEFORE, False
            if not broken:
                what = _fault(row, seq, prev_hash, contents)
                if what:
                    broken = True
                    yield Finding(company, row["seq"], f"{row['kind']} {row['ref']}", what)
            seq, prev_hash = row["seq"], row["hash"]
        yield len(rows)


async def _next_seals(connection: Connection, company: UUID | None, seq: int) -> list[asyncpg.Record]:
    place = "" if company is None else " where (company_id, seq) > ($2, $3)"
    found: list[asyncpg.Record] = await connection.fetch(
        f"select * from audit_seal{place} order by company_id, seq limit $1",  # noqa: S608 - a fixed text
        _CHUNK,
        *(() if company is None else (company, seq)),
    )
    return found


async def _contents(
    connection: Connection, sources: Mapping[str, Source], rows: Sequence[asyncpg.Record]
) -> dict[tuple[str, Key], Mapping[str, Any]]:
    contents: dict[tuple[str, Key], Mapping[str, Any]] = {}
    for kind, source in sources.items():
        keys = [(row["company_id"], row["ref"]) for row in rows if row["kind"] == kind]
        found = await source.rows(connection, keys) if keys else {}
        contents |= {(kind, key): value for key, value in found.items()}
    return contents


def _fault(
    row: asyncpg.Record, seq: int, prev_hash: bytes, contents: Mapping[tuple[str, Key], Mapping[str, Any]]
) -> str | None:
    if row["seq"] != seq + 1:
        return f"removed: the seals from {seq + 1} to {row['seq'] - 1} are not there"
    seal = Seal(row["company_id"], row["seq"], row["kind"], row["ref"], row["row_hash"], row["prev_hash"])
    if seal.hash != row["hash"]:
        return "altered: the seal itself"
    if row["prev_hash"] != prev_hash:
        return "rewritten: the seal does not follow from the one before"
    content = contents.get((row["kind"], (row["company_id"], row["ref"])))
    if content is None:
        return "removed: the row that was sealed is not there"
    if digest(content) != row["row_hash"]:
        return "altered: the row is not the one that was sealed"
    return None


async def _compared(connection: Connection, heads: Iterable[tuple[int, Head]]) -> AsyncIterator[Finding]:
    """Heads that the chains do not have."""
    lines = iter(heads)
    try:
        while chunk := [head for _, head in islice(lines, _CHUNK)]:
            rows = await connection.fetch(
                "select h.company_id, h.seq, h.hash, s.hash as found, (select max(seq) from audit_seal m"
                " where m.company_id = h.company_id) as last"
                " from unnest($1::uuid[], $2::bigint[], $3::bytea[]) with ordinality"
                " as h (company_id, seq, hash, place)"
                " left join audit_seal s on s.company_id = h.company_id and s.seq = h.seq"
                " where s.hash is distinct from h.hash order by h.place",
                [head.company_id for head in chunk],
                [head.seq for head in chunk],
                [head.hash for head in chunk],
            )
            for row in rows:
                if row["found"] is None:
                    last = row["last"] or 0
                    what = f"cut off, or put back to an older state: a signed head is at {row['seq']}"
                    yield Finding(row["company_id"], last + 1, None, f"{what}, the chain ends at {last}")
                else:
                    yield Finding(row["company_id"], row["seq"], None, "rewritten: a signed head says otherwise")
    except BadHead as error:
        yield Finding(None, None, None, f"the file of heads: {error}")
