"""What a service's process can do to its own database, set up as compose sets it up: connected by its login role, it
can take on the roles that it works in, and from none of them is there a way to what the fences rest on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import asyncpg
import pytest

from deploy.postgres import PrivatePostgres
from services.identity.app import MIGRATIONS as IDENTITY
from services.ledger.store import MIGRATIONS as LEDGER
from services.reporting.store import MIGRATIONS as REPORTING
from shared.migrate import migrate
from tests.support.deployed import compose_postgres, database_address

MIGRATIONS: Final = {"identity": IDENTITY, "ledger": LEDGER, "reporting": REPORTING}
ADDED_TO_ONLY: Final = {
    "identity": ("event", "audit", "audit_seal", "break_glass", "break_glass_end"),
    "ledger": (
        *("posting", "transfer", "charge", "charge_revision", "payment", "payment_revision", "batch", "idempotency"),
        *("event", "claim", "exception_history", "audit", "audit_seal"),
    ),
    "reporting": ("inbox", "balancing_line", "audit", "audit_seal"),
}
"""History, by service: what no process may change or remove."""
TAKING_ALL: Final = (
    "alter table {table} disable row level security",
    "alter table {table} no force row level security",
    "alter table {table} disable trigger all",
    "alter table {table} owner to current_user",
    "create policy mine on {table} using (true)",
    "create trigger mine before insert on {table} for each row execute function suppress_redundant_updates_trigger()",
    "grant all on {table} to current_user",
    "grant all on {table} to public",
    "truncate {table} cascade",
    "drop table {table} cascade",
)
"""What an owner may do to each of his tables."""
RISING: Final = (
    "set role {service}",
    "set role postgres",
    "set role {other}_app",
    "set session authorization {service}",
    "set session_replication_role = replica",
    "create table public.mine (id int)",
    "create schema mine",
    "create temporary table mine (id int)",
    "create function public.mine() returns int language sql as 'select 1'",
    "create extension pg_trgm",
    "create role mine",
    "alter role current_user bypassrls",
    "alter role current_user createrole",
    "alter role current_user superuser",
    "alter role {service} password 'mine'",
    "alter role {service}_app login",
    "alter database {service} owner to {service}_login",
    "alter default privileges for role {service} grant all on tables to public",
    "grant {service} to {service}_login",
    "grant pg_write_all_data to {service}_login",
    "grant {service}_app to {other}",
    "grant create on schema public to public",
    "reassign owned by {service} to {service}_login",
    "drop owned by {service}",
    "update pg_catalog.pg_authid set rolsuper = true",
    "copy (select 1) to program 'true'",
    "select pg_read_file('postgresql.conf')",
)
"""Ways to the rights of somebody else, or to objects of one's own."""


@pytest.fixture(scope="module")
def server(server_dir: Path) -> Iterator[PrivatePostgres]:
    with compose_postgres(server_dir / "logins") as made:
        yield made


@pytest.fixture(params=MIGRATIONS)
async def service(request: pytest.FixtureRequest, server: PrivatePostgres) -> str:
    """A service's name; its owner has applied its migrations."""
    await migrate(database_address(server, request.param, request.param), MIGRATIONS[request.param])
    return str(request.param)


@pytest.fixture
async def login(service: str, server: PrivatePostgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Connected as the service's processes are."""
    address = database_address(server, f"{service}_login", service)
    connection = await asyncpg.connect(address, server_settings={"role": f"{service}_app"})
    yield connection
    await connection.close()


RIGHTS: Final = """
select (select jsonb_agg(to_jsonb(c.relacl) order by c.oid) from pg_class c), (select jsonb_agg(to_jsonb(n.nspacl)
    order by n.oid) from pg_namespace n), (select jsonb_agg(to_jsonb(m.*) order by m.oid) from pg_auth_members m)
"""


async def refused(connection: asyncpg.Connection[asyncpg.Record], role: str, statement: str) -> None:
    """The database refuses, or (as the standard wants it of a grant by who cannot grant) warns and changes nothing."""
    await connection.execute(f"set role {role}")
    transaction = connection.transaction()
    await transaction.start()
    try:
        before = await connection.fetchrow(RIGHTS)
        await connection.execute(statement)
        assert statement.startswith("grant "), f"as {role}: {statement}"
        assert await connection.fetchrow(RIGHTS) == before, f"as {role}: {statement}"
    except asyncpg.InsufficientPrivilegeError:
        pass
    finally:
        await transaction.rollback()


def roles(service: str) -> tuple[str, ...]:
    """All that a process can be; `none`: its login alone."""
    return ("none", f"{service}_app", f"{service}_reader")


async def test_the_login_has_nothing_of_its_own(service: str, login: asyncpg.Connection[asyncpg.Record]) -> None:
    rows = await login.fetch(
        "select rolname, rolcanlogin, rolinherit, rolsuper or rolbypassrls or rolcreaterole or rolcreatedb"
        " or rolreplication as strong from pg_roles where rolname = any ($1)",
        [*roles(service), f"{service}_login"],
    )
    assert {row["rolname"]: (row["rolcanlogin"], row["strong"]) for row in rows} == {
        f"{service}_login": (True, False),
        f"{service}_app": (False, False),
        f"{service}_reader": (False, False),
    }
    assert [row["rolinherit"] for row in rows if row["rolcanlogin"]] == [False]
    members = await login.fetch(
        "select roleid::regrole::text as role, member::regrole::text as member,"
        " admin_option, inherit_option, set_option from pg_auth_members where member::regrole::text like $1",
        f"{service}%",
    )
    assert {tuple(row.values())[2:] for row in members if row["member"] == f"{service}_login"} == {(False, False, True)}
    assert {(row["member"], row["role"]) for row in members if row["member"] != service} == {
        (f"{service}_login", f"{service}_app"),
        (f"{service}_login", f"{service}_reader"),
    }
    owned = "select count(*) from pg_shdepend where deptype = 'o' and refobjid::regrole::text = any ($1)"
    assert await login.fetchval(owned, [row["rolname"] for row in rows]) == 0
    readable = await login.fetch(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v', 'S')"
        " and has_table_privilege($1, oid, 'select, insert, update, delete')",
        f"{service}_login",
    )
    assert readable == [], "what the login can do it does in a role"


async def test_what_is_given_up_is_not_more_than_was_taken_on(
    service: str, login: asyncpg.Connection[asyncpg.Record]
) -> None:
    for statement in ("reset role", "set session authorization default"):
        await login.execute(statement)
        assert await login.fetchval("select current_user") == f"{service}_app", "what the connection began with"
    await login.execute("set role none")
    assert await login.fetchval("select current_user") == f"{service}_login"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await login.execute("select from schema_migration")


async def test_no_role_leads_to_more_rights(service: str, login: asyncpg.Connection[asyncpg.Record]) -> None:
    other = next(name for name in MIGRATIONS if name != service)
    for role in roles(service):
        for statement in RISING:
            await refused(login, role, statement.format(service=service, other=other))


async def test_no_table_can_be_taken(service: str, login: asyncpg.Connection[asyncpg.Record]) -> None:
    tables = await login.fetch("select tablename from pg_tables where schemaname = 'public'")
    assert {*ADDED_TO_ONLY[service]} < {row["tablename"] for row in tables}
    policies = await login.fetch("select policyname, tablename from pg_policies where schemaname = 'public'")
    triggers = await login.fetch("select tgname, tgrelid::regclass::text from pg_trigger where not tgisinternal")
    assert (len(policies) > 10) == (service != "identity")
    assert bool(triggers) == (service == "ledger")
    for role in roles(service):
        for row in tables:
            for statement in TAKING_ALL:
                await refused(login, role, statement.format(table=row["tablename"]))
        for name, table in policies:
            await refused(login, role, f"drop policy {name} on {table}")
            await refused(login, role, f"alter policy {name} on {table} using (true)")
        for name, table in triggers:
            await refused(login, role, f"drop trigger {name} on {table}")


async def test_history_can_be_neither_changed_nor_removed(
    service: str, login: asyncpg.Connection[asyncpg.Record]
) -> None:
    first = "select attname from pg_attribute where attrelid = $1::regclass and attnum = 1"
    for table in ADDED_TO_ONLY[service]:
        column = await login.fetchval(first, table)
        for role in roles(service):
            for statement in (f"update {table} set {column} = {column}", f"delete from {table}"):
                await refused(login, role, statement)
