"""Listening to a broadcast: a queue of this connection alone, bound anew each time that the connection is made."""

import asyncio
from collections.abc import Callable

import structlog
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from shared.amqp.consumer import BROKER_SECONDS, SILENCE_SECONDS, message_of
from shared.amqp.link import Link, deadline
from shared.amqp.topology import declare_broadcast
from shared.bus import Broadcast, Message, backoff, pause

log = structlog.get_logger(__name__)


async def listen(
    link: Link,
    broadcast: Broadcast,
    opened: Callable[[], None],
    heard: Callable[[Message], None],
    stop: asyncio.Event,
) -> None:
    """See `shared.bus.Bus.listen`. A listener that has heard nothing for a while begins anew, as a consumer does."""
    pauses = backoff()
    away = False
    while not stop.is_set():
        try:
            ear = _Ear(await link.channel(), heard)
            await ear.open(broadcast, opened)
            away, pauses = False, backoff()
            await ear.until(stop)
        except Exception as error:
            # A broker that is away is tried every few seconds: once in the log is enough.
            tell = log.debug if away else log.warning
            tell("listener_interrupted", name=broadcast.name, error=type(error).__name__, reason=str(error)[:200])
            away = True
        finally:
            await link.drop()
        await pause(next(pauses), stop)


class _Ear:
    """One channel and what is heard on it."""

    def __init__(self, channel: AbstractChannel, heard: Callable[[Message], None]) -> None:
        self._channel = channel
        self._heard = heard
        self._stirred = asyncio.Event()
        self._over = False

    async def open(self, broadcast: Broadcast, opened: Callable[[], None]) -> None:
        self._channel.close_callbacks.add(lambda *_: self._end())
        underlay = await self._channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._end())
        async with deadline(BROKER_SECONDS):
            queue = await declare_broadcast(self._channel, broadcast)
            opened()  # before the first message can be heard
            await queue.consume(self._take, no_ack=True)

    async def until(self, stop: asyncio.Event) -> None:
        """Until `stop`, silence, or the end of the channel."""
        stopper = asyncio.create_task(self._end_at(stop))
        try:
            while not self._over:
                self._stirred.clear()
                async with asyncio.timeout(SILENCE_SECONDS):
                    await self._stirred.wait()
        finally:
            stopper.cancel()

    async def _take(self, incoming: AbstractIncomingMessage) -> None:
        if not self._over:
            self._heard(message_of(incoming))
            self._stirred.set()

    def _end(self) -> None:
        self._over = True
        self._stirred.set()

    async def _end_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._end()
