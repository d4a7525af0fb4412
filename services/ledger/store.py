"""SQL of the write path: load and append, each one round trip for a whole batch; and the lock for a second try."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from asyncpg.pgproto.pgproto import UUID as FastUUID

from services.ledger.domain.books import Books
from services.ledger.domain.journal import FEED_WORK, TABLES, Journal
from services.ledger.domain.wants import Wants
from services.ledger.rows import READERS, read_book
from shared.config import Config
from shared.db import KEYED_PLANS, Connection, create_pool

MIGRATIONS: Final = Path(__file__).parent / "migrations"
ROLE: Final = "ledger_app"
HOLD = "select from company_book where company_id = any ($1) order by company_id for update"
_WANTED = "($1, $2, $3::json[])"
_BESIDE = (({"trace", "told"}, "load_traces"), ({"settled"}, "load_settled"))
"""Which kinds of wants ask for more than every batch does."""
_CHARGED = {"charge", "account_charges", "external_charges", "payment", "remittance", "document"}
"""Which ask for charges, which come as rows and not as JSON."""
_BOOKS = ("company_book", *TABLES, "event")
_LAST = len(_BOOKS) + 1
"""The payloads of the events come after the tables."""
APPEND = f"select append_books({', '.join(f'${place}' for place in range(1, _LAST + 1))})"
_WORK = [f"${place}" for place in range(_LAST + 1, _LAST + 1 + len(FEED_WORK))]
APPEND_WITH_FEED_WORK = f"{APPEND}, append_feed_work({', '.join(_WORK)})"


async def create_ledger_pool(config: Config, name: str, size: int = 10) -> asyncpg.Pool:
    """A pool of the service's own role, with plans fit for keyed work on tables that grow."""
    dsn = config.required("ledger_database_url")
    return await create_pool(dsn, name=name, role=ROLE, size=size, settings=KEYED_PLANS)


async def hold(connection: Connection, companies: Iterable[UUID]) -> None:
    """Lock the companies' rows, in one order, until the transaction ends."""
    await connection.execute(HOLD, sorted(companies))


async def load(connection: Connection, wants: Mapping[UUID, Wants]) -> dict[UUID, Books]:
    """The books of those companies that have any, with what the commands want to see, as of one moment."""
    groups = [
        (company, kind, list(some)) for company, one in wants.items() for kind, some in one.by_kind.items() if some
    ]
    groups += [(company, "book", [""]) for company in wants]
    companies, kinds = [company for company, _, _ in groups], [kind for _, kind, _ in groups]
    values = [encode(some) for _, _, some in groups]
    books: dict[UUID, Books] = {}
    for row in await connection.fetch(_load_statement(set(kinds)), companies, kinds, values):
        company_id, kind = row["company_id"], row["kind"]
        if kind == "book":
            books[company_id] = read_book(company_id, orjson.loads(row["body"]))
        elif company_id in books:
            READERS[kind](books[company_id], row["charge"] if kind == "charge" else orjson.loads(row["body"] or "null"))
    return books


def _load_statement(asked: set[str]) -> str:
    columns = "kind, company_id, body"
    functions = ["load_books", "load_waiting", *(name for some, name in _BESIDE if asked & some)]
    if not asked & _CHARGED:
        return " union all ".join(f"select {columns} from {name}{_WANTED}" for name in functions)  # noqa: S608
    parts = [f"select {columns}, null::charge_now as charge from {name}{_WANTED}" for name in functions]  # noqa: S608
    return " union all ".join([*parts, f"select * from load_charges{_WANTED}"])  # noqa: S608


EventName = tuple[UUID, int, UUID]
"""Company, first version and id."""


@dataclass(frozen=True, slots=True)
class Append:
    """What is to be inserted, as it is sent."""

    statement: str
    arguments: list[Any]
    events: list[EventName]


def prepare(books: Iterable[Books], journal: Journal, events: list[dict[str, Any]]) -> Append:
    """Every row of a batch, and the books that are written to, as they were loaded."""
    payloads = [event.pop("payload") for event in events]
    named = [(event["company_id"], event["first_version"], event["event_id"]) for event in events]
    rows: dict[str, list[dict[str, Any]]] = {**journal.rows, "event": events}
    rows["company_book"] = [
        {"company_id": one.company_id, "version": one.version, "writes": one.writes} for one in books
    ]
    # A posting by a person has no feed work, and need not call for it.
    work, statement = (FEED_WORK, APPEND_WITH_FEED_WORK) if any(rows.get(t) for t in FEED_WORK) else ((), APPEND)
    texts = [encode(rows[table]) if rows.get(table) else None for table in (*_BOOKS, *work)]
    return Append(statement, [*texts[: len(_BOOKS)], payloads, *texts[len(_BOOKS) :]], named)


async def append(connection: Connection, what: Append, after: EventName | None = None) -> None:
    """Insert a batch. Raises SerializationError when some of the books were written since the load; or, where it is
    sent before the one `after` which it comes is committed, when the event of that one is not there in the end."""
    statement, arguments = what.statement, what.arguments
    if after:
        places = ", ".join(f"${len(arguments) + place}" for place in (1, 2, 3))
        statement, arguments = f"{statement}, appended_after({places})", [*arguments, *after]
    await connection.execute(statement, *arguments)


def encode(value: Any) -> str:
    """JSON as the books write it: instants in UTC, bytes as PostgreSQL reads them."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_UTC_Z).decode()


def _plain(value: Any) -> str:
    if isinstance(value, FastUUID):  # A subclass, which the encoder does not take.
        return str(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    raise TypeError(type(value).__name__)
