"""HL7 v2 over MLLP: a message is answered as soon as it is committed, and posted right after, in the order of arrival.

What is answered and not yet posted stands in the database: a restart goes on with it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid5

import structlog

from services.ledger.feeds import hl7_store, intake
from services.ledger.feeds.hl7.reader import PADDING, Unreadable
from services.ledger.feeds.hl7_intake import Origin, receive, receive_file
from services.ledger.feeds.hl7_posting import post
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.mllp import serve_mllp
from services.ledger.service import Ledger
from shared.bus import pause
from shared.config import Config
from shared.db import BUSY_OR_AWAY
from shared.errors import Unavailable
from shared.ids import uuid7
from shared.tls import server_context

_LOOK_SECONDS: Final = 5.0
"""How often to look for messages that an interrupted process left behind."""
_AGAIN_SECONDS: Final = 1.0
_AWAY: Final = (Unavailable, *BUSY_OR_AWAY, TimeoutError)
log = structlog.get_logger("hl7")


class Hl7Listener:
    """Answers messages and posts what it accepted. One feed per company, sender and day."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._opened: set[UUID] = set()
        self._news = asyncio.Event()
        self._origin = Origin("mllp", self._feed)
        self.port = 0
        """Where it listens; 0: nowhere."""

    async def listen(self, config: Config, stop: asyncio.Event, *, required: bool = True) -> None:
        """Until `stop`. A port that is not required and cannot be had is said, and all else goes on without it."""
        try:
            if config.mllp_port:
                where = config.host, config.mllp_port
                await serve_mllp(self.handle, *where, stop, tls=_tls(config), on_listening=self._listening)
        except OSError as error:
            if required or self.port:
                raise
            log.error("mllp_not_listening", port=config.mllp_port, reason=error.strerror or type(error).__name__)
        await stop.wait()

    def _listening(self, port: int) -> None:
        self.port = port

    async def handle(self, raw: bytes, _peer: str) -> bytes | None:
        """The answer to one frame; None when it could not be kept, so that the sender sends it again."""
        started = time.monotonic()
        try:
            if raw.lstrip(PADDING)[:3] in (b"FHS", b"BHS"):
                answer = await receive_file(self._ledger, raw, self._origin)
            else:
                answer = await receive(self._ledger, raw, self._origin)
        except Unreadable:
            return None  # An envelope around nothing: there is nobody to answer to.
        except _AWAY:
            log.warning("hl7_not_kept", exc_info=True)
            return None
        self._news.set()
        log.info("hl7_answered", bytes=len(raw), ms=round((time.monotonic() - started) * 1000, 1))
        return answer

    async def post_waiting(self, stop: asyncio.Event) -> None:
        """Post what was accepted, here or by whoever did not get to it, until `stop`."""
        while not stop.is_set():
            self._news.clear()
            try:
                while messages := await hl7_store.waiting(self._ledger.pool):
                    await post(self._ledger, messages, str(uuid7()))
            except _AWAY:
                log.warning("hl7_posting_waits", exc_info=True)
                await pause(_AGAIN_SECONDS, stop)
                continue
            await self._next(stop)

    async def _next(self, stop: asyncio.Event) -> None:
        """Until there is news, the time to look again has come, or it is over."""
        waits = [asyncio.ensure_future(one.wait()) for one in (self._news, stop)]
        try:
            await asyncio.wait(waits, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def _feed(self, company_id: UUID, source: str) -> Feed:
        day = datetime.now(UTC).date().isoformat()
        feed = Feed(company_id, uuid5(company_id, f"mllp {source} {day}"), hl7_store.FORMAT, "emr")
        if feed.feed_id not in self._opened:
            await intake.open_feed(self._ledger.pool, feed, channel="mllp", sender=source, body_hash=None)
            await intake.close_feed(self._ledger.pool, feed)
            self._opened.add(feed.feed_id)
        return feed


def _tls(config: Config) -> ssl.SSLContext | None:
    if config.mllp_tls_cert is None:
        return None
    return server_context(config.mllp_tls_cert, config.mllp_tls_key)
