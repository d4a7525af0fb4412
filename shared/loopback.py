"""The bus within one process: publishing calls the handlers; a message is accepted once all of them have dealt with it.

There is no queue, so nothing can be lost in one: what a handler did not commit is refused, stays in the outbox and is
published again by the relay. A queue that is declared but has no consumer yet refuses everything, as a message that
nobody declared a queue for is refused; both keep the event in the outbox.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

from shared.bus import Broadcast, Handler, Message, Outcome, Subscription, ask


class LoopbackBus:
    """See `shared.bus.Bus`."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._listeners: list[tuple[Broadcast, Callable[[Message], None]]] = []
        self.parked: defaultdict[str, list[Message]] = defaultdict(list)
        """Parked messages by queue, for inspection; they end with the process, the event log keeps the originals."""

    @property
    def connected(self) -> bool:
        return all(queue.handler for queue in self._queues.values())

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        for subscription in subscriptions:
            self._queues.setdefault(subscription.queue, _Queue(subscription, self.parked[subscription.queue]))

    async def consume(self, subscription: Subscription, handler: Handler, stop: asyncio.Event) -> None:
        await self.declare([subscription])
        queue = self._queues[subscription.queue]
        queue.subscription, queue.handler = subscription, handler
        try:
            await stop.wait()
        finally:
            async with queue.lock:  # The batch in hand runs in the publisher's task: let it end first.
                if queue.handler is handler:
                    queue.handler = None

    async def listen(
        self, broadcast: Broadcast, opened: Callable[[], None], heard: Callable[[Message], None], stop: asyncio.Event
    ) -> None:
        listener = (broadcast, heard)
        self._listeners.append(listener)
        try:
            opened()
            await stop.wait()
        finally:
            self._listeners.remove(listener)

    async def publish(self, exchange: str, messages: Sequence[Message]) -> list[bool]:
        queues = [queue for queue in self._queues.values() if queue.subscription.exchange == exchange]
        listeners = [(one, heard) for one, heard in self._listeners if one.exchange == exchange]
        accepted = 0
        for message in messages:
            hearing = [heard for one, heard in listeners if _matches(one.routing_keys, message)]
            if not hearing and not any(queue.matches(message) for queue in queues):
                break
            accepted += 1
            for heard in hearing:
                heard(message)
        for queue in queues:
            # What one subscriber refused is not offered to the next: the relay brings it again, for all of them.
            accepted = await queue.offer(messages[:accepted])
        return [position < accepted for position in range(len(messages))]

    async def close(self) -> None:
        self._queues.clear()


class _Queue:
    def __init__(self, subscription: Subscription, parked: list[Message]) -> None:
        self.subscription = subscription
        self.handler: Handler | None = None
        self.lock = asyncio.Lock()
        self._parked = parked

    def matches(self, message: Message) -> bool:
        return _matches(self.subscription.routing_keys, message)

    async def offer(self, messages: Sequence[Message]) -> int:
        """How many messages, counted from the first, need not come again; those that do not match count as such."""
        mine = [position for position, message in enumerate(messages) if self.matches(message)]
        for start in range(0, len(mine), self.subscription.batch_size):
            positions = mine[start : start + self.subscription.batch_size]
            batch = [messages[position] for position in positions]
            async with self.lock:
                outcomes = await ask(self.handler, batch) if self.handler else [Outcome.RETRY] * len(batch)
            for position, message, outcome in zip(positions, batch, outcomes, strict=True):
                if outcome is Outcome.RETRY:
                    return position
                # Another subscriber that is not ready brings the message here again and again.
                if outcome is Outcome.PARK and message not in self._parked:
                    self._parked.append(message)
        return len(messages)


def _matches(routing_keys: Sequence[str], message: Message) -> bool:
    return any(topic_matches(pattern, message.routing_key) for pattern in routing_keys)


def topic_matches(pattern: str, routing_key: str) -> bool:
    """AMQP topic matching: `*` is exactly one word, `#` is any number of words, also none."""

    def match(wanted: list[str], words: list[str]) -> bool:
        if not wanted:
            return not words
        head, rest = wanted[0], wanted[1:]
        if head == "#":
            return any(match(rest, words[skipped:]) for skipped in range(len(words) + 1))
        return bool(words) and head in ("*", words[0]) and match(rest, words[1:])

    return match(pattern.split("."), routing_key.split("."))
