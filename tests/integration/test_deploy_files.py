"""The files that compose mounts for databases and broker, run for real: roles and rights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import pytest
from aiormq.exceptions import AMQPError, ChannelAccessRefused
from yarl import URL

from deploy.postgres import PrivatePostgres
from deploy.rabbitmq import PrivateRabbit
from shared.amqp import AmqpBus
from shared.amqp.dead_letters import dead_letters
from shared.bus import Message, Outcome, Subscription
from shared.contracts import identity_events, ledger_events
from tests.support.deployed import SERVICES, compose_postgres, compose_rabbit, database_address


@pytest.fixture(scope="module")
def server(server_dir: Path) -> Iterator[PrivatePostgres]:
    with compose_postgres(server_dir / "compose") as made:
        yield made


@pytest.mark.parametrize("service", SERVICES)
async def test_each_service_owns_its_database_and_reaches_no_other(server: PrivatePostgres, service: str) -> None:
    connection = await asyncpg.connect(database_address(server, service, service))
    try:
        await connection.execute("create table posting (id int); insert into posting values (1)")
        await connection.execute(f"grant select on posting to {service}_app")
        for other in set(SERVICES) - {service}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"set role {other}_app")
    finally:
        await connection.execute("drop table posting")
        await connection.close()
    for user in (service, f"{service}_login"):
        for other in {*SERVICES, "postgres", "template1"} - {service}:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncpg.connect(database_address(server, user, other))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(str(URL(database_address(server, user, service)).with_password("another")))


@pytest.fixture
def broker(rabbit: PrivateRabbit, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Addresses of the services' users."""
    with compose_rabbit(rabbit, tmp_path) as address:
        yield address


async def test_each_service_may_use_its_own_queues_only(broker: Any) -> None:
    allowed = {"ledger": "ledger.emr.v1", "reporting": "reporting.events.v1"}
    for user, name in allowed.items():
        bus = AmqpBus(broker(user))
        heard = {"ledger": "identity.#", "reporting": "ledger.#"}[user]
        await bus.declare([Subscription(name, "billing.events", (heard,))])
        await bus.close()
    async with await aio_pika.connect(broker("identity")) as connection, await connection.channel() as channel:
        events = await channel.declare_exchange("billing.events", "topic", durable=True)
        await events.publish(aio_pika.Message(b"{}"), "identity.user_changed.v1")
    async with await aio_pika.connect(broker("ledger")) as connection, await connection.channel() as channel:
        feed = await channel.declare_exchange("emr.feed", "topic", durable=True)
        own = await channel.declare_queue(allowed["ledger"], passive=True)
        await own.bind(feed, "emr.#")

    for user in allowed:
        async with await aio_pika.connect(broker(user)) as connection, await connection.channel() as channel:
            ear = await channel.declare_queue(f"access.{user}.1", exclusive=True, auto_delete=True)
            await ear.bind("billing.events", identity_events.ACCESS_CHANGED)
            await ear.bind("billing.events", identity_events.HEARTBEAT_KEY)
            await ear.consume(print, no_ack=True)
    for user, other in (("ledger", "reporting"), ("reporting", "ledger"), ("identity", "identity")):
        async with await aio_pika.connect(broker(user)) as connection:
            channel = await connection.channel()
            with pytest.raises(ChannelAccessRefused):
                await channel.declare_queue(f"access.{other}.1", exclusive=True, auto_delete=True)

    for user, queue_name in (
        ("identity", "ledger.emr.v1"),
        ("identity", "identity.events.v1"),
        ("ledger", "reporting.events.v1"),
        ("reporting", "ledger.emr.v1"),
    ):
        async with await aio_pika.connect(broker(user)) as connection:
            channel = await connection.channel()
            with pytest.raises(ChannelAccessRefused):
                await (await channel.get_queue(queue_name, ensure=False)).consume(print)
    async with await aio_pika.connect(broker("reporting")) as connection:
        channel = await connection.channel()
        events = await channel.get_exchange("billing.events", ensure=False)
        with pytest.raises(ChannelAccessRefused):
            await events.publish(aio_pika.Message(b"{}"), "ledger.payment_posted.v1")
    # Nobody speaks in another's name, and the ledger hears nothing of its own.
    for user, topic in (("identity", "ledger.posting.v1"), ("ledger", "identity.access.changed.v1")):
        async with await aio_pika.connect(broker(user)) as connection:
            events = await (await connection.channel()).get_exchange("billing.events", ensure=False)
            with pytest.raises(ChannelAccessRefused):
                await events.publish(aio_pika.Message(b"{}"), topic)
    async with await aio_pika.connect(broker("ledger")) as connection:
        queue = await (await connection.channel()).declare_queue(allowed["ledger"], passive=True)
        with pytest.raises(ChannelAccessRefused):
            await queue.bind("billing.events", "#")


@pytest.mark.parametrize("made_by_an_earlier_version", [False, True])
async def test_what_is_parked_is_kept_and_replayed_with_the_rights_of_a_service(
    broker: Any, rabbit: PrivateRabbit, made_by_an_earlier_version: bool
) -> None:
    """Which has none to write to the default exchange. Earlier versions let their queues park by that one."""
    feed = Subscription("ledger.parked.v1", "emr.feed", ("emr.#",))
    seen: list[str] = []

    async def handle(batch: Sequence[Message]) -> Sequence[Outcome]:
        seen.extend(message.message_id for message in batch)
        return [Outcome.PARK if seen.count(message.message_id) == 1 else Outcome.DONE for message in batch]

    async def until_parked(number: int) -> None:
        async with asyncio.timeout(20):
            while len(await dead_letters(broker("ledger"), feed.queue)) != number:
                await asyncio.sleep(0.05)

    async with await aio_pika.connect(f"{rabbit.url}billing") as connection, await connection.channel() as channel:
        exchange = await channel.declare_exchange("emr.feed", "topic", durable=True)
        if made_by_an_earlier_version:
            arguments: dict[str, Any] = {
                "x-queue-type": "quorum",
                "x-single-active-consumer": True,
                "x-delivery-limit": 50,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": f"{feed.queue}.dead",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            }
            await channel.declare_queue(feed.queue, durable=True, arguments=arguments)
        bus, stop = AmqpBus(broker("ledger")), asyncio.Event()
        await bus.declare([feed])
        consuming = asyncio.create_task(bus.consume(feed, handle, stop))
        for number in range(3):
            await exchange.publish(aio_pika.Message(b"{}", message_id=str(number)), "emr.payment.posted.v1")
        await until_parked(3)
        replayed = await dead_letters(broker("ledger"), feed.queue, replay=True)
        assert [letter.message_id for letter in replayed] == ["0", "1", "2"]
        await until_parked(0)
        async with asyncio.timeout(20):
            while len(seen) < 6:
                await asyncio.sleep(0.05)
        stop.set()
        await consuming
        await bus.close()
    assert seen == ["0", "1", "2"] * 2


QUEUES = ("identity.x.v1", "ledger.x.v1", "ledger.x.v1.dead", "reporting.x.v1", "other.x.v1")
SAID = {
    "identity": (*identity_events.STATES, identity_events.HEARTBEAT_KEY, "identity.later.v2"),
    "ledger": (ledger_events.POSTING, "ledger.later.v2"),
    "reporting": ("reporting.later.v2",),
    "nobody": ("nobody.v1", "heartbeat.ledger", "identity", "ledger", "emr.payment.posted.v1", ""),
}
"""Topics, by who says them. Reporting says nothing, and may not."""
HEARD = ("identity.#", identity_events.ACCESS_CHANGED, identity_events.HEARTBEAT_KEY)
TRIES = [
    *(("declare exchange", name) for name in ("billing.events", "emr.feed", "other")),
    *((f"publish {topic}", "billing.events") for topics in SAID.values() for topic in topics),
    *(("publish emr.nobody.v1", name) for name in ("emr.feed", "amq.topic", "amq.fanout")),
    *((act, name) for act in ("declare queue", "consume", "purge", "delete queue") for name in QUEUES),
    *((f"bind billing.events {topic}", name) for topic in (*HEARD, "ledger.#", "heartbeat.#", "#") for name in QUEUES),
    *(("bind emr.feed #", name) for name in QUEUES),
    *((f"publish {name}", "") for name in QUEUES),  # the default exchange, which leads into every queue
]
OWN = ("declare queue", "consume", "purge", "delete queue", *(f"bind billing.events {topic}" for topic in HEARD))
MAY = {
    "identity": {
        ("declare exchange", "billing.events"),
        *((f"publish {topic}", "billing.events") for topic in SAID["identity"]),
    },
    "ledger": {
        *(("declare exchange", name) for name in ("billing.events", "emr.feed")),
        *((f"publish {topic}", "billing.events") for topic in SAID["ledger"]),
        *((act, name) for act in (*OWN, "bind emr.feed #") for name in QUEUES if name.startswith("ledger.")),
    },
    "reporting": {
        ("declare exchange", "billing.events"),
        *(
            (act, name)
            for act in (*OWN, "bind billing.events ledger.#")
            for name in QUEUES
            if name.startswith("reporting.")
        ),
    },
}
"""All that each service's user may do of what can be tried."""


@pytest.mark.parametrize("user", SERVICES)
async def test_each_user_may_do_what_its_service_needs_and_nothing_else(
    broker: Any, rabbit: PrivateRabbit, user: str
) -> None:
    await _furnish(f"{rabbit.url}billing")
    async with await aio_pika.connect(broker(user)) as connection:
        for act, name in TRIES:
            refused = False
            channel = await connection.channel()
            try:
                await _try(channel, act, name)
            except ChannelAccessRefused:
                refused = True
            else:
                await channel.close()
            assert refused == ((act, name) not in MAY[user]), (act, name)
    with pytest.raises(AMQPError):
        await aio_pika.connect(broker(user).replace("/billing", "/"))
    with pytest.raises(AMQPError):
        await aio_pika.connect(broker(user).replace("-secret", "-guess"))


async def _furnish(url: str) -> None:
    """Everything that can be tried is there; the owner of all is the node's own user."""
    async with await aio_pika.connect(url) as connection, await connection.channel() as channel:
        for name in ("billing.events", "emr.feed"):
            await channel.declare_exchange(name, "topic", durable=True)
        for name in QUEUES:
            await channel.declare_queue(name, durable=True)


async def _try(channel: Any, act: str, name: str) -> None:
    if act == "declare exchange":
        await channel.declare_exchange(name, "topic", durable=True)
    elif act.startswith("publish "):
        exchange = await channel.get_exchange(name, ensure=False) if name else channel.default_exchange
        await exchange.publish(aio_pika.Message(b"{}"), act.partition(" ")[2], mandatory=False)
    elif act == "declare queue":
        await channel.declare_queue(name, durable=True)
    else:
        queue = await channel.get_queue(name, ensure=False)
        if act == "consume":
            await queue.consume(print)
        elif act == "purge":
            await queue.purge()
        elif act == "delete queue":
            await queue.delete(if_unused=False, if_empty=False)
            # For those who come after: by its owner, whom this shows again to be one.
            await channel.declare_queue(name, durable=True)
        else:
            _, exchange, topic = act.split(" ")
            await queue.bind(exchange, topic)
