"""The processes of docker-compose.yml without containers: each on its own, RabbitMQ between them, killed at will."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aio_pika
import aiohttp
import pytest
import yaml

from deploy import processes
from deploy.rabbitmq import PrivateRabbit
from tests.support.deployed import SERVICES, compose_postgres, compose_rabbit, database_address
from tests.support.owners import ROOT

COMPOSE: Final = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
JOBS: Final = {name: row for name, row in COMPOSE.items() if row.get("command", [""])[0] == "python"}
MIGRATIONS: Final = [name for name in JOBS if name.endswith("-migrate")]
PROCESSES: Final = [name for name in JOBS if name not in MIGRATIONS]
PASSWORD: Final = "correct horse battery"
SECRET: Final = "the services' own secret"
FOLLOWED: Final = "follow-me-0001"
SOURCE: Final = "https://emr.example/e2e"
CLINIC: Final = "CLINIC-1"
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0


@dataclass(slots=True)
class Graph:
    """Every process of the compose file, with its command and the variables that it gets there, and no others; before
    servers that were set up as they are there, with the same users and rights."""

    folder: Path
    emr_url: str
    """The broker's address for an integration."""
    broker: Callable[[str], str]
    databases: Mapping[str, str]
    """Addresses by variable."""
    session: aiohttp.ClientSession
    ports: dict[str, int] = field(default_factory=lambda: {name: processes.free_port() for name in PROCESSES})
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    logs: dict[str, list[Path]] = field(default_factory=lambda: {name: [] for name in JOBS})

    def start(self, name: str) -> None:
        log = self.folder / f"{name}-{len(self.logs[name])}.log"
        self.logs[name].append(log)
        command = [sys.executable, *JOBS[name]["command"][1:]]
        self.running[name] = processes.spawn(command, log=log, death=signal.SIGKILL, env=self.environment(name))

    def environment(self, name: str) -> dict[str, str]:
        port = str(self.ports.get(name, 0))
        ours = {
            "HOST": "127.0.0.1",
            "PORT": port,
            "HEALTH_PORT": port,
            "PROBE": port,
            "MLLP_PORT": "0",
            "LOG_LEVEL": "info",
            "AMQP_URL": self.broker(name.partition("-")[0]),
            "IDENTITY_URL": self.url("identity"),
            "LEDGER_URL": self.url("ledger-api"),
            "INTERNAL_CLIENT_SECRET": SECRET,
            "OPERATOR_PASSWORD": PASSWORD,
            "IDENTITY_SECRETS_KEY": SECRET * 4,
            "PUBLIC_URL": "http://localhost:8080",
            "BEHIND_PROXY": "false",
            "TRUSTED_PROXIES": "",
            "OPERATOR_MFA_REQUIRED": "false",
            "PLAIN_HOSTS": "",
            "TMPDIR": str(self.folder),
            "SEAL_DIR": str(self.folder / "seals"),
            **dict.fromkeys(("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET"), ""),
            **self.databases,
        }
        given = {variable: ours[variable] for variable in JOBS[name]["environment"]}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **given}

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    async def start_all(self) -> None:
        """In the order of the compose file: migrations, identity, everything else. But identity is too early: it waits,
        and says for what."""
        self.start("identity")

        async def waits() -> bool:
            said = self.lines("identity")
            return [line["reason"] for line in said if line["event"] == "waiting_for_migrations"] != []

        await eventually(waits, START_SECONDS, "identity does not wait")
        for name in MIGRATIONS:
            self.start(name)
        assert [self.running[name].wait(START_SECONDS) for name in MIGRATIONS] == [0, 0, 0], self.said(*MIGRATIONS)
        await self.ready("identity")
        others = [name for name in PROCESSES if name != "identity"]
        for name in others:
            self.start(name)
        await self.ready(*others)

    async def ready(self, *names: str) -> None:
        for name in names:
            await eventually(lambda name=name: self._is_ready(name), START_SECONDS, f"{name} is not ready")

    async def _is_ready(self, name: str) -> bool:
        assert self.running[name].poll() is None, self.said(name)
        with suppress(aiohttp.ClientError):
            async with self.session.get(f"{self.url(name)}/readyz") as response:
                return response.status == 200
        return False

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].wait()

    def said(self, *names: str) -> str:
        return "\n".join(file.read_text()[-3000:] for name in names for file in self.logs[name])

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The log of a process; every line of it is a JSON object."""
        return [json.loads(line) for file in self.logs[name] for line in file.read_text().splitlines()]

    async def call(self, method: str, name: str, path: str, token: str = "", **arguments: Any) -> Any:
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **arguments.pop("headers", {})}
        async with self.session.request(method, self.url(name) + path, headers=headers, **arguments) as response:
            assert response.status // 100 == 2, (path, response.status, await response.text())
            return await response.json()

    async def token(self, **form: str) -> str:
        return str((await self.call("POST", "identity", "/v1/token", data=form))["access_token"])


async def eventually(holds: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not await holds():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.05)


@dataclass(slots=True)
class Practice:
    """A company with a clinic and a payment poster, made over HTTP."""

    graph: Graph
    company_id: str
    location_id: str
    poster: str
    """The poster's access token."""
    patient_id: str = ""

    @classmethod
    async def made(cls, graph: Graph, code: str) -> Practice:
        operator = await graph.token(grant_type="password", username="operator", password=PASSWORD)

        async def make(path: str, **body: Any) -> dict[str, Any]:
            answer: dict[str, Any] = await graph.call("POST", "identity", path, operator, json=body)
            return answer

        company = await make(
            "/v1/companies",
            code=code,
            name=f"Practice {code}",
            service_type="revequip",
            time_zone="America/New_York",
            close_policy="deposit_date",
        )
        place = f"/v1/companies/{company['id']}/locations"
        location = await make(place, code="ONE", name="One", emr_location_id=f"{CLINIC}-{code}")
        await make(
            "/v1/users",
            user_name=f"poster.{code}",
            first_name="Pat",
            last_name="Poster",
            email="poster@practice.example",
            password=PASSWORD,
            user_type="partner",
            role="partner_payment_poster",
            company_ids=[company["id"]],
        )
        await make("/v1/clients", name=f"EMR {code}", kind="emr", company_ids=[company["id"]], sources=[SOURCE + code])
        poster = await graph.token(grant_type="password", username=f"poster.{code}", password=PASSWORD)
        practice = cls(graph, company["id"], location["id"], poster)
        person = {"account_number": "A-1", "first_name": "Ann", "last_name": "Example", "date_of_birth": "1980-01-01"}
        practice.patient_id = (await graph.call("POST", "ledger-api", "/v1/patients", poster, json=person))["id"]
        return practice

    async def post(self, key: str, cents: int, **headers: str) -> dict[str, Any]:
        body = {
            "location_id": self.location_id,
            "patient_id": self.patient_id,
            "method": "cash",
            "amount_cents": cents,
            "deposit_date": date.today().isoformat(),
        }
        headers = {"Idempotency-Key": key, **headers}
        answer: dict[str, Any] = await self.graph.call(
            "POST", "ledger-api", "/v1/payments", self.poster, json=body, headers=headers
        )
        return answer

    async def control_totals(self) -> tuple[int, int, int]:
        """Version, payments and cents, as the ledger adds them up from its transfers."""
        answer = await self.graph.call("GET", "ledger-api", "/v1/control-totals", self.poster)
        rows = answer["items"]
        sums = (sum(row["payments"] for row in rows), sum(row["amount_cents"] for row in rows))
        return (answer["as_of_version"], *sums)

    async def report(self, version: int = 0, **query: Any) -> dict[str, Any]:
        """Payment Balancing, once that version is in it."""
        today = date.today()
        days = {"from": str(today - timedelta(days=3)), "to": str(today + timedelta(days=3))}
        path, params = "/v1/reports/payment-balancing", {**days, "limit": 500, **query}
        if version:

            async def there() -> bool:
                answer = await self.graph.call("GET", "reporting-api", path, self.poster, params=params)
                return bool(answer["as_of_version"] >= version)

            await eventually(there, 30, f"version {version} does not arrive")
        answer: dict[str, Any] = await self.graph.call("GET", "reporting-api", path, self.poster, params=params)
        return answer


@pytest.fixture(scope="module")
async def graph(
    _rabbit_node: PrivateRabbit, server_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Graph]:
    """All of it, on empty databases."""
    folder = tmp_path_factory.mktemp("processes")
    with compose_postgres(server_dir / "processes") as server, compose_rabbit(_rabbit_node, folder) as broker:
        databases = {}
        for service in SERVICES:
            databases[f"{service.upper()}_OWNER_DATABASE_URL"] = database_address(server, service, service)
            databases[f"{service.upper()}_DATABASE_URL"] = database_address(server, f"{service}_login", service)
        async with aiohttp.ClientSession() as session:
            graph = Graph(folder, f"{_rabbit_node.url}billing", broker, databases, session)
            try:
                await graph.start_all()
                yield graph
            finally:
                for process in graph.running.values():
                    processes.end(process, seconds=STOP_SECONDS)


def test_the_compose_file_has_these_processes() -> None:
    assert len(MIGRATIONS) == 3
    assert set(PROCESSES) == {
        *("identity", "identity-relay", "ledger-api", "ledger-relay", "ledger-feeds"),
        *("reporting-api", "reporting-consumer"),
    }


async def publish_to_emr_feed(url: str, code: str) -> None:
    """As an integration would, with a client of its own: one event in binary mode, one in structured mode."""

    def payment(name: str, cents: int) -> dict[str, Any]:
        return {
            "payment_id": name,
            "payment_version": 1,
            "emr_clinic_id": f"{CLINIC}-{code}",
            "patient": {
                "account_number": "A-2",
                "first_name": "Bo",
                "last_name": "Example",
                "date_of_birth": "1990-02-02",
            },
            "amount_cents": cents,
            "method": "credit_card",
            "transaction_date": date.today().isoformat(),
            "payment_type": "copay",
        }

    def attributes(name: str) -> dict[str, str]:
        kind, now = "emr.payment.posted.v1", datetime.now(UTC).isoformat()
        return {"specversion": "1.0", "id": name, "source": SOURCE + code, "type": kind, "time": now}

    binary = aio_pika.Message(
        json.dumps(payment("P-1", 20_00)).encode(),
        headers={f"ce-{name}": value for name, value in attributes("e-1").items()},
        content_type="application/json",
        message_id="e-1",
    )
    structured = aio_pika.Message(
        json.dumps({**attributes("e-2"), "data": payment("P-2", 30_00)}).encode(),
        content_type="application/cloudevents+json; charset=utf-8",
        message_id="e-2",
    )
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange("emr.feed")
        for message in (binary, structured):
            await exchange.publish(message, routing_key="emr.payment.posted.v1")


async def test_payments_by_http_and_by_amqp_reach_the_report(graph: Graph) -> None:
    practice = await Practice.made(graph, "ONE")
    posted = await practice.post("first", 12_34)
    await publish_to_emr_feed(graph.emr_url, "ONE")

    async def three() -> bool:
        return (await practice.control_totals())[1] == 3

    await eventually(three, 30, "the EMR's payments are not posted")
    version, payments, cents = await practice.control_totals()
    assert (payments, cents) == (3, 12_34 + 20_00 + 30_00)
    report = await practice.report(version, group_by="poster,source")
    assert {(row["poster_name"], row["source"], row["amount_cents"]) for row in report["items"]} == {
        ("Pat Poster", "manual", 12_34),
        ("Integration Import, Not mapped to a user", "emr", 50_00),
    }
    assert (report["totals"]["payments"], report["totals"]["amount_cents"]) == (payments, cents)
    rows = (await practice.report(version))["items"]
    assert posted["id"] in {row["payment_id"] for row in rows}
    assert {row["location_id"] for row in rows} == {practice.location_id}


async def test_the_correlation_id_goes_from_the_request_into_the_event(graph: Graph) -> None:
    practice = await Practice.made(graph, "TWO")
    await practice.post("followed", 5_00, **{"X-Correlation-Id": FOLLOWED})
    await practice.report((await practice.control_totals())[0])
    (line,) = [line for line in graph.lines("ledger-api") if line.get("correlation_id") == FOLLOWED]
    assert (line["event"], line["route"], line["status"]) == ("request", "/v1/payments", 201)
    secret = {"client_id": "internal", "client_secret": SECRET}
    internal = await graph.token(grant_type="client_credentials", **secret)
    query = {"company_id": practice.company_id}
    events = (await graph.call("GET", "ledger-api", "/v1/events", internal, params=query))["items"]
    assert [event["correlationid"] for event in events][-1] == FOLLOWED


@pytest.mark.parametrize("name", ["ledger-relay", "reporting-consumer"])
def test_the_correlation_id_is_in_the_logs_behind_the_request(graph: Graph, name: str) -> None:
    assert [line for line in graph.lines(name) if FOLLOWED in json.dumps(line)]


@pytest.mark.parametrize("name", ["ledger-api", "reporting-api"])
async def test_identity_is_heard_with_the_rights_of_the_compose_file(graph: Graph, name: str) -> None:
    """News of changed access becomes younger with each heartbeat: it is published, and the queue could be bound."""
    ages = [await silence(graph, name)]

    async def heard_again() -> bool:
        ages.append(await silence(graph, name))
        return ages[-1] < ages[-2]

    await eventually(heard_again, 20, f"no heartbeat is heard by {name}")
    assert ages[-1] < 30
    refusals = [line for process in graph.logs for line in graph.lines(process) if "ACCESS_REFUSED" in str(line)]
    assert not refusals


async def silence(graph: Graph, name: str) -> float:
    async with graph.session.get(f"{graph.url(name)}/metrics") as response:
        found = re.search(r"^access_silence_seconds (\S+)$", await response.text(), re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.fault
async def test_nothing_is_lost_or_doubled_while_relay_and_consumer_are_killed(graph: Graph) -> None:
    practice = await Practice.made(graph, "THR")
    dice = random.Random(20260301)
    amounts = [dice.randint(1, 500_00) for _ in range(200)]
    waiting = list(enumerate(amounts))
    kills = 0

    async def post_some() -> None:
        while waiting:
            number, cents = waiting.pop()
            await practice.post(f"payment-{number}", cents)
            await asyncio.sleep(dice.uniform(0, 0.15))

    async def kill_some() -> None:
        nonlocal kills
        while waiting:
            await asyncio.sleep(dice.uniform(0.2, 0.8))
            victim = dice.choice(("ledger-relay", "reporting-consumer"))
            graph.kill(victim)
            graph.start(victim)
            kills += 1

    await asyncio.gather(post_some(), post_some(), kill_some())
    assert kills >= 4
    await graph.ready("ledger-relay", "reporting-consumer")
    version, payments, cents = await practice.control_totals()
    assert (payments, cents) == (200, sum(amounts))
    report = await practice.report(version)
    assert (report["totals"]["payments"], report["totals"]["amount_cents"]) == (200, sum(amounts))
    assert sorted(row["amount_cents"] for row in report["items"]) == sorted(amounts)
    assert len({row["payment_id"] for row in report["items"]}) == 200


async def test_a_rebuild_is_the_owners(graph: Graph) -> None:
    """It takes folded lines away, which a process may not: by a process's address it is refused and nothing is lost."""
    practice = await Practice.made(graph, "FOU")
    await practice.post("kept", 7_00)
    before = await practice.report((await practice.control_totals())[0])
    process_url = {"REPORTING_OWNER_DATABASE_URL": graph.databases["REPORTING_DATABASE_URL"]}
    for given, worked in ((process_url, False), ({}, True)):
        rebuilding = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.reporting", "rebuild"),
            env={**graph.environment("reporting-migrate"), **given},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said, _ = await rebuilding.communicate()
        assert (rebuilding.returncode == 0) == worked
        assert bool(re.fullmatch(rb"[1-9]\d* companies rebuilt\n", said)) == worked
        after = await practice.report(before["as_of_version"])
        assert (after["items"], after["totals"]) == (before["items"], before["totals"])


async def test_sigterm_ends_every_process_in_order(graph: Graph) -> None:
    for name in PROCESSES:
        graph.running[name].send_signal(signal.SIGTERM)
    deadline = asyncio.get_running_loop().time() + STOP_SECONDS
    for name in PROCESSES:
        while graph.running[name].poll() is None:
            assert asyncio.get_running_loop().time() < deadline, f"{name} still runs"
            await asyncio.sleep(0.05)
    assert {name: graph.running[name].returncode for name in PROCESSES} == dict.fromkeys(PROCESSES, 0)
    for name in JOBS:
        assert not [line for line in graph.lines(name) if line["level"] in ("error", "critical")], name
