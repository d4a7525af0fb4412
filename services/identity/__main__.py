"""`python -m services.identity api|relay|migrate|rotate-key|compromise-key KID|reset-mfa USER_NAME|seal|
verify-audit [--heads FILE]`"""

from __future__ import annotations

import asyncpg

from services.identity import relay
from services.identity.app import MIGRATIONS, create_app
from services.identity.sealing import Sealer
from services.identity.service import keys
from services.identity.service.bootstrap import reset_mfa
from services.identity.store import ROLE, SEALING
from shared.config import Config
from shared.db import create_pool
from shared.migrate import migrate, once_migrated
from shared.process import command_line
from shared.web.serve import serve, stop_on_signals, tls_context

_once_migrated = once_migrated("identity", MIGRATIONS, ROLE)


@_once_migrated
async def _api(config: Config) -> None:
    await serve(create_app(config), config.host, config.port, stop_on_signals(), tls_context(config))


@_once_migrated
async def _relay(config: Config) -> None:
    await relay.run(config, stop_on_signals())


async def _migrate(config: Config) -> None:
    await migrate(config.required("identity_owner_database_url"), MIGRATIONS)


async def _rotate_key(config: Config) -> None:
    async with await _pool(config) as pool:
        try:
            await keys.rotate(pool, Sealer(config.required("identity_secrets_key")))
        except keys.TooSoon:
            raise SystemExit("The next key is public for less than two minutes: try again then") from None


async def _compromise_key(config: Config, kid: str) -> None:
    async with await _pool(config) as pool:
        try:
            await keys.compromise(pool, Sealer(config.required("identity_secrets_key")), kid)
        except keys.UnknownKey:
            raise SystemExit("There is no such key, or it is withdrawn already: see /.well-known/jwks.json") from None


async def _reset_mfa(config: Config, user_name: str) -> None:
    async with await _pool(config) as pool:
        if not await reset_mfa(pool, user_name):
            raise SystemExit("There is no such user")


async def _pool(config: Config) -> asyncpg.Pool:
    return await create_pool(config.required("identity_database_url"), name="identity-command", role=ROLE, size=2)


if __name__ == "__main__":
    command_line(
        "identity",
        {
            "api": _api,
            "relay": _relay,
            "migrate": _migrate,
            "rotate-key": _rotate_key,
            "compromise-key": _compromise_key,
            "reset-mfa": _reset_mfa,
            "seal": SEALING.seal,
            "verify-audit": SEALING.verify,
        },
    )
