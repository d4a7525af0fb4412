"""Events that break their handler, or end the process.

Decided here where the rules are silent: such an event is tried alone after the first failure, so that only the culprit
is put aside.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from services.ledger.feeds import emr as emr_feed
from services.ledger.feeds.attempts import MAX_ATTEMPTS
from services.ledger.feeds.consumer import SUBSCRIPTION, EmrConsumer
from shared.amqp import AmqpBus
from shared.amqp.dead_letters import dead_letters
from shared.bus import EMR_FEED, Message, Outcome
from shared.errors import Unavailable
from shared.ids import NO_COMPANY
from tests.support.emr import Emr, message
from tests.support.feed_work import retried, the_exception, true
from tests.support.ledger import Company, LedgerStack


class Died(BaseException):
    """Stands for the end of the process: nothing after it runs."""


def breaking(monkeypatch: pytest.MonkeyPatch, culprit: str, error: BaseException) -> list[Sequence[str]]:
    """Handling this payment raises; what was handled, batch by batch."""
    take, seen = emr_feed.take, []

    async def broken(ledger: Any, feed: Any, events: Sequence[Any], correlation_id: str) -> None:
        names = [event.document.external_id for event in events]
        seen.append(names)
        if culprit in names:
            raise error
        await take(ledger, feed, events, correlation_id)

    monkeypatch.setattr(emr_feed, "take", broken)
    return seen


async def attempts(company: Company) -> dict[int, int]:
    rows = await company.stack.owner.fetch(
        "select attempts, count(*) as n from feed_attempt where company_id = $1 group by 1", company.company_id
    )
    return {row["attempts"]: row["n"] for row in rows}


async def test_an_event_that_breaks_its_handler_is_put_aside_and_holds_nobody_up(
    emr: Emr, monkeypatch: pytest.MonkeyPatch
) -> None:
    company, consumer = emr.company, EmrConsumer(emr.company.stack.ledger)
    events = [emr.payment(f"p-{n}") for n in range(5)]
    with monkeypatch.context() as patch:
        breaking(patch, "p-2", ValueError("boom"))
        assert await emr.deliver(*events, consumer=consumer) == [Outcome.RETRY] * 5
        assert await attempts(company) == {1: 5}
        outcomes = await emr.deliver(*events, consumer=consumer)
        assert [outcome for outcome in outcomes if outcome is not Outcome.DONE] == [Outcome.RETRY]
        assert (await company.sums())["payments"] == 4
        for n in range(2, MAX_ATTEMPTS):
            assert await attempts(company) == {n: 1}
            assert await emr.deliver(events[2], emr.payment(f"q-{n}"), consumer=consumer) == [
                Outcome.RETRY,
                Outcome.DONE,
            ]
        assert await emr.deliver(events[2], consumer=consumer) == [Outcome.DONE]
    row = await the_exception(company)
    assert (row["reason"], row["detail"]["attempts"], row["detail"]["last_error_type"]) == (
        "poison",
        MAX_ATTEMPTS,
        "ValueError",
    )
    assert await attempts(company) == {}
    await true(company)
    # What broke it was mended.
    assert (await retried(company, row))["state"] == "retried"
    assert (await company.sums())["payments"] == 5 + MAX_ATTEMPTS - 2
    await true(company)


async def test_an_event_that_ends_the_process_is_found_by_counting_before(
    emr: Emr, monkeypatch: pytest.MonkeyPatch
) -> None:
    company = emr.company
    events = [emr.payment(f"p-{n}") for n in range(6)]
    deaths = 0
    with monkeypatch.context() as patch:
        breaking(patch, "p-3", Died())
        while True:
            try:
                outcomes = await emr.deliver(*events, consumer=EmrConsumer(company.stack.ledger))
                break
            except Died:
                deaths += 1
    assert outcomes == [Outcome.DONE] * 6
    assert deaths == MAX_ATTEMPTS
    assert (await company.sums())["payments"] == 5
    assert (await the_exception(company))["reason"] == "poison"
    assert await attempts(company) == {}


async def test_a_database_that_is_away_is_nobodys_fault(emr: Emr, monkeypatch: pytest.MonkeyPatch) -> None:
    company, consumer = emr.company, EmrConsumer(emr.company.stack.ledger)
    events = [emr.payment(f"p-{n}") for n in range(3)]
    with monkeypatch.context() as patch:
        breaking(patch, "p-1", Unavailable())
        for _ in range(3 * MAX_ATTEMPTS):
            with pytest.raises(Unavailable):
                await emr.deliver(*events, consumer=consumer)
    assert await emr.deliver(*events, consumer=consumer) == [Outcome.DONE] * 3
    assert await company.exceptions() == []
    assert (await company.sums())["payments"] == 3
    assert await attempts(company) == {}


async def test_poison_of_nobody(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose event it is cannot be told: it is quarantined without a company."""
    owner = Emr(company, f"nobody {uuid4()}", "")
    event = owner.payment()
    refuse = emr_feed.refuse

    async def broken(*arguments: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(emr_feed, "refuse", broken)
    consumer = EmrConsumer(company.stack.ledger)
    for _ in range(MAX_ATTEMPTS):
        assert await owner.deliver(event, consumer=consumer) == [Outcome.RETRY]
    assert await owner.deliver(event, consumer=consumer) == [Outcome.DONE]
    monkeypatch.setattr(emr_feed, "refuse", refuse)
    parked = await company.stack.owner.fetchval(
        "select reason from feed_exception where company_id = $1 and item_key = $2",
        NO_COMPANY,
        f"{owner.source} {event['id']}",
    )
    assert parked == "poison"


async def test_one_broken_company_does_not_hold_up_another(stack: LedgerStack, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = [await Emr.of(await stack.company()) for _ in range(2)]
    breaking(monkeypatch, "bad", RuntimeError())
    consumer = EmrConsumer(stack.ledger)
    assert await good.deliver(bad.payment("bad"), good.payment("good"), consumer=consumer) == [
        Outcome.RETRY,
        Outcome.DONE,
    ]
    assert (await good.company.sums())["payments"] == 1


async def test_over_rabbitmq_poison_ends_in_the_quarantine_and_rubbish_in_the_dead_letters(
    emr: Emr, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    company, bus, stop = emr.company, AmqpBus(amqp_url), asyncio.Event()
    await bus.declare([SUBSCRIPTION])
    rubbish = Message("rubbish", "emr.x", "emr.payment.posted.v1", b"rubbish")
    sent = [message(emr.payment("bad")), rubbish, *(message(emr.payment(f"p-{n}")) for n in range(20))]
    assert all(await bus.publish(EMR_FEED, sent))
    breaking(monkeypatch, "bad", KeyError("amount"))
    consuming = asyncio.create_task(EmrConsumer(company.stack.ledger).run(bus, stop))
    async with asyncio.timeout(60):
        while not await company.exceptions():
            await asyncio.sleep(0.05)
    assert (await the_exception(company))["detail"]["last_error_type"] == "KeyError"
    assert (await company.sums())["payments"] == 20
    stop.set()
    await consuming
    assert [letter.message_id for letter in await dead_letters(amqp_url, SUBSCRIPTION.queue)] == ["rubbish"]
    for expected in (["rubbish"], []):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.ledger", "replay", SUBSCRIPTION.queue),
            env={**os.environ, "AMQP_URL": amqp_url},
            stdout=subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        assert [json.loads(line)["message_id"] for line in output.splitlines()] == expected
    await bus.close()
    await true(company)
