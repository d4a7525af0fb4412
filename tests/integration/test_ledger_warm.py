"""Books remembered from batch to batch: they spare the load, and whatever they did not know is found out in time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from services.ledger import store, warm
from services.ledger.deciding import Verdict
from services.ledger.domain import commands as acts
from services.ledger.domain.wants import Wants
from services.ledger.poster import Poster
from services.ledger.posting import post_batch
from services.ledger.warm import WarmBooks
from tests.support.ledger import Company, LedgerStack
from tests.support.ledger_acts import Clerk

BOX = acts.Actor(UUID(int=7), "practice")


@pytest.fixture
def loads() -> Iterator[list[int]]:
    """One entry for each load: how many companies."""
    seen: list[int] = []
    load = store.load

    async def counted(connection: Any, wants: Any) -> Any:
        seen.append(len(wants))
        return await load(connection, wants)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "load", counted)
        patch.setattr(warm, "_COLD_SECONDS", 0.0)
        yield seen


def check(company: Company, key: str = "", **fields: Any) -> acts.Command:
    """A receipt of 10.00 at the company's first location."""
    act = acts.PostPayment("check", 1_000, company.today, location_id=company.locations[0], **fields)
    return acts.Command(company.company_id, key or str(uuid4()), "test", b"body", BOX, "correlation", act)


async def party(company: Company) -> dict[str, UUID]:
    return {
        "payer_id": UUID((await company.payer())["id"]),
        "patient_id": UUID((await company.patient())["id"]),
    }


def codes(verdicts: list[Verdict]) -> list[str]:
    return [verdict.problem.code if verdict.problem else "posted" for verdict in verdicts]


async def versions(stack: LedgerStack, company: Company) -> None:
    """Gapless, and dated in their order."""
    rows = await stack.owner.fetch(
        "select version from posting where company_id = $1 order by posted_at, version", company.company_id
    )
    head = await stack.owner.fetchval("select version from company_book where company_id = $1", company.company_id)
    assert [row["version"] for row in rows] == list(range(1, head + 1))


async def test_receipts_and_charges_load_the_books_once(stack: LedgerStack, loads: list[int]) -> None:
    company = await stack.company()
    known = await party(company)
    poster = Poster(stack.ledger.pool)
    charge = acts.PostCharge(known["patient_id"], company.locations[0], company.today, "97110", 1, 9_000, ("M54.5",))
    loads.clear()
    for one in (check(company, **known), replace(check(company), act=charge), check(company, **known)):
        assert not (await poster.post(one)).problem
    assert loads == [1]
    await versions(stack, company)


async def test_whom_they_do_not_know_is_taken_on_trust_and_proved(stack: LedgerStack, loads: list[int]) -> None:
    """Patients and payers made elsewhere are posted to at once; those who do not exist are refused as ever."""
    company = await stack.company()
    poster = Poster(stack.ledger.pool)
    assert not (await poster.post(check(company, **await party(company)))).problem
    assert not (await poster.post(check(company, **await party(company)))).problem
    for field, code in (("payer_id", "unknown_payer"), ("patient_id", "unknown_patient")):
        refused = await poster.post(check(company, **{field: uuid4()}))
        assert refused.problem is not None
        assert [error.code for error in refused.problem.errors] == [code]
    assert (await company.sums())["payments"] == 2


async def test_a_refusal_is_never_decided_on_remembered_books(stack: LedgerStack, loads: list[int]) -> None:
    """One bad receipt among good ones: decided again on loaded books, and refused alone."""
    company = await stack.company()
    known, pool, remembered = await party(company), stack.ledger.pool, WarmBooks()
    await post_batch(pool, [check(company, **known)], remembered)
    loads.clear()
    batch = [check(company, **known), check(company), check(company, **known)]
    assert codes(await post_batch(pool, batch, remembered)) == ["posted", "payer_or_patient", "posted"]
    assert loads == [1]


async def test_a_location_that_closes_is_closed_at_once(stack: LedgerStack, loads: list[int]) -> None:
    company = await stack.company()
    known, poster = await party(company), Poster(stack.ledger.pool)
    assert not (await poster.post(check(company, **known))).problem
    await stack.owner.execute(
        "update directory_location set active = false, version = version + 1 where location_id = $1",
        company.locations[0],
    )
    refused = await poster.post(check(company, **known))
    assert refused.problem is not None
    assert refused.problem.errors[0].code == "inactive_location"


async def test_a_key_used_elsewhere_answers_as_it_did_there(stack: LedgerStack, loads: list[int]) -> None:
    company = await stack.company()
    known, one, other = await party(company), Poster(stack.ledger.pool), Poster(stack.ledger.pool)
    for poster in (one, other, one):  # The last one remembers books that are older than the other's.
        await poster.post(check(company, **known))
    first = await other.post(check(company, "key", **known))
    again = await one.post(check(company, "key", **known))
    assert (first.replayed, again.replayed) == (False, True)
    assert again.response == first.response
    mismatch = await one.post(replace(check(company, "key", **known), body_hash=b"another"))
    assert mismatch.problem is not None
    assert mismatch.problem.errors[0].code == "idempotency_mismatch"
    assert (await company.sums())["payments"] == 4


async def test_a_day_that_ended_is_not_posted_on(stack: LedgerStack, loads: list[int]) -> None:
    """Remembered books know when their company's day ends."""
    company = await stack.company(time_zone="Pacific/Auckland")
    known, remembered = await party(company), WarmBooks()
    await post_batch(stack.ledger.pool, [check(company, **known)], remembered)
    wants = {company.company_id: Wants()}
    books = remembered.of(wants)[company.company_id]
    ends = await stack.owner.fetchval(
        "select ((clock_timestamp() at time zone 'Pacific/Auckland')::date + 1)::timestamp"
        " at time zone 'Pacific/Auckland'"
    )
    assert books.day_ends == ends
    kept = remembered._kept[company.company_id]
    kept.books.day_ends = kept.books.now - timedelta(microseconds=1)
    assert remembered.of(wants) == {}


async def test_books_are_loaded_again_after_a_while(stack: LedgerStack, loads: list[int]) -> None:
    company = await stack.company()
    known, poster = await party(company), Poster(stack.ledger.pool)
    await poster.post(check(company, **known))
    loads.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warm, "_SECONDS", -1.0)
        await poster.post(check(company, **known))
    assert loads == [1]


async def test_what_needs_to_know_more_loads(stack: LedgerStack, loads: list[int]) -> None:
    company = await stack.company()
    known, poster = await party(company), Poster(stack.ledger.pool)
    await poster.post(check(company, **known))
    charge = UUID((await company.charge(await company.patient(), amount_cents=900))["id"])
    await poster.post(check(company, **known))
    loads.clear()
    applied = await poster.post(check(company, **known, applications=(acts.Application(charge, 1_000),)))
    assert applied.problem is not None
    assert applied.problem.errors[0].code == "over_applied"
    assert loads == [1]


@pytest.mark.parametrize("seed", range(3))
async def test_processes_that_remember_never_disagree(stack: LedgerStack, loads: list[int], seed: int) -> None:
    """Three posters of the same companies, all with a memory, random commands: versions without a gap and dated in
    their order, and every key is answered once."""
    rng = random.Random(seed)
    companies = [await stack.company(locations=2) for _ in range(3)]
    parties = [await party(company) for company in companies]
    posters = [Poster(stack.ledger.pool) for _ in range(3)]
    accepted: dict[tuple[UUID, str], bytes] = {}

    async def work(poster: Poster, rng: random.Random) -> None:
        for _ in range(40):
            place = rng.randrange(3)
            company, key = companies[place], f"key-{rng.randrange(120)}"
            verdict = await poster.post(check(company, key, **parties[place]))
            assert not verdict.problem
            assert accepted.setdefault((company.company_id, key), verdict.response) == verdict.response

    workers = [work(poster, random.Random(rng.random())) for poster in posters for _ in range(3)]
    await asyncio.gather(*workers)
    for company in companies:
        await versions(stack, company)
        posted = sum(one == company.company_id for one, _ in accepted)
        assert (await company.sums())["payments"] == posted


async def test_a_random_history_is_the_same_with_and_without_a_memory(stack: LedgerStack, loads: list[int]) -> None:
    """The same commands, one ledger with a memory and one without: the same verdicts and control totals."""
    remembered, seen = WarmBooks(), []
    for memory in (remembered, None):
        company = await stack.company(locations=2)
        feed = uuid4()
        await stack.owner.execute(
            "insert into feed (company_id, feed_id, format, channel, sender) values ($1, $2, 'x12', 'http', 'tests')",
            company.company_id,
            feed,
        )
        clerk = Clerk(random.Random(5), company.company_id, company.locations, company.today, feed)
        story = []
        for _ in range(150):
            one = clerk.command()
            (verdict,) = await post_batch(stack.ledger.pool, [one], memory)
            story.append((type(one.act).__name__, verdict.problem.code if verdict.problem else ""))
            if not verdict.problem:
                clerk.learn(one, orjson.loads(verdict.response))
        seen.append((story, await company.sums()))
    assert seen[0] == seen[1]
