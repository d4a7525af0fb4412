"""Reporting's application: pool, directory and routes joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import web

from services.reporting.api import DIRECTORY, ENDPOINTS, EXPORTS, MOST_EXPORTS, POOL
from services.reporting.store import MIGRATIONS, ROLE
from shared import web as shared_web
from shared.access.tokens import KeyCache, TokenVerifier
from shared.config import Config
from shared.db import create_pool, ping
from shared.directory import Directory
from shared.identity_client import InternalTokens, ServiceClient, key_fetcher
from shared.migrate import check_migrated

# A report's plan hangs on its dates and filters, so each is planned anew (under a millisecond); sums of a large month
# fit into this memory.
_PLANNED: Final = {"plan_cache_mode": "force_custom_plan", "work_mem": "32MB"}


def create_app(config: Config, verifier: TokenVerifier | None = None) -> web.Application:
    """The API of reporting. Tests and benchmarks may bring a verifier with keys of their own."""
    keys = ServiceClient(config.identity_url)
    tokens = InternalTokens(config.identity_url, config.required("internal_client_secret"))
    identity = ServiceClient(config.identity_url, tokens)
    dsn = config.required("reporting_database_url")

    async def running(app: web.Application) -> AsyncIterator[None]:
        app[POOL] = await create_pool(dsn, name="reporting-api", role=ROLE, settings=_PLANNED)
        app[DIRECTORY] = Directory(app[POOL], identity)
        app[EXPORTS] = asyncio.Semaphore(MOST_EXPORTS)
        try:
            yield
        finally:
            await app[POOL].close()
            for client in (keys, identity, tokens):
                await client.close()

    async def database() -> None:
        await ping(app[POOL])

    async def migrations() -> None:
        await check_migrated(app[POOL], MIGRATIONS)

    parts = shared_web.AppParts(
        name="reporting",
        title="Reporting: balancing reports",
        endpoints=ENDPOINTS,
        verifier=verifier or TokenVerifier(KeyCache(key_fetcher(keys)), issuer=config.issuer, audience=config.audience),
        ready={"database": database, "migrations": migrations},
    )
    app = shared_web.create_app(parts)
    app.cleanup_ctx.append(running)
    return app
