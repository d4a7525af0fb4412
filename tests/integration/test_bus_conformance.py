"""Both transports keep the promises of `shared.bus`: one suite, run over each."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from shared.amqp import AmqpBus
from shared.amqp.dead_letters import dead_letters
from shared.amqp.topology import dead_letter_queue
from shared.bus import BILLING_EVENTS, EMR_FEED, Broadcast, Bus, Message, Outcome, Subscription, pause
from shared.loopback import LoopbackBus

PATIENCE_SECONDS = 30.0
EVERYTHING = Subscription("test.everything.v1", BILLING_EVENTS, ("#",))


@dataclass
class Transport:
    """A bus, and what the suite needs to know besides."""

    bus: Bus
    parked: Callable[[str], Awaitable[list[str]]]

    async def publish(self, messages: Sequence[Message], exchange: str = BILLING_EVENTS) -> None:
        """As a relay does: again and again, from the first that was not accepted."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while messages:
                answers = await self.bus.publish(exchange, messages)
                assert len(answers) == len(messages)
                accepted = answers.index(False) if False in answers else len(answers)
                messages = messages[accepted:]
                await asyncio.sleep(0.01 if messages else 0)

    @asynccontextmanager
    async def consuming(self, subscription: Subscription, handler: "Recorder") -> AsyncIterator[None]:
        # First, or the first messages may find the queue half made: some refused, later ones accepted.
        await self.bus.declare([subscription])
        stop = asyncio.Event()
        task = asyncio.create_task(self.bus.consume(subscription, handler, stop))
        try:
            yield
        finally:
            stop.set()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await task


@dataclass
class Recorder:
    """A handler that remembers its batches, and the ids that it said DONE to, and answers as it is told."""

    answer: Callable[[Message], Outcome] = lambda _: Outcome.DONE
    batches: list[list[Message]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, batch: Sequence[Message]) -> Sequence[Outcome]:
        self.batches.append(list(batch))
        self.changed.set()
        outcomes = [self.answer(message) for message in batch]
        self.done += [m.message_id for m, outcome in zip(batch, outcomes, strict=True) if outcome is Outcome.DONE]
        return outcomes

    @property
    def seen(self) -> list[Message]:
        return [message for batch in self.batches for message in batch]

    async def until(self, condition: Callable[["Recorder"], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition(self):
                await pause(0.05, self.changed)
                self.changed.clear()


class TidyBus(AmqpBus):
    """Takes its queues away with it: the broker may be one that outlives the tests."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.queues: set[str] = set()

    async def declare(self, subscriptions: Sequence[Subscription]) -> None:
        self.queues |= {subscription.queue for subscription in subscriptions}
        await super().declare(subscriptions)

    async def close(self) -> None:
        channel = await self._publishing.channel()
        for queue in self.queues:
            await channel.queue_delete(queue)
            await channel.queue_delete(dead_letter_queue(queue))
            await channel.exchange_delete(queue)
        await super().close()


@pytest.fixture(params=["loopback", "amqp"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    if request.param == "loopback":
        loopback = LoopbackBus()

        async def parked_here(queue: str) -> list[str]:
            return [message.message_id for message in loopback.parked[queue]]

        yield Transport(loopback, parked_here)
    else:
        url: str = request.getfixturevalue("amqp_url")

        async def parked_there(queue: str) -> list[str]:
            return [letter.message_id for letter in await dead_letters(url, queue)]

        bus = TidyBus(url)
        yield Transport(bus, parked_there)
        await bus.close()


def messages(*ids: str, routing_key: str = "ledger.posting.v1") -> list[Message]:
    return [Message(message_id, "ledger.posting", routing_key, message_id.encode()) for message_id in ids]


def numbered(count: int) -> list[Message]:
    return messages(*(f"m{number:04}" for number in range(count)))


async def test_a_message_arrives_as_it_was_published(transport: Transport) -> None:
    sent = Message("id-1", "emr.charge", "emr.charge.posted.v1", b"\x00\xff{}", {"ce-source": "clinic"}, "text/x-test")
    recorder = Recorder()
    async with transport.consuming(Subscription("test.fields.v1", EMR_FEED, ("emr.#",)), recorder):
        await transport.publish([sent], EMR_FEED)
        await recorder.until(lambda r: r.done == ["id-1"])
    assert recorder.seen == [sent]


async def test_topics_route_alike(transport: Transport) -> None:
    keys = ["a", "b", "a.b", "a.c", "a.b.c", "x.b", "x.y.c", "a.x.y.c"]
    expected = {
        "a": {"a"},
        "*": {"a", "b"},
        "a.*": {"a.b", "a.c"},
        "a.#": {"a", "a.b", "a.c", "a.b.c", "a.x.y.c"},
        "#.c": {"a.c", "a.b.c", "x.y.c", "a.x.y.c"},
        "a.#.c": {"a.c", "a.b.c", "a.x.y.c"},
        "*.b.#": {"a.b", "a.b.c", "x.b"},
        "#": set(keys),
        "*.*.*": {"a.b.c", "x.y.c"},
        "#.*": set(keys),
        "A": set(),
    }
    recorders = {pattern: Recorder() for pattern in expected}
    last = Message("last", "t", "last", b"")
    async with asyncio.TaskGroup() as group:
        stop = asyncio.Event()
        for number, (pattern, recorder) in enumerate(recorders.items()):
            subscription = Subscription(f"test.topic{number}.v1", BILLING_EVENTS, (pattern, "last"))
            await transport.bus.declare([subscription])
            group.create_task(transport.bus.consume(subscription, recorder, stop))
        await transport.publish([*(Message(key, "t", key, b"") for key in keys), last])
        for recorder in recorders.values():
            await recorder.until(lambda r: "last" in r.done)
        stop.set()
    assert {pattern: set(recorder.done) - {"last"} for pattern, recorder in recorders.items()} == expected


async def test_a_message_that_nobody_wants_is_not_accepted(transport: Transport) -> None:
    assert await transport.bus.publish(BILLING_EVENTS, messages("m1", "m2")) == [False, False]
    recorder = Recorder()
    subscription = Subscription("test.some.v1", BILLING_EVENTS, ("ledger.*.v1",))
    async with transport.consuming(subscription, recorder):
        await transport.publish(messages("m1"))
        mixed = [*messages("m2"), *messages("unwanted", routing_key="identity.user.v1"), *messages("m3")]
        answers = await transport.bus.publish(BILLING_EVENTS, mixed)
        assert answers[:2] == [True, False]
        assert (await transport.bus.publish(EMR_FEED, messages("m4"))) == [False]
        await recorder.until(lambda r: {"m1", "m2"} <= set(r.done))
    assert not {"unwanted", "m4"} & set(recorder.done)


async def test_publishing_nothing_is_harmless(transport: Transport) -> None:
    assert await transport.bus.publish(BILLING_EVENTS, ()) == []
    assert transport.bus.connected


async def test_what_was_published_before_the_consumer_came_arrives(transport: Transport) -> None:
    await transport.bus.declare([EVERYTHING])
    await transport.bus.declare([EVERYTHING])
    publishing = asyncio.create_task(transport.publish(messages("early")))
    await asyncio.sleep(0.2)
    recorder = Recorder()
    async with transport.consuming(EVERYTHING, recorder):
        await publishing
        await recorder.until(lambda r: r.done == ["early"])


async def test_batches_keep_order_and_their_limit(transport: Transport) -> None:
    sent = numbered(1200)
    recorder = Recorder()
    await transport.bus.declare([EVERYTHING])
    publishing = asyncio.create_task(transport.publish(sent))
    async with transport.consuming(Subscription(EVERYTHING.queue, BILLING_EVENTS, ("#",), batch_size=100), recorder):
        await publishing
        await recorder.until(lambda r: len(r.done) >= 1200)
    assert recorder.done == [message.message_id for message in sent]
    assert max(len(batch) for batch in recorder.batches) <= 100
    assert len(recorder.batches) < 600


async def test_one_id_several_times_in_one_call_is_accepted(transport: Transport) -> None:
    recorder = Recorder()
    async with transport.consuming(EVERYTHING, recorder):
        await transport.publish(messages("m1", "m2", "m1", "m1", "m3"))
        await recorder.until(lambda r: len(r.done) == 5)
    assert recorder.done == ["m1", "m2", "m1", "m1", "m3"]


async def test_one_id_several_times_and_unwanted_is_never_accepted(transport: Transport) -> None:
    """The AMQP client matches returns by message id: two in flight together, and one return looks like an Ack."""
    assert await transport.bus.publish(BILLING_EVENTS, messages("m1", "m1", "m1")) == [False, False, False]


async def test_a_parked_message_stands_aside_and_never_comes_again(transport: Transport) -> None:
    recorder = Recorder(lambda message: Outcome.PARK if b"bad" in message.body else Outcome.DONE)
    async with transport.consuming(EVERYTHING, recorder):
        await transport.publish(messages("m1", "bad1", "m2", "bad2"))
        await transport.publish(messages("m3", "bad3"))
        await recorder.until(lambda r: len(r.seen) == 6)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(await transport.parked(EVERYTHING.queue)) < 3:
                await asyncio.sleep(0.05)
        assert await transport.parked(EVERYTHING.queue) == ["bad1", "bad2", "bad3"]
    assert recorder.done == ["m1", "m2", "m3"]
    assert len(recorder.seen) == 6


async def test_what_has_to_wait_comes_again_until_it_is_done(transport: Transport) -> None:
    tries: dict[str, int] = {}

    def third_time_lucky(message: Message) -> Outcome:
        tries[message.message_id] = tries.get(message.message_id, 0) + 1
        return Outcome.RETRY if message.body == b"waits" and tries[message.message_id] < 3 else Outcome.DONE

    recorder = Recorder(third_time_lucky)
    waiting = Message("m2", "t", "t", b"waits")
    async with transport.consuming(EVERYTHING, recorder):
        await transport.publish([*messages("m1"), waiting, *messages("m3")])
        await recorder.until(lambda r: {"m1", "m2", "m3"} <= set(r.done))
    assert tries["m2"] == 3
    assert await transport.parked(EVERYTHING.queue) == []


async def test_what_waited_when_its_consumer_stopped_is_left_to_the_next(transport: Transport) -> None:
    """An Ack for a later message of the batch must not cover it."""
    first = Recorder(lambda message: Outcome.RETRY if message.message_id == "m1" else Outcome.DONE)
    async with transport.consuming(EVERYTHING, first):
        publishing = asyncio.create_task(transport.publish(messages("m1", "m2")))
        await first.until(lambda r: "m2" in r.done)
    second = Recorder()
    async with transport.consuming(EVERYTHING, second):
        await publishing
        await second.until(lambda r: "m1" in r.done)


async def test_after_a_failure_the_whole_batch_comes_again(transport: Transport) -> None:
    failures = iter([ConnectionError("database away"), ValueError("bug"), ConnectionError("still away")])

    def fail_first(message: Message) -> Outcome:
        for failure in failures:
            raise failure
        return Outcome.DONE

    recorder = Recorder(fail_first)
    async with transport.consuming(EVERYTHING, recorder):
        await transport.publish(messages("m1", "m2", "m3"))
        await recorder.until(lambda r: {"m1", "m2", "m3"} <= set(r.done))
    assert len(recorder.batches) >= 4
    assert await transport.parked(EVERYTHING.queue) == []


async def test_an_answer_of_the_wrong_length_is_a_failure(transport: Transport) -> None:
    answers: list[list[Outcome]] = [[], [Outcome.DONE] * 3]
    handled: list[str] = []

    async def handler(batch: Sequence[Message]) -> Sequence[Outcome]:
        if answers:
            return answers.pop()
        handled.extend(message.message_id for message in batch)
        return [Outcome.DONE] * len(batch)

    await transport.bus.declare([EVERYTHING])
    stop = asyncio.Event()
    consumer = asyncio.create_task(transport.bus.consume(EVERYTHING, handler, stop))
    await transport.publish(messages("m1"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while handled != ["m1"]:
            await asyncio.sleep(0.02)
    stop.set()
    await consumer


async def test_each_subscription_gets_everything_and_none_suffers_for_another(transport: Transport) -> None:
    """One commits, one parks, one is slow to recover: an accepted message has got to each of them."""
    failing = 3

    def recovers(_: Message) -> Outcome:
        nonlocal failing
        failing -= 1
        return Outcome.RETRY if failing >= 0 else Outcome.DONE

    fine, parks, slow = Recorder(), Recorder(lambda _: Outcome.PARK), Recorder(recovers)
    subscriptions = [Subscription(f"test.{name}.v1", BILLING_EVENTS, ("#",)) for name in ("fine", "parks", "slow")]
    async with (
        transport.consuming(subscriptions[0], fine),
        transport.consuming(subscriptions[1], parks),
        transport.consuming(subscriptions[2], slow),
    ):
        await transport.publish(messages("m1", "m2"))
        for recorder in (fine, slow):
            await recorder.until(lambda r: {"m1", "m2"} <= set(r.done))
        await parks.until(lambda r: {"m1", "m2"} <= {message.message_id for message in r.seen})
    assert set(await transport.parked(subscriptions[1].queue)) == {"m1", "m2"}
    assert await transport.parked(subscriptions[0].queue) == []


async def test_stopping_finishes_the_batch_in_hand_and_leaves_the_rest_to_the_next(transport: Transport) -> None:
    subscription = Subscription(EVERYTHING.queue, BILLING_EVENTS, ("#",), batch_size=10)
    begun, finish, first = asyncio.Event(), asyncio.Event(), list[str]()

    async def slow(batch: Sequence[Message]) -> Sequence[Outcome]:
        begun.set()
        await finish.wait()
        first.extend(message.message_id for message in batch)
        return [Outcome.DONE] * len(batch)

    await transport.bus.declare([EVERYTHING])
    stop = asyncio.Event()
    consumer = asyncio.create_task(transport.bus.consume(subscription, slow, stop))
    publishing = asyncio.create_task(transport.publish(numbered(50)))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await begun.wait()
        stop.set()
        await asyncio.sleep(0.1)
        assert not consumer.done()
        finish.set()
        await consumer
    second = Recorder()
    async with transport.consuming(subscription, second):
        await publishing
        await second.until(lambda r: set(first) | set(r.done) == {message.message_id for message in numbered(50)})
    assert 1 <= len(first) <= 10
    assert not set(first) & set(second.done), "what was committed and acknowledged does not come again"


NEWS = Broadcast("test.ear", BILLING_EVENTS, ("news.#",))


@dataclass
class Listener:
    """Somebody who listens, and what he heard; `opened` counts how often listening began."""

    bus: Bus
    opened: int = 0
    heard: list[Message] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def _open(self) -> None:
        self.opened += 1

    async def __aenter__(self) -> "Listener":
        self._task = asyncio.create_task(self.bus.listen(NEWS, self._open, self.heard.append, self.stop))
        await self.until(lambda: self.opened > 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._task

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not condition():
                await asyncio.sleep(0.01)

    @property
    def ids(self) -> list[str]:
        return [message.message_id for message in self.heard]


async def test_every_listener_hears_what_comes_after_he_began_and_a_listener_is_enough(transport: Transport) -> None:
    assert await transport.bus.publish(BILLING_EVENTS, messages("early", routing_key="news.a")) == [False]
    async with Listener(transport.bus) as first, Listener(transport.bus) as second:
        await transport.publish(messages("m1", "m2", routing_key="news.a.b"))
        assert await transport.bus.publish(BILLING_EVENTS, messages("unwanted", routing_key="other")) == [False]
        for listener in (first, second):
            await listener.until(lambda listener=listener: len(listener.heard) == 2)  # type: ignore[misc]
        async with Listener(transport.bus) as late:
            await transport.publish(messages("m3", routing_key="news.c"))
            for listener in (first, second, late):
                await listener.until(lambda listener=listener: "m3" in listener.ids)  # type: ignore[misc]
            assert (first.ids, second.ids, late.ids) == (["m1", "m2", "m3"], ["m1", "m2", "m3"], ["m3"])
    assert first.heard[0] == Message("m1", "ledger.posting", "news.a.b", b"m1")
    assert await transport.bus.publish(BILLING_EVENTS, messages("m4", routing_key="news.a")) == [False]
    assert first.ids == ["m1", "m2", "m3"], "nobody hears any more"
    assert transport.bus.connected


async def test_a_listener_and_a_subscription_do_not_concern_each_other(transport: Transport) -> None:
    recorder = Recorder(lambda _: Outcome.RETRY)
    async with Listener(transport.bus) as listener, transport.consuming(EVERYTHING, recorder):
        publishing = asyncio.create_task(transport.publish(messages("m1", routing_key="news.a")))
        await listener.until(lambda: "m1" in listener.ids)
        recorder.answer = lambda _: Outcome.DONE
        await publishing
        await recorder.until(lambda r: r.done == ["m1"])
