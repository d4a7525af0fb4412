"""The files that compose mounts, run for real: database roles, broker rights, the proxy before fake services."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import asyncpg
import pytest
from aiohttp import web
from aiormq.exceptions import AMQPError, ChannelAccessRefused
from multidict import CIMultiDict
from yarl import URL

from deploy import processes
from deploy.postgres import PrivatePostgres
from deploy.rabbitmq import PrivateRabbit
from shared.address import Proxies
from shared.amqp import AmqpBus
from shared.amqp.dead_letters import dead_letters
from shared.bus import Message, Outcome, Subscription
from shared.contracts import identity_events, ledger_events
from shared.web.headers import SECURITY_HEADERS, STRICT_TRANSPORT, secure
from tests.support.deployed import (
    SERVICES,
    compose_postgres,
    compose_rabbit,
    database_address,
    proxy_configuration,
    start_nginx,
)


@pytest.fixture(scope="module")
def server(server_dir: Path) -> Iterator[PrivatePostgres]:
    with compose_postgres(server_dir / "compose") as made:
        yield made


@pytest.mark.parametrize("service", SERVICES)
async def test_each_service_owns_its_database_and_reaches_no_other(server: PrivatePostgres, service: str) -> None:
    connection = await asyncpg.connect(database_address(server, service, service))
    try:
        await connection.execute("create table posting (id int); insert into posting values (1)")
        await connection.execute(f"grant select on posting to {service}_app")
        for other in set(SERVICES) - {service}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"set role {other}_app")
    finally:
        await connection.execute("drop table posting")
        await connection.close()
    for user in (service, f"{service}_login"):
        for other in {*SERVICES, "postgres", "template1"} - {service}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncpg.connect(database_address(server, user, other))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(str(URL(database_address(server, user, service)).with_password("another")))


@pytest.fixture
def broker(rabbit: PrivateRabbit, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Addresses of the services' users."""
    with compose_rabbit(rabbit, tmp_path) as address:
        yield address


async def test_each_service_may_use_its_own_queues_only(broker: Any) -> None:
    allowed = {"ledger": "ledger.emr.v1", "reporting": "reporting.events.v1"}
    for user, name in allowed.items():
        bus = AmqpBus(broker(user))
        heard = {"ledger": "identity.#", "reporting": "ledger.#"}[user]
        await bus.declare([Subscription(name, "billing.events", (heard,))])
        await bus.close()
    async with await aio_pika.connect(broker("identity")) as connection, await connection.channel() as channel:
        events = await channel.declare_exchange("billing.events", "topic", durable=True)
        await events.publish(aio_pika.Message(b"{}"), "identity.user_changed.v1")
    async with await aio_pika.connect(broker("ledger")) as connection, await connection.channel() as channel:
        feed = await channel.declare_exchange("emr.feed", "topic", durable=True)
        own = await channel.declare_queue(allowed["ledger"], passive=True)
        await own.bind(feed, "emr.#")

    for user in allowed:
        async with await aio_pika.connect(broker(user)) as connection, await connection.channel() as channel:
            ear = await channel.declare_queue(f"access.{user}.1", exclusive=True, auto_delete=True)
            await ear.bind("billing.events", identity_events.ACCESS_CHANGED)
            await ear.bind("billing.events", identity_events.HEARTBEAT_KEY)
            await ear.consume(print, no_ack=True)
    for user, other in (("ledger", "reporting"), ("reporting", "ledger"), ("identity", "identity")):
        async with await aio_pika.connect(broker(user)) as connection:
            channel = await connection.channel()
            with pytest.raises(ChannelAccessRefused):
                await channel.declare_queue(f"access.{other}.1", exclusive=True, auto_delete=True)

    for user, queue_name in (
        ("identity", "ledger.emr.v1"),
        ("identity", "identity.events.v1"),
        ("ledger", "reporting.events.v1"),
        ("reporting", "ledger.emr.v1"),
    ):
        async with await aio_pika.connect(broker(user)) as connection:
            channel = await connection.channel()
            with pytest.raises(ChannelAccessRefused):
                await (await channel.get_queue(queue_name, ensure=False)).consume(print)
    async with await aio_pika.connect(broker("reporting")) as connection:
        channel = await connection.channel()
        events = await channel.get_exchange("billing.events", ensure=False)
        with pytest.raises(ChannelAccessRefused):
            await events.publish(aio_pika.Message(b"{}"), "ledger.payment_posted.v1")
    # Nobody speaks in another's name, and the ledger hears nothing of its own.
    for user, topic in (("identity", "ledger.posting.v1"), ("ledger", "identity.access.changed.v1")):
        async with await aio_pika.connect(broker(user)) as connection:
            events = await (await connection.channel()).get_exchange("billing.events", ensure=False)
            with pytest.raises(ChannelAccessRefused):
                await events.publish(aio_pika.Message(b"{}"), topic)
    async with await aio_pika.connect(broker("ledger")) as connection:
        queue = await (await connection.channel()).declare_queue(allowed["ledger"], passive=True)
        with pytest.raises(ChannelAccessRefused):
            await queue.bind("billing.events", "#")


@pytest.mark.parametrize("made_by_an_earlier_version", [False, True])
async def test_what_is_parked_is_kept_and_replayed_with_the_rights_of_a_service(
    broker: Any, rabbit: PrivateRabbit, made_by_an_earlier_version: bool
) -> None:
    """Which has none to write to the default exchange. Earlier versions let their queues park by that one."""
    feed = Subscription("ledger.parked.v1", "emr.feed", ("emr.#",))
    seen: list[str] = []

    async def handle(batch: Sequence[Message]) -> Sequence[Outcome]:
        seen.extend(message.message_id for message in batch)
        return [Outcome.PARK if seen.count(message.message_id) == 1 else Outcome.DONE for message in batch]

    async def until_parked(number: int) -> None:
        async with asyncio.timeout(20):
            while len(await dead_letters(broker("ledger"), feed.queue)) != number:
                await asyncio.sleep(0.05)

    async with await aio_pika.connect(f"{rabbit.url}billing") as connection, await connection.channel() as channel:
        exchange = await channel.declare_exchange("emr.feed", "topic", durable=True)
        if made_by_an_earlier_version:
            arguments: dict[str, Any] = {
                "x-queue-type": "quorum",
                "x-single-active-consumer": True,
                "x-delivery-limit": 50,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": f"{feed.queue}.dead",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
            await channel.declare_queue(feed.queue, durable=True, arguments=arguments)
        bus, stop = AmqpBus(broker("ledger")), asyncio.Event()
        await bus.declare([feed])
        consuming = asyncio.create_task(bus.consume(feed, handle, stop))
        for number in range(3):
            await exchange.publish(aio_pika.Message(b"{}", message_id=str(number)), "emr.payment.posted.v1")
        await until_parked(3)
        replayed = await dead_letters(broker("ledger"), feed.queue, replay=True)
        assert [letter.message_id for letter in replayed] == ["0", "1", "2"]
        await until_parked(0)
        async with asyncio.timeout(20):
            while len(seen) < 6:
                await asyncio.sleep(0.05)
        stop.set()
        await consuming
        await bus.close()
    assert seen == ["0", "1", "2"] * 2


QUEUES = ("identity.x.v1", "ledger.x.v1", "ledger.x.v1.dead", "reporting.x.v1", "other.x.v1")
SAID = {
    "identity": (*identity_events.STATES, identity_events.HEARTBEAT_KEY, "identity.later.v2"),
    "ledger": (ledger_events.POSTING, "ledger.later.v2"),
    "reporting": ("reporting.later.v2",),
    "nobody": ("nobody.v1", "heartbeat.ledger", "identity", "ledger", "emr.payment.posted.v1", ""),
}
"""Topics, by who says them. Reporting says nothing, and may not."""
HEARD = ("identity.#", identity_events.ACCESS_CHANGED, identity_events.HEARTBEAT_KEY)
TRIES = [
    *(("declare exchange", name) for name in ("billing.events", "emr.feed", "other")),
    *((f"publish {topic}", "billing.events") for topics in SAID.values() for topic in topics),
    *(("publish emr.nobody.v1", name) for name in ("emr.feed", "amq.topic", "amq.fanout")),
    *((act, name) for act in ("declare queue", "consume", "purge", "delete queue") for name in QUEUES),
    *((f"bind billing.events {topic}", name) for topic in (*HEARD, "ledger.#", "heartbeat.#", "#") for name in QUEUES),
    *(("bind emr.feed #", name) for name in QUEUES),
    *((f"publish {name}", "") for name in QUEUES),  # the default exchange, which leads into every queue
]
OWN = ("declare queue", "consume", "purge", "delete queue", *(f"bind billing.events {topic}" for topic in HEARD))
MAY = {
    "identity": {
        ("declare exchange", "billing.events"),
        *((f"publish {topic}", "billing.events") for topic in SAID["identity"]),
    },
    "ledger": {
        *(("declare exchange", name) for name in ("billing.events", "emr.feed")),
        *((f"publish {topic}", "billing.events") for topic in SAID["ledger"]),
        *((act, name) for act in (*OWN, "bind emr.feed #") for name in QUEUES if name.startswith("ledger.")),
    },
    "reporting": {
        ("declare exchange", "billing.events"),
        *(
            (act, name)
            for act in (*OWN, "bind billing.events ledger.#")
            for name in QUEUES
            if name.startswith("reporting.")
        ),
    },
}
"""All that each service's user may do of what can be tried."""


@pytest.mark.parametrize("user", SERVICES)
async def test_each_user_may_do_what_its_service_needs_and_nothing_else(
    broker: Any, rabbit: PrivateRabbit, user: str
) -> None:
    await _furnish(f"{rabbit.url}billing")
    async with await aio_pika.connect(broker(user)) as connection:
        for act, name in TRIES:
            refused = False
            channel = await connection.channel()
            try:
                await _try(channel, act, name)
            except ChannelAccessRefused:
                refused = True
            else:
                await channel.close()
            assert refused == ((act, name) not in MAY[user]), (act, name)
    with pytest.raises(AMQPError):
        await aio_pika.connect(broker(user).replace("/billing", "/"))
    with pytest.raises(AMQPError):
        await aio_pika.connect(broker(user).replace("-secret", "-guess"))


async def _furnish(url: str) -> None:
    """Everything that can be tried is there; the owner of all is the node's own user."""
    async with await aio_pika.connect(url) as connection, await connection.channel() as channel:
        for name in ("billing.events", "emr.feed"):
            await channel.declare_exchange(name, "topic", durable=True)
        for name in QUEUES:
            await channel.declare_queue(name, durable=True)


async def _try(channel: Any, act: str, name: str) -> None:
    if act == "declare exchange":
        await channel.declare_exchange(name, "topic", durable=True)
    elif act.startswith("publish "):
        exchange = await channel.get_exchange(name, ensure=False) if name else channel.default_exchange
        await exchange.publish(aio_pika.Message(b"{}"), act.partition(" ")[2], mandatory=False)
    elif act == "declare queue":
        await channel.declare_queue(name, durable=True)
    else:
        queue = await channel.get_queue(name, ensure=False)
        if act == "consume":
            await queue.consume(print)
        elif act == "purge":
            await queue.purge()
        elif act == "delete queue":
            await queue.delete(if_unused=False, if_empty=False)
            # For those who come after: by its owner, whom this shows again to be one.
            await channel.declare_queue(name, durable=True)
        else:
            _, exchange, topic = act.split(" ")
            await queue.bind(exchange, topic)


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
    process = start_nginx(tmp_path)
    try:
        await asyncio.to_thread(processes.wait_until, lambda: processes.accepts(port), 10)
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
