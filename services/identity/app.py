"""Identity's application: pool, use cases and routes joined; what must exist is made at start."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg
from aiohttp import web

from services.identity.api import ENDPOINTS
from services.identity.api.common import SERVICES, Services
from services.identity.domain import PASSWORD_LENGTHS
from services.identity.passwords import Hasher
from services.identity.service.bootstrap import bootstrap
from services.identity.service.clients import Clients
from services.identity.service.companies import Companies
from services.identity.service.sign_in import SignIn
from services.identity.service.users import Users
from services.identity.service.views import Views
from services.identity.tokens import Issuer
from shared import web as shared_web
from shared.access.tokens import KeyCache, TokenVerifier
from shared.config import Config
from shared.db import KEYED_PLANS, create_pool, ping
from shared.migrate import check_migrated

MIGRATIONS: Final = Path(__file__).parent / "migrations"
ROLE: Final = "identity_app"
POOL: Final = web.AppKey("pool", asyncpg.Pool)


def create_app(config: Config, *, hasher: Hasher | None = None) -> web.Application:
    """The API of identity. Tests may inject a cheaper password hasher; without one it is the real one."""
    passwords = hasher or Hasher()

    async def own_keys() -> Mapping[str, Any]:
        return await app[SERVICES].views.public_keys()

    async def database() -> None:
        await ping(app[POOL])

    async def migrations() -> None:
        await check_migrated(app[POOL], MIGRATIONS)

    verifier = TokenVerifier(KeyCache(own_keys), issuer=config.issuer, audience=config.audience)

    async def running(app: web.Application) -> AsyncIterator[None]:
        dsn = config.required("identity_database_url")
        pool = app[POOL] = await create_pool(dsn, name="identity-api", role=ROLE, settings=KEYED_PLANS)
        issuer = Issuer(config.issuer, config.audience, config.access_token_seconds)
        app[SERVICES] = Services(
            config=config,
            issuer=issuer,
            verifier=verifier,
            sign_in=SignIn(pool, passwords, issuer, verifier),
            companies=Companies(pool),
            users=Users(pool, passwords),
            clients=Clients(pool),
            views=Views(pool),
        )
        try:
            await bootstrap(
                pool,
                passwords,
                operator_password=_operator_password(config),
                internal_secret=_secret(config, "internal_client_secret"),
                say=_say,
            )
            yield
        finally:
            await pool.close()
            if hasher is None:
                passwords.close()

    parts = shared_web.AppParts(
        name="identity",
        title="Identity: companies, users, roles and tokens",
        endpoints=ENDPOINTS,
        verifier=verifier,
        ready={"database": database, "migrations": migrations},
    )
    app = shared_web.create_app(parts)
    app.cleanup_ctx.append(running)
    return app


def _secret(config: Config, name: str) -> str | None:
    value = getattr(config, name)
    return value.get_secret_value() or None if value is not None else None


def _operator_password(config: Config) -> str | None:
    password = _secret(config, "operator_password")
    if password is not None and len(password) not in PASSWORD_LENGTHS:
        raise SystemExit("OPERATOR_PASSWORD must have 8 to 256 characters")
    return password


def _say(line: str) -> None:
    """To standard output and not to the logs, which are kept."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
