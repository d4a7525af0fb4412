"""RabbitMQ killed, frozen, in alarm, without its queue; consumers that die: what was accepted is never lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import aio_pika
import pytest

from deploy.rabbitmq import PrivateRabbit
from shared import bus as bus_module
from shared import crash as crash_points
from shared.amqp import AmqpBus, consumer, link, publisher
from shared.amqp.dead_letters import DeadLetter, dead_letters
from shared.amqp.topology import DELIVERY_LIMIT
from shared.bus import BILLING_EVENTS, BusError, Handler, Message, Outcome, Subscription

pytestmark = [pytest.mark.fault]

PATIENCE_SECONDS = 60.0
EVENTS = Subscription("faults.events.v1", BILLING_EVENTS, ("#",), batch_size=20)
# Commits what it gets by appending the ids to a file, and lives until it is killed or has seen enough.
CONSUMER_PROCESS = """
import asyncio, os, sys
from shared.amqp import AmqpBus
from shared.bus import BILLING_EVENTS, Outcome, Subscription

async def main(url, file):
    stop = asyncio.Event()
    async def handle(batch):
        with open(file, "a") as committed:
            committed.write("".join(message.message_id + "\\n" for message in batch))
        return [Outcome.DONE] * len(batch)
    await AmqpBus(url).consume(Subscription("faults.events.v1", BILLING_EVENTS, ("#",), batch_size=20), handle, stop)

asyncio.run(main(*sys.argv[1:]))
"""


# A server dies with the thread that started it, so this one is kept; and the event loop goes on while a node boots.
KEEPER = ThreadPoolExecutor(max_workers=1)
NUMBERS = count()


@pytest.fixture
def url(rabbit: PrivateRabbit) -> str:
    """A virtual host of the broker that is tormented here, even when the other tests use one from outside."""
    return rabbit.make_vhost(f"faults-{next(NUMBERS)}")


@pytest.fixture
async def bus(url: str) -> AsyncIterator[AmqpBus]:
    bus = AmqpBus(url)
    yield bus
    await bus.close()


def messages(count: int, prefix: str = "m") -> list[Message]:
    return [Message(f"{prefix}{number:05}", "t", "a.b", b"x" * 200) for number in range(count)]


def ids(sent: Sequence[Message]) -> set[str]:
    return {message.message_id for message in sent}


def collector(seen: list[str]) -> Handler:
    async def handle(batch: Sequence[Message]) -> Sequence[Outcome]:
        seen.extend(message.message_id for message in batch)
        return [Outcome.DONE] * len(batch)

    return handle


@asynccontextmanager
async def consuming(bus: AmqpBus, seen: list[str], subscription: Subscription = EVENTS) -> AsyncIterator[None]:
    """Collect what arrives. Leaving fails if the consumer had ended by itself."""
    await bus.declare([subscription])
    stop = asyncio.Event()
    task = asyncio.create_task(bus.consume(subscription, collector(seen), stop))
    try:
        yield
        assert not task.done()
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


async def parked(url: str, number: int) -> list[DeadLetter]:
    """The dead letters, once there are so many."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(letters := await dead_letters(url, EVENTS.queue)) != number:
            await asyncio.sleep(0.1)
        return letters


def crash(rabbit: PrivateRabbit) -> None:
    # RabbitMQ 3.10 writes the name of a new quorum queue half a second late: killed before that, it comes back with
    # a queue that has no leader, ever. That is its fault and not what these tests are about.
    rabbit.evaluate("[dets:sync(Table) || Table <- dets:all()].")
    rabbit.kill()


async def revive(rabbit: PrivateRabbit) -> None:
    await asyncio.get_running_loop().run_in_executor(KEEPER, rabbit.start)


async def drain(url: str, subscription: Subscription = EVENTS) -> list[str]:
    """All that is in the queue, by a bus of its own."""
    seen: list[str] = []
    bus = AmqpBus(url)
    async with consuming(bus, seen, subscription):
        count = -1
        while count < len(seen):
            count = len(seen)
            await asyncio.sleep(1.0)
    return seen


class RelayLike:
    """Publishes in windows, again from the first that was not accepted, and keeps what was accepted."""

    def __init__(self, bus: AmqpBus, sent: Sequence[Message]) -> None:
        self.accepted: set[str] = set()
        self._bus = bus
        self._sent = sent

    async def run(self) -> None:
        while window := self._sent[len(self.accepted) :][:100]:
            answers = await self._bus.publish(BILLING_EVENTS, window)
            taken = answers.index(False) if False in answers else len(answers)
            self.accepted.update(ids(window[:taken]))
            await asyncio.sleep(0.005 if taken else 0.2)


async def test_a_killed_broker_loses_nothing_that_was_accepted(bus: AmqpBus, rabbit: PrivateRabbit) -> None:
    seen: list[str] = []
    relay = RelayLike(bus, messages(6000))
    async with consuming(bus, seen):
        publishing = asyncio.create_task(relay.run())
        for goal in (1000, 3000, 5000):
            await until(lambda goal=goal: len(relay.accepted) > goal)  # type: ignore[misc]
            crash(rabbit)
            await asyncio.sleep(0.3)
            assert not bus.connected
            await revive(rabbit)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await publishing
        await until(lambda: len(set(seen)) == 6000)
        assert bus.connected


@pytest.mark.parametrize("given_up_by", ["deadline", "heartbeat"])
async def test_a_frozen_broker_accepts_nothing(
    bus: AmqpBus, url: str, rabbit: PrivateRabbit, monkeypatch: pytest.MonkeyPatch, given_up_by: str
) -> None:
    """When the heartbeat gives up first, aio-pika cancels the publishing tasks although nobody asked it to."""
    if given_up_by == "heartbeat":
        monkeypatch.setattr(link, "HEARTBEAT_SECONDS", 1)
    await bus.declare([EVENTS])
    before, during, after = messages(300, "before"), messages(300, "during"), messages(300, "after")
    assert all(await bus.publish(BILLING_EVENTS, before))
    rabbit.pause()
    with monkeypatch.context() as frozen:
        frozen.setattr(publisher, "PUBLISH_SECONDS", 1.5 if given_up_by == "deadline" else 40.0)
        frozen.setattr(link, "CONNECT_SECONDS", 1.5)
        async with asyncio.timeout(30):
            answers = await bus.publish(BILLING_EVENTS, during)
            assert not any(answers)
            assert await bus.publish(BILLING_EVENTS, during[:1]) == [False]
    assert not bus.connected
    rabbit.resume()
    assert all(await bus.publish(BILLING_EVENTS, after))
    await until(lambda: bus.connected)
    arrived = set(await drain(url))
    assert ids(before) | ids(after) <= arrived <= ids([*before, *during, *after])


async def test_a_broker_frozen_at_any_moment_loses_nothing_that_was_accepted(
    bus: AmqpBus, rabbit: PrivateRabbit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "PUBLISH_SECONDS", 1.0)
    monkeypatch.setattr(link, "CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(consumer, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(consumer, "BROKER_SECONDS", 1.0)
    seen: list[str] = []
    relay = RelayLike(bus, messages(8000))
    async with consuming(bus, seen):
        publishing = asyncio.create_task(relay.run())
        for goal in (1000, 3000, 5000, 7000):
            await until(lambda goal=goal: len(relay.accepted) > goal)  # type: ignore[misc]
            rabbit.pause()
            await asyncio.sleep(4.0)
            rabbit.resume()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await publishing
        await until(lambda: len(set(seen)) == 8000)


async def test_under_a_memory_alarm_publishing_fails_and_repeats_little(
    bus: AmqpBus, url: str, rabbit: PrivateRabbit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.declare([EVENTS])
    sent = messages(400)
    assert all(await bus.publish(BILLING_EVENTS, sent[:100]))
    rabbit.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.000001).")
    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(publisher, "PUBLISH_SECONDS", 0.5)
            impatient.setattr(link, "CONNECT_SECONDS", 0.5)
            impatient.setattr(link, "CLOSE_SECONDS", 0.5)
            for _ in range(6):
                assert not any(await bus.publish(BILLING_EVENTS, sent[100:]))
        assert not bus.connected
    finally:
        rabbit.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.6).")
    relay = RelayLike(bus, sent)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await relay.run()
    arrived = await drain(url)
    assert set(arrived) == ids(sent)
    assert len(arrived) < 100 + 300 + 400 + 20, "one full window at most was repeated, not one for each attempt"


async def test_consuming_goes_on_after_the_broker_was_away_for_long(
    bus: AmqpBus, url: str, rabbit: PrivateRabbit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More attempts than useless sessions are allowed: only sessions with a broker that is there count."""
    monkeypatch.setattr(consumer, "backoff", lambda: bus_module.backoff(0.01, 0.05))
    seen: list[str] = []
    async with consuming(bus, seen):
        await until(lambda: bus.connected)
        crash(rabbit)
        await asyncio.sleep(consumer.MAX_FAILURES * 0.15)
        await revive(rabbit)
        other = AmqpBus(url)
        await RelayLike(other, messages(50)).run()
        await until(lambda: len(set(seen)) == 50)
        await other.close()


@asynccontextmanager
async def plain_channel(url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    connection = await aio_pika.connect(url)
    try:
        yield await connection.channel()
    finally:
        await connection.close()


@pytest.mark.parametrize("noticed_by", ["notice", "silence"])
async def test_a_deleted_queue_is_made_again(
    bus: AmqpBus, url: str, monkeypatch: pytest.MonkeyPatch, noticed_by: str
) -> None:
    """The broker tells that it cancelled the consumer; when that goes unheard, the silence does."""
    monkeypatch.setattr(consumer, "SILENCE_SECONDS", 1000.0)
    if noticed_by == "silence":
        monkeypatch.setattr(consumer, "SILENCE_SECONDS", 0.5)
        monkeypatch.setattr(consumer._Session, "_end", lambda self: None)
    seen: list[str] = []
    task = asyncio.create_task(bus.consume(EVENTS, collector(seen), asyncio.Event()))
    for number in range(3):
        await RelayLike(bus, messages(10, f"round{number}-")).run()
        await until(lambda number=number: len(set(seen)) == 10 * (number + 1))  # type: ignore[misc]
        async with plain_channel(url) as channel:
            await channel.queue_delete(EVENTS.queue)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_consumer_that_the_broker_has_silently_lost_comes_back(
    bus: AmqpBus, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted and made again at once: mostly RabbitMQ then keeps a consumer to whom it delivers nothing."""
    monkeypatch.setattr(consumer, "SILENCE_SECONDS", 1.0)
    seen: list[str] = []
    async with consuming(bus, seen):
        await RelayLike(bus, messages(10, "before")).run()
        await until(lambda: len(set(seen)) == 10)
        async with plain_channel(url) as channel:
            await channel.queue_delete(EVENTS.queue)
            await bus.declare([EVENTS])
        await RelayLike(bus, messages(10, "after")).run()
        await until(lambda: len(set(seen)) == 20)


async def test_a_consumer_that_cannot_work_ends(bus: AmqpBus, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "backoff", lambda: bus_module.backoff(0.01, 0.05))
    async with plain_channel(url) as channel:
        await channel.declare_queue(EVENTS.queue, durable=True)  # the name is taken by a queue of another kind

    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(BusError, match=EVENTS.queue):
            await bus.consume(EVENTS, collector([]), asyncio.Event())


async def test_waiting_for_a_database_uses_up_no_deliveries(
    bus: AmqpBus, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "backoff", lambda: bus_module.backoff(0.001, 0.005))
    tries = 0

    async def handle(batch: Sequence[Message]) -> Sequence[Outcome]:
        nonlocal tries
        tries += 1
        if tries < DELIVERY_LIMIT + 10:
            raise ConnectionError("database away")
        return [Outcome.DONE] * len(batch)

    await bus.declare([EVENTS])
    stop = asyncio.Event()
    task = asyncio.create_task(bus.consume(EVENTS, handle, stop))
    await RelayLike(bus, messages(5)).run()
    await until(lambda: tries >= DELIVERY_LIMIT + 10)
    await asyncio.sleep(0.1)
    stop.set()
    await task
    assert await dead_letters(url, EVENTS.queue) == []
    assert await drain(url) == []


def consumer_process(url: str, committed: Path, crash_at: str = "") -> subprocess.Popen[bytes]:
    environment = {**os.environ, "CRASH_AT": crash_at}
    return subprocess.Popen([sys.executable, "-c", CONSUMER_PROCESS, url, str(committed)], env=environment)


def committed_in(file: Path) -> set[str]:
    return set(file.read_text().split()) if file.exists() else set()


@pytest.mark.parametrize("point", [name for name in crash_points.POINTS if name.startswith("consumer.")])
async def test_a_consumer_killed_at_each_point_loses_nothing(
    bus: AmqpBus, url: str, tmp_path: Path, point: str
) -> None:
    committed = tmp_path / "committed"
    sent = messages(100)
    await bus.declare([EVENTS])
    await RelayLike(bus, sent).run()
    with consumer_process(url, committed, f"{point}#2") as process:
        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == -signal.SIGKILL
    before = committed_in(committed)
    assert before < ids(sent)
    rest = await drain(url)
    assert before | set(rest) == ids(sent)
    assert len(rest) < 100, "the first batch was acknowledged"


async def test_a_crash_loop_buries_no_innocent_message(bus: AmqpBus, url: str, tmp_path: Path) -> None:
    sent = messages(60)
    await bus.declare([EVENTS])
    await RelayLike(bus, sent).run()
    for _ in range(6):
        with consumer_process(url, tmp_path / "committed", "consumer.after_receive#1") as process:
            assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == -signal.SIGKILL
    assert committed_in(tmp_path / "committed") == set()
    assert set(await drain(url)) == ids(sent)
    assert await dead_letters(url, EVENTS.queue) == []


async def test_what_kills_its_consumer_every_time_ends_among_the_dead_letters(bus: AmqpBus, url: str) -> None:
    await bus.declare([EVENTS])
    await RelayLike(bus, messages(2)).run()
    async with plain_channel(url) as channel:
        await channel.set_qos(prefetch_count=1)
        queue = await channel.declare_queue(EVENTS.queue, passive=True)
        seen: list[str] = []

        async def refuse(incoming: aio_pika.abc.AbstractIncomingMessage) -> None:
            seen.append(incoming.message_id or "")
            await incoming.reject(requeue=True)

        await queue.consume(refuse)
        await until(lambda: len(seen) > 2 * DELIVERY_LIMIT)
    await parked(url, 2)
    assert seen[:DELIVERY_LIMIT] == ["m00000"] * DELIVERY_LIMIT, "returned to the front: order is kept"


async def test_dead_letters_can_be_looked_at_and_replayed(bus: AmqpBus, url: str) -> None:
    """As often as one likes; and one that is still bad comes back, once."""
    bad, seen = {"m00001", "m00003"}, list[Message]()

    async def handle(batch: Sequence[Message]) -> Sequence[Outcome]:
        seen.extend(batch)
        return [Outcome.PARK if message.message_id in bad else Outcome.DONE for message in batch]

    await bus.declare([EVENTS])
    stop = asyncio.Event()
    task = asyncio.create_task(bus.consume(EVENTS, handle, stop))
    await RelayLike(bus, messages(5)).run()
    first = (await parked(url, 2))[0]
    assert (first.message_id, first.type, first.routing_key) == ("m00001", "t", "a.b")
    assert (first.reason, first.size, first.replayed) == ("rejected", 200, False)
    for _ in range(25):  # beyond the limit that RabbitMQ 4 has by default
        assert [letter.message_id for letter in await dead_letters(url, EVENTS.queue)] == ["m00001", "m00003"]
    bad.discard("m00001")
    replayed = await dead_letters(url, EVENTS.queue, replay=True)
    assert [letter.replayed for letter in replayed] == [True, True]
    await until(lambda: len(seen) == 7)
    again = seen[5]
    assert (again.message_id, again.type, again.body) == ("m00001", "t", b"x" * 200)
    assert [letter.message_id for letter in await parked(url, 1)] == ["m00003"]
    stop.set()
    await task


async def test_the_command_line_lists_and_replays(bus: AmqpBus, url: str) -> None:
    async def handle(batch: Sequence[Message]) -> Sequence[Outcome]:
        return [Outcome.PARK] * len(batch)

    await bus.declare([EVENTS])
    stop = asyncio.Event()
    task = asyncio.create_task(bus.consume(EVENTS, handle, stop))
    await RelayLike(bus, messages(3)).run()
    await parked(url, 3)
    stop.set()
    await task

    async def command(*words: str) -> list[dict[str, object]]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shared.amqp", "dead-letters", EVENTS.queue, *words),
            env={**os.environ, "AMQP_URL": url},
            stdout=subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        assert b"xxx" not in output, "bodies are never shown"
        return [json.loads(line) for line in output.splitlines()]

    assert [letter["message_id"] for letter in await command()] == ["m00000", "m00001", "m00002"]
    assert [letter["replayed"] for letter in await command("--replay")] == [True, True, True]
    assert await command() == []
    assert await drain(url) == ["m00000", "m00001", "m00002"]
