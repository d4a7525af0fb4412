"""Forward-only migrations: numbered `.sql` files, each in one transaction, with checksums and an advisory lock.

Old code runs on the new schema, so a change is additive first and removes only a release later. A file that was
applied is never edited: a differing checksum stops the start.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog

from shared.config import Config
from shared.db import connect

_LOCK_KEY: Final = 7_216_402_215
_WAIT_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.5
log = structlog.get_logger("migrate")


class MigrationError(Exception):
    """The database and the files disagree; says which file."""


async def migrate(dsn: str, directory: Path) -> list[str]:
    """Apply what is missing, by file name, and return the names applied. Safe to run from several processes."""
    connection = await connect(dsn)
    try:
        await connection.execute("select pg_advisory_lock($1)", _LOCK_KEY)
        await connection.execute(
            "create table if not exists schema_migration (name text primary key, checksum text not null,"
            " applied_at timestamptz not null default now())"
        )
        rows = await connection.fetch("select name, checksum from schema_migration")
        applied: dict[str, str] = {row["name"]: row["checksum"] for row in rows}
        done = []
        for path in sorted(directory.glob("*.sql")):
            text = path.read_text("utf-8")
            checksum = hashlib.sha256(text.encode()).hexdigest()
            if path.name in applied:
                if applied[path.name] != checksum:
                    raise MigrationError(f"{path.name} was changed after it had been applied")
                continue
            async with connection.transaction():
                await connection.execute("set local lock_timeout = '4s'; set local statement_timeout = '60s'")
                await connection.execute(text)
                await connection.execute(
                    "insert into schema_migration (name, checksum) values ($1, $2)", path.name, checksum
                )
            log.info("migration_applied", name=path.name)
            done.append(path.name)
        return done
    finally:
        await connection.close()


Job = Callable[[Config], Coroutine[Any, Any, None]]


def once_migrated(service: str, directory: Path, role: str) -> Callable[[Job], Job]:
    """For the jobs of a service that work on its database: each waits for the migrations before it begins."""

    def waiting(job: Job) -> Job:
        async def run(config: Config) -> None:
            await wait_until_migrated(service, config.required(f"{service}_database_url"), directory, role)
            await job(config)

        return run

    return waiting


async def wait_until_migrated(
    service: str, dsn: str, directory: Path, role: str, *, seconds: float = _WAIT_SECONDS
) -> None:
    """Return when every file is applied. Looks as the service is going to: by its login, in its role. What has not come
    right after `seconds` ends the process with one sentence that says what it is."""
    deadline, reason = time.monotonic() + seconds, ""
    while (found := await _why_not_migrated(dsn, directory, role)) is not None:
        if time.monotonic() > deadline:
            raise SystemExit(
                f"The database of {service} cannot be used ({found}). Its migrations are applied by"
                f" `python -m services.{service} migrate`, with {service.upper()}_OWNER_DATABASE_URL"
            )
        if found != reason:
            log.warning("waiting_for_migrations", reason=found)
        reason = found
        await asyncio.sleep(_LOOK_SECONDS)


async def _why_not_migrated(dsn: str, directory: Path, role: str) -> str | None:
    try:
        connection = await connect(dsn, role=role, command_seconds=10)
        try:
            await check_migrated(connection, directory)
        finally:
            await connection.close(timeout=5)
    except MigrationError as error:
        return str(error)
    except asyncpg.UndefinedTableError:
        return "no migration is applied"
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        return type(error).__name__  # their messages may quote the address
    return None


async def check_migrated(database: asyncpg.Pool | asyncpg.Connection[asyncpg.Record], directory: Path) -> None:
    """Raises unless every file is applied: a readiness check."""
    applied = {row["name"] for row in await database.fetch("select name from schema_migration")}
    missing = {path.name for path in directory.glob("*.sql")} - applied
    if missing:
        raise MigrationError(f"not applied: {', '.join(sorted(missing))}")
