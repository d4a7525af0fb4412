"""What every handler of the ledger does: post a person's command and answer its document."""

from __future__ import annotations

import asyncpg
from aiohttp import web

from services.ledger import service
from services.ledger.domain.commands import Act
from services.ledger.service import Ledger
from shared.errors import PayloadTooLarge
from shared.web import Call, json_response

_PIECE = 1 << 20
IN_MEMORY_BYTES = 8 << 20
"""The largest feed body that is held in memory and answered at once."""
LEDGER: web.AppKey[Ledger] = web.AppKey("ledger", Ledger)


READERS: web.AppKey[asyncpg.Pool] = web.AppKey("readers", asyncpg.Pool)
"""Connections of the reader's role (migrations/0011_rows.sql), for all that is read for a caller."""


def ledger(call: Call) -> Ledger:
    return call.app[LEDGER]


def readers(call: Call) -> asyncpg.Pool:
    return call.app[READERS]


async def whole(request: web.Request) -> bytes:
    """A feed's body, held in memory; raises PayloadTooLarge as soon as it is larger than that may be."""
    found = bytearray()
    async for piece in request.content.iter_chunked(_PIECE):
        found += piece
        if len(found) > IN_MEMORY_BYTES:
            raise PayloadTooLarge()
    return bytes(found)


async def post(call: Call, act: Act) -> web.Response:
    """Post an act of the caller in his company. The answer of a repeated key carries `Idempotency-Replayed`."""
    command = service.command(
        call.principal.company,
        service.person(call.principal),
        act,
        route=f"{call.endpoint.method} {call.endpoint.path}",
        path="/".join(call.request.match_info.values()).lower(),
        correlation_id=call.correlation_id,
        key=call.idempotency_key if call.endpoint.idempotent else None,
        body=call.body_hash,
    )
    verdict = await ledger(call).post(command)
    headers = {"Idempotency-Replayed": "true"} if verdict.replayed else None
    return json_response(verdict.unwrap(), call.endpoint.status, headers)
