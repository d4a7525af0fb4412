"""The relay on a real database: nothing lost, order kept within a company, one leader; and the tests can tell."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID, uuid4

import asyncpg
import pytest

from deploy.rabbitmq import PrivateRabbit
from shared import crash, outbox
from shared.amqp import AmqpBus
from shared.bus import BILLING_EVENTS, Message, Outcome, Subscription, pause
from shared.loopback import LoopbackBus
from shared.outbox import Relay
from tests.conftest import MakeDatabase

PATIENCE_SECONDS = 60.0
NUMBERS = count()
EVENTS = Subscription("relay.events.v1", BILLING_EVENTS, ("#",))

SCHEMA = """
create table company (company_id uuid primary key, version bigint not null default 0);
create table event (
    company_id    uuid        not null references company,
    first_version bigint      not null,
    version       bigint      not null,
    event_id      uuid        not null unique,
    type          text        not null,
    occurred_at   timestamptz not null,
    payload       text        not null,
    primary key (company_id, first_version),
    unique (company_id, version)
);
create table outbox (
    outbox_id     bigint generated always as identity primary key,
    company_id    uuid   not null,
    first_version bigint not null
);
"""
SELECT = """
select outbox_id, event_id, type, 'ledger.posting.v1' as routing_key, payload as body, occurred_at
from outbox join event using (company_id, first_version)
order by outbox_id limit $1
"""
WRITE = """
with added as (
    insert into event values ($1, $2, $2, $3, 'ledger.posting', clock_timestamp(), $4)
    returning company_id, first_version
)
insert into outbox (company_id, first_version) select * from added
"""
RELAY_PROCESS = """
import asyncio, signal, sys
from shared.amqp import AmqpBus
from shared.outbox import Relay

async def main(dsn, url, exchange, select):
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await Relay(dsn, AmqpBus(url), exchange, select, batch_size=50).run(stop)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def dsn(make_database: MakeDatabase) -> str:
    dsn = await make_database(None)
    async with connected(dsn) as connection:
        await connection.execute(SCHEMA)
    return dsn


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def write_events(dsn: str, companies: Sequence[UUID], count: int, seed: int) -> None:
    """One event a transaction, as the outbox demands: the company's row is locked before its outbox row is drawn."""
    chance = random.Random(seed)
    async with connected(dsn) as connection:
        for _ in range(count):
            company = chance.choice(companies)
            async with connection.transaction():
                version = await connection.fetchval(
                    "update company set version = version + 1 where company_id = $1 returning version", company
                )
                payload = json.dumps({"company_id": str(company), "version": version})
                await connection.execute(WRITE, company, version, uuid4(), payload)
                await asyncio.sleep(chance.random() * 0.01)  # ids become visible out of order


async def make_companies(dsn: str, count: int) -> list[UUID]:
    companies = [uuid4() for _ in range(count)]
    async with connected(dsn) as connection:
        await connection.executemany("insert into company values ($1)", [(company,) for company in companies])
    return companies


async def unpublished(dsn: str) -> int:
    async with connected(dsn) as connection:
        return int(await connection.fetchval("select count(*) from outbox"))


@dataclass
class Recorder:
    """A publisher that remembers what it accepted; a fickle one accepts only part of what it gets, now and then."""

    fickle: bool = False
    accepted: list[Message] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    async def publish(self, exchange: str, messages: Sequence[Message]) -> list[bool]:
        await asyncio.sleep(0.005)
        answers = [True] * len(messages)
        if self.fickle and messages and self.chance.random() < 0.4:
            # As a broker may: later ones can be accepted although an earlier one was not.
            answers[self.chance.randrange(len(messages))] = False
        first = answers.index(False) if False in answers else len(answers)
        self.accepted += messages[:first]
        return answers


async def faults(dsn: str, received: Sequence[Message]) -> set[str]:
    """What is wrong with what came out."""
    async with connected(dsn) as connection:
        events = {str(row[0]) for row in await connection.fetch("select event_id from event")}
    counts = Counter(message.message_id for message in received)
    first_time = {message.message_id: json.loads(message.body) for message in reversed(received)}
    found = set()
    if set(counts) != events:
        found.add("lost")
    if max(counts.values(), default=1) > 1:
        found.add("repeated")
    versions: dict[str, list[int]] = {}
    for body in reversed(first_time.values()):
        versions.setdefault(body["company_id"], []).append(body["version"])
    if any(seen != sorted(seen) for seen in versions.values()):
        found.add("disordered")
    return found


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(*relays: Relay) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(relay.run(stop)) for relay in relays]
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*tasks)


async def race(dsn: str, publisher: Recorder, kind: type[Relay] = Relay, select: str = SELECT) -> set[str]:
    """Eight writers on four companies, two relays; then what is wrong with what was published."""
    companies = await make_companies(dsn, 4)
    relays = [kind(dsn, publisher, BILLING_EVENTS, select, batch_size=40) for _ in range(2)]
    leaders_at_once = 0
    async with running(*relays):
        writers = [asyncio.create_task(write_events(dsn, companies, 60, seed)) for seed in range(8)]
        before = -1
        while not all(writer.done() for writer in writers) or before != len(publisher.accepted):
            before = len(publisher.accepted)
            for _ in range(30):
                leaders_at_once = max(leaders_at_once, sum(relay.status.leader for relay in relays))
                await asyncio.sleep(0.02)
        await asyncio.gather(*writers)
    found = await faults(dsn, publisher.accepted)
    if leaders_at_once > 1:
        found.add("two leaders")
    if await unpublished(dsn):
        found.add("left over")
    return found


@pytest.mark.parametrize("fickle", [False, True])
async def test_every_event_is_published_once_and_in_order(dsn: str, fickle: bool) -> None:
    assert await race(dsn, Recorder(fickle)) == set()


class DeletesWhatWasRefused(Relay):
    async def _publish(self, connection: asyncpg.Connection[asyncpg.Record], rows: Sequence[asyncpg.Record]) -> bool:
        await self.publisher.publish(self.exchange, [outbox._message(row) for row in rows])
        ids = [row["outbox_id"] for row in rows]
        await connection.execute("delete from outbox where outbox_id = any($1::bigint[])", ids)
        return True


class DeletesBehindAFailure(Relay):
    async def _publish(self, connection: asyncpg.Connection[asyncpg.Record], rows: Sequence[asyncpg.Record]) -> bool:
        answers = await self.publisher.publish(self.exchange, [outbox._message(row) for row in rows])
        ids = [row["outbox_id"] for row, accepted in zip(rows, answers, strict=True) if accepted]
        await connection.execute("delete from outbox where outbox_id = any($1::bigint[])", ids)
        return True


class RemembersTheLastId(Relay):
    async def _publish_all(self, connection: asyncpg.Connection[asyncpg.Record], stop: asyncio.Event) -> None:
        last = 0
        while not stop.is_set():
            rows = await connection.fetch(self.select.replace("order by", f"where outbox_id > {last} order by"), 40)
            if rows:
                last = rows[-1]["outbox_id"]
                await self._publish(connection, rows)
            await pause(0.02, stop)


class LeadsWithoutLock(Relay):
    async def _lead(self, stop: asyncio.Event) -> None:
        async with connected(self.dsn) as connection:
            await self._publish_all(connection, stop)


@pytest.mark.parametrize(
    ("mutant", "select", "fault"),
    [
        (DeletesWhatWasRefused, SELECT, "lost"),
        (DeletesBehindAFailure, SELECT, "lost"),
        (RemembersTheLastId, SELECT, "lost"),
        (LeadsWithoutLock, SELECT, "repeated"),
        (Relay, SELECT.replace("order by outbox_id", "order by outbox_id desc"), "disordered"),
    ],
    ids=["deletes-what-was-refused", "deletes-behind-a-failure", "remembers-last-id", "no-lock", "newest-first"],
)
async def test_a_wrong_relay_is_found_out(dsn: str, mutant: type[Relay], select: str, fault: str) -> None:
    """Mutants of the relay, so that the test above proves something."""
    fickle = mutant in (DeletesWhatWasRefused, DeletesBehindAFailure)
    assert fault in await race(dsn, Recorder(fickle), mutant, select)


async def leader_pid(dsn: str) -> int | None:
    async with connected(dsn) as connection:
        pid: int | None = await connection.fetchval(
            "select pid from pg_locks where locktype = 'advisory' and granted"
            " and database = (select oid from pg_database where datname = current_database())"
        )
        return pid


async def test_a_leader_that_loses_its_connection_loses_no_event(dsn: str) -> None:
    companies = await make_companies(dsn, 3)
    publisher = Recorder()
    relays = [Relay(dsn, publisher, BILLING_EVENTS, SELECT, batch_size=20) for _ in range(2)]
    async with running(*relays), asyncio.timeout(PATIENCE_SECONDS):
        writer = asyncio.create_task(write_events(dsn, companies, 300, 1))
        killed = 0
        while not writer.done():
            if pid := await leader_pid(dsn):
                async with connected(dsn) as connection:
                    killed += await connection.fetchval("select pg_terminate_backend($1)", pid)
            await asyncio.sleep(0.3)
        await writer
        while await unpublished(dsn):
            await asyncio.sleep(0.05)
    assert killed >= 3
    assert await faults(dsn, publisher.accepted) <= {"repeated"}


async def test_a_standby_takes_over_when_the_leader_stops(dsn: str) -> None:
    companies = await make_companies(dsn, 1)
    publisher = Recorder()
    first, second = (Relay(dsn, publisher, BILLING_EVENTS, SELECT) for _ in range(2))
    async with running(second) as second_stop:
        await until(lambda: second.status.leader)
        async with running(first):
            await write_events(dsn, companies, 5, 1)
            await until(lambda: len(publisher.accepted) == 5)
            assert not first.status.leader
            second_stop.set()
            await until(lambda: first.status.leader)
            assert not second.status.leader
            await write_events(dsn, companies, 5, 2)
            await until(lambda: len(publisher.accepted) == 10)
    assert await faults(dsn, publisher.accepted) == set()


async def test_the_relay_waits_for_the_schema(make_database: MakeDatabase) -> None:
    dsn = await make_database(None)
    publisher = Recorder()
    relay = Relay(dsn, publisher, BILLING_EVENTS, SELECT)
    async with running(relay):
        await asyncio.sleep(0.3)
        async with connected(dsn) as connection:
            await connection.execute(SCHEMA)
        await write_events(dsn, await make_companies(dsn, 1), 3, 1)
        await until(lambda: len(publisher.accepted) == 3)


async def test_what_nobody_takes_stays_and_its_age_shows(dsn: str) -> None:
    bus = LoopbackBus()
    relay = Relay(dsn, bus, BILLING_EVENTS, SELECT)
    received: list[Message] = []

    async def handle(batch: Sequence[Message]) -> Sequence[Outcome]:
        received.extend(batch)
        return [Outcome.DONE] * len(batch)

    assert relay.status.lag_seconds() == 0.0
    await write_events(dsn, await make_companies(dsn, 2), 10, 1)
    async with running(relay):
        await until(lambda: relay.status.failed >= 20)
        assert (relay.status.published, await unpublished(dsn)) == (0, 10)
        await until(lambda: relay.status.lag_seconds() > 0.5)
        stop = asyncio.Event()
        consumer = asyncio.create_task(bus.consume(EVENTS, handle, stop))
        await until(lambda: len(received) == 10)
        await until(lambda: relay.status.lag_seconds() == 0.0)
        assert (relay.status.published, await unpublished(dsn)) == (10, 0)
        stop.set()
        await consumer
    assert not relay.status.leader
    assert await faults(dsn, received) == set()


async def test_a_writer_in_the_same_process_may_wake_it(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "SHORTEST_PAUSE_SECONDS", 50.0)
    publisher, wake = Recorder(), asyncio.Event()
    relay = Relay(dsn, publisher, BILLING_EVENTS, SELECT, wake=wake)
    companies = await make_companies(dsn, 1)
    async with running(relay) as stop:
        await until(lambda: relay.status.polled_at is not None)
        await asyncio.sleep(0.1)
        await write_events(dsn, companies, 1, 1)
        assert publisher.accepted == []
        wake.set()
        async with asyncio.timeout(5):
            await until(lambda: len(publisher.accepted) == 1)
        stop.set()
        wake.set()


def relay_process(dsn: str, url: str, crash_at: str = "") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RELAY_PROCESS, dsn, url, BILLING_EVENTS, SELECT]
    return subprocess.Popen(command, env={**os.environ, "CRASH_AT": crash_at})


def publishing_points() -> list[str]:
    points = [name for name in crash.POINTS if name.startswith(("relay.", "publisher."))]
    return [f"{name}#{hit}" for name in points for hit in ((1, 2) if name.startswith("relay.") else (1, 70))]


@pytest.mark.fault
@pytest.mark.parametrize("crash_at", publishing_points())
async def test_a_relay_killed_at_each_point_loses_nothing(dsn: str, rabbit: PrivateRabbit, crash_at: str) -> None:
    companies = await make_companies(dsn, 3)
    await asyncio.gather(*(write_events(dsn, companies, 50, seed) for seed in range(4)))
    received: list[Message] = []

    async def handle(batch: Sequence[Message]) -> Sequence[Outcome]:
        received.extend(batch)
        return [Outcome.DONE] * len(batch)

    url = rabbit.make_vhost(f"relay-{next(NUMBERS)}")
    bus, stop = AmqpBus(url), asyncio.Event()
    await bus.declare([EVENTS])
    consumer = asyncio.create_task(bus.consume(EVENTS, handle, stop))
    with relay_process(dsn, url, crash_at) as process:
        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == -signal.SIGKILL
    with relay_process(dsn, url) as process:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await unpublished(dsn):
                await asyncio.sleep(0.05)
        process.terminate()
        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0
    await until(lambda: len({message.message_id for message in received}) == 200)
    stop.set()
    await consumer
    assert await faults(dsn, received) <= {"repeated"}


def test_an_unknown_crash_point_is_refused() -> None:
    environment = {**os.environ, "CRASH_AT": "relay.misspelt#1"}
    done = subprocess.run(
        [sys.executable, "-c", "import shared.crash"], env=environment, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert b"relay.misspelt" in done.stderr
