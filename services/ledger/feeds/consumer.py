"""The EMR queue: CloudEvents over AMQP, committed before they are acknowledged."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid5

import structlog

from services.ledger.feeds import emr, intake
from services.ledger.feeds.attempts import Attempts, Past, Work
from services.ledger.feeds.cloudevents import EmrEvent, envelope, structured, understand
from services.ledger.feeds.intake import Feed
from services.ledger.service import Ledger
from shared.bus import EMR_FEED, Bus, Message, Outcome, Subscription
from shared.errors import PayloadTooLarge, Problem
from shared.ids import NO_COMPANY, uuid7
from shared.web.bodies import load_json

SUBSCRIPTION: Final = Subscription(queue="ledger.emr.v1", exchange=EMR_FEED, routing_keys=("emr.#",), batch_size=200)
_MAX_BYTES: Final = 1 << 20
"""One event is some hundred bytes; reading a hundred megabytes would hold up everybody else's."""
_UNKNOWN: Final = "(unknown)"
_Routed = tuple[EmrEvent, str | None]
"""An event, and why it cannot be routed."""
log = structlog.get_logger("emr")


class EmrConsumer:
    """Takes batches of EMR events. One feed per company, source and day, so that a day can be counted and compared."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._attempts = Attempts(ledger.pool)
        self._opened: set[UUID] = set()

    async def run(self, bus: Bus, stop: asyncio.Event) -> None:
        await bus.consume(SUBSCRIPTION, self.handle, stop)

    async def handle(self, batch: Sequence[Message]) -> Sequence[Outcome]:
        """DONE once an event has a committed outcome; an unreadable envelope is parked, and what breaks its handling
        comes again until it is quarantined as poison. An exception (the books are away) means all of the batch."""
        started = time.monotonic()
        understood = [_read(message) for message in batch]
        events = [event for event in understood if event is not None]
        groups: dict[tuple[UUID, str], dict[str, list[_Routed]]] = defaultdict(lambda: defaultdict(list))
        for event, route in zip(events, await emr.route_all(self._ledger, events), strict=True):
            # Sources that nobody registered may be any text: they share one feed.
            source = event.source if route.company_id != NO_COMPANY else _UNKNOWN
            groups[route.company_id, source][_key(event)].append((event, route.reason))
        correlation_id = str(uuid7())
        outcomes: dict[str, Outcome] = {}
        for (company_id, source), members in groups.items():
            feed = await self._feed(company_id, source)
            outcomes |= await self._attempts.make(self._work(feed, members, correlation_id))
        parked = len(batch) - len(events)
        log.info(
            "emr_batch",
            events=len(events),
            parked=parked,
            again=sum(outcome is Outcome.RETRY for outcome in outcomes.values()),
            correlation_id=correlation_id,
            ms=round((time.monotonic() - started) * 1000, 1),
        )
        return [Outcome.PARK if event is None else outcomes[_key(event)] for event in understood]

    def _work(self, feed: Feed, members: Mapping[str, Sequence[_Routed]], correlation_id: str) -> Work[_Routed]:
        async def handle(routed: Sequence[_Routed]) -> None:
            known = [event for event, reason in routed if reason is None]
            await emr.take(self._ledger, feed, known, correlation_id)
            for event, reason in routed:
                if reason is not None:
                    await emr.refuse(self._ledger, feed, event, reason)

        async def put_aside(routed: _Routed, past: Past) -> None:
            await emr.put_aside(self._ledger, feed, routed[0], past)

        return Work(feed.company_id, members, handle, put_aside)

    async def _feed(self, company_id: UUID, source: str) -> Feed:
        day = datetime.now(UTC).date().isoformat()
        feed = Feed(company_id, uuid5(company_id, f"amqp {source} {day}"), "emr", "emr")
        if feed.feed_id not in self._opened:
            await intake.open_feed(self._ledger.pool, feed, channel="amqp", sender=source, body_hash=None)
            await intake.close_feed(self._ledger.pool, feed)
            self._opened.add(feed.feed_id)
        return feed


def _key(event: EmrEvent) -> str:
    """Tells messages apart: an event's name, and what it says under it."""
    return hashlib.sha256(f"{event.source}\n{event.event_id}\n".encode() + event.content_hash).hexdigest()


def _read(message: Message) -> EmrEvent | None:
    """The event of a message, in structured or binary mode; None when it cannot be told what it is."""
    try:
        if len(message.body) > _MAX_BYTES:
            raise PayloadTooLarge()
        value: Any = load_json(message.body)
        return understand(envelope(structured(message.content_type, message.headers, value)))
    except Problem as problem:
        log.warning("emr_event_parked", message_id=message.message_id, code=problem.code)
        return None
