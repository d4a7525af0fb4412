"""HL7 v2 by HTTP, and what is agreed with its senders."""

from __future__ import annotations

import hashlib
from uuid import UUID

from aiohttp import web

from services.ledger.answers_feeds import Hl7ProfileDocument
from services.ledger.api.common import ledger, readers, whole
from services.ledger.feeds import hl7_store, intake
from services.ledger.feeds.hl7.profiles import ProfileIn
from services.ledger.feeds.hl7.reader import Unreadable
from services.ledger.feeds.hl7_intake import Origin, receive_file
from services.ledger.feeds.hl7_posting import post_feed
from services.ledger.feeds.intake import Feed
from shared.access.principal import Guard
from shared.errors import Invalid, NotFound
from shared.ids import uuid7
from shared.web import Call, Endpoint, json_response

_MAX_SOURCE = 401
"""Two names of at most 200 characters and the bar between them."""
_TYPE = "application/hl7-v2"
_UPLOAD = Guard(any_of=(("payment_posting", "edit"),), emr=True)
_READ = Guard(any_of=(("payment_posting", "view"),))
_AGREE = Guard(any_of=(("payment_posting", "edit"),))


async def hl7v2(call: Call) -> web.Response:
    """The acknowledgement of a message, or of a file of them as a batch. What was accepted is posted by then."""
    content, company_id = await whole(call.request), call.principal.company
    await ledger(call).learn({company_id})
    client_id = call.principal.client_id
    feed = Feed(company_id, uuid7(), hl7_store.FORMAT, "emr")
    opened: list[Feed] = []

    async def open_feed(_company_id: UUID, _source: str) -> Feed:
        """One feed for the upload, once there is something to keep."""
        if not opened:
            digest = hashlib.sha256(content).digest()
            pool = ledger(call).pool
            await intake.open_feed(pool, feed, channel="http", sender=client_id, body_hash=digest, chunks=[content])
            opened.append(feed)
        return feed

    try:
        answer = await receive_file(ledger(call), content, Origin("http", open_feed, company_id))
    except Unreadable as error:
        raise Invalid.field("body", "hl7_unreadable", str(error)) from None
    if opened:
        await post_feed(ledger(call), feed, call.correlation_id)
        await intake.close_feed(ledger(call).pool, feed)
    headers = {"X-Feed-Id": str(feed.feed_id)} if opened else None
    return web.Response(body=answer, content_type=_TYPE, headers=headers)


async def read_profile(call: Call) -> web.Response:
    """What is agreed with a sender (`MSH-3|MSH-4`); what nothing was agreed about is as with everybody."""
    source = _source(call)
    profile = await hl7_store.read_profile(readers(call), call.principal.company, source)
    return json_response({"source": source, **profile.model_dump()})


async def write_profile(call: Call) -> web.Response:
    """Messages that come later are read by it; what was posted stays."""
    source = _source(call)
    await hl7_store.write_profile(ledger(call).pool, call.principal.company, source, call.body)
    return json_response({"source": source, **call.body.model_dump()})


def _source(call: Call) -> str:
    source: str = call.request.match_info["source"]
    if len(source) > _MAX_SOURCE or not source.isprintable():
        raise NotFound()
    return source


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/feeds/hl7v2",
        hl7v2,
        _UPLOAD,
        "Send HL7 v2 messages (DFT P03 and P11) or a batch of them",
        raw_types=(_TYPE, "x-application/hl7-v2+er7"),
        answer_type=_TYPE,
    ),
    Endpoint(
        "GET",
        "/v1/feed-profiles/{source}",
        read_profile,
        _READ,
        "What is agreed with a sender of HL7 v2",
        answer=Hl7ProfileDocument,
    ),
    Endpoint(
        "PUT",
        "/v1/feed-profiles/{source}",
        write_profile,
        _AGREE,
        "Agree with a sender of HL7 v2",
        body=ProfileIn,
        answer=Hl7ProfileDocument,
    ),
)
