"""The proxy's files that compose mounts, run for real before fake services."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from deploy import processes
from shared.address import Proxies
from shared.web.headers import SECURITY_HEADERS, STRICT_TRANSPORT, secure
from tests.support.deployed import SERVICES, proxy_configuration, start_nginx


async def answer(request: web.Request) -> web.StreamResponse:
    if request.path == "/v1/stream":
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        await stream.write(b"data: first\n\n")
        await asyncio.sleep(3600)
    seen = {
        "service": request.app[NAME],
        "path": request.raw_path,
        "received": len(await request.read()),
        "forwarded_for": request.headers["X-Forwarded-For"],
        "request_id": request.headers["X-Request-ID"],
    }
    response = web.json_response(seen, headers={"X-Request-Id": "ours", "Cache-Control": "public, max-age=60"})
    secure(request, response, Proxies(behind=True))
    return response


NAME = web.AppKey("name", str)


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Nginx with the configuration of compose, in front of three servers that say what they got; reporting is away
    after `stop`."""
    text = proxy_configuration("plain.conf").replace("/tmp/", f"{tmp_path}/")  # noqa: S108
    runners = []
    for name, upstream in (
        ("identity", "identity:8081"),
        ("ledger", "ledger-api:8082"),
        ("reporting", "reporting-api:8083"),
    ):
        app = web.Application(client_max_size=1 << 30)
        app[NAME] = name
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        port = processes.free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        runners.append(runner)
        text = text.replace(upstream, f"127.0.0.1:{port}")
    port = processes.free_port()
    text = text.replace("listen 127.0.0.1:8081;", f"listen unix:{tmp_path}/probe;")
    (tmp_path / "nginx.conf").write_text(text.replace("listen 8080;", f"listen 127.0.0.1:{port};"))
    process, pid = start_nginx(tmp_path), tmp_path / "nginx.pid"

    def started() -> bool:  # Its own number is written after it listens.
        return processes.accepts(port) and pid.exists() and bool(pid.read_text())

    try:
        assert await asyncio.to_thread(processes.wait_until, started, 10)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        processes.end(process, signal.SIGTERM, seconds=5)
        for runner in runners:
            await runner.cleanup()


async def test_the_proxy_takes_the_prefix_off_and_leaves_the_rest_alone(proxy: aiohttp.ClientSession) -> None:
    for service in SERVICES:
        async with proxy.get(f"/{service}/v1/me?limit=1") as response:
            seen = await response.json()
            assert (seen["service"], seen["path"]) == (service, "/v1/me?limit=1")
            assert len(seen["request_id"]) == 32
    async with proxy.get(
        URL("/ledger/v1/batches/a%2Fb%20c", encoded=True), headers={"X-Forwarded-For": "9.9.9.9"}
    ) as response:
        seen = await response.json()
        assert (seen["path"], seen["forwarded_for"]) == ("/v1/batches/a%2Fb%20c", "9.9.9.9, 127.0.0.1")


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/identity/metrics",
        "/ledger/%6Detrics",
        "/ledger//metrics",
        "/ledger/./metrics",
        "/reporting/v1/../metrics?x=1",
        "/reporting/%2e%2e/ledger/metrics",
        "/elsewhere",
    ],
)
async def test_metrics_are_closed_however_they_are_spelt(proxy: aiohttp.ClientSession, path: str) -> None:
    # Sent by hand: clients tidy up such paths before they send them.
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy._base_url.port)  # type: ignore[union-attr]
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    reply = await reader.read()
    writer.close()
    assert reply.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in reply


async def test_bodies_are_bounded_and_only_feeds_may_be_long(proxy: aiohttp.ClientSession) -> None:
    body = bytes(3 << 20)
    for path in ("/ledger/v1/feeds/x12", "/ledger/v1/payments/bulk"):
        async with proxy.post(path, data=io.BytesIO(body)) as response:
            assert (await response.json())["received"] == len(body)
    for path in ("/identity/v1/token", "/ledger/v1/payments", "/ledger/v1/payments/bulk/x", "/reporting/v1/x"):
        async with proxy.post(path, data=io.BytesIO(body)) as response:
            assert response.status == 413
            assert (await response.json(content_type="application/problem+json"))["code"] == "too_large"


@pytest.mark.parametrize(
    ("sent", "status", "content_type"),
    [
        (b"GET /elsewhere HTTP/1.1\r\nHost: x", 404, "application/problem+json"),
        (b"GET /ledger/metrics HTTP/1.1\r\nHost: x", 404, "application/problem+json"),
        (b"TRACE /ledger/v1/me HTTP/1.1\r\nHost: x", 405, "application/problem+json"),
        (b"POST /ledger/v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999", 413, "application/problem+json"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x", 400, "application/problem+json"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000, 400, "application/problem+json"),
        (b"GET / HTTP/1.1\r\nNo-Host: x", 400, "application/problem+json"),
        (b"GET / HTTP/9.9\r\nHost: x", 400, "application/problem+json"),
        (b"G=T / HTTP/1.1\r\nHost: x", 400, "application/problem+json"),
        (b"POST /ledger/v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: odd", 400, "application/problem+json"),
        (b"GET /livez HTTP/1.1\r\nHost: x", 200, "text/plain; charset=utf-8"),
        (b"GET /ledger/v1/me HTTP/1.1\r\nHost: x", 200, "application/json; charset=utf-8"),
    ],
)
@pytest.mark.parametrize("proto", [b"http", b"https"])
async def test_every_answer_has_the_security_headers_once(
    proxy: aiohttp.ClientSession, sent: bytes, status: int, content_type: str, proto: bytes
) -> None:
    """Those that the proxy makes itself, and those that it passes on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy._base_url.port)  # type: ignore[union-attr]
    writer.write(sent + b"\r\nX-Forwarded-Proto: " + proto + b"\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    lines = head.decode().split("\r\n")
    headers = CIMultiDict(tuple(line.split(": ", 1)) for line in lines[1:])
    assert lines[0].split(" ")[1] == str(status), head
    own = "ours" not in headers.getall("X-Request-Id")
    expected = {**SECURITY_HEADERS, "Content-Type": content_type, "Server": "nginx"}
    if not own:
        expected["Cache-Control"] = "public, max-age=60"
    for name, value in expected.items():
        assert headers.getall(name) == [value], (name, head)
    assert len(headers.getall("X-Request-Id")) == 1
    if status != 400:  # What cannot be read has no headers that could say how it came.
        assert headers.getall("Strict-Transport-Security", []) == ([STRICT_TRANSPORT] if proto == b"https" else [])
    if status >= 400:
        problem = json.loads(body)
        assert problem["status"] == status
        assert problem["request_id"] == headers["X-Request-Id"]


async def test_lines_of_the_log_say_when(proxy: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with proxy.get("/elsewhere") as response:
        assert response.status == 404

    def lines() -> list[str]:
        return [line for line in (tmp_path / "log").read_text().splitlines() if "/elsewhere" in line]

    # Written once the answer is on its way.
    await asyncio.to_thread(processes.wait_until, lambda: lines() != [], 5)
    assert len(lines()) == 1
    written = datetime.fromisoformat(lines()[0].split(" ")[0])
    assert abs((datetime.now(UTC) - written).total_seconds()) < 60


async def test_events_pass_at_once(proxy: aiohttp.ClientSession) -> None:
    async with proxy.get("/reporting/v1/stream") as response:
        async with asyncio.timeout(5):
            assert await response.content.readline() == b"data: first\n"


async def test_a_service_that_is_away_is_503(proxy: aiohttp.ClientSession, tmp_path: Path) -> None:
    configuration = tmp_path / "nginx.conf"
    text = configuration.read_text()
    away = text.replace(
        "proxy_pass $inside://$identity$rest;", f"proxy_pass http://127.0.0.1:{processes.free_port()}$rest;"
    )
    configuration.write_text(away)
    os.kill(int((tmp_path / "nginx.pid").read_text()), 1)
    async with asyncio.timeout(10):
        while True:
            async with proxy.get("/identity/v1/me") as response:
                if response.status == 503:
                    assert response.headers["Retry-After"] == "5"
                    assert SECURITY_HEADERS.items() <= dict(response.headers).items()
                    assert (await response.json(content_type="application/problem+json"))["code"] == "unavailable"
                    return
            await asyncio.sleep(0.05)
