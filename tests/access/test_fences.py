"""The second fence itself: roles, policies, settings (quality 3.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.ledger import store as ledger_store
from services.ledger.queries import READER as LEDGER_READER
from services.reporting import store as reporting_store
from shared.db import create_pool, reading
from tests.support.databases import Databases

ONE, OTHER = uuid4(), uuid4()
PLACE, ELSEWHERE = uuid4(), uuid4()
POSTER, COLLEAGUE = uuid4(), uuid4()
KEYED_OTHERWISE = {"outbox", "audit_seal"}
"""Have a company and a key without it, and are shown to nobody: the one is in the order of commits, the other has a
seal of all companies too."""


@dataclass(slots=True)
class Database:
    """A service's database with rows of two companies, and a reader's pool of one connection."""

    app_role: str
    reader: str
    owner: asyncpg.Connection
    pool: asyncpg.Pool

    async def count(self, connection: Any, table: str) -> int:
        found: int = await connection.fetchval(f"select count(*) from {table}")
        return found


SERVICES = {
    "ledger": (ledger_store.MIGRATIONS, ledger_store.ROLE, LEDGER_READER),
    "reporting": (reporting_store.MIGRATIONS, reporting_store.ROLE, reporting_store.READER),
}
FILLED = {"ledger": "company_book", "reporting": "balancing_line"}


@pytest.fixture(params=SERVICES)
async def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def database(name: str, databases: Databases) -> AsyncIterator[Database]:
    migrations, role, reader = SERVICES[name]
    dsn = await databases.create(Path(migrations))
    owner = await asyncpg.connect(dsn)
    for company in (ONE, OTHER):
        if name == "ledger":
            await owner.execute("insert into company_book (company_id, version) values ($1, 1)", company)
        else:
            await _lines(owner, company)
    pool = await create_pool(dsn, name="reader", role=reader, size=1)
    yield Database(role, reader, owner, pool)
    await pool.close()
    await owner.close()
    await databases.drop(dsn)


async def _lines(owner: asyncpg.Connection, company: UUID) -> None:
    """One line for each place (and none) and poster, each applied to a charge of PLACE."""
    cases = [(place, poster) for place in (PLACE, ELSEWHERE, None) for poster in (POSTER, COLLEAGUE)]
    for version, (place, poster) in enumerate(cases, 1):
        await owner.execute(
            "insert into balancing_line (company_id, version, ordinal, receipt_count, receipt_version, posted_at,"
            " applied_cents, adjusted_cents, provider_level_cents, unapplied_cents, posting_date, deposit_date,"
            " payment_id, poster_id, location_id, affiliation, source, method, part, patient_id, charge_id,"
            " charge_location_id, procedure_code) values ($1, $2, 0, 1, $2, now(), 1, 0, 0, 0, '2026-01-01',"
            " '2026-01-01', $3, $4, $5, 'practice', 'manual', 'cash', 'applied', $3, $3, $6, '97110')",
            *(company, version, uuid4(), poster, place, PLACE),
        )


async def test_the_readers_own_nothing_and_cannot_step_over(database: Database) -> None:
    """Trap 1: superusers, BYPASSRLS and owners ignore policies."""
    for role in (database.reader, database.app_role):
        rights = await database.owner.fetchrow(
            "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin,"
            " exists (select from pg_class where relowner = r.oid) as owns,"
            " exists (select from pg_auth_members where member = r.oid) as belongs from pg_roles r where rolname = $1",
            role,
        )
        assert not any(rights.values()), (role, dict(rights))
    async with database.pool.acquire() as connection:
        assert await connection.fetchval("select current_user") == database.reader
        assert await connection.fetchval("select row_security_active($1::regclass)", "directory_user")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("insert into directory_company select * from directory_company")


async def test_every_table_is_fenced_and_nothing_reads_for_its_owner(database: Database) -> None:
    """Traps 1 and 7: FORCE everywhere; views and functions with the rights of who asks."""
    open_tables = await database.owner.fetch(
        "select relname from pg_class where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace"
        " and not (relrowsecurity and relforcerowsecurity) and has_any_column_privilege($1, oid, 'select')",
        database.reader,
    )
    assert not open_tables
    views = await database.owner.fetch(
        "select relname, coalesce('security_invoker=true' = any (reloptions), false) as invoker from pg_class"
        " where relkind in ('v', 'm') and relnamespace = 'public'::regnamespace"
    )
    assert all(row["invoker"] for row in views), views
    assert not await database.owner.fetchval(
        "select count(*) from pg_proc where prosecdef and pronamespace = 'public'::regnamespace"
    )
    open_policies = await database.owner.fetch(
        "select tablename from pg_policies where $1 = any (roles) and (qual is null or qual = 'true')", database.reader
    )
    assert not open_policies


async def test_every_key_starts_with_the_company(database: Database) -> None:
    """Traps 3 and 4: foreign keys are checked past the policies, so each must name the company; and a unique key must
    tell nothing of another's rows."""
    found = await database.owner.fetch(
        "select table_name as name from information_schema.columns"
        " where table_schema = 'public' and column_name = 'company_id'"
    )
    tables = [row["name"] for row in found if row["name"] not in KEYED_OTHERWISE]
    keys = await database.owner.fetch(
        "select conrelid::regclass::text as table, pg_get_constraintdef(oid) as text from pg_constraint"
        " where connamespace = 'public'::regnamespace and contype in ('p', 'u', 'f')"
        " and conrelid::regclass::text = any ($1)",
        tables,
    )
    assert keys
    for key in keys:
        assert key["text"].split("(")[1].startswith("company_id"), dict(key)
    indexes = await database.owner.fetch(
        "select indexdef from pg_indexes i where schemaname = 'public' and indexdef like 'CREATE UNIQUE%'"
        " and tablename = any ($1)",
        tables,
    )
    for row in indexes:
        assert "(company_id" in row["indexdef"], row["indexdef"]


async def test_without_settings_there_is_nothing(database: Database, name: str) -> None:
    """Trap 2: unset, empty and half-set settings show no row; nonsense is an error, and shows none either."""
    table = FILLED[name]
    readable = await database.owner.fetch(
        "select distinct table_name as name from information_schema.role_column_grants where grantee = $1",
        database.reader,
    )
    assert table in {row["name"] for row in readable}
    async with database.pool.acquire() as connection:
        for row in readable:
            assert await connection.fetchval(f"select count(*) from {row['name']}") == 0, row["name"]
        for value in ("", str(uuid4())):
            assert await _count_as(database, connection, table, value) == 0
        for value in ("*", "nonsense", f"{ONE},{OTHER}", f"{ONE}' or true --"):
            with pytest.raises(asyncpg.DataError):
                await _count_as(database, connection, table, value)
        await connection.execute("set app.company = 'x'; reset all")
        await connection.execute(f"set role {database.reader}")
        assert await database.count(connection, table) == 0


async def _count_as(database: Database, connection: Any, table: str, value: str) -> int:
    async with connection.transaction():
        await connection.execute("select set_config('app.company', $1, true)", value)
        return await database.count(connection, table)


async def test_a_setting_ends_with_its_transaction(database: Database, name: str) -> None:
    """Trap 5: the pool resets nothing, so the same connection must have forgotten by itself."""
    table = FILLED[name]
    async with reading(database.pool, ONE) as connection:
        own, process = await database.count(connection, table), connection.get_server_pid()
        assert own > 0
        assert await connection.fetchval(f"select count(*) from {table} where company_id <> $1", ONE) == 0
    async with database.pool.acquire() as connection:
        assert connection.get_server_pid() == process
        assert not connection.is_in_transaction()
        assert await database.count(connection, table) == 0
        # Somebody poisons the session: whoever reads next says all of it anew.
        await connection.execute(f"set app.company = '{OTHER}'; set app.locations = '*'; set app.poster = '*'")
    async with reading(database.pool, ONE) as connection:
        assert await connection.fetchval(f"select count(*) from {table} where company_id <> $1", ONE) == 0
        assert await database.count(connection, table) == own
    if name == "reporting":
        async with reading(database.pool, ONE, frozenset(), uuid4()) as connection:
            assert await database.count(connection, table) == 0


@pytest.mark.parametrize("how", ["error", "broken statement", "cancelled"])
async def test_a_setting_ends_however_its_transaction_ends(database: Database, name: str, how: str) -> None:
    async def read() -> None:
        async with reading(database.pool, ONE) as connection:
            if how == "error":
                raise LookupError
            if how == "broken statement":
                await connection.execute("select 1 / 0")
            await connection.execute("select pg_sleep(20)")

    task = asyncio.create_task(read())
    if how == "cancelled":
        await asyncio.sleep(0.2)
        task.cancel()
    with pytest.raises((LookupError, asyncpg.DivisionByZeroError, asyncio.CancelledError)):
        await task
    async with database.pool.acquire() as connection:
        assert not connection.is_in_transaction()
        assert await database.count(connection, FILLED[name]) == 0


async def test_reading_reads_only(database: Database) -> None:
    with pytest.raises((asyncpg.ReadOnlySQLTransactionError, asyncpg.InsufficientPrivilegeError)):
        async with reading(database.pool, ONE) as connection:
            await connection.execute("delete from directory_location")
    async with reading(database.pool, ONE) as connection:
        assert await connection.fetchval("show transaction_read_only") == "on"


@pytest.mark.parametrize("name", ["reporting"])
async def test_locations_and_posters(database: Database) -> None:
    """What a scope leaves of six lines (two posters at a place, elsewhere, and nowhere); and whose charges show."""
    seen = {}
    for locations in ("*", (PLACE,), (ELSEWHERE,), (PLACE, ELSEWHERE), ()):
        for poster in ("*", POSTER, uuid4()):
            async with reading(database.pool, ONE, locations, poster) as connection:
                rows = await connection.fetch("select location_id, poster_id, procedure_code from visible_line")
            seen[locations, poster == "*", poster == POSTER] = len(rows)
            for row in rows:
                assert locations == "*" or row["location_id"] in locations
                assert poster in ("*", row["poster_id"])
                assert (row["procedure_code"] is None) == (locations != "*" and PLACE not in locations)
    assert [seen[one, True, False] for one in ("*", (PLACE,), (ELSEWHERE,), (PLACE, ELSEWHERE), ())] == [6, 2, 2, 4, 0]
    assert [seen["*", False, True], seen["*", False, False], seen[(PLACE,), False, True]] == [3, 0, 1]


async def test_force_binds_the_owner(database: Database, name: str) -> None:
    """Who owns the tables and is not of the service's role sees nothing; who is, may rebuild."""
    table = FILLED[name]
    transaction = database.owner.transaction()
    await transaction.start()
    try:
        owner = f"owner_{uuid4().hex}"
        await database.owner.execute(
            f"create role {owner}; grant all on schema public to {owner}; alter table {table} owner to {owner}"
        )
        await database.owner.execute(f"set local role {owner}")
        assert await database.count(database.owner, table) == 0
        await database.owner.execute(f"reset role; grant {database.app_role} to {owner}; set local role {owner}")
        assert await database.count(database.owner, table) > 0
        assert await database.owner.execute(f"delete from {table}") != "DELETE 0"
    finally:
        await transaction.rollback()
