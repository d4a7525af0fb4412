"""What the guard of a route costs: the ledger's POST of a payment as deployed, against the same without a guard.

Without means: the caller is looked up by his whole header, his token is neither verified nor compared with what was
heard of changed access, his calls are not counted, and no guard is asked. Both are one process, which is told before
each round whether it guards: two processes differ by more than the guard costs, whatever they do.
"""

from __future__ import annotations

import asyncio
import base64
import multiprocessing
import os
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from aiohttp import web
from joserfc.jwk import ECKey

from bench import posting
from bench.rounds import Result, measure
from services.ledger.app import create_app
from shared import logs
from shared.access.principal import Guard, Principal
from shared.access.revocation import Revocations
from shared.access.tokens import ALGORITHM, KeyCache, TokenVerifier
from shared.bus import BILLING_EVENTS, Message
from shared.config import Config
from shared.contracts.envelope import Event, encode
from shared.contracts.identity_events import HEARTBEAT, HEARTBEAT_KEY, Heartbeat
from shared.ids import uuid7
from shared.loopback import LoopbackBus
from shared.process import run_process
from shared.web import doorkeeper
from shared.web.limits import CallLimit
from shared.web.serve import serve

_ROUNDS, _SECONDS = 60, 0.5
"""The same against the same gave 0.81 to 1.25 in single rounds: only many of them can show a few in a hundred."""
_CHANGED: Final = 10_000
"""Subjects whose access has changed within the hour: a bad day of a large customer."""


class _Identity:
    """A snapshot of changes that concern none of those who post."""

    async def get(self, _path: str, params: Any = None) -> Any:
        first = params["after"]
        rows = [{"subject": str(uuid7()), "authz_version": 2, "not_before": 1} for _ in range(params["limit"])]
        following = first + len(rows)
        return {"items": rows, "next": following if following < _CHANGED else None}

    async def post_form(self, _path: str, form: Any) -> Any:
        raise AssertionError("a token was asked about although news is fresh")


def guarded(public: Mapping[str, Any], config: Config) -> web.Application:
    """The ledger as deployed, but that its keys and its news of changed access come from here and not from identity."""

    async def keys() -> Mapping[str, Any]:
        return {"keys": [public]}

    async def beating(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(beat())
        yield
        task.cancel()

    async def beat() -> None:
        while True:
            data = Heartbeat(as_of=datetime.now(UTC))
            event = Event[Heartbeat](id=uuid7(), source="/identity", type=HEARTBEAT, time=datetime.now(UTC), data=data)
            message = Message(str(event.id), HEARTBEAT, HEARTBEAT_KEY, encode(event).encode())
            await bus.publish(BILLING_EVENTS, [message])
            await asyncio.sleep(5)

    bus = LoopbackBus()
    verifier = TokenVerifier(
        KeyCache(keys), issuer=config.issuer, audience=config.audience, revocations=Revocations(_Identity())
    )
    app = create_app(config, verifier, bus)
    app.cleanup_ctx.append(beating)
    return app


def _serve(dsn: str, port: int, public: Mapping[str, Any], tokens: tuple[str, ...], guards: Any) -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    logs.configure("info", "json")
    config = Config(ledger_database_url=dsn, internal_client_secret="bench", calls_per_second=1_000_000)  # noqa: S106
    _guard_only_when(guards, tokens)
    run_process(serve(guarded(public, config), "127.0.0.1", port, asyncio.Event()))


def _guard_only_when(guards: Any, tokens: tuple[str, ...]) -> None:
    """While `guards.value` is not set, these tokens are believed unseen."""
    callers = {f"Bearer {token}": _caller(token) for token in tokens}
    authenticate, take, admits = doorkeeper.authenticate, CallLimit.take, Guard.admits

    async def switched(request: web.Request, verifier: TokenVerifier) -> Principal:
        if guards.value:
            return await authenticate(request, verifier)
        return callers[request.headers["Authorization"]]

    doorkeeper.authenticate = switched
    CallLimit.take = lambda self, caller: take(self, caller) if guards.value else None  # type: ignore[method-assign]
    Guard.admits = lambda self, principal: not guards.value or admits(self, principal)  # type: ignore[method-assign]


def _caller(token: str) -> Principal:
    claims = orjson.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    same = ("client_id", "user_name", "user_type", "role", "affiliation", "locations")
    return Principal(
        subject=UUID(claims["sub"]),
        company_id=UUID(claims["company_id"]),
        authz_version=claims["authz_ver"],
        token_id=claims["jti"],
        expires_at=claims["exp"],
        **{name: claims[name] for name in same},
    )


def guarding(dsn: str) -> list[Result]:
    """The ratio is of payments a second with the guard to those without."""
    facts = asyncio.run(posting.prepare(dsn))
    key = ECKey.generate_key("P-256", auto_kid=True)
    public = {**key.as_dict(private=False), "alg": ALGORITHM}
    tokens = tuple(posting.token(key, one["company"]) for one in facts["companies"])
    kinds = tuple(posting.kind(one, token) for one, token in zip(facts["companies"], tokens, strict=True))
    context = multiprocessing.get_context("spawn")
    port, guards = posting.free_port(), context.Value("b", lock=False)
    server = context.Process(target=_serve, args=(dsn, port, public, tokens, guards), daemon=True)
    server.start()
    try:
        posting.wait(port)
        send = posting.sender(port, kinds, seconds=_SECONDS)

        def rate(guarded: bool) -> float:
            guards.value = guarded
            return send()

        name = "post_one_payment, guarded against not"
        return [measure(name, lambda: rate(False), lambda: rate(True), rounds=_ROUNDS)]
    finally:
        server.kill()
        server.join()
