"""The message bus as the rest of the code sees it: publish and learn what was accepted; subscribe and get batches.

Two implementations, one test suite (`tests/integration/test_bus_conformance.py`):

* `shared.amqp.AmqpBus`: RabbitMQ, for every real deployment;
* `shared.loopback.LoopbackBus`: the same process, for a laptop.

What callers may rely on, with either of them:

* Delivery is at least once and usually, but not always, in order. The same message can come again, also after later
  ones; a handler is idempotent by `message_id`.
* A message that was accepted is either committed by every subscription that it matches, or still waiting for it, or
  parked. It is never dropped.
* A message that was *not* accepted is "unknown", not "failed": it may arrive all the same. Publish it again.
"""

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

import structlog

log = structlog.get_logger(__name__)

BILLING_EVENTS: Final = "billing.events"
EMR_FEED: Final = "emr.feed"


class BusError(Exception):
    """The bus cannot do its work and will not recover by itself: let the process end and be started again."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as published and as delivered.

    `message_id` identifies it for ever: the same event has the same id however often it is published. On delivery it
    is empty when a foreign publisher set none. A dead letter that was replayed has the queue's name as its
    `routing_key`, so a handler looks at `type`.
    """

    message_id: str
    type: str
    routing_key: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


class Outcome(Enum):
    """What a handler says about each message of its batch."""

    DONE = auto()
    """Committed (or seen before): never deliver it again."""
    PARK = auto()
    """Malformed or unknown: no retry will help. Move it to the dead letters, where somebody can look at it."""
    RETRY = auto()
    """Could not be tried, such as when the database is away: keep it and come again after a pause."""


Handler = Callable[[Sequence[Message]], Awaitable[Sequence[Outcome]]]
"""Gets a batch, commits, and returns one outcome for each message, in order.

An exception means RETRY for the whole batch, for ever. So a handler whose set-based statement failed on one bad row
tries the rows one by one and answers PARK for the bad one; only "the database is away" may escape from it.
"""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A named, durable queue and what flows into it.

    The routing keys are AMQP topic patterns: words separated by dots, `*` for one word, `#` for any number. The
    arguments of a live queue cannot be changed, so a queue name ends in its version: `reporting.events.v1`.
    """

    queue: str
    exchange: str
    routing_keys: tuple[str, ...]
    batch_size: int = 500
    max_wait_seconds: float = 0.02


@dataclass(frozen=True, slots=True)
class Broadcast:
    """What every process that listens hears for itself, as long as it listens: news that ages quickly.

    There is no queue that outlives the listener, so what is published while it does not listen is never heard.
    `name` is what its queue's name begins with.
    """

    name: str
    exchange: str
    routing_keys: tuple[str, ...]


class Publisher(Protocol):
    """The half of the bus that a relay needs."""

    async def publish(self, exchange: str, messages: Sequence[Message]) -> list[bool]:
        """Publish in order; one answer for each message: True only if the bus has taken responsibility for it.

        It never raises because of the bus: broker away, refused, returned as unroutable, timed out, all are False.
        After a False, later ones may still be True. Publishing nothing is a way to open the connection early.
        """
        ...


class Bus(Publisher, Protocol):
    """Everything that a transport can do."""

    @property
    def connected(self) -> bool:
        """Whether everything that this bus was asked to do can go on: what a readiness check wants to know."""
        ...

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        """Create the queues, so that what is published from now on is kept for them. Repeating it is harmless."""
        ...

    async def consume(self, subscription: Subscription, handler: Handler, stop: asyncio.Event) -> None:
        """Declare the subscription and hand its batches to the handler, one at a time, until `stop` is set.

        The batch in hand is finished first. It waits out a broker that is away, and raises `BusError` when the
        broker is there and consuming fails again and again.
        """
        ...

    async def listen(
        self, broadcast: Broadcast, opened: Callable[[], None], heard: Callable[[Message], None], stop: asyncio.Event
    ) -> None:
        """Hear what is published, until `stop`, waiting out whatever goes wrong; delivery is at most once.

        `opened` is called each time that listening begins: every message that is accepted after it will be `heard`
        unless listening is interrupted, and after an interruption `opened` comes again. Neither may raise or wait.
        Listening says nothing of `connected`.
        """
        ...

    async def close(self) -> None: ...


async def ask(handler: Handler, batch: Sequence[Message]) -> Sequence[Outcome]:
    """The handler's answer, where a failure, or an answer that does not fit the batch, is RETRY for all of it."""
    try:
        outcomes = await handler(batch)
        if len(outcomes) == len(batch):
            return outcomes
        log.error("handler_answer_does_not_fit", messages=len(batch), outcomes=len(outcomes))
    except Exception as error:
        # Without the error's text, where a database quotes the row that it is about.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename}:{place.lineno}"
        log.warning("handler_failed", messages=len(batch), error=type(error).__name__, where=where)
    return [Outcome.RETRY] * len(batch)


def backoff(first: float = 0.1, last: float = 5.0) -> Iterator[float]:
    """Pauses between attempts: doubling up to `last`, with jitter so that many processes do not come back at once."""
    while True:
        yield first * random.uniform(0.75, 1.25)  # noqa: S311
        first = min(first * 2, last)


async def pause(seconds: float, event: asyncio.Event) -> None:
    """Sleep, but not past the event."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
