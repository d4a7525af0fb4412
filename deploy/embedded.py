"""The three services in one process and one event loop, behind one port: what `deploy.run` starts.

The services are the same applications and the same `run(config, stop, bus)` as in separate processes; only the
transport differs, and even that only when no RabbitMQ is named.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from html import escape
from typing import Any, Final
from uuid import uuid4

import aiohttp
import structlog
from aiohttp import web

from services.identity import relay as identity_relay
from services.identity.app import create_app as identity_app
from services.ledger import relay as ledger_relay
from services.ledger.app import create_app as ledger_app
from services.ledger.feeds import run as ledger_feeds
from services.ledger.feeds.consumer import SUBSCRIPTION as EMR_SUBSCRIPTION
from services.reporting import consumer as reporting_consumer
from services.reporting.app import create_app as reporting_app
from services.reporting.inbox import SUBSCRIPTION as LEDGER_SUBSCRIPTION
from shared.amqp import AmqpBus
from shared.bus import Bus, pause
from shared.config import Config
from shared.directory import Directory
from shared.errors import NotFound, Unavailable
from shared.loopback import LoopbackBus
from shared.process import bus_check
from shared.web import json_response
from shared.web.app import MAX_JSON_BYTES, ReadyCheck, failed_checks, problem_response
from shared.web.serve import harmless, listening, run_all, stop_on_signals

SERVICES: Final[dict[str, Callable[[Config, Bus], web.Application]]] = {
    "identity": lambda config, _: identity_app(config),
    "ledger": lambda config, bus: ledger_app(config, bus=bus),
    "reporting": lambda config, bus: reporting_app(config, bus=bus),
}
# All of them exist before the first relay publishes: a queue made later would miss what went before.
_SUBSCRIPTIONS: Final = (
    EMR_SUBSCRIPTION,
    LEDGER_SUBSCRIPTION,
    Directory.subscription(ledger_feeds.IDENTITY_QUEUE),
    Directory.subscription(reporting_consumer.IDENTITY_QUEUE),
)
_SHUTDOWN_SECONDS: Final = 3.0
_READY_SECONDS: Final = 30.0
_PROBE: Final = aiohttp.ClientTimeout(total=5)

log = structlog.get_logger("embedded")


class StartError(Exception):
    """Why there can be no start, in one sentence for the person at the terminal."""


async def run(config: Config, listener: socket.socket, when_ready: Callable[[], Awaitable[None]]) -> None:
    """Serve until SIGINT or SIGTERM; then HTTP stops, and after it the jobs. `when_ready` is called meanwhile.

    Raises what ended a background job: then nothing may go on half alive."""
    stop, jobs_stop = stop_on_signals(), asyncio.Event()
    bus = await _connect(config)
    checks = _checks(config, bus)
    try:
        async with listening(_root(config, checks, bus), sock=listener, shutdown_seconds=_SHUTDOWN_SECONDS):
            jobs = asyncio.create_task(run_all(jobs_stop, *_jobs(config, jobs_stop, bus)))
            greeting = asyncio.create_task(_greet(checks, bus, stop, when_ready))
            greeting.add_done_callback(
                lambda task: None if task.cancelled() or task.exception() is None else stop.set()
            )
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((jobs, stopped), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (greeting, stopped):
                    task.cancel()
                _, outcome = await asyncio.gather(stopped, greeting, return_exceptions=True)
        jobs_stop.set()
        await jobs
    finally:
        await bus.close()
    if isinstance(outcome, Exception):
        raise outcome


async def _connect(config: Config) -> Bus:
    bus = AmqpBus(config.required("amqp_url")) if config.amqp_url else LoopbackBus()
    try:
        await bus.declare(_SUBSCRIPTIONS)
    except Exception as error:
        raise StartError(f"The broker that AMQP_URL names cannot be used ({type(error).__name__})") from error
    return bus


def _jobs(config: Config, stop: asyncio.Event, bus: Bus) -> list[Coroutine[Any, Any, None]]:
    return [
        _job("identity", "relay", identity_relay.run(config, stop, bus)),
        _job("ledger", "relay", ledger_relay.run(config, stop, bus)),
        _job("ledger", "feeds", ledger_feeds.run(config, stop, bus)),
        _job("reporting", "consumer", reporting_consumer.run(config, stop, bus)),
    ]


async def _job(service: str, process: str, work: Coroutine[Any, Any, None]) -> None:
    """Its log lines say whose they are, as they would in a process of its own."""
    structlog.contextvars.bind_contextvars(service=service, process=process)
    await work


def _checks(config: Config, bus: Bus) -> dict[str, ReadyCheck]:
    """Ready is: every service says so by its own `/readyz`, and the bus has its consumers."""

    def of(service: str) -> ReadyCheck:
        async def check() -> None:
            url = f"{config.identity_url.removesuffix('/identity')}/{service}/readyz"
            async with aiohttp.ClientSession(timeout=_PROBE) as session, session.get(url) as response:
                if response.status != 200:
                    raise Unavailable(f"{service} is not ready")

        return check

    return {**{service: of(service) for service in SERVICES}, "bus": bus_check(bus)}


async def _greet(
    checks: dict[str, ReadyCheck], bus: Bus, stop: asyncio.Event, when_ready: Callable[[], Awaitable[None]]
) -> None:
    """Wait until everything is ready, then hand over."""
    failed = ["bus"]
    deadline = time.monotonic() + _READY_SECONDS
    while (not bus.connected or (failed := await failed_checks(checks))) and time.monotonic() < deadline:
        await pause(0.05, stop)
    if failed:
        raise StartError(f"Not ready after {_READY_SECONDS:.0f} seconds: {', '.join(failed)}")
    log.info("ready")
    await when_ready()


def _root(config: Config, checks: dict[str, ReadyCheck], bus: Bus) -> web.Application:
    root = web.Application(client_max_size=MAX_JSON_BYTES)

    async def start_page(_: web.Request) -> web.Response:
        return web.Response(text=_page(), content_type="text/html")

    async def livez(_: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        failed = await failed_checks(checks)
        return json_response({"status": "unavailable" if failed else "ok", "failed": failed}, 503 if failed else 200)

    async def nothing(_: web.Request) -> web.StreamResponse:
        detail = "There is no such address; the services are under /identity, /ledger and /reporting"
        return problem_response(NotFound(detail), str(uuid4()))

    root.add_routes([web.get("/", start_page), web.get("/livez", livez), web.get("/readyz", readyz)])
    for name, create_app in SERVICES.items():
        root.add_subapp(f"/{name}", create_app(config, bus))
    root.router.add_route("*", "/{anything:.*}", nothing)
    root.on_response_prepare.append(harmless)
    return root


_ABOUT: Final = {
    "identity": "companies, locations, users, roles, tokens",
    "ledger": "patients, charges, payments, batches, feeds",
    "reporting": "My Payment Activity and Payment Balancing",
}


def _page() -> str:
    rows = "".join(
        f"<li><a href=/{name}/docs>{name.capitalize()}</a>: {escape(about)}"
        f" (<a href=/{name}/openapi.json>OpenAPI</a>)</li>"
        for name, about in _ABOUT.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Practice billing</title><h1>Practice billing</h1>"
        f"<p>Three services on one port. Each has a list of its calls:</p><ul>{rows}</ul>"
        "<p>Readiness: <a href=/readyz>/readyz</a></p></html>"
    )
