"""What was parked: list it, and put it back into its queue once the reason is gone."""

import asyncio
from dataclasses import dataclass
from typing import Any

from aio_pika import DeliveryMode
from aio_pika import Message as AmqpMessage
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from shared.amqp.link import Link, deadline
from shared.amqp.topology import AGAIN, dead_letter_queue

RETURN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What may be shown of a dead letter. Its body may hold patients' data, so it is not part of this."""

    message_id: str
    type: str
    routing_key: str
    reason: str
    dead_since: str
    size: int
    replayed: bool = False


async def dead_letters(url: str, queue: str, *, replay: bool = False) -> list[DeadLetter]:
    """The dead letters of a queue, oldest first; with `replay` each is moved back to the end of that queue."""
    link = Link(url, "dead-letters")
    letters: list[AbstractIncomingMessage] = []
    try:
        channel = await link.channel()
        dead = await channel.declare_queue(dead_letter_queue(queue), passive=True)
        own = await channel.get_exchange(queue)
        # A letter that is parked again comes back to the end of the dead letters: stop at those that were there.
        there = dead.declaration_result.message_count or 0
        while len(letters) < there:
            incoming = await dead.get(fail=False)
            if incoming is None:
                break
            if replay:
                # Returned and refused messages raise here, and the letter stays where it is.
                await own.publish(_again(incoming), AGAIN, mandatory=True)
                await incoming.ack()
            letters.append(incoming)
        if letters and not replay:
            await letters[-1].nack(multiple=True, requeue=True)
            await _until_back(channel, dead.name, there)
    finally:
        await link.drop()
    return [_describe(letter, replayed=replay) for letter in letters]


async def _until_back(channel: AbstractChannel, queue: str, count: int) -> None:
    """Wait until the letters are in their places again: whoever looked before that would miss them."""
    underlay = await channel.get_underlay_channel()
    async with deadline(RETURN_SECONDS):
        while True:
            state = await underlay.queue_declare(queue, passive=True)
            if (state.message_count or 0) >= count:
                return
            await asyncio.sleep(0.02)


def _again(incoming: AbstractIncomingMessage) -> AmqpMessage:
    # Without the broker's own headers, which tell of the first death.
    headers = {name: value for name, value in incoming.headers.items() if not name.startswith("x-")}
    return AmqpMessage(
        incoming.body,
        headers=headers,
        content_type=incoming.content_type,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=incoming.message_id,
        type=incoming.type,
    )


def _describe(incoming: AbstractIncomingMessage, *, replayed: bool) -> DeadLetter:
    deaths: Any = incoming.headers.get("x-death") or [{}]
    death = deaths[0]
    return DeadLetter(
        message_id=incoming.message_id or "",
        type=incoming.type or "",
        routing_key=str((death.get("routing-keys") or [""])[0]),
        reason=str(death.get("reason", "")),
        dead_since=str(death.get("time", "")),
        size=incoming.body_size,
        replayed=replayed,
    )
