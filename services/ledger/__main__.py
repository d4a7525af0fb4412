"""`python -m services.ledger api|relay|feeds|migrate`"""

from __future__ import annotations

import asyncio
import sys

from services.ledger import relay
from services.ledger.app import create_app
from services.ledger.feeds import run as feeds
from services.ledger.store import MIGRATIONS
from shared import logs
from shared.config import Config
from shared.migrate import migrate
from shared.web.serve import serve, stop_on_signals


async def _api(config: Config) -> None:
    await serve(create_app(config), config.host, config.port, stop_on_signals())


async def _relay(config: Config) -> None:
    await relay.run(config, stop_on_signals())


async def _feeds(config: Config) -> None:
    await feeds.run(config, stop_on_signals())


async def _migrate(config: Config) -> None:
    await migrate(config.required("ledger_database_url"), MIGRATIONS)


_COMMANDS = {"api": _api, "relay": _relay, "feeds": _feeds, "migrate": _migrate}


def main() -> None:
    """Run the command named by the only argument."""
    if len(sys.argv) != 2 or sys.argv[1] not in _COMMANDS:
        raise SystemExit(f"usage: python -m services.ledger {'|'.join(_COMMANDS)}")
    config = Config()
    logs.configure(config.log_level, config.log_format, service="ledger")
    asyncio.run(_COMMANDS[sys.argv[1]](config))


if __name__ == "__main__":
    main()
