"""Migrations are applied by the owner, and waited for by the processes that sign in as less."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import structlog
from yarl import URL

from deploy.postgres import PrivatePostgres
from services.ledger.store import MIGRATIONS, ROLE
from shared.migrate import migrate, wait_until_migrated
from tests.support.deployed import compose_postgres, database_address

FILES = sorted(path.name for path in MIGRATIONS.glob("*.sql"))


@pytest.fixture(scope="module")
def server(server_dir: Path) -> Iterator[PrivatePostgres]:
    with compose_postgres(server_dir / "migrations") as made:
        yield made


@pytest.fixture
def empty(server: PrivatePostgres) -> Iterator[str]:
    """A database as it is before the first migration."""
    server.execute("create database late owner ledger; grant connect on database late to ledger_login;")
    yield "late"
    server.execute("drop database late with (force);")


async def wait(address: str, *, role: str = ROLE, seconds: float = 30.0) -> None:
    await wait_until_migrated("ledger", address, MIGRATIONS, role, seconds=seconds)


async def test_processes_wait_until_one_of_many_owners_has_applied_them(server: PrivatePostgres, empty: str) -> None:
    address = database_address(server, "ledger_login", empty)
    owner = database_address(server, "ledger", empty)
    with structlog.testing.capture_logs() as lines:
        waiting = [asyncio.create_task(wait(address)) for _ in range(3)]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in waiting)
        assert [line["reason"] for line in lines] == ["no migration is applied"] * 3
        applied = await asyncio.gather(*(migrate(owner, MIGRATIONS) for _ in range(4)))
        await asyncio.gather(*waiting)
    assert sorted(applied) == [[], [], [], FILES]
    assert await migrate(owner, MIGRATIONS) == []


async def test_what_does_not_come_right_is_one_sentence(server: PrivatePostgres, empty: str, tmp_path: Path) -> None:
    address = database_address(server, "ledger_login", empty)
    faults = {
        "no migration is applied": address,
        "InvalidPasswordError": str(URL(address).with_password("guess")),
        "InvalidCatalogNameError": database_address(server, "ledger_login", "nowhere"),
        "ConnectionRefusedError": str(URL(address).with_port(9)),
    }
    for reason, wrong in faults.items():
        with pytest.raises(SystemExit) as ended:
            await wait(wrong, seconds=0)
        assert str(ended.value) == (
            f"The database of ledger cannot be used ({reason}). Its migrations are applied by"
            " `python -m services.ledger migrate`, with LEDGER_OWNER_DATABASE_URL"
        )
    with pytest.raises(SystemExit, match="InvalidParameterValueError"):
        await wait(address, role="no_such_role", seconds=0)

    for path in MIGRATIONS.glob("000*.sql"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    await migrate(database_address(server, "ledger", empty), tmp_path)
    with pytest.raises(SystemExit, match=rf"\(not applied: {', '.join(FILES[9:])}\)"):
        await wait(address, seconds=0)


async def test_a_login_cannot_migrate(server: PrivatePostgres, empty: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await migrate(database_address(server, "ledger_login", empty), MIGRATIONS)
    assert (
        server.execute("select count(*) from pg_class where relnamespace = 'public'::regnamespace", empty).strip()
        == "0"
    )
