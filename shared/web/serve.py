"""Running a process: serve an application, or work in the background with a small health port; stop gracefully."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from shared.web.app import ReadyCheck, failed_checks
from shared.web.endpoint import json_response

_SHUTDOWN_SECONDS = 10.0
log = structlog.get_logger("serve")


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; a second signal ends the process the usual way."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopping(number: signal.Signals) -> None:
        log.info("stopping", signal=number.name)
        stop.set()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(one)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping, number)
    return stop


async def serve(app: web.Application, host: str, port: int, stop: asyncio.Event) -> None:
    """Serve until `stop`; requests under way are finished within ten seconds."""
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, max_line_size=8190, max_field_size=8190
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        log.info("listening", host=host, port=port)
        await stop.wait()
    finally:
        await runner.cleanup()
        log.info("stopped")


def health_app(checks: Mapping[str, ReadyCheck], registry: CollectorRegistry) -> web.Application:
    """`/livez`, `/readyz` and `/metrics` for a process without an API."""

    async def livez(_: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        failed = await failed_checks(dict(checks))
        return json_response({"status": "unavailable" if failed else "ok", "failed": failed}, 503 if failed else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


async def run_all(stop: asyncio.Event, *jobs: Coroutine[Any, Any, None]) -> None:
    """Run jobs until `stop`. When one ends or fails before that, the others are stopped and its error is raised,
    so that the process exits and is started again instead of living on half dead."""
    tasks: list[asyncio.Task[Any]] = [asyncio.ensure_future(job) for job in jobs]
    stopped: asyncio.Task[Any] = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        ended_early = not stop.is_set()
        stop.set()
        done, _ = await asyncio.wait(tasks, timeout=_SHUTDOWN_SECONDS + 5)
        for task in done:
            task.result()
        if ended_early:
            raise RuntimeError("a background job ended before the process was asked to stop")
    finally:
        for task in (*tasks, stopped):
            task.cancel()
        await asyncio.gather(*tasks, stopped, return_exceptions=True)
