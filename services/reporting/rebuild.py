"""Recomputing the balancing tables from the inbox: the same fold over the same events."""

from __future__ import annotations

import asyncpg
import structlog

from services.reporting.inbox import Inbox
from shared.tls import database_context

log = structlog.get_logger("rebuild")


async def rebuild(dsn: str) -> int:
    """Recompute every company, each in one transaction of its own, and answer how many.

    Reports go on and show the old state until a company is done; its new events wait meanwhile. What the inbox lacks
    is read from the ledger by the consumer. Needs the owner's address: the service's role may not delete lines."""
    async with asyncpg.create_pool(dsn, ssl=database_context(dsn), min_size=1, max_size=1) as pool:
        inbox = Inbox(pool)
        rows = await pool.fetch(
            "select company_id from company_progress union select company_id from inbox order by company_id"
        )
        for row in rows:
            async with pool.acquire() as connection, connection.transaction():
                await inbox.rebuild(connection, row["company_id"])
            log.info("rebuilt", company_id=str(row["company_id"]))
    return len(rows)
