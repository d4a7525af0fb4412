"""What exists on the broker, declared alike by RabbitMQ 3.10 and 4.x. Arguments cannot be changed on a live queue.

RabbitMQ 3.10 that is killed within half a second of making a quorum queue comes back with a queue that has no leader:
publishing to it and consuming from it time out. Delete such a queue; its consumer makes it again.
"""

from typing import Any, Final
from uuid import uuid4

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue

from shared.bus import Broadcast, Subscription

# Every return of a message counts, also one by a consumer that died holding it: with a low limit a crash loop would
# dead-letter messages that nothing is wrong with.
DELIVERY_LIMIT: Final = 50
# A quorum queue without a limit drops after 20 deliveries from RabbitMQ 4.0 on, and looking at a dead letter is one.
NO_LIMIT: Final = 1_000_000_000


def dead_letter_queue(queue: str) -> str:
    """Where the parked messages of a queue are."""
    return f"{queue}.dead"


async def declare_exchange(channel: AbstractChannel, name: str) -> AbstractExchange:
    """Publishers and consumers alike declare it, whoever comes first."""
    return await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True)


async def declare_subscription(channel: AbstractChannel, subscription: Subscription) -> AbstractQueue:
    """The exchange, the dead-letter queue, the queue and its bindings."""
    await declare_exchange(channel, subscription.exchange)
    dead = dead_letter_queue(subscription.queue)
    # With a limit a returned message goes back to the front; without, to the back.
    await channel.declare_queue(dead, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": NO_LIMIT})
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": "",  # the default exchange, which routes to the queue named by the key
        "x-dead-letter-routing-key": dead,
        "x-dead-letter-strategy": "at-least-once",  # needs the overflow rule below
        "x-overflow": "reject-publish",
    }
    queue = await channel.declare_queue(subscription.queue, durable=True, arguments=arguments)
    for routing_key in subscription.routing_keys:
        await queue.bind(subscription.exchange, routing_key)
    return queue


async def declare_broadcast(channel: AbstractChannel, broadcast: Broadcast) -> AbstractQueue:
    """The exchange, and a queue that belongs to this connection and goes with it. Its name is never used again, so it
    cannot be in the way of the connection that comes after this one."""
    await declare_exchange(channel, broadcast.exchange)
    queue = await channel.declare_queue(f"{broadcast.name}.{uuid4()}", exclusive=True, auto_delete=True)
    for routing_key in broadcast.routing_keys:
        await queue.bind(broadcast.exchange, routing_key)
    return queue
