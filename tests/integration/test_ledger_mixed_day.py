"""A whole day of feeds in every format, shuffled, doubled and cut short, leaves the books of the clean day."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from tests.support.feed_work import true
from tests.support.ledger import Company, LedgerStack
from tests.support.mixed_day import Day, Delivery


async def arrived(day: Day, one: Delivery) -> None:
    """Sent until it is taken."""
    for _ in range(20):
        answer = await day.send(one)
        if answer.status == 200:
            return
        assert answer.status == 503, answer
    raise AssertionError("the ledger stayed away")


async def cut(day: Day, one: Delivery, seconds: float) -> None:
    """The sender goes away before he has his answer."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(day.send(one), seconds)


async def tried_again(company: Company) -> None:
    """What was early is tried again, as a biller does at the end of the day, until no more of it goes through."""
    before, left = None, await company.exceptions(state="open")
    while left and left != before:
        ids = [row["id"] for row in left]
        await company.post("/v1/exceptions/retry", {"ids": ids[:200]}, status=200, key="")
        before, left = left, await company.exceptions(state="open")


async def books(company: Company) -> Any:
    """Control totals with locations by their place, the open exceptions, and the charges that stand."""
    places = {str(one): place for place, one in enumerate(company.locations)}
    totals = {
        (places.get(words[0], words[0]), *words[1:]): figures for words, figures in (await company.totals()).items()
    }
    charges = [
        (row["external_id"], row["procedure_code"], row["amount_cents"], row["balance_cents"])
        for row in (await company.get("/v1/charges", limit=500))["items"]
        if row["status"] != "void"
    ]
    rows = await company.exceptions(state="open")
    waiting = {row["reason"] for row in rows}
    return totals, sorted(charges, key=str), waiting


async def clean(stack: LedgerStack, seed: int) -> Any:
    day = await Day.of(await stack.company(locations=2))
    for one in day.deliveries(seed):
        await arrived(day, one)
    await tried_again(day.company)
    await true(day.company)
    return await books(day.company)


@pytest.mark.parametrize("seed", range(6))
async def test_a_disordered_day_ends_as_the_clean_one(stack: LedgerStack, seed: int) -> None:
    expected = await clean(stack, seed)
    rng = random.Random(seed)
    day = await Day.of(await stack.company(locations=2))
    deliveries = day.deliveries(seed)
    again = [one for one in deliveries if rng.random() < 0.5]
    disordered = [*deliveries, *again]
    rng.shuffle(disordered)
    while disordered:
        some = [disordered.pop() for _ in range(min(len(disordered), rng.randint(1, 5)))]
        await asyncio.gather(*(cut(day, one, rng.random() * 0.03) for one in some if rng.random() < 0.5))
        await asyncio.gather(*(arrived(day, one) for one in some))
    await tried_again(day.company)
    await true(day.company)
    same(await books(day.company), expected)
    for one in deliveries:  # And once more in order, when nothing is new.
        await arrived(day, one)
    await tried_again(day.company)
    same(await books(day.company), expected)


def same(found: Any, expected: Any) -> None:
    """Part by part, so that what differs is seen."""
    for one, other in zip(found, expected, strict=True):
        assert [row for row in one if row not in other] == [row for row in other if row not in one]
    assert found == expected


async def test_the_day_is_one(stack: LedgerStack) -> None:
    """The clean day has money of every format, and something that must wait."""
    totals, charges, waiting = await clean(stack, 1)
    assert {words[3] for words in totals} == {"emr", "era"}
    assert len(charges) > 15
    assert waiting == {"unmatched_claim"}
