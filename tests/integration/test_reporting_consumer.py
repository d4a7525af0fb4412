"""The consumer as a whole: the bus, identity's names, and gaps that only the ledger's log can close."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.reporting import consumer
from services.reporting.catchup import CatchUp
from services.reporting.inbox import SUBSCRIPTION
from shared.bus import BILLING_EVENTS, Message
from shared.contracts.envelope import Event, encode
from shared.errors import Unavailable
from shared.identity_client import InternalTokens, ServiceClient
from shared.ids import uuid7
from shared.loopback import LoopbackBus
from tests.support.databases import Databases
from tests.support.ledger_events import START, Books, message_of
from tests.support.reporting import ReportingStack, states_of


@pytest.fixture
async def stack(databases: Databases) -> AsyncIterator[ReportingStack]:
    async with ReportingStack.fresh(databases) as stack:
        yield stack


@pytest.fixture
async def catch_up(stack: ReportingStack) -> AsyncIterator[CatchUp]:
    tokens = InternalTokens(stack.config.identity_url, "secret")
    ledger = ServiceClient(stack.config.ledger_url, tokens)
    yield CatchUp(stack.pool, stack.inbox, ledger)
    await ledger.close()
    await tokens.close()


async def _until(reached: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(500):
        if await reached():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen within ten seconds")


async def _version(stack: ReportingStack, made: Books) -> int:
    query = "select version from company_progress where company_id = $1"
    return await stack.owner.fetchval(query, made.company_id) or 0


async def test_a_gap_is_closed_from_the_ledgers_log(stack: ReportingStack, catch_up: CatchUp) -> None:
    made = Books(random.Random(1)).act(400)
    stack.neighbours.books = [made]
    messages = [message_of(event) for event in made.events()]
    await stack.inbox.handle(messages[:3] + messages[4:])
    assert await _version(stack, made) < made.version
    heads = await catch_up.look({})
    assert "events" not in stack.neighbours.asked, "what is only just missing may be under way"
    await catch_up.look(heads)
    assert await _version(stack, made) == made.version
    tables = await stack.tables(made.company_id)
    stack.neighbours.asked.clear()
    await catch_up.look(await catch_up.look(heads))
    assert "events" not in stack.neighbours.asked
    await stack.inbox.handle(messages)
    assert await stack.tables(made.company_id) == tables


async def test_an_event_that_cannot_be_folded_stops_its_company_only(stack: ReportingStack, catch_up: CatchUp) -> None:
    """It is an alarm at every look, and its log is not read to the end again and again."""
    stuck, sound = Books(random.Random(20)).act(900), Books(random.Random(21)).act(20)
    stuck.postings[30] = stuck.postings[30].model_copy(update={"version": 99})
    stack.neighbours.books = [stuck, sound]
    await catch_up.look({stuck.company_id: stuck.version, sound.company_id: sound.version})
    reached = await _version(stack, stuck)
    assert 20 < reached <= 30
    assert await _version(stack, sound) == sound.version
    stack.neighbours.asked.clear()
    await catch_up.look({stuck.company_id: stuck.version})
    assert stack.neighbours.asked.count("events") == 1
    assert await _version(stack, stuck) == reached


async def test_only_what_is_missing_is_read(stack: ReportingStack, catch_up: CatchUp) -> None:
    """What waits in the inbox behind the gap is not asked for again."""
    made = Books(random.Random(22)).act(3_000)
    stack.neighbours.books = [made]
    await stack.inbox.handle([message_of(event) for event in made.events()][1:])
    await catch_up.look({made.company_id: made.version})
    assert await _version(stack, made) == made.version
    assert stack.neighbours.asked.count("events") <= 2


async def test_an_empty_database_fills_itself(stack: ReportingStack, catch_up: CatchUp) -> None:
    many = [Books(random.Random(seed)).act(400) for seed in (2, 3)]
    stack.neighbours.books, stack.neighbours.longest = many, 1
    await catch_up.look(await catch_up.look({}))
    for made in many:
        assert await _version(stack, made) == made.version
        assert (await stack.balancing(made, variation="full_access"))["totals"]["payments"] == len(made.receipts())


async def test_what_a_dead_process_left_waiting_is_folded(stack: ReportingStack, catch_up: CatchUp) -> None:
    """It died between the batch that closed a gap and the fold of what waited behind the gap."""
    made = Books(random.Random(4)).act(10)
    messages = [message_of(event) for event in made.events(longest=1)]
    await stack.inbox.handle(messages[2:])
    stack.inbox.drain = _never  # type: ignore[method-assign]
    await stack.inbox.handle(messages[:2])
    assert await _version(stack, made) == 2
    del stack.inbox.drain
    await catch_up.look({})
    assert await _version(stack, made) == made.version


async def _never(_: object) -> None:
    return None


async def test_a_ledger_that_is_away_is_waited_for(stack: ReportingStack, catch_up: CatchUp) -> None:
    made = Books(random.Random(5)).act(10)
    stack.neighbours.books = [made]
    stack.neighbours.away = True
    with pytest.raises(Unavailable):
        await catch_up.look({made.company_id: made.version})
    stop = asyncio.Event()
    catch_up._seconds = 0.02
    running = asyncio.ensure_future(catch_up.run(stop))
    await asyncio.sleep(0.1)
    stack.neighbours.away = False

    async def done() -> bool:
        return await _version(stack, made) == made.version

    await _until(done)
    stop.set()
    await running


async def test_the_consumer_follows_the_bus_and_identity(stack: ReportingStack) -> None:
    made = Books(random.Random(6)).act(30)
    stack.neighbours.books = [made]
    bus, stop = LoopbackBus(), asyncio.Event()
    running = asyncio.ensure_future(consumer.run(stack.config, stop, bus))

    async def consuming() -> bool:
        return bus.connected and len(bus._queues) == 2

    await _until(consuming)
    messages = [message_of(event) for event in made.events()]
    names = [
        Message(
            str(number), kind, kind, encode(Event(id=uuid7(), source="i", type=kind, time=START, data=state)).encode()
        )
        for number, (kind, state) in enumerate(states_of(made))
    ]
    assert all(
        await bus.publish(BILLING_EVENTS, [*messages, *names, Message("x", "ledger.odd.v1", "ledger.odd.v1", b"")])
    )
    assert await _version(stack, made) == made.version
    assert [message.message_id for message in bus.parked[SUBSCRIPTION.queue]] == ["x"]
    report = await stack.balancing(made)
    assert all(item["poster_name"] for item in report["items"])
    # What never came by the bus comes from the log.
    made.act(20)

    async def caught_up() -> bool:
        return await _version(stack, made) == made.version

    await _until(caught_up)
    stop.set()
    await running
