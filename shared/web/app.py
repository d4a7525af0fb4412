"""Builds a service's application: routes from endpoints, and one middleware that identifies, guards, parses,
measures, logs and turns every failure into problem+json."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from uuid import uuid4

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from shared.access.tokens import TokenVerifier
from shared.config import Config
from shared.db import BUSY_OR_AWAY
from shared.errors import (
    BadRequest,
    Forbidden,
    Invalid,
    PayloadTooLarge,
    Problem,
    Unavailable,
    UnsupportedMediaType,
    told,
)
from shared.recorder import Recorder
from shared.web.doorkeeper import Doorkeeper
from shared.web.endpoint import (
    CORRELATION_ID,
    REFUSED_BY,
    REQUEST_ID,
    VERIFIER,
    Endpoint,
    json_response,
    refused_by,
)
from shared.web.headers import secure
from shared.web.openapi import docs_page, openapi_document

MAX_JSON_BYTES = 1 << 20
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,100}\Z")
_BEGUN = web.RequestKey("begun", web.StreamResponse)
_NOT_LOGGED = ("/livez", "/readyz", "/metrics", "/v1/events/heads")
"""Routes that machines ask every few seconds."""
log = structlog.get_logger("http")

ReadyCheck = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class AppParts:
    """What `create_app` needs of a service."""

    name: str
    title: str
    endpoints: Sequence[Endpoint]
    verifier: TokenVerifier
    audit: Recorder
    config: Config
    ready: dict[str, ReadyCheck] = field(default_factory=dict)
    """Named checks of `/readyz`; a check fails by raising."""
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)


def create_app(parts: AppParts) -> web.Application:
    """The application with every declared endpoint, `/livez`, `/readyz`, `/metrics`, `/openapi.json` and `/docs`."""
    app = web.Application(client_max_size=MAX_JSON_BYTES, middlewares=[_Middleware(parts).handle])
    app[VERIFIER] = parts.verifier
    proxies = parts.config.proxies

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        """On every answer, also one that is streamed and has left before its handler ends."""
        request[_BEGUN] = response
        response.headers["X-Request-Id"] = request[REQUEST_ID]
        secure(request, response, proxies)

    app.on_response_prepare.append(add_headers)
    doorkeeper = Doorkeeper(parts.verifier, parts.audit, parts.config)
    for endpoint in parts.endpoints:
        run = doorkeeper.runner(endpoint)
        app.router.add_route(endpoint.method, endpoint.path, run)
        if endpoint.method == "GET":  # Its head is the same answer, of which aiohttp sends no body.
            app.router.add_route("HEAD", endpoint.path, run)
    document = openapi_document(parts.name, parts.title, parts.endpoints)

    async def livez(_: web.Request) -> web.Response:
        return json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        failed = await failed_checks(parts.ready)
        return json_response({"status": "unavailable" if failed else "ok", "failed": failed}, 503 if failed else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(parts.registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def openapi(_: web.Request) -> web.Response:
        return json_response(document)

    async def docs(_: web.Request) -> web.Response:
        return docs_page(document)

    for path, handler in (
        ("/livez", livez),
        ("/readyz", readyz),
        ("/metrics", metrics),
        ("/openapi.json", openapi),
        ("/docs", docs),
    ):
        app.router.add_get(path, handler)
    return app


async def failed_checks(checks: dict[str, ReadyCheck]) -> list[str]:
    """Names of the checks that failed; the reasons are logged, not shown."""
    failed = []
    for name, check in checks.items():
        try:
            await check()
        except Exception:
            log.warning("not_ready", check=name, exc_info=True)
            failed.append(name)
    return failed


class _Middleware:
    def __init__(self, parts: AppParts) -> None:
        self._seconds = Histogram(
            "http_request_seconds",
            "Time to answer, by route template",
            ["method", "route", "status"],
            registry=parts.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self._timer = cache(self._seconds.labels)  # The library's own look-up costs more than the measurement.
        self._errors = Counter(
            "http_unhandled_errors", "Requests that ended in an unexpected exception", registry=parts.registry
        )
        self._name = parts.name

    @property
    def handle(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        @web.middleware
        async def handle(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            started = time.perf_counter()
            request_id = _given_id(request, "X-Request-Id") or str(uuid4())
            correlation_id = _given_id(request, "X-Correlation-Id") or request_id
            request[REQUEST_ID], request[CORRELATION_ID] = request_id, correlation_id
            structlog.contextvars.clear_contextvars()
            structlog.contextvars.bind_contextvars(
                service=self._name, request_id=request_id, correlation_id=correlation_id
            )
            try:
                response = await handler(request)
            except Exception as error:
                response = self._problem(request, error, request_id)
            resource = request.match_info.route.resource
            route = resource.canonical if resource else "(none)"
            seconds = time.perf_counter() - started
            self._timer(request.method if resource else "OTHER", route, response.status).observe(seconds)
            if not route.endswith(_NOT_LOGGED):
                log.info(
                    "request",
                    method=request.method,
                    route=route,
                    status=response.status,
                    ms=round(seconds * 1000, 2),
                    **response.get(REFUSED_BY, {}),
                )
            return response

        return handle

    def _problem(self, request: web.Request, error: Exception, request_id: str) -> web.StreamResponse:
        problem = _as_problem(error)
        if problem is None:
            self._errors.inc()
            log.error("unhandled_error", exc_info=error)
            problem = Problem("The request could not be completed; nothing is known to have been stored")
        begun: web.StreamResponse | None = request.get(_BEGUN)
        if begun is not None:
            # Part of the answer has left: it is cut off, so that nobody takes it for the whole.
            log.warning("answer_cut_off", code=problem.code)
            if request.transport is not None:
                request.transport.abort()
            return begun
        return problem_response(problem, request_id)


def problem_response(problem: Problem, request_id: str) -> web.Response:
    response = json_response(problem_document(problem, request_id), problem.status, problem.headers)
    response.content_type = "application/problem+json"
    refused_by(response, problem.code, (error.code for error in problem.errors))
    return response


def problem_document(problem: Problem, request_id: str) -> dict[str, Any]:
    """RFC 9457. `errors` names fields and rules and never repeats what was sent."""
    return {
        "type": f"urn:billing:problem:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "request_id": request_id,
        "errors": told(problem.errors),
    }


def _given_id(request: web.Request, name: str) -> str | None:
    value = request.headers.get(name)
    return value if value and _REQUEST_ID.match(value) else None


_BY_STATUS: dict[int, type[Problem]] = {
    400: BadRequest,
    403: Forbidden,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    422: Invalid,
}


def _as_problem(error: Exception) -> Problem | None:
    """A known failure as a problem; None for what nobody expected."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, web.HTTPException):
        problem = (
            _BY_STATUS[error.status]()
            if error.status in _BY_STATUS
            else Problem(error.reason or "", code=_slug(error.reason))
        )
        problem.status, problem.title = error.status, error.reason or "Error"
        if error.status == 404:
            problem.detail = "There is no such address; openapi.json of each service has them all"
        elif error.status == 405:
            allowed = error.headers.get("Allow", "")
            problem.headers = {"Allow": allowed}
            problem.detail = f"This address takes {allowed.replace(',', ', ')}"
        return problem
    if isinstance(error, (TimeoutError, *BUSY_OR_AWAY)):
        return Unavailable()
    return None


def _slug(reason: str | None) -> str:
    return re.sub(r"[^a-z]+", "_", (reason or "error").lower()).strip("_")
