"""Forward-only migrations: numbered `.sql` files, each in one transaction, with checksums and an advisory lock.

Old code runs on the new schema, so a change is additive first and removes only a release later. A file that was
applied is never edited: a differing checksum stops the start.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import asyncpg
import structlog

_LOCK_KEY: Final = 7_216_402_215
log = structlog.get_logger("migrate")


class MigrationError(Exception):
    """The database and the files disagree; says which file."""


async def migrate(dsn: str, directory: Path) -> list[str]:
    """Apply what is missing, by file name, and return the names applied. Safe to run from several processes."""
    connection = await asyncpg.connect(dsn, timeout=10)
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


async def check_migrated(pool: asyncpg.Pool, directory: Path) -> None:
    """Raises unless every file is applied: a readiness check."""
    applied = {row["name"] for row in await pool.fetch("select name from schema_migration")}
    missing = {path.name for path in directory.glob("*.sql")} - applied
    if missing:
        raise MigrationError(f"not applied: {', '.join(sorted(missing))}")
