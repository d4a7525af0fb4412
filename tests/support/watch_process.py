"""A process that watches a directory and dies where CRASH_AT says: `python -m tests.support.watch_process`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from services.ledger.feeds.watched import Watcher
from services.ledger.feeds.watched_folders import companies, working
from services.ledger.service import Ledger
from services.ledger.store import ROLE
from shared.db import create_pool
from shared.directory import Directory
from shared.identity_client import ServiceClient
from tests.support.ledger import NOBODY_THERE


async def _main(dsn: str, root: str) -> None:
    """Look until there is nothing left that could be done."""
    identity = ServiceClient(NOBODY_THERE)
    pool = await create_pool(dsn, name="watch", role=ROLE)
    watcher = Watcher(Ledger(pool, Directory(pool, identity)), Path(root), settle_seconds=0)
    print("watching", flush=True)
    for _ in range(100):
        await watcher.look()
        if not any(working(base) for base in companies(Path(root))):
            break
    await pool.close()
    await identity.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
