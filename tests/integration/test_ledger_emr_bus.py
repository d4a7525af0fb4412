"""EMR events over both transports of the bus: any order, any repetition, any crash, the same books.

Decided here where the rules are silent: a message whose envelope cannot be read goes to the dead letters.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

import pytest

from services.ledger.feeds.consumer import SUBSCRIPTION, EmrConsumer
from services.ledger.service import Ledger
from shared.amqp import AmqpBus
from shared.amqp.dead_letters import dead_letters
from shared.bus import EMR_FEED, Bus, Message, Outcome
from shared.errors import Unavailable
from shared.ids import NO_COMPANY
from shared.loopback import LoopbackBus
from tests.support.emr import HOSTILE, Emr, changed, emr_event, emr_payment, message
from tests.support.ledger import COUNTS, Company, LedgerStack, clinic_of, fold
from tests.support.posting import in_background


def story(emr: Emr, rng: random.Random, documents: int = 12) -> list[dict[str, Any]]:
    """Several payments and charges with one to four versions each, some deleted, some posted again."""
    events = []
    for n in range(documents):
        kind = rng.choice(("payment", "charge"))
        make = emr.payment if kind == "payment" else emr.charge
        for version in range(1, rng.randint(1, 4) + 1):
            if version > 1 and rng.random() < 0.3:
                events.append(emr.deletion(kind, f"{kind}-{n}", version))
            else:
                fields: dict[str, Any] = {"amount_cents": rng.choice((100, 2_500, 7_300))}
                if kind == "payment":
                    fields["payment_type"] = rng.choice(("copay", "copay", "other", "internal"))
                    fields["method"] = rng.choice(("cash", "credit_card"))
                events.append(make(f"{kind}-{n}", version, **fields))
    return events


async def what_stands(company: Company) -> Any:
    """Payments, charges and totals, without ids, times and versions, which tell in what order things came."""
    payments = [
        {
            k: row[k]
            for k in ("external_id", "amount_cents", "unapplied_cents", "method", "deposit_date", "payment_type")
        }
        for row in (await company.get("/v1/payments", limit=500))["items"]
        if not row["withdrawn"]
    ]
    charges = [
        {k: row[k] for k in ("external_id", "amount_cents", "balance_cents", "procedure_code", "units")}
        for row in (await company.get("/v1/charges", limit=500))["items"]
        if row["status"] != "void"
    ]
    names = sorted(payments, key=lambda row: row["external_id"]), sorted(charges, key=lambda row: row["external_id"])
    figures = sorted((words[1:], value) for words, value in (await company.totals()).items())
    return (*names, figures)


@pytest.mark.parametrize("seed", range(5))
async def test_shuffled_and_repeated_versions_end_in_the_same_books(stack: LedgerStack, seed: int) -> None:
    rng = random.Random(seed)
    plain, shuffled = [await Emr.of(await stack.company()) for _ in range(2)]
    events = story(plain, rng)
    await plain.send(*events)
    # The same story told to another company.
    moved = json.loads(
        json.dumps(events)
        .replace(plain.source, shuffled.source)
        .replace(str(plain.company.locations[0]), str(shuffled.company.locations[0]))
    )
    messages = [message(event, binary=rng.random() < 0.5) for event in moved for _ in range(rng.choice((1, 1, 2)))]
    rng.shuffle(messages)
    consumer = EmrConsumer(stack.ledger)
    while messages:
        size = rng.randint(1, len(messages))
        assert set(await consumer.handle(messages[:size])) == {Outcome.DONE}
        messages = messages[size:]
    assert await what_stands(shuffled.company) == await what_stands(plain.company)
    assert await shuffled.company.reasons() == {}
    for emr in (plain, shuffled):
        assert fold(await emr.company.events()) == await emr.company.totals()


async def test_a_day_of_a_source_is_one_feed_that_its_client_may_read(emr: Emr) -> None:
    consumer = EmrConsumer(emr.company.stack.ledger)
    good, bad = emr.payment(), emr.event("payment", emr_payment(uuid4(), "p-2"))
    await consumer.handle([message(good), message(bad), message(good)])
    (feed,) = (await emr.company.get("/v1/feeds", emr.token))["items"]
    assert {name: feed[name] for name in ("channel", "state", *COUNTS)} == {
        "channel": "amqp",
        "state": "done",
        "received": 3,
        "posted": 1,
        "duplicates": 1,
        "ignored": 0,
        "quarantined": 1,
    }
    (row,) = (await emr.company.get("/v1/exceptions", emr.token))["items"]
    assert (row["reason"], row["feed_id"]) == ("unknown_clinic", feed["feed_id"])
    other = await Emr.of(emr.company)
    assert (await emr.company.get("/v1/feeds", other.token))["items"] == []
    assert (await emr.company.send("GET", f"/v1/feeds/{feed['feed_id']}", token=other.token)).status == 404
    assert (await emr.company.get("/v1/exceptions", other.token))["items"] == []


async def test_a_source_with_many_companies_is_led_by_its_clinics(stack: LedgerStack) -> None:
    companies = [await stack.company() for _ in range(3)]
    source = f"shared {uuid4()}"
    await stack.emr_client(companies[:2], source)
    events = [emr_event(source, "payment", emr_payment(company.locations[0], "p-1")) for company in companies]
    assert await EmrConsumer(stack.ledger).handle([message(event) for event in events]) == [Outcome.DONE] * 3
    assert [(await company.sums())["payments"] for company in companies] == [1, 1, 0]
    parked = await stack.owner.fetchval(
        "select count(*) from feed_exception where company_id = $1 and detail ->> 'source' = $2", NO_COMPANY, source
    )
    assert parked == 1


async def test_a_whole_batch_that_comes_again_doubles_nothing(emr: Emr) -> None:
    """As after a crash between commit and ack: postings, documents and exceptions are as they were."""
    consumer = EmrConsumer(emr.company.stack.ledger)
    batch = [
        message(emr.payment("p-1")),
        message(emr.charge("c-1")),
        message(emr.payment("p-1", 2, amount_cents=100)),
        message(changed(emr.payment("p-2"), "amount_cents", -5)),
        message(emr.event("payment", emr_payment(uuid4(), "p-3"))),
        message({**emr.payment("p-1"), "id": "conflict", "data": {**emr.payment("p-1", 2)["data"], "memo": "x"}}),
        message(emr.payment("i", payment_type="internal")),
    ]
    assert await consumer.handle(batch) == [Outcome.DONE] * 7
    rows, stands = await emr.company.rows(), await what_stands(emr.company)
    assert rows["feed_exception"] == 3
    for _ in range(2):
        assert await EmrConsumer(emr.company.stack.ledger).handle(batch) == [Outcome.DONE] * 7
    again = await emr.company.rows()
    counted = {"feed_item", "company_book"}
    assert {k: v for k, v in again.items() if k not in counted} == {k: v for k, v in rows.items() if k not in counted}
    assert await what_stands(emr.company) == stands
    (feed,) = (await emr.company.get("/v1/feeds"))["items"]
    assert feed["received"] == sum(feed[name] for name in COUNTS[1:]) == 21
    assert (feed["posted"], feed["exceptions"]) == (3, 3)


async def test_books_that_are_away_leave_the_batch_to_come_again(emr: Emr, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = emr.company.stack.ledger
    batch = [message(emr.payment(f"p-{n}")) for n in range(3)]

    async def away(self: Ledger, commands: Sequence[Any]) -> Any:
        raise Unavailable("The database is away")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "post_many", away)
        with pytest.raises(Unavailable):
            await EmrConsumer(ledger).handle(batch)
    assert await EmrConsumer(ledger).handle(batch) == [Outcome.DONE] * 3
    assert (await emr.company.sums())["payments"] == 3


async def test_a_company_whose_books_are_not_open_yet_is_waited_for(stack: LedgerStack, emr: Emr) -> None:
    """The news of a location may overtake that of its company: its money must not be dropped meanwhile."""
    late = uuid4()
    place = uuid4()
    await stack.owner.execute(
        "insert into directory_location (company_id, location_id, version, code, name, emr_location_id)"
        " values ($1, $2, 1, 'E', 'Early', $3)",
        late,
        place,
        clinic_of(place),
    )
    await stack.owner.execute(
        "update directory_client set company_ids = company_ids || $1::uuid where client_id = $2", late, emr.client
    )
    event = message(emr.event("payment", emr_payment(place, "p-1")))
    with pytest.raises(Unavailable):
        await EmrConsumer(stack.ledger).handle([event])
    await stack.owner.execute(
        "insert into directory_company (company_id, version, code, name, service_type, time_zone, close_policy)"
        " values ($1, 1, 'LATE', 'Late', 'revequip', 'UTC', 'deposit_date')",
        late,
    )
    assert await EmrConsumer(stack.ledger).handle([event]) == [Outcome.DONE]
    assert await stack.owner.fetchval("select count(*) from payment where company_id = $1", late) == 1


UNREADABLE = [
    b"",
    b"not json",
    b"\xff\xfe",
    b"[]",
    b"7",
    b"{}",
    b"[" * 100_000,
    b'{"specversion": "1.0", "id": "1", "id": "2", "source": "s", "type": "t", "data": {}}',
    b'{"specversion": "1.0", "id": "\\ud800", "source": "s", "type": "t", "data": {}}',
    b'{"specversion": "1.0", "id": "1", "source": "s", "type": "a b", "data": {}}',
    b'{"specversion": "1.0", "id": "1", "source": "s\\u0000", "type": "t", "data": {}}',
    b'{"specversion": "0.3", "id": "1", "source": "s", "type": "t", "data": {}}',
    b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": NaN}',
    b'"' + b"x" * (1 << 20) + b'"',
]


async def test_a_message_that_is_no_event_is_parked_and_holds_nobody_up(emr: Emr) -> None:
    bad = [Message(f"m-{n}", "emr.payment.posted.v1", "emr.x", body) for n, body in enumerate(UNREADABLE)]
    answers = await EmrConsumer(emr.company.stack.ledger).handle([*bad, message(emr.payment())])
    assert answers == [Outcome.PARK] * len(bad) + [Outcome.DONE]
    assert (await emr.company.sums())["payments"] == 1


async def test_hostile_data_in_a_readable_envelope_is_quarantined(emr: Emr) -> None:
    events = [
        {**emr.payment(f"p-{n}"), "data": data} for n, data in enumerate(([], 7, None, "x", {"emr_clinic_id": 7}))
    ]
    for n, (_, value) in enumerate(HOSTILE):
        event = emr.payment(f"h-{n}")
        event["data"]["extension"] = value
        event["data"]["amount_cents"] = -1
        events.append(event)
    for clinic_id in ("a\x00b", "\ud800", "x" * 5_000, ""):
        events.append(changed(emr.payment(f"c-{clinic_id[:1]!r}"), "emr_clinic_id", clinic_id))
    answers = await EmrConsumer(emr.company.stack.ledger).handle([message(event) for event in events])
    assert set(answers) == {Outcome.DONE}
    assert (await emr.company.rows())["feed_exception"] == len(events)
    assert set(await emr.company.reasons()) <= {"invalid", "unknown_clinic"}


async def test_a_batch_costs_the_same_however_many_events_it_has(emr: Emr) -> None:
    consumer = EmrConsumer(emr.company.stack.ledger)
    await consumer.handle([message(emr.payment("first"))])
    counts = []
    pool: Any = emr.company.stack.ledger.pool
    for size in (1, 10, 200):
        queries: list[str] = []

        def record(row: Any, queries: list[str] = queries) -> None:
            if not in_background(row.query):
                queries.append(row.query)

        for holder in pool._holders:
            if holder._con is not None:
                holder._con.add_query_logger(record)
        await consumer.handle([message(emr.payment(f"{size}-{n}")) for n in range(size)])
        for holder in pool._holders:
            if holder._con is not None:
                holder._con.remove_query_logger(record)
        counts.append(len(queries))
    assert counts == [7, 7, 7], "three to route, two to count the attempt, two to post"


@pytest.fixture(params=["loopback", "amqp"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Bus, Callable[[], Awaitable[int]]]]:
    """A transport, and how many messages it has parked."""
    if request.param == "loopback":
        loopback = LoopbackBus()

        async def parked() -> int:
            return len(loopback.parked[SUBSCRIPTION.queue])

        yield loopback, parked
        await loopback.close()
        return
    url = request.getfixturevalue("amqp_url")
    amqp = AmqpBus(url)

    async def dead() -> int:
        return len(await dead_letters(url, SUBSCRIPTION.queue))

    yield amqp, dead
    await amqp.close()


async def test_over_a_transport(stack: LedgerStack, bus: tuple[Bus, Callable[[], Awaitable[int]]]) -> None:
    """Published as api.md says, in both modes, with repetitions and rubbish between; consumed by the feeds process."""
    transport, parked = bus
    emr = await Emr.of(await stack.company())
    reference = await Emr.of(await stack.company())
    rng = random.Random(7)
    events = story(reference, rng)
    await reference.send(*events)
    moved = json.loads(
        json.dumps(events)
        .replace(reference.source, emr.source)
        .replace(str(reference.company.locations[0]), str(emr.company.locations[0]))
    )
    messages = [message(event, binary=rng.random() < 0.5) for event in moved for _ in range(2)]
    messages += [Message(f"rubbish-{n}", "emr.x", "emr.payment.posted.v1", b"rubbish") for n in range(3)]
    rng.shuffle(messages)
    await transport.declare([SUBSCRIPTION])
    stop = asyncio.Event()
    consuming = asyncio.create_task(EmrConsumer(stack.ledger).run(transport, stop))
    async with asyncio.timeout(60):
        while messages:
            answers = await transport.publish(EMR_FEED, messages[:50])
            accepted = answers.index(False) if False in answers else len(answers)
            messages = messages[accepted:]
            await asyncio.sleep(0.02)
        while await handled(emr) < 2 * len(events):
            await asyncio.sleep(0.05)
    stop.set()
    await consuming
    assert await what_stands(emr.company) == await what_stands(reference.company)
    assert await parked() == 3


async def handled(emr: Emr) -> int:
    return sum(feed["received"] for feed in (await emr.company.get("/v1/feeds"))["items"])
