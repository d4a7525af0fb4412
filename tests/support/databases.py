"""Fresh databases in milliseconds: each set of migrations is applied once, and its result copied."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import asyncpg

from deploy.postgres import PrivatePostgres
from shared.migrate import migrate


class Databases:
    """Makes and drops databases on the test server. Addresses are the superuser's."""

    def __init__(self, server: PrivatePostgres) -> None:
        self._server = server
        self._numbers = count(1)
        self._templates: dict[Path, str] = {}

    async def create(self, migrations: Path | None = None) -> str:
        """Make a database with the migrations of a folder applied (none: empty), and return its address."""
        template = "template1" if migrations is None else await self._template(migrations)
        name = f"test_{next(self._numbers)}"
        await self._run(f"create database {name} template {template} strategy file_copy")
        return self._server.dsn(name)

    async def drop(self, dsn: str) -> None:
        """Delete a database, throwing out whoever is still connected."""
        await self._run(f"drop database if exists {dsn.rpartition('/')[2]} with (force)")

    async def _template(self, migrations: Path) -> str:
        if migrations not in self._templates:
            name = f"migrated_{len(self._templates)}"
            await self._run(f"create database {name}")
            await migrate(self._server.dsn(name), migrations)
            self._templates[migrations] = name
        return self._templates[migrations]

    async def _run(self, statement: str) -> None:
        connection = await asyncpg.connect(self._server.dsn())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
