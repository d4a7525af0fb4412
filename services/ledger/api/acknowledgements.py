"""What we answer to an X12 file whose sender asks for it (ISA14): TA1 and 999."""

from __future__ import annotations

from aiohttp import web

from services.ledger.api.common import readers
from services.ledger.api.feeds import READ, sender_of
from services.ledger.feeds import answers, intake
from shared.web import Call, Endpoint

_EDI = "application/edi-x12"


async def read(call: Call) -> web.Response:
    """All of them, one interchange after the other; 404 where the sender asked for none."""
    pool, company, feed_id = readers(call), call.principal.company, call.path_id()
    await intake.read_feed(pool, company, feed_id, sender_of(call))
    return web.Response(body=await answers.read_answers(pool, company, feed_id), content_type=_EDI)


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/feeds/{id}/acknowledgements",
        read,
        READ,
        "The TA1 and 999 that a feed's sender asked for",
        answer_type=_EDI,
    ),
)
