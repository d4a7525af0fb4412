"""`python -m services.identity api|relay|migrate|rotate-key`"""

from __future__ import annotations

import asyncio
import sys

from services.identity import relay
from services.identity.app import MIGRATIONS, ROLE, create_app
from services.identity.service.bootstrap import rotate_keys
from shared import logs
from shared.config import Config
from shared.db import create_pool
from shared.migrate import migrate
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


_COMMANDS = {"api": _api, "relay": _relay, "migrate": _migrate, "rotate-key": _rotate_key}


def main() -> None:
    """Run the command named by the only argument."""
    if len(sys.argv) != 2 or sys.argv[1] not in _COMMANDS:
        raise SystemExit(f"usage: python -m services.identity {'|'.join(_COMMANDS)}")
    config = Config()
    logs.configure(config.log_level, config.log_format, service="identity")
    asyncio.run(_COMMANDS[sys.argv[1]](config))


if __name__ == "__main__":
    main()
