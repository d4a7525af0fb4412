"""What exists on the broker, declared alike by RabbitMQ 3.10 and 4.x. Arguments cannot be changed on a live queue.

RabbitMQ 3.10 that is killed within half a second of making a quorum queue comes back with a queue that has no leader:
publishing to it and consuming from it time out. Delete such a queue; its consumer makes it again.
"""

from typing import Any, Final
from uuid import uuid4

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aiormq.exceptions import ChannelPreconditionFailed

from shared.amqp.link import Link
from shared.bus import Broadcast, Subscription

# Every return of a message counts, also one by a consumer that died holding it: with a low limit a crash loop would
# dead-letter messages that nothing is wrong with.
DELIVERY_LIMIT: Final = 50
# A quorum queue without a limit drops after 20 deliveries from RabbitMQ 4.0 on, and looking at a dead letter is one.
NO_LIMIT: Final = 1_000_000_000
# Keys of a queue's own exchange, which has the queue's name. Over the default exchange, which others use for this, who
# may write to one queue may write to all of them, and so speak in everybody's name.
_DEAD: Final = "dead"
AGAIN: Final = "again"


def dead_letter_queue(queue: str) -> str:
    """Where the parked messages of a queue are."""
    return f"{queue}.dead"


async def declare_exchange(channel: AbstractChannel, name: str) -> AbstractExchange:
    """Publishers and consumers alike declare it, whoever comes first."""
    return await channel.declare_exchange(name, ExchangeType.TOPIC, durable=True)


async def declare_subscription(link: Link, subscription: Subscription) -> AbstractQueue:
    """The exchange, the dead-letter queue, the queue and its bindings; answers the queue, on the link's channel.

    A queue that an earlier version made keeps the arguments that it was made with."""
    try:
        return await _declare(await link.channel(), subscription, {})
    except ChannelPreconditionFailed:
        earlier = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead_letter_queue(subscription.queue)}
        return await _declare(await link.channel(), subscription, earlier)


async def _declare(
    channel: AbstractChannel, subscription: Subscription, other_arguments: dict[str, Any]
) -> AbstractQueue:
    await declare_exchange(channel, subscription.exchange)
    own = await channel.declare_exchange(subscription.queue, ExchangeType.DIRECT, durable=True)
    # With a limit a returned message goes back to the front; without, to the back.
    dead = await channel.declare_queue(
        dead_letter_queue(subscription.queue),
        durable=True,
        arguments={"x-queue-type": "quorum", "x-delivery-limit": NO_LIMIT},
    )
    await dead.bind(own, _DEAD)
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": own.name,
        "x-dead-letter-routing-key": _DEAD,
        "x-dead-letter-strategy": "at-least-once",  # needs the overflow rule below
        "x-overflow": "reject-publish",
        **other_arguments,
    }
    queue = await channel.declare_queue(subscription.queue, durable=True, arguments=arguments)
    await queue.bind(own, AGAIN)
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
