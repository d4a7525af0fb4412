"""Bytes that are no HTTP, and callers who take their time (quality.md section 4, cases 1, 17-19, 21): each costs a
bounded time and memory, nothing of it reaches the books, and everybody else is served meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import psutil
import pytest

from shared.web import serve
from tests.support.hostile import MANGLED, MARK, MIB
from tests.support.served import Served, problems, said

Services = dict[str, Served]
NAMES = ("identity", "ledger", "reporting")
PUBLIC = {"identity": b"/v1/token", "ledger": b"/v1/feeds/x12", "reporting": b"/v1/reports"}


@pytest.mark.parametrize("case", MANGLED)
@pytest.mark.parametrize("name", NAMES)
async def test_bytes_that_are_no_request(services: Services, name: str, case: str) -> None:
    service = services[name]
    before = await service.counts()
    heard = await said(service.port, MANGLED[case], 1)
    assert re.match(rb"HTTP/[01]\.[019] 4", heard), heard[:300]
    assert MARK.encode() not in heard
    assert len(problems(heard)) == 1, "no second request is read from what the first one's body may be"
    head = heard.partition(b"\r\n\r\n")[0].lower()
    assert b"content-type: application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"server: billing" in head
    assert await service.counts() == before
    await service.alive()


@pytest.mark.parametrize("name", NAMES)
async def test_requests_in_a_row_are_answered_in_their_order(services: Services, name: str) -> None:
    ids = [f"pipelined-{number:04}" for number in range(200)]
    lines = [f"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nX-Request-Id: {one}\r\n\r\n".encode() for one in ids]
    heard = await said(services[name].port, b"".join(lines), 1)
    assert [part.split(b'"request_id":"')[1][:14].decode() for part in heard.split(b"HTTP/1.1 404")[1:]] == ids


class TestSlow:
    """17. The times are cut short here; what they are is `shared.web.serve`'s."""

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serve, "_HEAD_SECONDS", 1.0)
        monkeypatch.setattr(serve, "_BODY_SECONDS", 1.0)

    @pytest.mark.parametrize("name", NAMES)
    async def test_heads_that_trickle(self, services: Services, name: str) -> None:
        """Silence, half a line, and a byte now and then: closed all the same."""
        closed = await asyncio.gather(
            until_closed(services[name].port, b"", b""),
            until_closed(services[name].port, b"GET / HT", b""),
            until_closed(services[name].port, b"GET / HTTP/1.1\r\nX-A: ", b"a"),
        )
        assert all(0.5 < seconds < 4 for seconds, _ in closed), closed

    @pytest.mark.parametrize("name", NAMES)
    async def test_a_connection_that_was_used_is_closed_when_it_falls_silent(
        self, services: Services, name: str
    ) -> None:
        seconds, heard = await until_closed(services[name].port, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"")
        assert heard.startswith(b"HTTP/1.1 200")
        assert seconds < 4

    @pytest.mark.parametrize("name", ["identity", "ledger"])
    async def test_bodies_that_trickle(self, services: Services, name: str) -> None:
        """408 for JSON, forms and feeds; for a length that will never come; for chunks that come byte by byte."""
        service = services[name]
        before = await service.counts()
        token = service.tokens[0].encode()
        paths = {
            "identity": ((b"/v1/companies", b"application/json"), (b"/v1/token", b"application/x-www-form-urlencoded")),
            "ledger": (
                (b"/v1/payments", b"application/json"),
                (b"/v1/feeds/x12", b"application/edi-x12"),
                (b"/v1/feeds/hl7v2", b"application/hl7-v2"),
                (b"/v1/feeds/fhir", b"application/fhir+json"),
                (b"/v1/feeds/emr", b"application/json"),
            ),
        }[name]
        for path, kind in paths:
            head = b"POST %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Type: %b\r\n" % (
                path,
                token,
                kind,
            )
            tries = await asyncio.gather(
                until_closed(service.port, head + b"Content-Length: 100\r\n\r\n{", b""),
                until_closed(service.port, head + b"Content-Length: 900000000\r\n\r\n{", b" "),
                until_closed(service.port, head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            )
            for seconds, heard in tries:
                assert heard.startswith(b"HTTP/1.1 408 "), (path, heard)
                assert b'"code":"request_timeout"' in heard
                assert seconds < 6
        assert await service.counts() == before
        await service.alive()

    @pytest.mark.parametrize("name", NAMES)
    async def test_half_closed_connections_end(self, services: Services, name: str) -> None:
        started = time.monotonic()
        for raw in (b"", b"GET / HT", b"POST /v1/token HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na"):
            heard = await said(services[name].port, raw, 5, half_close=True)
            assert heard == b"" or heard.startswith(b"HTTP/1.1 4")
        assert time.monotonic() - started < 5
        await services[name].alive()

    @pytest.mark.parametrize("name", NAMES)
    async def test_many_of_them_hold_up_nobody(self, services: Services, name: str) -> None:
        """Three hundred at once, half of them with 900 kB that never become a whole body."""
        service = services[name]
        before = psutil.Process(os.getpid()).memory_info().rss
        slow = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(300)]
        try:
            head = b"POST %b HTTP/1.1\r\nHost: x\r\n" % PUBLIC[name]
            for number, (_, writer) in enumerate(slow):
                large = b"Content-Length: 1000000\r\n\r\n" + b" " * 900_000
                with suppress(ConnectionError):
                    writer.write(head + (large if number % 2 else b"X-Slow: "))
            async with asyncio.timeout(5):
                for _ in range(20):
                    await service.alive()
            assert psutil.Process(os.getpid()).memory_info().rss - before < 300 * MIB
        finally:
            for _, writer in slow:
                writer.close()
        await service.alive()


ENDLESS = [
    ("identity", "POST", "/v1/companies", "application/json"),
    ("identity", "POST", "/v1/token", "application/x-www-form-urlencoded"),
    ("ledger", "POST", "/v1/payments", "application/json"),
    ("ledger", "POST", "/v1/feeds/emr", "application/json"),
    ("ledger", "POST", "/v1/feeds/fhir", "application/fhir+json"),
    ("ledger", "POST", "/v1/feeds/hl7v2", "application/hl7-v2"),
]


@pytest.mark.parametrize(("name", "method", "path", "kind"), ENDLESS)
async def test_a_body_without_an_end_is_cut_off(
    services: Services, name: str, method: str, path: str, kind: str
) -> None:
    """1, without Content-Length: refused before all of it was read."""
    service = services[name]
    before = await service.counts()
    status, sent = await poured(service, method, path, kind)
    assert status == 413
    assert sent < 32 * MIB
    assert await service.counts() == before


@pytest.mark.parametrize(
    ("name", "path"), [("identity", "/v1/me"), ("ledger", "/v1/patients"), ("reporting", "/v1/reports")]
)
async def test_a_body_that_nobody_asked_for_is_not_read(services: Services, name: str, path: str) -> None:
    """1: of a GET."""
    status, sent = await poured(services[name], "GET", path, "application/json")
    assert status == 200
    assert sent < 32 * MIB
    await services[name].alive()


async def poured(service: Served, method: str, path: str, kind: str) -> tuple[int, int]:
    """Send white space without a length, 64 MiB at most; the answer's status, and how much was sent until it came."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 1 << 16
            yield b" " * (1 << 16)
            await asyncio.sleep(0)

    headers = {"Authorization": f"Bearer {service.tokens[0]}", "Content-Type": kind}
    url = f"http://127.0.0.1:{service.port}{path}"
    async with service.session.request(method, url, data=endless(), headers=headers) as response:
        return response.status, sent


async def until_closed(port: int, first: bytes, again: bytes) -> tuple[float, bytes]:
    """How long the server bears with somebody who sends these bytes, then others every tenth of a second; and what it
    says to him."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started, heard = time.monotonic(), b""

    async def trickle() -> None:
        with suppress(ConnectionError):
            while again:
                writer.write(again)
                await asyncio.sleep(0.1)

    writer.write(first)
    trickling = asyncio.create_task(trickle())
    try:
        async with asyncio.timeout(15):
            while piece := await reader.read(1 << 16):
                heard += piece
    except ConnectionError:
        pass
    finally:
        trickling.cancel()
        writer.close()
    return time.monotonic() - started, heard
