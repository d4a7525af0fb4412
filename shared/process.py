"""What the background processes share: a bus where none is given, a health port, jobs that stop together."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry, Gauge

from shared import logs
from shared.access.revocation import Revocations
from shared.amqp import AmqpBus
from shared.bus import Bus
from shared.config import Config
from shared.errors import Unavailable
from shared.outbox import Relay
from shared.web.app import ReadyCheck
from shared.web.serve import health_app, run_all, serve, tls_context

_BLIND_SECONDS = 30


def calm_collector() -> None:
    """What was imported is never garbage: it is taken out of the collector's sight, and the collector looks less often,
    because a batch of postings makes many small objects that all die with the batch."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def run_process(main: Coroutine[Any, Any, None]) -> None:
    """Run a process's coroutine on uvloop (a request costs a third less CPU than on the standard loop)."""
    calm_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def command_line(service: str, commands: Mapping[str, Callable[..., Coroutine[Any, Any, None]]]) -> None:
    """`python -m services.<service> <command>`: settings from the environment, logs to standard error. What a command
    takes after its settings is what must follow its name; one that takes any number looks at them itself."""
    wanted = {name: list(inspect.signature(command).parameters.values())[1:] for name, command in commands.items()}
    name, arguments = sys.argv[1] if sys.argv[1:] else "", sys.argv[2:]
    any_number = name in commands and any(one.kind is one.VAR_POSITIONAL for one in wanted[name])
    if name not in commands or (len(arguments) != len(wanted[name]) and not any_number):
        usage = "|".join(" ".join([one, *map(_shown, more)]) for one, more in wanted.items())
        raise SystemExit(f"usage: python -m services.{service} {usage}")
    config = Config()
    logs.configure(config.log_level, config.log_format, service=service)
    run_process(commands[name](config, *arguments))


def _shown(argument: inspect.Parameter) -> str:
    return f"[{argument.name}]" if argument.kind is argument.VAR_POSITIONAL else argument.name.upper()


@asynccontextmanager
async def bus_of(config: Config, given: Bus | None = None) -> AsyncIterator[Bus]:
    """The bus that was handed in (embedded run, tests), or RabbitMQ by `AMQP_URL` for as long as it is needed."""
    if given is not None:
        yield given
        return
    own = AmqpBus(config.required("amqp_url"))
    try:
        yield own
    finally:
        await own.close()


@asynccontextmanager
async def hearing(
    revocations: Revocations | None, service: str, config: Config, given: Bus | None, registry: CollectorRegistry
) -> AsyncIterator[None]:
    """What an API process hears of changed access, meanwhile. Where there is no bus it hears nothing and asks identity
    about every token. Neither concerns its readiness: unready is no better than asking."""
    if revocations is None:
        yield
        return
    silence = Gauge("access_silence_seconds", "Age of the last news of changed access", registry=registry)
    silence.set_function(revocations.silent_seconds)
    if given is None and config.amqp_url is None:
        yield
        return
    stop = asyncio.Event()
    async with bus_of(config, given) as bus:
        listening = asyncio.create_task(revocations.listen(bus, service, stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(listening, return_exceptions=True)


async def run_background(
    config: Config,
    stop: asyncio.Event,
    *jobs: Coroutine[Any, Any, None],
    checks: Mapping[str, ReadyCheck],
    registry: CollectorRegistry | None = None,
) -> None:
    """Run jobs until `stop`, with `/livez`, `/readyz` and `/metrics` on `HEALTH_PORT` when it is set."""
    if config.health_port:
        app = health_app(checks, registry or CollectorRegistry())
        jobs = (*jobs, serve(app, config.host, config.health_port, stop, tls_context(config)))
    await run_all(stop, *jobs)


def bus_check(bus: Bus) -> ReadyCheck:
    """Ready while the bus can do what it was asked to."""

    async def check() -> None:
        if not bus.connected:
            raise Unavailable("The bus is not connected")

    return check


def relay_check(relay: Relay) -> ReadyCheck:
    """Ready on standby, and as the leader while the outbox is being read."""

    async def check() -> None:
        seen = relay.status.polled_at
        if relay.status.leader and (seen is None or (datetime.now(UTC) - seen).total_seconds() > _BLIND_SECONDS):
            raise Unavailable("The outbox has not been read for half a minute")

    return check


def relay_registry(relay: Relay) -> CollectorRegistry:
    """Metrics of a relay."""
    registry = CollectorRegistry()
    lag = Gauge("outbox_lag_seconds", "Age of the oldest event not yet published", registry=registry)
    lag.set_function(relay.status.lag_seconds)
    leader = Gauge("outbox_leader", "1 while this relay leads", registry=registry)
    leader.set_function(lambda: float(relay.status.leader))
    published = Gauge("outbox_published_total", "Events published since the start", registry=registry)
    published.set_function(lambda: float(relay.status.published))
    return registry
