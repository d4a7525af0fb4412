"""P1: POST of one payment, durable and with everything it takes, against a bare aiohttp + asyncpg INSERT handler.

Both run as one process each with the same pool size, on the same PostgreSQL with fsync on.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey

from bench.load import Load, run
from bench.rounds import Result, measure
from services.ledger.app import MIGRATIONS, create_app
from shared import logs
from shared.access.tokens import ALGORITHM, TOKEN_TYPE, KeyCache, TokenVerifier
from shared.config import Config
from shared.db import create_pool
from shared.ids import uuid7
from shared.migrate import migrate
from shared.process import run_process
from shared.web.serve import serve

_COMPANIES = 100
_CONNECTIONS = 128
"""Enough for a rate to be that of the work. With fewer, group commit waits more than it works: a row shows it."""
_FEW = 64
_SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))


async def prepare(dsn: str) -> dict[str, Any]:
    """Migrated books of a hundred companies with a location, a patient and a payer each; and the floor's table."""
    await migrate(dsn, MIGRATIONS)
    connection = await asyncpg.connect(dsn)
    companies = []
    for index in range(_COMPANIES):
        company, location, patient, payer = (uuid7() for _ in range(4))
        await connection.execute(
            "insert into directory_company values ($1, 1, $2, 'Bench', 'revequip', 'UTC', 'deposit_date', '{}', true)",
            company,
            f"B{index}",
        )
        await connection.execute(
            "insert into directory_location values ($1, $2, 1, 'L', 'Main', null, true)", company, location
        )
        await connection.execute("insert into company_book values ($1)", company)
        await connection.execute("insert into payer values ($1, $2, 'P', 'Payer', null, '{}', 0)", company, payer)
        await connection.execute(
            "insert into patient values ($1, $2, 'A', 'Pat', 'Doe', '1980-01-01', null, 0)", company, patient
        )
        ids = {"company": company, "location": location, "patient": patient, "payer": payer}
        companies.append({name: str(value) for name, value in ids.items()})
    await connection.execute(
        "create table floor_payment (payment_id uuid primary key, company_id uuid not null,"
        " amount_cents bigint not null, deposit_date date not null, body text not null)"
    )
    await connection.close()
    return {"companies": companies}


def token(key: ECKey, company: str) -> str:
    now = int(time.time())
    claims = {
        "iss": "billing-identity",
        "aud": "billing",
        "sub": str(uuid7()),
        "client_id": "bench",
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "jti": str(uuid7()),
        "user_name": "bench",
        "user_type": "partner",
        "role": "partner_payment_poster",
        "affiliation": "practice",
        "company_id": company,
        "locations": "*",
        "authz_ver": 1,
    }
    header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": key.kid}
    return jws.serialize_compact(header, orjson.dumps(claims), key, algorithms=[ALGORITHM])


def _floor(dsn: str, port: int, same_loop: bool) -> None:
    """The obvious handler without any of the product: parse, one INSERT, answer. It runs as anybody would start it,
    on the standard event loop; or, to see what the rest of the product costs, on the same loop as ours."""

    async def main() -> None:
        pool = await create_pool(dsn, name="floor", size=10)

        async def post(request: web.Request) -> web.Response:
            body = orjson.loads(await request.read())
            payment_id = uuid7()
            await pool.execute(
                "insert into floor_payment values ($1, $2, $3, $4, $5)",
                payment_id,
                UUID(body["patient_id"]),
                body["amount_cents"],
                datetime.now(UTC).date(),
                body["memo"],
            )
            return web.Response(body=orjson.dumps({"id": payment_id}), status=201, content_type="application/json")

        app = web.Application()
        app.router.add_post("/v1/payments", post)
        await serve(app, "127.0.0.1", port, asyncio.Event())

    (run_process if same_loop else asyncio.run)(main())


def _product(dsn: str, port: int, public: Mapping[str, Any]) -> None:
    """The ledger's API as deployed, but for its keys, which come from here instead of identity."""
    sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    logs.configure("info", "json")

    async def keys() -> Mapping[str, Any]:
        return {"keys": [public]}

    # Calls are counted as they are deployed, but one poster of one company may make as many as all of a hundred.
    config = Config(ledger_database_url=dsn, internal_client_secret="bench", calls_per_second=1_000_000)  # noqa: S106
    verifier = TokenVerifier(KeyCache(keys), issuer=config.issuer, audience=config.audience)
    run_process(serve(create_app(config, verifier), "127.0.0.1", port, asyncio.Event()))


def posting(dsn: str) -> list[Result]:
    """Ratios for payments spread over the companies, against the floor on the standard loop and on ours; and of one."""
    facts = asyncio.run(prepare(dsn))
    key = ECKey.generate_key("P-256", auto_kid=True)
    public = {**key.as_dict(private=False), "alg": ALGORITHM}
    context = multiprocessing.get_context("spawn")
    bare, same, mine = free_port(), free_port(), free_port()
    servers = [
        context.Process(target=_floor, args=(dsn, bare, False), daemon=True),
        context.Process(target=_floor, args=(dsn, same, True), daemon=True),
        context.Process(target=_product, args=(dsn, mine, public), daemon=True),
    ]
    for server in servers:
        server.start()
    try:
        for port in (bare, same, mine):
            wait(port)
        kinds = tuple(kind(one, token(key, one["company"])) for one in facts["companies"])
        product = sender(mine, kinds)
        return [
            measure("post_one_payment", sender(bare, kinds), product),
            measure("post_one_payment, floor on uvloop", sender(same, kinds), product),
            measure("post_one_payment, one company", sender(bare, kinds[:1]), sender(mine, kinds[:1])),
            measure("post_one_payment, 64 callers", sender(bare, kinds, _FEW), sender(mine, kinds, _FEW)),
        ]
    finally:
        for server in servers:
            server.kill()
            server.join()


def kind(facts: Mapping[str, str], token: str) -> tuple[str, str]:
    """Head and body of a payment in one of the companies."""
    body = json.dumps(
        {
            "method": "check",
            "check_number": "%N%",
            "payer_id": facts["payer"],
            "patient_id": facts["patient"],
            "location_id": facts["location"],
            "amount_cents": 12345,
            "deposit_date": datetime.now(UTC).date().isoformat(),
            "batch_number": "BENCH",
            "memo": "a payment",
        }
    )
    head = (
        "POST /v1/payments HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nIdempotency-Key: {uuid7()}-%N%\r\n"
    )
    return head, body


def sender(
    port: int, kinds: tuple[tuple[str, str], ...], connections: int = _CONNECTIONS, seconds: float = _SECONDS
) -> Callable[[], float]:
    """Sends payments for a while and says how many a second."""
    sent = 0

    def send() -> float:
        nonlocal sent
        result = run(Load(port, connections, seconds, kinds, first=sent))
        sent += int(result["count"]) + connections
        return result["rate"]

    return send


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")
