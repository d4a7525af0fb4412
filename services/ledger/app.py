"""The ledger's application: pool, books and routes joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import CollectorRegistry

from services.ledger.api import ENDPOINTS
from services.ledger.api.common import LEDGER, READERS
from services.ledger.api.feeds import BACKGROUND, resume_abandoned
from services.ledger.queries import READER
from services.ledger.service import Ledger
from services.ledger.store import MIGRATIONS as MIGRATIONS
from services.ledger.store import create_ledger_pool
from shared import web as shared_web
from shared.access.tokens import TokenVerifier
from shared.bus import Bus
from shared.config import Config
from shared.db import KEYED_PLANS, create_pool, ping
from shared.directory import Directory
from shared.identity_client import IdentityLink
from shared.migrate import check_migrated
from shared.process import hearing
from shared.recorder import Recorder


def create_app(config: Config, verifier: TokenVerifier | None = None, bus: Bus | None = None) -> web.Application:
    """The API of the ledger. Tests and benchmarks may bring a verifier with keys of their own; an embedded run brings
    its bus."""

    async def running(app: web.Application) -> AsyncIterator[None]:
        pool = await create_ledger_pool(config, "ledger-api")
        app[LEDGER] = Ledger(pool, Directory(pool, identity.client))
        app[READERS] = await create_pool(
            config.required("ledger_database_url"), name="ledger-reader", role=READER, settings=KEYED_PLANS
        )
        app[BACKGROUND] = {asyncio.create_task(resume_abandoned(app))}
        audit.start(pool)
        try:
            async with hearing(guard.revocations, "ledger", config, bus, registry):
                yield
        finally:
            await audit.close()
            for task in app[BACKGROUND]:
                task.cancel()
            await asyncio.gather(*app[BACKGROUND], return_exceptions=True)
            await app[READERS].close()
            await pool.close()
            await identity.close()

    async def database() -> None:
        await ping(app[LEDGER].pool)

    async def migrations() -> None:
        await check_migrated(app[LEDGER].pool, MIGRATIONS)

    identity = IdentityLink(config)
    registry = CollectorRegistry()
    audit = Recorder(registry)
    guard = verifier or identity.verifier()
    parts = shared_web.AppParts(
        name="ledger",
        title="Ledger: charges, payments and feeds",
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
