"""Consuming: batches by count or time, acknowledged after the handler has committed them.

A `_Session` is one channel and what was delivered on it. A message can be acknowledged only on the channel it came by,
so when the channel goes, its buffer goes with it and the broker delivers again: no message outlives its session.

A consumer can be dead without anybody being told. (One way: a queue is deleted and made again at once. RabbitMQ gives
its messages to the old consumer, whose channel drops them, and says that there is one consumer and nothing waiting.)
Silence is how that looks from here, so a session that has heard nothing for a while is ended and a new one begun.
"""

import asyncio
import time
from collections.abc import Sequence

import structlog
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from shared.amqp.link import Link, deadline
from shared.amqp.topology import declare_subscription
from shared.bus import BusError, Handler, Message, Outcome, Subscription, ask, backoff, pause
from shared.crash import point

log = structlog.get_logger(__name__)

BROKER_SECONDS = 10.0
SILENCE_SECONDS = 30.0
# So many sessions in a row failed before they had done anything: rebuilding does not help, a new process might.
MAX_FAILURES = 8


async def consume(link: Link, subscription: Subscription, handler: Handler, stop: asyncio.Event) -> None:
    """Session after session until `stop`. A broker that is away is waited for, however long that takes."""
    failures = 0
    pauses = backoff()
    while not stop.is_set():
        session: _Session | None = None
        reached = False
        try:
            await link.channel()
            reached = True
            async with deadline(BROKER_SECONDS):
                queue = await declare_subscription(link, subscription)
            session = _Session(await link.channel(), queue, subscription, handler)
            await session.run(stop)
        except Exception as error:
            failures += reached and (session is None or not session.useful)
            where = {"queue": subscription.queue, "failures": failures}
            log.warning("consumer_interrupted", error=type(error).__name__, reason=str(error)[:200], **where)
            if failures == MAX_FAILURES:
                raise BusError(f"cannot consume {subscription.queue}: {error}") from error
        finally:
            await link.drop()
        if session is not None and session.useful:
            failures, pauses = 0, backoff()
        await pause(next(pauses), stop)


class _SessionLost(Exception):
    pass


class _Session:
    def __init__(
        self, channel: AbstractChannel, queue: AbstractQueue, subscription: Subscription, handler: Handler
    ) -> None:
        self._channel = channel
        self._queue = queue
        self._subscription = subscription
        self._handler = handler
        self._buffer: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
        self._over = asyncio.Event()
        self._started = time.monotonic()
        self._settled_any = False

    @property
    def useful(self) -> bool:
        return self._settled_any or time.monotonic() - self._started >= SILENCE_SECONDS

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` or silence; an exception when the session was lost before that."""
        stopper = asyncio.create_task(self._end_at(stop))
        try:
            await self._subscribe()
            while batch := await self._next_batch():
                point("consumer.after_receive")
                await self._settle(batch)
            if self._over.is_set() and not stop.is_set():
                raise _SessionLost("the channel was closed, or the consumer cancelled")
        finally:
            stopper.cancel()

    async def _subscribe(self) -> None:
        self._channel.close_callbacks.add(lambda *_: self._end())
        underlay = await self._channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._end())
        async with deadline(BROKER_SECONDS):
            # Two batches: one in hand, one on its way. This also bounds the buffer and what a crash makes come again.
            await self._channel.set_qos(prefetch_count=2 * self._subscription.batch_size)
            await self._queue.consume(self._buffer.put)

    def _end(self) -> None:
        self._over.set()
        self._buffer.put_nowait(None)  # wakes whoever waits for a message

    async def _end_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._end()

    async def _next_batch(self) -> list[AbstractIncomingMessage]:
        """The next messages; none when the session is over."""
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                first = await self._buffer.get()
        except TimeoutError:
            return []
        if self._buffer.qsize() + 1 < self._subscription.batch_size:
            await pause(self._subscription.max_wait_seconds, self._over)
        batch = [first]
        while len(batch) < self._subscription.batch_size and not self._buffer.empty():
            batch.append(self._buffer.get_nowait())
        return [] if self._over.is_set() else [message for message in batch if message]

    async def _settle(self, batch: list[AbstractIncomingMessage]) -> None:
        """Have the batch handled until nothing of it is left, or the session is over.

        What has to wait is kept here and not returned to the queue: each return counts towards the delivery limit.
        """
        pauses = backoff()
        while batch and not self._over.is_set():
            outcomes = await ask(self._handler, [message_of(incoming) for incoming in batch])
            point("consumer.after_handle_before_ack")
            async with deadline(BROKER_SECONDS):
                await _acknowledge(batch, outcomes)
            point("consumer.after_ack")
            kept = [incoming for incoming, outcome in zip(batch, outcomes, strict=True) if outcome is Outcome.RETRY]
            self._settled_any = self._settled_any or len(kept) < len(batch)
            batch = kept
            if batch:
                await pause(next(pauses), self._over)


async def _acknowledge(batch: Sequence[AbstractIncomingMessage], outcomes: Sequence[Outcome]) -> None:
    by_outcome: dict[Outcome, list[AbstractIncomingMessage]] = {outcome: [] for outcome in Outcome}
    for incoming, outcome in zip(batch, outcomes, strict=True):
        by_outcome[outcome].append(incoming)
    for parked in by_outcome[Outcome.PARK]:
        await parked.reject(requeue=False)
    done = by_outcome[Outcome.DONE]
    # One Ack for everything up to the last one; everything before this batch has been settled.
    together = not by_outcome[Outcome.RETRY]
    for incoming in done[-1:] if together else done:
        await incoming.ack(multiple=together)


def message_of(incoming: AbstractIncomingMessage) -> Message:
    return Message(
        message_id=incoming.message_id or "",
        type=incoming.type or "",
        routing_key=incoming.routing_key or "",
        body=incoming.body,
        headers={name: str(value) for name, value in incoming.headers.items() if isinstance(value, str | int)},
        content_type=incoming.content_type or "",
    )
