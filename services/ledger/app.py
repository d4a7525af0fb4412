"""The ledger's application: pool, books and routes joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from services.ledger.api import ENDPOINTS
from services.ledger.api.common import LEDGER
from services.ledger.api.feeds import BACKGROUND, resume_abandoned
from services.ledger.service import Ledger
from services.ledger.store import MIGRATIONS as MIGRATIONS
from services.ledger.store import create_ledger_pool
from shared import web as shared_web
from shared.access.tokens import KeyCache, TokenVerifier
from shared.config import Config
from shared.db import ping
from shared.directory import Directory
from shared.identity_client import InternalTokens, ServiceClient, key_fetcher
from shared.migrate import check_migrated


def create_app(config: Config, verifier: TokenVerifier | None = None) -> web.Application:
    """The API of the ledger. Tests and benchmarks may bring a verifier with keys of their own."""

    async def running(app: web.Application) -> AsyncIterator[None]:
        pool = await create_ledger_pool(config, "ledger-api")
        app[LEDGER] = Ledger(pool, Directory(pool, identity))
        app[BACKGROUND] = {asyncio.create_task(resume_abandoned(app))}
        try:
            yield
        finally:
            for task in app[BACKGROUND]:
                task.cancel()
            await asyncio.gather(*app[BACKGROUND], return_exceptions=True)
            await pool.close()
            for client in (keys, identity, tokens):
                await client.close()

    async def database() -> None:
        await ping(app[LEDGER].pool)

    async def migrations() -> None:
        await check_migrated(app[LEDGER].pool, MIGRATIONS)

    keys = ServiceClient(config.identity_url)
    tokens = InternalTokens(config.identity_url, config.required("internal_client_secret"))
    identity = ServiceClient(config.identity_url, tokens)
    parts = shared_web.AppParts(
        name="ledger",
        title="Ledger: charges, payments and feeds",
        endpoints=ENDPOINTS,
        verifier=verifier or TokenVerifier(KeyCache(key_fetcher(keys)), issuer=config.issuer, audience=config.audience),
        ready={"database": database, "migrations": migrations},
    )
    app = shared_web.create_app(parts)
    app.cleanup_ctx.append(running)
    return app
