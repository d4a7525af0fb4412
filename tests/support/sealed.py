"""Sealing and verifying as the tests want it; and `python -m tests.support.sealed`, a sealer that dies where CRASH_AT
says."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from pydantic import SecretStr

from services.ledger.audit import SEALING
from shared.config import Config
from shared.db import create_pool
from shared.seal import Head, seal_all
from shared.seal_check import Finding, verify
from shared.seal_heads import HeadFile, heads_path, keys_path, public_keys, read
from shared.seal_service import Sealing


async def sealed(dsn: str, sealing: Sealing = SEALING, keeper: HeadFile | None = None) -> int:
    """Seal what is waiting; how many rows."""
    async with await create_pool(dsn, name="tests", role=sealing.role, size=1) as pool:
        return await seal_all(pool, sealing.sources, keeper)


async def findings(dsn: str, sealing: Sealing = SEALING, heads: Sequence[Head] = ()) -> dict[UUID | None, Finding]:
    """The first bad place of each company."""
    async with await create_pool(dsn, name="tests", role=sealing.role, size=1) as pool:
        _, found = await verify(pool, sealing.sources, list(enumerate(heads, 1)))
    return {one.company_id: one for one in found}


def kept(directory: Path, service: str = "ledger") -> list[Head]:
    """The heads in a directory, each with a good signature."""
    keys = public_keys(keys_path(directory, service))
    return [head for _, head in read(heads_path(directory, service), service, keys)]


if __name__ == "__main__":
    settings = Config(ledger_database_url=SecretStr(sys.argv[1]), seal_dir=Path(sys.argv[2]))
    asyncio.run(SEALING.seal(settings))
