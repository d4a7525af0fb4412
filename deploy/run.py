"""`python -m deploy.run` (`make run`): everything on this machine, without servers, root or containers.

Settings come from the environment (`shared.config`): PORT, HOST, DATA_DIR, DEMO, OPERATOR_PASSWORD and others. A
database or broker that is named there (IDENTITY_DATABASE_URL, ..., AMQP_URL) is used in place of the built-in one.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import asyncpg
import structlog
from pydantic import SecretStr, ValidationError
from rich.console import Console

from deploy import embedded
from deploy.demo import Demo
from deploy.embedded import StartError
from deploy.local import LocalSecrets, open_data_dir
from deploy.postgres import PostgresError, PrivatePostgres
from services.identity.app import MIGRATIONS as IDENTITY_MIGRATIONS
from services.identity.domain import PASSWORD_LENGTHS
from services.ledger.app import MIGRATIONS as LEDGER_MIGRATIONS
from services.reporting.store import MIGRATIONS as REPORTING_MIGRATIONS
from shared import logs
from shared.config import Config
from shared.migrate import MigrationError, migrate
from shared.process import run_process

_MIGRATIONS: Final = {
    "identity": IDENTITY_MIGRATIONS,
    "ledger": LEDGER_MIGRATIONS,
    "reporting": REPORTING_MIGRATIONS,
}
_WILDCARDS: Final = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
_LOG_BYTES: Final = 50 << 20

log = structlog.get_logger("run")


def main() -> None:
    """Run until Ctrl-C or SIGTERM. What goes wrong is one sentence, and an exit code that is not 0."""
    # Until the event loop takes over, SIGTERM does what Ctrl-C does, so that servers already started are stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    screen = _screen()
    try:
        _run(screen)
    except KeyboardInterrupt:
        sys.exit("Interrupted")
    except (StartError, PostgresError) as error:
        sys.exit(f"Cannot start: {error}")
    except Exception as error:
        log.critical("ended_by_error", exc_info=True)
        sys.exit(f"Stopped by an unexpected error ({type(error).__name__}): see logs/billing.jsonl in the data folder")
    screen.print("Stopped. The data are kept.")


def _run(screen: Console) -> None:
    config = _config()
    home = open_data_dir(config.data_dir)
    secrets = LocalSecrets.load(home / "secrets.json")
    _log_to(home / "logs" / "billing.jsonl", config)
    if config.watch_dir is not None and not config.watch_dir.is_dir():
        raise StartError(f"WATCH_DIR {config.watch_dir} is no folder: no file could ever come there")
    listener = _listen(config)
    screen.print(f"Practice billing, data in {home}", style="bold")
    with ExitStack() as servers:
        servers.enter_context(listener)
        databases, owners = _given_databases(config)
        if len(databases) < len(_MIGRATIONS):
            with _step(screen, "PostgreSQL"):
                own = PrivatePostgres(home / "postgres")
                left = secrets.set_aside_foreign_data(own.home, expected=home / "postgres")
                if left:
                    screen.print(f"  The data folder is new: databases of an earlier one were moved to {left}")
                servers.enter_context(own)
            with _step(screen, "Databases"):
                for name in _MIGRATIONS.keys() - databases.keys():
                    databases[name], owners[name] = _own_database(own, name)
        with _step(screen, "Migrations"):
            _migrate(owners)
        complete = _complete(config, databases, secrets, listener)
        complete = complete.model_copy(update={"seal_dir": config.seal_dir or home / "seals"})

        complete = complete.model_copy(update={"mllp_port": _free_port(screen, config.host, config.mllp_port)})

        async def when_ready() -> None:
            _show_addresses(screen, config, complete, secrets)
            if config.demo:
                await Demo(screen, complete, home, secrets).show()

        run_process(embedded.run(complete, listener, when_ready))
        screen.print("Stopping")


def _config() -> Config:
    try:
        return Config()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise StartError(f"{'.'.join(map(str, first['loc'])).upper()}: {first['msg']}") from None


def _log_to(file: Path, config: Config) -> None:
    """Structured logs go to a file, the terminal is for people. One earlier file is kept."""
    try:
        if file.exists() and file.stat().st_size > _LOG_BYTES:
            file.replace(file.with_name("billing.1.jsonl"))
        logs.configure(config.log_level, service="run", file=file)
    except KeyError:
        raise StartError("LOG_LEVEL must be debug, info, warning or error") from None
    except OSError as error:
        raise StartError(f"{file} cannot be written to ({error.strerror})") from None


def _listen(config: Config) -> socket.socket:
    """Take the port before anything slow is begun."""
    where = f"PORT {config.port} on HOST {config.host}"
    if not 0 <= config.port < 1 << 16:
        raise StartError(f"{where}: there is no such port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host or None, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        advice = "; choose another: PORT=8090 make run" if error.errno == errno.EADDRINUSE else ""
        raise StartError(f"{where} cannot be had ({error.strerror}){advice}") from None
    return listener


def _free_port(screen: Console, host: str, port: int) -> int:
    """The port for HL7 messages; 0, and a line about it, when somebody else has it. The rest does without."""
    try:
        if port:
            socket.create_server((host or "127.0.0.1", port)).close()
    except (OSError, OverflowError):
        screen.print(f"  MLLP_PORT {port} cannot be had: no HL7 messages are taken by MLLP in this run")
        return 0
    return port


def _given_databases(config: Config) -> tuple[dict[str, str], dict[str, str]]:
    """Addresses for the services and for their migrations; one that is given alone is for both."""
    given = {name: _value(getattr(config, f"{name}_database_url")) for name in _MIGRATIONS}
    databases = {name: dsn for name, dsn in given.items() if dsn}
    owners = {name: _value(getattr(config, f"{name}_owner_database_url")) or dsn for name, dsn in databases.items()}
    return databases, owners


def _own_database(server: PrivatePostgres, name: str) -> tuple[str, str]:
    server.ensure_database(name)
    return server.ensure_login(name, name), server.dsn(name)


def _migrate(owners: dict[str, str]) -> None:
    for name, directory in _MIGRATIONS.items():
        try:
            asyncio.run(migrate(owners[name], directory))
        except MigrationError as error:
            raise StartError(f"The database of {name} was made by another version: {error}") from None
        except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.error("migration_failed", database=name, exc_info=True)
            raise StartError(f"The database of {name} cannot be used: {error or type(error).__name__}") from None


def _complete(config: Config, databases: dict[str, str], secrets: LocalSecrets, listener: socket.socket) -> Config:
    """The settings with everything that was not given filled in."""
    port = listener.getsockname()[1]
    host = "127.0.0.1" if config.host in _WILDCARDS else config.host
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    operator = _value(config.operator_password) or secrets.operator_password
    if len(operator) not in PASSWORD_LENGTHS:
        raise StartError("OPERATOR_PASSWORD must have 8 to 256 characters")
    return config.model_copy(
        update={
            "port": port,
            "health_port": 0,
            "identity_url": f"{base}/identity",
            "ledger_url": f"{base}/ledger",
            "amqp_url": config.amqp_url if _value(config.amqp_url) else None,
            "operator_password": SecretStr(operator),
            "internal_client_secret": SecretStr(
                _value(config.internal_client_secret) or secrets.internal_client_secret
            ),
            "identity_secrets_key": SecretStr(_value(config.identity_secrets_key) or secrets.identity_secrets_key),
            "public_url": config.public_url if "public_url" in config.model_fields_set else f"http://localhost:{port}",
            **{f"{name}_database_url": SecretStr(dsn) for name, dsn in databases.items()},
            **dict.fromkeys((f"{name}_owner_database_url" for name in databases), None),
        }
    )


def _show_addresses(screen: Console, given: Config, complete: Config, secrets: LocalSecrets) -> None:
    base = complete.identity_url.removesuffix("/identity")
    screen.print(f"\nReady at {base}/  (Ctrl-C stops it)", style="bold")
    for name in _MIGRATIONS:
        screen.print(f"  {name:<10} {base}/{name}/docs")
    if complete.mllp_port:
        screen.print(f"  {'HL7 v2':<10} MLLP on port {complete.mllp_port}")
    screen.print(f"  {'log':<10} {secrets.file.parent / 'logs' / 'billing.jsonl'}")
    if _value(given.operator_password):
        known = "the password that OPERATOR_PASSWORD gives"
    elif secrets.fresh:
        known = f"password [bold]{secrets.operator_password}[/], shown this once and kept in {secrets.file}"
    else:
        known = f"the password in {secrets.file}"
    screen.print(f"  {'operator':<10} user `operator`, {known}")


def _value(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""


def _screen() -> Console:
    """Colours and tables for a terminal; for a pipe or a file plain lines that are never broken."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=140, no_color=True)


@contextmanager
def _step(screen: Console, name: str) -> Iterator[None]:
    """Show that something is going on, and at its end how long it took."""
    started = time.monotonic()
    with screen.status(name):
        yield
    screen.print(f"  {name:<12} {time.monotonic() - started:5.1f} s")


if __name__ == "__main__":
    main()
