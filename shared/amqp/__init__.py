"""The bus on RabbitMQ. Nothing outside this folder knows of AMQP."""

import asyncio
from collections.abc import Callable, Sequence

from shared.amqp.consumer import consume
from shared.amqp.link import Link
from shared.amqp.listener import listen
from shared.amqp.publisher import AmqpPublisher
from shared.amqp.topology import declare_subscription
from shared.bus import Broadcast, Handler, Message, Subscription


class AmqpBus:
    """See `shared.bus.Bus`. It holds one connection for publishing and one for each consumer and listener."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._publishing = Link(url, "publish")
        self._publisher = AmqpPublisher(self._publishing)
        self._in_use: set[Link] = set()

    @property
    def connected(self) -> bool:
        return all(link.up for link in self._in_use)

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        """Raises when the broker cannot be reached; `consume` declares too, and waits for it."""
        link = Link(self._url, "declare")
        try:
            for subscription in subscriptions:
                await declare_subscription(link, subscription)
        finally:
            await link.drop()

    async def publish(self, exchange: str, messages: Sequence[Message]) -> list[bool]:
        self._in_use.add(self._publishing)
        return await self._publisher.publish(exchange, messages)

    async def consume(self, subscription: Subscription, handler: Handler, stop: asyncio.Event) -> None:
        link = Link(self._url, subscription.queue)
        self._in_use.add(link)
        try:
            await consume(link, subscription, handler, stop)
        finally:
            self._in_use.discard(link)

    async def listen(
        self, broadcast: Broadcast, opened: Callable[[], None], heard: Callable[[Message], None], stop: asyncio.Event
    ) -> None:
        await listen(Link(self._url, broadcast.name), broadcast, opened, heard, stop)

    async def close(self) -> None:
        await self._publishing.drop()
