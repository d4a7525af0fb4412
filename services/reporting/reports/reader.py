"""Reading a report: everything in one answer is of one version of the books.

A page is read in one snapshot. Its cursor names the version it was read at, and the next page is read as of that
version, which append-only lines make exact: no row is missed or shown twice while postings go on, and totals stay.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import asyncpg
import orjson

from services.reporting.reports import query as sql
from services.reporting.reports.query import FACETS, FIGURES, Selection, Shape, Statement
from services.reporting.store import version_of
from services.reporting.wire import ReportQuery
from shared.db import Connection, Record, reading
from shared.errors import Conflict, FieldError, Invalid
from shared.ids import INTEGRATION_POSTER_ID, INTEGRATION_POSTER_NAME

_WAIT_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.015
_FACET_VALUES: Final = 500
_STREAM_ROWS: Final = 500
_NAMES: Final = {
    "location_id": "select location_id as id, name from directory_location where company_id = $1"
    " and location_id = any ($2)",
    "poster_id": "select user_id as id, display_name as name from directory_user where $1::uuid is not null"
    " and user_id = any ($2)",
    "payer_id": "select payer_id as id, name from payer where company_id = $1 and payer_id = any ($2)",
}


class Reach(NamedTuple):
    """What a caller may see at all, as `reading` takes it; his question selects among it."""

    company_id: UUID
    locations: Literal["*"] | Collection[UUID] = "*"
    poster: Literal["*"] | UUID = "*"


@dataclass(frozen=True, slots=True)
class Plan:
    """A report that is ready to be read. `parameters` is the question as it was understood, for the answer."""

    report: str
    parameters: Mapping[str, Any]
    selection: Selection
    shape: Shape

    @property
    def digest(self) -> str:
        """Ties a cursor to its question."""
        text = orjson.dumps([self.report, self.selection.company_id, self.parameters])
        return hashlib.sha256(text).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The books at one version, on a connection that sees nothing later."""

    connection: Connection
    version: int
    time: datetime | None
    current: bool

    def of(self, selection: Selection) -> Selection:
        """The selection as of this version; the newest needs no condition."""
        return selection if self.current else replace(selection, as_of=self.version)


@asynccontextmanager
async def snapshot(pool: asyncpg.Pool, reach: Reach, asked: ReportQuery, pinned: int | None) -> AsyncIterator[Snapshot]:
    """The version asked for. Raises Conflict `version_not_reached` for one that is not folded yet, and Invalid
    `in_future` for a moment of which nobody knows yet what the books will say."""
    company_id = reach.company_id
    async with reading(pool, *reach) as connection:
        row = await connection.fetchrow(
            "select version, event_time from company_progress where company_id = $1", company_id
        )
        newest: int = row["version"] if row else 0
        newest_time = row["event_time"] if row else None
        version = asked.as_of_version if pinned is None else pinned
        if version is None and asked.as_of is not None:
            if (newest_time is None or asked.as_of > newest_time) and asked.as_of > await _now(connection):
                raise Invalid.field("as_of", "in_future", "What will be known then may still change")
            version = await _version_at(connection, company_id, asked.as_of, newest)
        if version is None or version == newest:
            yield Snapshot(connection, newest, newest_time, current=True)
        elif version > newest:
            raise _not_reached("cursor" if pinned is not None else "as_of_version", newest)
        else:
            yield Snapshot(connection, version, await _time_of(connection, company_id, version), current=False)


async def wait_for(pool: asyncpg.Pool, reach: Reach, version: int) -> None:
    """Return when the version is folded. Raises Conflict after two seconds."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        async with reading(pool, *reach) as connection:
            reached = await version_of(connection, reach.company_id)
        if reached >= version:
            return
        if time.monotonic() >= deadline:
            raise _not_reached("min_version", reached)
        await asyncio.sleep(_POLL_SECONDS)


async def read_page(
    pool: asyncpg.Pool, reach: Reach, plan: Plan, asked: ReportQuery, *, with_facets: bool
) -> dict[str, Any]:
    """One page as the API answers it: items, totals of the whole result, and what it is as of."""
    pinned, offset = _open_cursor(asked.cursor, plan)
    async with snapshot(pool, reach, asked, pinned) as books:
        selection = books.of(plan.selection)
        rows = await _fetch(books, sql.items(selection, plan.shape, limit=asked.limit + 1, offset=offset))
        more = len(rows) > asked.limit
        # Rows of whole receipts that are all here add up to the totals. Most answers are such: one query less.
        whole = rows if offset == 0 and not more and not plan.shape.parted else None
        totals = _sum(await _fetch(books, sql.totals(selection)) if whole is None else whole)
        facets = await _facets(books, selection) if with_facets else None
    answer = {
        "report": plan.report,
        "parameters": plan.parameters,
        "items": [dict(row) for row in rows[: asked.limit]],
        "totals": totals,
        "next": _cursor(plan, books.version, offset + asked.limit) if more else None,
        "as_of_version": books.version,
        "as_of_time": books.time,
        "verified_through": None,
    }
    return answer if facets is None else {**answer, "facets": facets}


async def read_rows(books: Snapshot, plan: Plan) -> AsyncIterator[Record]:
    """Every row of the report, a few at a time: for exports."""
    statement = sql.items(books.of(plan.selection), plan.shape)
    async for row in books.connection.cursor(statement.sql, *statement.arguments, prefetch=_STREAM_ROWS):
        yield row


async def _fetch(books: Snapshot, statement: Statement) -> list[Record]:
    rows: list[Record] = await books.connection.fetch(statement.sql, *statement.arguments)
    return rows


def _sum(rows: Sequence[Record]) -> dict[str, int]:
    return {name: sum(row[name] or 0 for row in rows) for name in FIGURES}


async def _facets(books: Snapshot, selection: Selection) -> dict[str, list[dict[str, Any]]]:
    """For each word its values with their payments, most payments first, at most 500 values."""
    found: dict[str, list[dict[str, Any]]] = {word: [] for word in FACETS}
    bits = {(1 << len(FACETS)) - 1 - (1 << len(FACETS) - 1 - place): word for place, word in enumerate(FACETS)}
    for row in await _fetch(books, sql.facets(selection)):
        word = bits[row["grouped"]]
        found[word].append({word: row[word], "payments": row["payments"]})
    names = await _facet_names(books, selection.company_id, found)
    facets = {}
    for word, values in found.items():
        values.sort(key=lambda value: (-value["payments"], str(value[word] or "")))
        for value in values[:_FACET_VALUES]:
            if word in names:
                value[word.replace("_id", "_name")] = names[word].get(value[word])
        facets[word.removesuffix("_id").removesuffix("_number")] = values[:_FACET_VALUES]
    return facets


async def _facet_names(
    books: Snapshot, company_id: UUID, found: Mapping[str, list[dict[str, Any]]]
) -> dict[str, dict[UUID, str]]:
    names = {}
    for word, statement in _NAMES.items():
        ids = [value[word] for value in found[word] if value[word] is not None]
        rows = await books.connection.fetch(statement, company_id, ids)
        names[word] = {row["id"]: row["name"] for row in rows}
    names["poster_id"][INTEGRATION_POSTER_ID] = INTEGRATION_POSTER_NAME
    return names


async def _now(connection: Connection) -> datetime:
    moment: datetime = await connection.fetchval("select clock_timestamp()")
    return moment


async def _version_at(connection: Connection, company_id: UUID, instant: datetime, newest: int) -> int:
    version: int | None = await connection.fetchval(
        "select version from inbox where company_id = $1 and event_time <= $2 and version <= $3"
        " order by event_time desc, version desc limit 1",
        company_id,
        instant,
        newest,
    )
    return version or 0


async def _time_of(connection: Connection, company_id: UUID, version: int) -> datetime | None:
    moment: datetime | None = await connection.fetchval(
        "select event_time from inbox where company_id = $1 and first_version <= $2"
        " order by first_version desc limit 1",
        company_id,
        version,
    )
    return moment


def _cursor(plan: Plan, version: int, offset: int) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([version, offset, plan.digest])).decode().rstrip("=")


def _open_cursor(text: str | None, plan: Plan) -> tuple[int | None, int]:
    """The version that the first page was read at, and how many rows came before. Raises Invalid for a cursor that
    belongs to another question, or to other rights than the caller has now."""
    if text is None:
        return None, 0
    try:
        version, offset, digest = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (ValueError, TypeError):
        raise _bad_cursor() from None
    if digest != plan.digest or type(version) is not int or type(offset) is not int:
        raise _bad_cursor()
    if not 0 <= version < 2**62 or not 0 <= offset < 2**62:
        raise _bad_cursor()
    return version, offset


def _bad_cursor() -> Invalid:
    return Invalid.field("cursor", "invalid_cursor", "Not a cursor of this question: start again without one")


def _not_reached(field: str, reached: int) -> Conflict:
    detail = f"Reporting has reached version {reached} of the books"
    error = FieldError(field, "version_not_reached", detail)
    return Conflict(detail, code="version_not_reached", errors=[error])
