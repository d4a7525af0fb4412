"""`python -m services.ledger api|relay|feeds|migrate|replay QUEUE|seal|verify-audit [--heads FILE]`"""

from __future__ import annotations

import json
from dataclasses import asdict

from services.ledger import relay
from services.ledger.app import create_app
from services.ledger.audit import SEALING
from services.ledger.feeds import run as feeds
from services.ledger.store import MIGRATIONS, ROLE
from shared.amqp.dead_letters import dead_letters
from shared.config import Config
from shared.migrate import migrate, once_migrated
from shared.process import command_line
from shared.web.serve import serve, stop_on_signals, tls_context

_once_migrated = once_migrated("ledger", MIGRATIONS, ROLE)


@_once_migrated
async def _api(config: Config) -> None:
    await serve(create_app(config), config.host, config.port, stop_on_signals(), tls_context(config))


@_once_migrated
async def _relay(config: Config) -> None:
    await relay.run(config, stop_on_signals())


@_once_migrated
async def _feeds(config: Config) -> None:
    await feeds.run(config, stop_on_signals())


async def _migrate(config: Config) -> None:
    await migrate(config.required("ledger_owner_database_url"), MIGRATIONS)


async def _replay(config: Config, queue: str) -> None:
    """Put the dead letters of a queue back into it, once the reason is gone, and say which: one JSON object a line."""
    for letter in await dead_letters(config.required("amqp_url"), queue, replay=True):
        print(json.dumps(asdict(letter)))


if __name__ == "__main__":
    command_line(
        "ledger",
        {
            "api": _api,
            "relay": _relay,
            "feeds": _feeds,
            "migrate": _migrate,
            "replay": _replay,
            "seal": SEALING.seal,
            "verify-audit": SEALING.verify,
        },
    )
