"""Taking in the ledger's events: each kept once, folded in order of version, exactly once.

Only contiguous prefixes are folded: an event that comes early waits in the inbox until the gap before it is closed.
So the balancing tables of a company are at every moment exactly the books at one version, which reports name. Keeping,
folding and moving on are one transaction; redelivery, reordering and a crash at any point change nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

import asyncpg
import structlog
from prometheus_client import CollectorRegistry, Counter

from services.reporting import store
from services.reporting.projections import Malformed, check, project
from shared.bus import BILLING_EVENTS, Message, Outcome, Subscription
from shared.contracts.envelope import Event, correlation_ids
from shared.contracts.ledger_events import POSTING, PostingEvent
from shared.db import Connection, acquire

SUBSCRIPTION: Final = Subscription(queue="reporting.ledger.v1", exchange=BILLING_EVENTS, routing_keys=("ledger.#",))

_CHUNK_BYTES: Final = 2 << 20
"""Events of a bulk posting are large: so much of them goes into one transaction, which bounds memory, too."""
_BAD_DATA: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""The escape, and not an escaped backslash before "u0000", which is text that anybody may write."""
log = structlog.get_logger("inbox")


@dataclass(frozen=True, slots=True)
class Received:
    """An event that was understood, with the text it came as."""

    event: Event[PostingEvent]
    body: str

    @property
    def key(self) -> tuple[UUID, int]:
        return self.event.data.company_id, self.event.data.first_version

    def offer(self) -> store.Offer:
        event, data = self.event, self.event.data
        return store.Offer(data.company_id, data.first_version, data.version, event.id, event.time, self.body)


def read(body: str | bytes) -> Received:
    """Parse one event of type `ledger.posting.v1`. Raises `Malformed` (or its base, ValueError)."""
    text = body if isinstance(body, str) else body.decode()
    if "\\u0000" in text and _NUL.search(text):
        raise Malformed("PostgreSQL cannot keep the character U+0000")
    event = Event[PostingEvent].model_validate_json(text)
    if event.type != POSTING:
        raise Malformed("the type is not one that is folded here")
    check(event.data)
    return Received(event, text)


class Inbox:
    """The way in. `handle` takes batches of the bus, `receive` events from wherever they come."""

    def __init__(self, pool: asyncpg.Pool, registry: CollectorRegistry | None = None) -> None:
        self._pool = pool
        self._ready: set[UUID] = set()
        """Companies whose next event was waiting when a batch was folded."""
        self._folded = Counter(
            "reporting_events_folded", "Ledger events folded into balancing tables", registry=registry
        )
        self._parked = Counter("reporting_events_parked", "Ledger events that nobody can fold", registry=registry)

    async def handle(self, batch: Sequence[Message]) -> Sequence[Outcome]:
        """Bus handler: DONE for what is committed, PARK for what cannot be understood or contradicts the inbox."""
        outcomes: list[Outcome] = []
        for chunk in _chunks(batch):
            events = [_understood(message) for message in chunk]
            received = iter(await self.receive([event for event in events if event is not None]))
            outcomes += [Outcome.PARK if event is None else next(received) for event in events]
        parked = outcomes.count(Outcome.PARK)
        self._parked.inc(parked)
        followed = correlation_ids(message.body for message in batch)
        log.info("events_received", events=len(batch), parked=parked, correlation_ids=followed)
        return outcomes

    async def receive(self, events: Sequence[Received]) -> list[Outcome]:
        """Keep and fold events. Raises only when the database cannot be used; then nothing is known of the rest."""
        outcomes: list[Outcome] = []
        for chunk in _chunks(events):
            try:
                outcomes += await self._receive(chunk)
            except _BAD_DATA:
                # One bad row must not hold up the good ones: each alone, and what fails alone is bad.
                outcomes += [await self._receive_one(event) for event in chunk]
        for company in {event.key[0] for event in events} & self._ready:
            await self.drain(company)
        return outcomes

    async def _receive_one(self, event: Received) -> Outcome:
        try:
            return (await self._receive([event]))[0]
        except _BAD_DATA as error:
            log.error("ledger_event_unfit", event_id=str(event.event.id), error=type(error).__name__)
            return Outcome.PARK

    async def _receive(self, events: Sequence[Received]) -> list[Outcome]:
        # Copies within the batch are set aside first, so that one statement never meets a key twice.
        first = {event.key: event for event in reversed(events)}
        async with acquire(self._pool) as connection, connection.transaction():
            versions = await store.lock(connection, [company for company, _ in first])
            verdicts = await store.keep(connection, [event.offer() for event in first.values()])
            judged = dict(zip(first, verdicts, strict=True))
            more = await self._fold(connection, versions, [event for key, event in first.items() if judged[key].new])
        self._ready.update(more)
        return [self._outcome(event, first[event.key], judged[event.key]) for event in events]

    @staticmethod
    def _outcome(event: Received, first: Received, verdict: store.Verdict) -> Outcome:
        if (verdict.new or verdict.known) and (event is first or event.event == first.event):
            return Outcome.DONE
        company, version = event.key
        # This never happens unless somebody writes events who is not the ledger, or it lost committed ones.
        log.critical("ledger_event_contradicts", company_id=str(company), version=version, event_id=str(event.event.id))
        return Outcome.PARK

    async def drain(self, company_id: UUID) -> None:
        """Fold what waits in the inbox and is next, a transaction for each so many bytes."""
        self._ready.discard(company_id)
        try:
            more = [company_id]
            while more:
                async with acquire(self._pool) as connection, connection.transaction():
                    more = await self._fold_waiting(connection, company_id)
        except (*_BAD_DATA, ValueError) as error:
            # It was kept before its turn came. Nothing after it can be folded; everybody else's can.
            log.critical("company_is_stuck", company_id=str(company_id), error=type(error).__name__)

    async def _fold_waiting(self, connection: Connection, company_id: UUID) -> list[UUID]:
        versions = await store.lock(connection, [company_id])
        bodies = await store.waiting(connection, company_id, versions[company_id], _CHUNK_BYTES)
        return await self._fold(connection, versions, [read(body) for body in bodies])

    async def _fold(self, connection: Connection, versions: dict[UUID, int], events: Sequence[Received]) -> list[UUID]:
        """Fold those events that continue their company's version; answers the companies that can go on."""
        chains = _chains(versions, events)
        if not chains:
            return []
        reached = {company: (chain[-1].event.data.version, chain[-1].event.time) for company, chain in chains.items()}
        in_order = [event.event.data for chain in chains.values() for event in chain]
        more = await store.fold(connection, project(in_order), reached)
        self._folded.inc(len(in_order))
        return more

    async def rebuild(self, connection: Connection, company_id: UUID) -> None:
        """Recompute a company from its inbox, in the transaction of an owner's connection. Readers see the old state
        until it commits; the company's consumers wait."""
        await store.lock(connection, [company_id])
        await store.reset(connection, company_id)
        while await self._fold_waiting(connection, company_id):
            pass


def _chains(versions: dict[UUID, int], events: Sequence[Received]) -> dict[UUID, list[Received]]:
    """Of each company's events those that follow its version without a gap, in order."""
    chains: defaultdict[UUID, list[Received]] = defaultdict(list)
    at = dict(versions)
    for event in sorted(events, key=lambda event: event.key):
        company, first_version = event.key
        if first_version == at[company] + 1:
            chains[company].append(event)
            at[company] = event.event.data.version
    return chains


def _understood(message: Message) -> Received | None:
    try:
        if message.type != POSTING:
            raise Malformed("unknown type")
        return read(message.body)
    except ValueError as error:  # The parser's own errors among them, which quote what they choked on.
        rule = str(error) if isinstance(error, Malformed) else type(error).__name__
        log.error("ledger_event_parked", type=message.type, message_id=message.message_id, rule=rule)
        return None


_Item = TypeVar("_Item", Message, Received)


def _chunks(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    chunk: list[_Item] = []
    size = 0
    for item in items:
        if chunk and size + len(item.body) > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item.body)
    if chunk:
        yield chunk
