"""What the guard of a route costs: the ledger's POST of a payment as deployed, against the same without a guard.

Without means: the caller is looked up by his whole header, his token is neither verified nor compared with what was
heard of changed access, his calls are not counted, and no guard is asked. Both run as one process each, on the same
PostgreSQL.
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
from shared.web.serve import serve

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


def _serve(dsn: str, port: int, public: Mapping[str, Any], tokens: tuple[str, ...]) -> None:
    """With tokens: those are believed unseen."""
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    logs.configure("info", "json")
    rate = 0 if tokens else 1_000_000
    config = Config(ledger_database_url=dsn, internal_client_secret="bench", calls_per_second=rate)  # noqa: S106
    if tokens:
        _unguard(tokens)
    run_process(serve(guarded(public, config), "127.0.0.1", port, asyncio.Event()))


def _unguard(tokens: tuple[str, ...]) -> None:
    callers = {f"Bearer {token}": _caller(token) for token in tokens}

    async def authenticate(request: web.Request, verifier: TokenVerifier) -> Principal:
        return callers[request.headers["Authorization"]]

    doorkeeper.authenticate = authenticate
    Guard.admits = lambda self, principal: True  # type: ignore[method-assign]


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
    bare, mine = posting.free_port(), posting.free_port()
    servers = [
        context.Process(target=_serve, args=(dsn, bare, public, tokens), daemon=True),
        context.Process(target=_serve, args=(dsn, mine, public, ()), daemon=True),
    ]
    for server in servers:
        server.start()
    try:
        for port in (bare, mine):
            posting.wait(port)
        without, with_guard = posting.sender(bare, kinds), posting.sender(mine, kinds)
        return [measure("post_one_payment, guarded against not", without, with_guard)]
    finally:
        for server in servers:
            server.kill()
            server.join()
