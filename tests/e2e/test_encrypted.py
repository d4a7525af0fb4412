"""The processes of both compose files together: the configuration that they give, its certificates, and real servers.

Each process has an address of its own, for which its certificate is good beside the name that it has in compose; the
proxy asks for those names. Addresses, ports and folders are put in place of the containers', and nothing else is."""

from __future__ import annotations

import asyncio
import os
import pwd
import random
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest
from aio_pika import connect
from aiormq.exceptions import AMQPError

from deploy import certificates as make_certificates
from deploy import processes
from deploy.postgres import PrivatePostgres
from deploy.rabbitmq import PrivateRabbit
from tests.e2e.test_processes import PASSWORD, PROCESSES, SECRET, Graph, Practice, eventually, publish_to_emr_feed
from tests.support.compose import ROOT, SECRETS, TLS, merged, mounts
from tests.support.deployed import (
    SERVICES,
    compose_postgres,
    compose_rabbit,
    encrypting_binaries,
    proxy_configuration,
    start_nginx,
)
from tests.support.hl7_messages import codes, ft1, message
from tests.support.names import Names

APIS: Final = {"identity": "8081", "ledger-api": "8082", "reporting-api": "8083"}
HEALTH, MLLP, PROXY, POSTGRES, RABBIT = "8090", "2575", "8080", "5432", "5671"


@dataclass(slots=True, kw_only=True)
class Encrypted(Graph):
    """The same processes, called through the proxy."""

    services: dict[str, Any]
    certificates: Path
    places: dict[str, str]
    """Addresses by the names of compose."""
    numbers: dict[str, int]
    """Ports here by those of compose."""

    def environment(self, name: str) -> dict[str, str]:
        own = {"HOST": self.places.get(name, ""), "TMPDIR": str(self.folder), "SEAL_DIR": str(self.folder / "seals")}
        given = {}
        for variable, value in self.services[name]["environment"].items():
            text = own.get(variable) or self.local(name, value)
            given[variable] = str(self.numbers.get(text, text)) if variable.endswith("PORT") else text
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **given}

    def local(self, name: str, text: str) -> str:
        """What a service is told, for this machine."""

        def address(found: re.Match[str]) -> str:
            return f"{self.places[name if found[1] == 'localhost' else found[1]]}:{self.numbers[found[2]]}"

        text = re.sub(r"(?<=[@/])([a-z-]+):(\d+)", address, text)
        return text.replace("/tls/", f"{self.tls(name)}/")

    def tls(self, name: str) -> Path:
        return self.certificates / Path(mounts(self.services[name])["/tls"]).name

    def url(self, name: str) -> str:
        return f"https://{self.at('proxy', PROXY)}/{name.partition('-')[0]}"

    def at(self, name: str, port: str) -> str:
        return f"{self.places[name]}:{self.numbers[port]}"

    async def _is_ready(self, name: str) -> bool:
        """What the container's probe says."""
        assert self.running[name].poll() is None, self.said(name)
        _, *probe = self.services[name]["healthcheck"]["test"]
        done = await asyncio.create_subprocess_exec(
            *(sys.executable, *probe[1:]), env=self.environment(name), stderr=asyncio.subprocess.DEVNULL
        )
        return await done.wait() == 0


@contextmanager
def postgres_of(services: dict[str, Any], certificates: Path, folder: Path) -> Iterator[PrivatePostgres]:
    """PostgreSQL with the settings of its command; its key is root's and read by the group, as in the container."""
    tls = shutil.copytree(certificates / "postgres", folder / "tls")
    settings = dict(one[2:].split("=", 1) for one in services["postgres"]["command"][1:])
    hba = shutil.copy(ROOT / mounts(services["postgres"])[settings["hba_file"]], folder)
    for file in (tls, *tls.iterdir()):
        if os.geteuid() == 0:
            os.chown(file, 0, pwd.getpwnam("nobody").pw_gid)
        else:
            file.chmod(0o700 if file.is_dir() else 0o600)
    here = {name: value.replace("/tls/", f"{tls}/") for name, value in settings.items()} | {"hba_file": str(hba)}
    with compose_postgres(folder / "server", encrypting_binaries(folder), here) as server:
        yield server


def proxy_of(graph: Encrypted, names_port: int) -> subprocess.Popen[bytes]:
    folder = graph.folder / "proxy"
    folder.mkdir()
    text = proxy_configuration("tls.conf").replace("/tmp/", f"{folder}/")  # noqa: S108 - the container's
    for name, port in APIS.items():
        text = text.replace(f"default {name}:{port};", f"default {name}:{graph.numbers[port]};")
    for container, here in (
        ("listen 8080 ssl;", f"listen {graph.at('proxy', PROXY)} ssl;"),
        ("listen 127.0.0.1:8081;", f"listen unix:{folder}/probe;"),
        ("resolver 127.0.0.11", f"resolver 127.0.0.1:{names_port}"),
        ("/tls/", f"{graph.tls('proxy')}/"),
        *(
            (target, str(graph.certificates / "proxy" / Path(target).name))
            for target in ("/etc/billing/certificate.pem",)
        ),
        ("/etc/billing/", f"{graph.certificates}/proxy/"),
    ):
        assert container in text
        text = text.replace(container, here)
    (folder / "nginx.conf").write_text(text)
    return start_nginx(folder)


@pytest.fixture(scope="module")
async def graph(server_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Encrypted]:
    folder = tmp_path_factory.mktemp("encrypted")
    secrets = {
        **dict.fromkeys(SECRETS, SECRET * 2),
        "OPERATOR_PASSWORD": PASSWORD,
        **{f"{one.upper()}_AMQP_PASSWORD": f"{one}-secret" for one in SERVICES},
        **{f"{one.upper()}_OWNER_PASSWORD": f"{one}'s" for one in SERVICES},
        **{f"{one.upper()}_DB_PASSWORD": f"{one}_login's" for one in SERVICES},
    }
    services = merged(folder, secrets, TLS)["services"]
    network = f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
    places = {name: f"{network}.{number}" for number, name in enumerate((*PROCESSES, "proxy"), 1)}
    places |= {"postgres": "127.0.0.1", "rabbitmq": "127.0.0.1"}
    certificates = folder / "certificates"
    make_certificates.main([str(certificates), *(f"{name}={place}" for name, place in places.items())])
    authority = str(certificates / "ca/ca.pem")
    own = server_dir / "encrypted"
    own.mkdir()
    with (
        postgres_of(services, certificates, own) as server,
        PrivateRabbit(own / "rabbit", tls=certificates / "rabbitmq") as node,
        compose_rabbit(node, folder) as broker,
    ):
        numbers = {port: processes.free_port() for port in (*APIS.values(), HEALTH, MLLP, PROXY)}
        numbers |= {POSTGRES: server.port, RABBIT: node.port}
        names_port = processes.free_port()
        names, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Names(places), local_addr=("127.0.0.1", names_port)
        )
        trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=authority))
        async with aiohttp.ClientSession(connector=trusting) as session:
            graph = Encrypted(
                folder,
                f"{node.url}billing?cafile={authority}",
                broker,
                {"POSTGRES": f"{server.dsn()}?sslmode=verify-full&sslrootcert={authority}", "RABBIT": broker("ledger")},
                session,
                services=services,
                certificates=certificates,
                places=places,
                numbers=numbers,
            )
            proxy = proxy_of(graph, names_port)
            try:
                await graph.start_all()
                yield graph
            finally:
                for process in (*graph.running.values(), proxy):
                    processes.end(process, signal.SIGTERM, seconds=10)
                names.close()


async def test_a_payment_and_an_event_go_all_the_way(graph: Encrypted) -> None:
    practice = await Practice.made(graph, "TLS")
    await practice.post("first", 12_34)
    await publish_to_emr_feed(graph.emr_url, "TLS")

    async def three() -> bool:
        return (await practice.control_totals())[1] == 3

    await eventually(three, 30, "the EMR's payments are not posted")
    version, payments, cents = await practice.control_totals()
    assert (payments, cents) == (3, 12_34 + 20_00 + 30_00)
    report = await practice.report(version)
    assert (report["totals"]["payments"], report["totals"]["amount_cents"]) == (payments, cents)


async def test_the_servers_have_encrypted_connections_only(graph: Encrypted) -> None:
    connection = await asyncpg.connect(graph.databases["POSTGRES"])
    try:
        rows = await connection.fetch(
            "select usename, coalesce(ssl, false) as ssl, version"
            " from pg_stat_activity left join pg_stat_ssl using (pid) where backend_type = 'client backend'"
        )
    finally:
        await connection.close()
    assert {row["usename"] for row in rows} == {"postgres", *(f"{one}_login" for one in SERVICES)}
    assert {(row["ssl"], row["version"]) for row in rows} == {(True, "TLSv1.3")}


async def said(address: str, sent: bytes) -> bytes:
    """What is answered to bytes in the clear until the other side closes."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        async with asyncio.timeout(15):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_nothing_is_taken_in_the_clear(graph: Encrypted) -> None:
    plain = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    listening = {(name, port) for name, port in APIS.items()}
    listening |= {(name, HEALTH) for name in PROCESSES if name not in APIS} | {("ledger-feeds", MLLP)}
    for name, port in sorted(listening):
        assert b"HTTP" not in await said(graph.at(name, port), plain), name
    refused = await said(graph.at("proxy", PROXY), plain)
    assert refused.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in refused
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="no encryption"):
        await asyncpg.connect(graph.databases["POSTGRES"].partition("?")[0] + "?sslmode=disable")
    with pytest.raises((AMQPError, ConnectionError)):
        await connect(graph.databases["RABBIT"], timeout=10)


async def test_messages_are_taken_over_tls(graph: Encrypted) -> None:
    trusting = ssl.create_default_context(cafile=str(graph.certificates / "ca/ca.pem"))
    host, _, port = graph.at("ledger-feeds", MLLP).partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting)
    writer.write(b"\x0b" + message(ft1("PY", "P1", "1.00"), control_id="M1") + b"\x1c\r")
    async with asyncio.timeout(15):
        answer = await reader.readuntil(b"\x1c\r")
    writer.close()
    assert codes(answer.strip(b"\x0b\x1c\r")) == ["AR"], "the sender is not known"


async def test_weak_suites_are_refused_by_all(graph: Encrypted) -> None:
    """Of TLS 1.2: without forward secrecy or authenticated encryption (RFC 9325 section 4.2)."""

    async def connects(suites: str) -> list[bool]:
        client = ssl.create_default_context(cafile=str(graph.certificates / "ca/ca.pem"))
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(f"{suites}:@SECLEVEL=0")
        found = []
        listening = [("proxy", PROXY), ("rabbitmq", RABBIT), ("ledger-feeds", MLLP), ("ledger-relay", HEALTH)]
        for host, _, port in (graph.at(*one).partition(":") for one in (*listening, *APIS.items())):
            with suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port), ssl=client)
                writer.close()
                found.append(True)
                continue
            found.append(False)
        try:
            await (await asyncpg.connect(graph.databases["POSTGRES"].partition("?")[0], ssl=client)).close()
        except OSError:
            return [*found, False]
        return [*found, True]

    assert await connects("ECDHE-ECDSA-AES256-GCM-SHA384") == [True] * 8
    assert await connects("ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA:AES128-GCM-SHA256") == [False] * 8


async def test_a_certificate_of_another_host_is_not_believed(graph: Encrypted) -> None:
    """The proxy knows the ledger by its name, although the same authority speaks for both."""
    own, other = graph.tls("ledger-api"), graph.tls("reporting-api")

    async def with_certificate(of: Path) -> int:
        processes.end(graph.running["ledger-api"], signal.SIGTERM, seconds=10)
        given = graph.environment("ledger-api")
        given |= {"TLS_CERTIFICATE": str(of / "certificate.pem"), "TLS_KEY": str(of / "key.pem")}
        graph.running["ledger-api"] = processes.spawn(
            [sys.executable, *graph.services["ledger-api"]["command"][1:]],
            log=graph.folder / f"{of.name}.log",
            death=signal.SIGKILL,
            env=given,
        )
        host, _, port = graph.at("ledger-api", APIS["ledger-api"]).partition(":")

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens, 30, "ledger-api does not listen")
        async with graph.session.get(f"{graph.url('ledger-api')}/readyz") as response:
            return response.status

    assert await with_certificate(other) == 503
    assert await with_certificate(own) == 200
