"""`python -m services.reporting api|consumer|migrate|rebuild|seal|verify-audit [--heads FILE]`"""

from __future__ import annotations

from services.reporting import consumer
from services.reporting.app import create_app
from services.reporting.audit import SEALING
from services.reporting.rebuild import rebuild
from services.reporting.store import MIGRATIONS, ROLE
from shared.config import Config
from shared.migrate import migrate, once_migrated
from shared.process import command_line
from shared.web.serve import serve, stop_on_signals, tls_context

_once_migrated = once_migrated("reporting", MIGRATIONS, ROLE)


@_once_migrated
async def _api(config: Config) -> None:
    await serve(create_app(config), config.host, config.port, stop_on_signals(), tls_context(config))


@_once_migrated
async def _consumer(config: Config) -> None:
    await consumer.run(config, stop_on_signals())


async def _migrate(config: Config) -> None:
    await migrate(config.required("reporting_owner_database_url"), MIGRATIONS)


async def _rebuild(config: Config) -> None:
    print(f"{await rebuild(config.required('reporting_owner_database_url'))} companies rebuilt")


if __name__ == "__main__":
    command_line(
        "reporting",
        {
            "api": _api,
            "consumer": _consumer,
            "migrate": _migrate,
            "rebuild": _rebuild,
            "seal": SEALING.seal,
            "verify-audit": SEALING.verify,
        },
    )
