"""Reporting's background process: events of the bus into balancing tables, the gaps closed, the audit sealed."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg
from prometheus_client import CollectorRegistry

from services.reporting.audit import SEALING
from services.reporting.catchup import CatchUp
from services.reporting.inbox import SUBSCRIPTION, Inbox
from services.reporting.store import MIGRATIONS, ROLE
from shared.bus import Bus
from shared.config import Config
from shared.db import KEYED_PLANS, create_pool, ping
from shared.directory import Directory
from shared.identity_client import IdentityLink, ServiceClient
from shared.migrate import check_migrated
from shared.process import bus_check, bus_of, run_background

IDENTITY_QUEUE: Final = "reporting.identity.v1"


async def run(config: Config, stop: asyncio.Event, bus: Bus | None = None) -> None:
    """Consume until `stop`. `bus`: the loopback of an embedded run; else RabbitMQ by `AMQP_URL`."""
    dsn = config.required("reporting_database_url")
    identity = IdentityLink(config)
    ledger = ServiceClient(config.ledger_url, identity.tokens)
    registry = CollectorRegistry()
    pool: asyncpg.Pool = await create_pool(dsn, name="reporting-consumer", role=ROLE, size=4, settings=KEYED_PLANS)
    try:
        inbox = Inbox(pool, registry)
        directory = Directory(pool, identity.client)

        async def database() -> None:
            await ping(pool)

        async def migrations() -> None:
            await check_migrated(pool, MIGRATIONS)

        async with bus_of(config, bus) as source:
            await run_background(
                config,
                stop,
                source.consume(SUBSCRIPTION, inbox.handle, stop),
                source.consume(directory.subscription(IDENTITY_QUEUE), directory.handle, stop),
                directory.run(stop),
                SEALING.run(config, stop),
                CatchUp(pool, inbox, ledger, registry=registry).run(stop),
                checks={"bus": bus_check(source), "database": database, "migrations": migrations},
                registry=registry,
            )
    finally:
        await pool.close()
        await ledger.close()
        await identity.close()
