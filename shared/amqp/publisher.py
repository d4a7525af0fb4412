"""Publishing: pipelined on one long-lived channel, and only an explicit Ack counts."""

import asyncio
from collections.abc import Sequence

import structlog
from aio_pika import DeliveryMode
from aio_pika import Message as AmqpMessage
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import DeliveryError
from pamqp.commands import Basic

from shared import crash
from shared.amqp.link import Link, deadline
from shared.amqp.topology import declare_exchange
from shared.bus import Message

log = structlog.get_logger(__name__)

PUBLISH_SECONDS = 10.0
# The client walks all outstanding confirms for each Ack of several messages, so a larger window is not a faster one.
WINDOW_MESSAGES = 500
WINDOW_BYTES = 4 * 1024 * 1024


class AmqpPublisher:
    """See `shared.bus.Publisher`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: AbstractChannel | None = None
        self._exchanges: dict[str, AbstractExchange] = {}
        self._one_at_a_time = asyncio.Lock()
        self._in_doubt = False

    async def publish(self, exchange: str, messages: Sequence[Message]) -> list[bool]:
        accepted: list[bool] = []
        async with self._one_at_a_time:
            try:
                target = await self._exchange(exchange)
                while len(accepted) < len(messages):
                    # After a failure one message goes ahead of the rest. Under a memory alarm the broker takes what
                    # it is sent and answers when the alarm is over: a full window at each attempt would all be
                    # delivered then, many times over.
                    limit = 1 if self._in_doubt else WINDOW_MESSAGES
                    answers = await _publish_window(target, _window(messages[len(accepted) :], limit))
                    accepted += [answer is None for answer in answers]
                    _raise_what_failed(answers)
                    self._in_doubt = False
            except DeliveryError as error:  # refused or returned, so the channel is in order
                self._note(exchange, error)
            except Exception as error:
                self._note(exchange, error)
                await self._link.drop()
        return accepted + [False] * (len(messages) - len(accepted))

    def _note(self, exchange: str, error: Exception) -> None:
        # A broker that is away is tried twice a second: once in the log is enough.
        tell = log.debug if self._in_doubt else log.warning
        tell("publish_failed", exchange=exchange, error=type(error).__name__, reason=str(error)[:200])
        self._in_doubt = True

    async def _exchange(self, name: str) -> AbstractExchange:
        channel = await self._link.channel()
        if channel is not self._channel:
            self._channel, self._exchanges = channel, {}
        if name not in self._exchanges:
            async with deadline(PUBLISH_SECONDS):
                self._exchanges[name] = await declare_exchange(channel, name)
        return self._exchanges[name]


def _window(messages: Sequence[Message], limit: int) -> list[Message]:
    """The next messages to have in flight together, never one id twice: the client matches returns by message id."""
    window: dict[str, Message] = {}
    size = 0
    for message in messages[:limit]:
        size += len(message.body)
        if window and (message.message_id in window or size > WINDOW_BYTES):
            break
        window[message.message_id] = message
    return list(window.values())


async def _publish_window(exchange: AbstractExchange, window: Sequence[Message]) -> list[BaseException | None]:
    """What went wrong with each: None for an Ack, a DeliveryError for a Nack or a return, else nobody knows."""
    # Calls on one channel keep their order, and each answer is kept although a later one fails or never comes.
    calls = [asyncio.create_task(_publish_one(exchange, message)) for message in window]
    try:
        await asyncio.wait(calls, timeout=PUBLISH_SECONDS)
    finally:
        late = [call for call in calls if call.cancel()]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    if late:
        answers[calls.index(late[0])] = TimeoutError(f"{len(late)} of {len(calls)} messages were not confirmed in time")
    return answers


def _raise_what_failed(answers: Sequence[BaseException | None]) -> None:
    """A lost connection rather than a refusal, when there are both."""
    failures = [answer for answer in answers if answer is not None]
    for failure in sorted(failures, key=lambda failure: isinstance(failure, DeliveryError))[:1]:
        raise failure


async def _publish_one(exchange: AbstractExchange, message: Message) -> None:
    outgoing = AmqpMessage(
        message.body,
        headers=dict(message.headers),
        content_type=message.content_type,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=message.message_id,
        type=message.type,
    )
    async with deadline(2 * PUBLISH_SECONDS):  # the window is given up before this
        answer = await exchange.publish(outgoing, message.routing_key, mandatory=True)
    if not isinstance(answer, Basic.Ack):
        raise ConnectionError(f"neither confirmed nor refused, but answered with {answer!r:.50}")
    crash.point("publisher.after_confirm")
