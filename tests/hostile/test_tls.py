"""Encryption on every connection that can leave a machine: HTTPS, AMQPS, PostgreSQL. Each is used with the authority
that issued the certificate, and refused with another, or with a certificate for somebody else."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from deploy.postgres import PrivatePostgres
from deploy.processes import free_port
from deploy.rabbitmq import PrivateRabbit
from shared.config import Config
from shared.db import create_pool
from shared.web.serve import health_app, listening, tls_context
from tests.support.certificates import Authority
from tests.support.served import said

ROOT = Path(__file__).parents[2]
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
"""PostgreSQL's message protocol, section SSLRequest."""


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"), "theirs")


async def outcome(code: str, trusted: Path) -> str:
    """What a process of ours prints that trusts one authority, by OpenSSL's own setting."""
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        cwd=ROOT,
        env={**os.environ, "SSL_CERT_FILE": str(trusted)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, error = await done.communicate()
    lines = (out if done.returncode == 0 else error).decode().strip().splitlines()
    return lines[-1]


class TestHttp:
    @pytest.fixture
    async def port(self, ours: Authority) -> AsyncIterator[int]:
        certificate, key = ours.issue()
        port = free_port()
        tls = tls_context(Config(tls_certificate=certificate, tls_key=key))
        async with listening(health_app({}, CollectorRegistry()), "127.0.0.1", port, tls=tls, shutdown_seconds=1):
            yield port

    async def test_with_and_without_trust(self, port: int, ours: Authority, theirs: Authority) -> None:
        url = f"https://127.0.0.1:{port}/livez"
        async with aiohttp.ClientSession() as session:
            trusting = ssl.create_default_context(cafile=str(ours.certificate))
            async with session.get(url, ssl=trusting) as response:
                assert (response.status, await response.json()) == (200, {"status": "ok"})
            for context in (ssl.create_default_context(cafile=str(theirs.certificate)), True):
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await session.get(url, ssl=context)
            with pytest.raises(aiohttp.ClientError):
                await session.get(url.replace("https", "http"))

    async def test_nothing_is_said_in_the_clear(self, port: int) -> None:
        assert b"HTTP" not in await said(port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 2)

    async def test_no_version_before_1_2(self, port: int, ours: Authority) -> None:
        old = ssl.create_default_context(cafile=str(ours.certificate))
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)

    @pytest.mark.parametrize("suites", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA"])
    async def test_no_weak_suite_of_1_2(self, port: int, ours: Authority, suites: str) -> None:
        """Without forward secrecy, without authenticated encryption, or neither of them."""
        old = ssl.create_default_context(cafile=str(ours.certificate))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.set_ciphers(f"{suites}:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)
        old.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384")
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=old)
        chosen = writer.get_extra_info("cipher")
        assert chosen[:2] == ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2"), "the strongest that both know"
        writer.close()

    async def test_tls_is_said_to_be_kept(self, port: int, ours: Authority) -> None:
        trusting = ssl.create_default_context(cafile=str(ours.certificate))
        url = f"https://127.0.0.1:{port}/livez"
        async with aiohttp.ClientSession() as session, session.get(url, ssl=trusting) as response:
            assert response.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"

    async def test_services_trust_each_other_by_their_authority(
        self, port: int, ours: Authority, theirs: Authority
    ) -> None:
        code = f"""
import asyncio
from shared.identity_client import ServiceClient
async def main():
    client = ServiceClient("https://127.0.0.1:{port}")
    try:
        print(await client.get("/livez"))
    finally:
        await client.close()
asyncio.run(main())
"""
        assert await outcome(code, ours.certificate) == "{'status': 'ok'}"
        assert "could not be reached" in await outcome(code, theirs.certificate)


class TestAmqp:
    @pytest.fixture
    def broker(self, server_dir: Path, ours: Authority) -> Iterator[PrivateRabbit]:
        folder = server_dir / "rabbit-tls-files"
        folder.mkdir()
        for name, file in zip(("ca", "certificate", "key"), (ours.certificate, *ours.issue()), strict=True):
            shutil.copy(file, folder / f"{name}.pem")
        with PrivateRabbit(server_dir / "rabbit-tls", tls=folder) as node:
            yield node

    async def test_with_and_without_trust(self, broker: PrivateRabbit, ours: Authority, theirs: Authority) -> None:
        code = f"""
import asyncio
from shared.amqp import AmqpBus
from shared.bus import BILLING_EVENTS, Message, Subscription
async def main():
    bus = AmqpBus("{broker.url}")
    await bus.declare([Subscription("tests.tls.v1", BILLING_EVENTS, ("#",))])
    print(await bus.publish(BILLING_EVENTS, [Message("1", "a", "a", b"1")]))
    await bus.close()
asyncio.run(main())
"""
        assert await outcome(code, ours.certificate) == "[True]"
        assert "CERTIFICATE_VERIFY_FAILED" in await outcome(code, theirs.certificate)
        authority = code.replace(broker.url, f"{broker.url}?cafile={ours.certificate}")
        assert await outcome(authority, theirs.certificate) == "[True]", "an address can name its authority"


class TestPostgres:
    """The embedded server has no TLS: what encrypts here is a relay in front of it that speaks the same protocol."""

    @asynccontextmanager
    async def relay(self, postgres: PrivatePostgres, tls: ssl.SSLContext | None) -> AsyncIterator[str]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.IncompleteReadError):
                assert await reader.readexactly(8) == SSL_REQUEST
                writer.write(b"S" if tls else b"N")
                if tls:
                    await writer.start_tls(tls)
                    behind, onward = await asyncio.open_connection("127.0.0.1", postgres.port)
                    await asyncio.wait(
                        [asyncio.ensure_future(pump(reader, onward)), asyncio.ensure_future(pump(behind, writer))]
                    )
            writer.close()

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while piece := await reader.read(1 << 16):
                    writer.write(piece)
                    await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield postgres.dsn().replace(f":{postgres.port}/", f":{port}/")
        finally:
            server.close()

    def context(self, authority: Authority, address: str = "127.0.0.1") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue(address))
        return context

    async def test_the_certificate_is_verified(
        self, postgres: PrivatePostgres, ours: Authority, theirs: Authority
    ) -> None:
        async with self.relay(postgres, self.context(ours)) as dsn:
            verified = f"{dsn}?sslmode=verify-full&sslrootcert="
            async with await create_pool(f"{verified}{ours.certificate}", name="tls", size=1) as pool:
                assert await pool.fetchval("select 1") == 1
            with pytest.raises(ssl.SSLCertVerificationError):
                await create_pool(f"{verified}{theirs.certificate}", name="tls", size=1)

    async def test_a_certificate_of_somebody_else_is_refused(self, postgres: PrivatePostgres, ours: Authority) -> None:
        async with self.relay(postgres, self.context(ours, "elsewhere.example")) as dsn:
            with pytest.raises(ssl.SSLCertVerificationError):
                await create_pool(f"{dsn}?sslmode=verify-full&sslrootcert={ours.certificate}", name="tls", size=1)

    @pytest.mark.parametrize("suites", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-SHA384"])
    async def test_a_server_with_weak_suites_is_refused(
        self, postgres: PrivatePostgres, ours: Authority, suites: str
    ) -> None:
        weak = self.context(ours)
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers(f"{suites}:@SECLEVEL=0")
        async with self.relay(postgres, weak) as dsn:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await create_pool(f"{dsn}?sslmode=verify-full&sslrootcert={ours.certificate}", name="tls", size=1)

    def test_a_database_elsewhere_is_not_spoken_to_in_the_clear(self) -> None:
        ending = "sslmode=verify-full&sslrootcert=/ca.pem"
        good = [
            "postgresql://u:p@127.0.0.1:5432/x",
            "postgresql://u:p@[::1]:5432/x",
            "postgresql:///x?host=/run/postgresql",
            "postgresql:///x",
            "postgresql://u:p@named:5432/x",
            "postgresql://u:p@localhost:1,named/x",
            f"postgresql://u:p@elsewhere/x?{ending}",
        ]
        bad = [
            "postgresql://u:p@elsewhere:5432/x",
            "postgresql://elsewhere/x?sslmode=require",
            "postgresql://elsewhere/x?sslmode=verify-full&sslmode=disable",
            "postgresql://localhost,elsewhere:5432/x",
            "postgresql://named@elsewhere/x",
            "postgresql:///x?host=elsewhere",
            "postgresql://127.0.0.1/x?host=elsewhere",
            "postgresql://[2001:db8::1]/x",
        ]
        for dsn in good:
            assert Config(ledger_database_url=dsn, plain_hosts="named, other").required("ledger_database_url") == dsn
        for dsn in bad:
            with pytest.raises(SystemExit, match="LEDGER_DATABASE_URL must say sslmode=verify-full"):
                Config(ledger_database_url=dsn, plain_hosts="named, other").required("ledger_database_url")

    async def test_a_server_without_tls_is_refused(self, postgres: PrivatePostgres, ours: Authority) -> None:
        async with self.relay(postgres, None) as dsn:
            with pytest.raises((asyncpg.PostgresError, ConnectionError)):
                await create_pool(f"{dsn}?sslmode=verify-full&sslrootcert={ours.certificate}", name="tls", size=1)
