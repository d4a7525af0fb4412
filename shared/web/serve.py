"""Running a process: serve an application, or work in the background with a small health port; stop gracefully.

Every caller gets so much time and memory and no more: see `_LIMITS` and the rule for bodies in `_in_time`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from shared.address import Proxies
from shared.config import Config
from shared.errors import BadRequest, ExpectationFailed, Problem
from shared.tls import server_context
from shared.web.app import ReadyCheck, failed_checks, problem_response
from shared.web.endpoint import json_response
from shared.web.headers import secure

_SHUTDOWN_SECONDS = 10.0
_HEAD_SECONDS = 20.0
"""For the head of a request, and for silence between two. Longer than the 15 s after which aiohttp's own client gives
up a connection, so that it never sends on one that is just being closed."""
_BODY_SECONDS, _BODY_BYTES_A_SECOND = 20.0, 500
"""What a body may take: the rule of Apache's RequestReadTimeout (`body=20,MinRate=500`)."""
_UNREAD_SECONDS = 60
"""For a caller who stops reading his answer."""
_SERVER: Final = "billing"
_CONTINUE: Final = "100-continue"
_LIMITS: Final[Mapping[str, Any]] = {
    "access_log": None,
    "auto_decompress": False,
    "lingering_time": 2.0,
    "max_line_size": 8190,
    "max_field_size": 8190,
    "max_headers": 128,
}
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


async def serve(
    app: web.Application, host: str, port: int, stop: asyncio.Event, tls: ssl.SSLContext | None = None
) -> None:
    """Serve until `stop`; requests under way are finished within ten seconds."""
    async with listening(app, host, port, tls=tls):
        log.info("listening", host=host, port=port, tls=tls is not None)
        await stop.wait()
    log.info("stopped")


def tls_context(config: Config) -> ssl.SSLContext | None:
    """What to serve HTTPS with; None: no certificate is set, so it is HTTP."""
    if config.tls_certificate is None:
        return None
    return server_context(config.tls_certificate, config.tls_key)


@asynccontextmanager
async def listening(
    app: web.Application,
    host: str | None = None,
    port: int | None = None,
    *,
    sock: socket.socket | None = None,
    tls: ssl.SSLContext | None = None,
    shutdown_seconds: float = _SHUTDOWN_SECONDS,
) -> AsyncIterator[None]:
    """Serve on an address or on a bound socket for as long as the context lasts."""
    app.on_response_prepare.append(_nameless)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    try:
        manager = runner.server
        if manager is None:
            raise RuntimeError("the application did not start")
        manager.request_handler = _as_expected(_in_time(manager.request_handler))
        loop = asyncio.get_running_loop()

        def connection() -> _Connection:
            return _Connection(manager, loop=loop, keepalive_timeout=_HEAD_SECONDS, **_LIMITS)

        where: dict[str, Any] = {"sock": sock} if sock else {"host": host, "port": port}
        listener = await loop.create_server(connection, **where, ssl=tls, backlog=1024)
        try:
            yield
        finally:
            listener.close()
    finally:
        await runner.cleanup()


async def _nameless(_: web.Request, response: web.StreamResponse) -> None:
    """Nobody needs to know which versions of what answer him."""
    response.headers["Server"] = _SERVER


async def harmless(request: web.Request, response: web.StreamResponse) -> None:
    """For applications that are not a service's: `create_app` sees to its own."""
    secure(request, response, Proxies())


def _refusal(request: web.BaseRequest, problem: Problem) -> web.Response:
    """The answer to what reaches no application. The connection ends with it: who knows what comes next on it."""
    request_id = str(uuid4())
    response = problem_response(problem, request_id)
    response.headers.update({"X-Request-Id": request_id, "Server": _SERVER})
    secure(request, response, Proxies())
    response.force_close()
    return response


_Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def _as_expected(handle: _Handle) -> _Handle:
    """The same handler of requests, which refuses with 417 what cannot be expected of it (RFC 9110 10.1.1): aiohttp's
    own refusal repeats what was sent, and comes before anything of ours."""

    async def refusing(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", _CONTINUE).lower() != _CONTINUE:
            log.info("not_http", status=ExpectationFailed.status)
            return _refusal(request, ExpectationFailed())
        return await handle(request)

    return refusing


class _TooSlow(Problem, TimeoutError):
    """A TimeoutError too, because that is what aiohttp expects of a body that does not come."""

    status, code, title = 408, "request_timeout", "The body came too slowly"


def _in_time(handle: _Handle) -> _Handle:
    """The same handler of requests, whose bodies fail with 408 when they keep it waiting (quality case 17)."""

    async def bounded(request: web.BaseRequest) -> web.StreamResponse:
        if not request.can_read_body:
            return await handle(request)
        loop, body = asyncio.get_running_loop(), request.content
        started = loop.time()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if body.is_eof():
                return
            left = started + _BODY_SECONDS + body.total_bytes / _BODY_BYTES_A_SECOND - loop.time()
            if left <= 0:
                body.set_exception(_TooSlow())
            else:
                timer = loop.call_later(min(left, _BODY_SECONDS), look)

        timer = loop.call_later(_BODY_SECONDS, look)
        try:
            return await handle(request)
        finally:
            timer.cancel()

    return bounded


class _Connection(web.RequestHandler):
    """aiohttp's connection, with a time for reading answers, and with our answer to what is no HTTP: its own repeats
    the bytes that it choked on."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        connected = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT") and connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_SECONDS * 1_000)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Only for what reaches no application: a request that cannot be parsed, or an answer that cannot be sent."""
        if status == 400:
            log.info("not_http", status=status)
            problem: Problem = BadRequest("This is not HTTP, or a line of it is longer than 8,190 bytes")
        else:
            log.error("unanswered", exc_info=exc)
            problem = Problem("The request could not be completed")
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        return _refusal(request, problem)


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
    app.on_response_prepare.append(harmless)
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
