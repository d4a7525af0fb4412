"""What every test may ask for: a PostgreSQL, fresh databases, a RabbitMQ and fresh virtual hosts.

Servers start when the first test of a worker process needs them. Each worker has its own, so tests of different
workers can kill and freeze them.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from deploy.postgres import PrivatePostgres
from deploy.rabbitmq import PrivateRabbit
from tests.support import contract, quiet
from tests.support.databases import Databases
from tests.support.served import ENDPOINTS

# A broker to use in place of a private one; everything else that would steer a service is the tests' to set.
EXTERNAL_BROKER = os.environ.get("AMQP_URL")
for name in list(os.environ):
    if name.startswith(("IDENTITY_", "LEDGER_", "REPORTING_", "PG", "AMQP_", "OIDC_")) or name in {
        "BEHIND_PROXY",
        "CALLS_BURST",
        "CRASH_AT",
        "DATA_DIR",
        "HEALTH_PORT",
        "HOST",
        "INTERNAL_CLIENT_SECRET",
        "MLLP_PORT",
        "OPERATOR_PASSWORD",
        "PORT",
        "PUBLIC_URL",
        "TRUSTED_PROXIES",
        "UPLOAD_BYTES",
        "WATCH_DIR",
    }:
        del os.environ[name]

# Tests call a thousand times a second as one person. Those of the limits set them.
os.environ["CALLS_PER_SECOND"] = "0"

settings.register_profile(
    "ci", derandomize=True, database=None, max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", settings.get_profile("ci"), derandomize=False, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # Around the timeout: waiting for room is not the test's time.
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with nullcontext() if (run := _run(item.config)) is None else quiet.room(run, alone=_measured(item)):
        return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (run := _run(session.config)) is not None:
        quiet.clear(run)


def _run(config: pytest.Config) -> str | None:
    """The id that all workers of a run know; None where there is one process."""
    return getattr(config, "workerinput", {}).get("testrunuid")


def _measured(item: pytest.Item) -> bool:
    return item.get_closest_marker("measured") is not None


MakeDatabase = Callable[[Path | None], Awaitable[str]]


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """A test that talks to another machine fails here and not only where there is no network."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            assert host == "localhost" or ipaddress.ip_address(host).is_loopback, f"a test connects to {host}"
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", checked)
        yield


@pytest.fixture(scope="session", autouse=True)
def answers_seen() -> Iterator[contract.Watch]:
    """Sees every answer of a service that runs in this process."""
    with contract.watching(ENDPOINTS) as watch:
        yield watch


@pytest.fixture(autouse=True)
def as_documented(answers_seen: contract.Watch) -> Iterator[None]:
    """A test fails when an answer that it caused is not as the OpenAPI document of its service says."""
    yield
    faults, answers_seen.faults = answers_seen.faults, []
    assert not faults, "\n".join(dict.fromkeys(faults))


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A folder for the data of servers, which `nobody` can enter as well (pytest's own are closed to others)."""
    folder = Path(tempfile.mkdtemp(prefix="billing-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[PrivatePostgres]:
    """The shared server. Quick rather than durable: a test of crashes starts its own, with its own settings."""
    quick = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
    with PrivatePostgres(server_dir / "postgres", settings=quick) as server:
        for service in ("identity", "ledger", "reporting"):
            server.ensure_login(service, "postgres")
        yield server


@pytest.fixture(scope="session")
def databases(postgres: PrivatePostgres) -> Databases:
    """For fixtures that keep a database longer than one test."""
    return Databases(postgres)


@pytest.fixture
async def make_database(databases: Databases) -> AsyncIterator[MakeDatabase]:
    """`await make_database(migrations_dir)` gives the address of a fresh database, dropped after the test."""
    made = []

    async def make(migrations: Path | None = None) -> str:
        made.append(await databases.create(migrations))
        return made[-1]

    yield make
    for dsn in made:
        await databases.drop(dsn)


@pytest.fixture(scope="session")
def _rabbit_node(server_dir: Path) -> Iterator[PrivateRabbit]:
    with PrivateRabbit(server_dir / "rabbit") as node:
        yield node


def _revive(node: PrivateRabbit) -> None:
    if node.running:
        node.resume()
    else:
        node.kill()
        node.start()


@pytest.fixture
def rabbit(_rabbit_node: PrivateRabbit) -> Iterator[PrivateRabbit]:
    """The private broker, for tests to kill, freeze and restart: the next test finds it running again."""
    yield _rabbit_node
    _revive(_rabbit_node)


_vhosts = count(1)


@pytest.fixture
def amqp_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a fresh virtual host of `rabbit`; or AMQP_URL as it is, when the machine has that set."""
    if EXTERNAL_BROKER:
        yield EXTERNAL_BROKER
        return
    node: PrivateRabbit = request.getfixturevalue("rabbit")
    name = f"test-{next(_vhosts)}"
    yield node.make_vhost(name)
    _revive(node)
    node.drop_vhost(name)
