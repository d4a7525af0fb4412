"""Reporting's application: pool, directory and routes joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import asyncpg
from aiohttp import web
from prometheus_client import CollectorRegistry

from services.reporting.api import DIRECTORY, ENDPOINTS, EXPORTERS, EXPORTS, MOST_EXPORTS, MOST_OF_ONE, READERS
from services.reporting.store import MIGRATIONS, READER, ROLE
from shared import web as shared_web
from shared.access.tokens import TokenVerifier
from shared.bus import Bus
from shared.config import Config
from shared.db import create_pool, ping
from shared.directory import Directory
from shared.identity_client import IdentityLink
from shared.migrate import check_migrated
from shared.process import hearing
from shared.recorder import Recorder
from shared.web.limits import AtOnce

# A report's plan hangs on its dates and filters, so each is planned anew (under a millisecond); sums of a large month
# fit into this memory.
_PLANNED: Final = {"plan_cache_mode": "force_custom_plan", "work_mem": "32MB"}
_OWN: Final = web.AppKey("own", asyncpg.Pool)


def create_app(config: Config, verifier: TokenVerifier | None = None, bus: Bus | None = None) -> web.Application:
    """The API of reporting. Tests and benchmarks may bring a verifier with keys of their own; an embedded run brings
    its bus."""
    identity = IdentityLink(config)
    dsn = config.required("reporting_database_url")

    async def running(app: web.Application) -> AsyncIterator[None]:
        # What callers ask is read by the reader's role, what identity says is written by the service's own.
        own = app[_OWN] = await create_pool(dsn, name="reporting-api", role=ROLE, size=2)
        app[READERS] = await create_pool(dsn, name="reporting-reader", role=READER, settings=_PLANNED)
        app[DIRECTORY] = Directory(own, identity.client)
        app[EXPORTS] = asyncio.Semaphore(MOST_EXPORTS)
        app[EXPORTERS] = AtOnce(MOST_OF_ONE)
        audit.start(own)
        try:
            async with hearing(guard.revocations, "reporting", config, bus, parts.registry):
                yield
        finally:
            await audit.close()
            await app[READERS].close()
            await own.close()
            await identity.close()

    async def database() -> None:
        await ping(app[READERS])

    async def migrations() -> None:
        await check_migrated(app[_OWN], MIGRATIONS)

    registry = CollectorRegistry()
    audit = Recorder(registry)
    guard = verifier or identity.verifier()
    parts = shared_web.AppParts(
        name="reporting",
        title="Reporting: balancing reports",
        endpoints=ENDPOINTS,
        verifier=guard,
        audit=audit,
        config=config,
        ready={"database": database, "migrations": migrations},
        registry=registry,
    )
    app = shared_web.create_app(parts)
    app.cleanup_ctx.append(running)
    return app
