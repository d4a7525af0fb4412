"""`python -m services.identity api|relay|migrate|rotate-key`"""

from __future__ import annotations

from services.identity import relay
from services.identity.app import MIGRATIONS, ROLE, create_app
from services.identity.service.bootstrap import rotate_keys
from shared.config import Config
from shared.db import create_pool
from shared.migrate import migrate
from shared.process import command_line
from shared.web.serve import serve, stop_on_signals


async def _api(config: Config) -> None:
    await serve(create_app(config), config.host, config.port, stop_on_signals())


async def _relay(config: Config) -> None:
    await relay.run(config, stop_on_signals())


async def _migrate(config: Config) -> None:
    await migrate(config.required("identity_database_url"), MIGRATIONS)


async def _rotate_key(config: Config) -> None:
    async with await create_pool(config.required("identity_database_url"), name="identity-keys", role=ROLE) as pool:
        await rotate_keys(pool)


if __name__ == "__main__":
    command_line("identity", {"api": _api, "relay": _relay, "migrate": _migrate, "rotate-key": _rotate_key})
