"""Commands at once and commands together: each is posted once, alone or not, in one order."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from services.ledger.deciding import Verdict
from services.ledger.domain import commands as acts
from services.ledger.poster import Poster
from services.ledger.posting import post_batch
from services.ledger.store import ROLE
from shared.db import KEYED_PLANS, create_pool
from shared.errors import NotFound, Unavailable
from tests.support.ledger import Company, LedgerStack
from tests.support.posting import check, command, gapless, some_charge, some_payer


async def test_eight_writers_on_one_charge_never_apply_more_than_it_owes(stack: LedgerStack) -> None:
    """Eight processes' worth of pools: no group commit joins them, only the company's lock keeps them apart."""
    company = await stack.company()
    payer = await some_payer(company)
    charges = [await some_charge(company, 1_000, payer) for _ in range(5)]
    posters = [Poster(stack.ledger.pool) for _ in range(8)]
    verdicts = await asyncio.gather(
        *(
            poster.post(
                command(company, check(company, 300, payer_id=payer, applications=(acts.Application(one, 300),)))
            )
            for one in charges
            for poster in posters
        )
    )
    assert sum(verdict.problem is None for verdict in verdicts) == 5 * 3
    assert {v.problem.code for v in verdicts if v.problem} == {"over_applied"}
    for one in charges:
        assert (await company.get(f"/v1/charges/{one}"))["balance_cents"] == 100
    await gapless(stack, company)


async def test_a_reversal_asked_for_twice_at_once_happens_once(stack: LedgerStack) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    for _ in range(5):
        paid = orjson.loads(
            (await Poster(stack.ledger.pool).post(command(company, check(company, payer_id=payer)))).unwrap()
        )
        act = acts.ReversePayment(UUID(paid["id"]))
        verdicts = await asyncio.gather(*(Poster(stack.ledger.pool).post(command(company, act)) for _ in range(4)))
        assert sorted(v.problem.code if v.problem else "posted" for v in verdicts) == ["already_reversed"] * 3 + [
            "posted"
        ]
    assert (await company.sums())["amount_cents"] == 0


async def test_one_key_from_a_hundred_callers_is_one_posting(stack: LedgerStack) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    one = command(company, check(company, payer_id=payer), key="the only one")
    posters = [stack.ledger.poster, Poster(stack.ledger.pool), Poster(stack.ledger.pool)]
    verdicts = await asyncio.gather(*(posters[n % 3].post(one) for n in range(100)))
    assert len({verdict.unwrap() for verdict in verdicts}) == 1
    assert sum(verdict.replayed for verdict in verdicts) == 99
    assert (await company.sums())["payments"] == 1


@pytest.mark.parametrize(
    "other",
    [
        {"body_hash": b"another body"},
        {"route": "another route"},
        {"actor": acts.Actor(UUID(int=8), "practice")},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_a_key_belongs_to_body_route_and_actor(stack: LedgerStack, other: dict[str, Any]) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    first = command(company, check(company, payer_id=payer), key="mine")
    await stack.ledger.post(first)
    before = await company.rows()
    verdict = await stack.ledger.post(replace(first, **other))
    assert verdict.problem is not None
    assert (verdict.problem.status, verdict.problem.code) == (422, "idempotency_mismatch")
    assert await company.rows() == before
    assert (await stack.ledger.post(first)).replayed


async def test_keys_of_different_companies_are_different_keys(stack: LedgerStack) -> None:
    companies = [await stack.company() for _ in range(2)]
    for company in companies:
        payer = await some_payer(company)
        assert not (await stack.ledger.post(command(company, check(company, payer_id=payer), key="same"))).replayed


async def test_a_refused_command_is_not_remembered(stack: LedgerStack) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    charge = await some_charge(company, 1_000, payer)
    late = command(
        company, check(company, 2_000, payer_id=payer, applications=(acts.Application(charge, 2_000),)), key="k"
    )
    assert (await stack.ledger.post(late)).problem
    await company.patch(f"/v1/charges/{charge}", {"amount_cents": 2_000})
    assert not (await stack.ledger.post(late)).replayed


async def test_a_bad_command_among_many_fails_alone(stack: LedgerStack) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    charge = await some_charge(company, 1_000, payer)
    batch = [command(company, check(company, 100 + n, payer_id=payer)) for n in range(64)]
    bad = {
        3: (check(company), "payer_or_patient"),
        17: (check(company, payer_id=payer, location_id=uuid4()), "unknown_location"),
        31: (check(company, 5_000, payer_id=payer, applications=(acts.Application(charge, 1_001),)), "over_applied"),
        63: (acts.ReversePayment(uuid4()), "not_found"),
    }
    for place, (act, _) in bad.items():
        batch[place] = command(company, act)
    verdicts = await post_batch(stack.ledger.pool, batch)
    assert {n: v.problem.code for n, v in enumerate(verdicts) if v.problem} == {n: code for n, (_, code) in bad.items()}
    assert (await company.sums())["payments"] == 60
    await gapless(stack, company)


async def test_what_no_check_foresaw_fails_alone_too(stack: LedgerStack) -> None:
    """A row that the database refuses takes down its batch; the batch is halved until it stands alone."""
    company = await stack.company()
    payer = await some_payer(company)
    batch = [command(company, check(company, 100, payer_id=payer)) for _ in range(20)]
    batch[7] = command(company, check(company, 100, payer_id=payer, memo="\x00 is no text to PostgreSQL"))
    verdicts = await stack.ledger.poster.post_many(batch)
    assert [n for n, v in enumerate(verdicts) if v.problem] == [7]
    assert verdicts[7].problem is not None
    assert verdicts[7].problem.status == 500
    assert (await company.sums())["payments"] == 19


async def test_later_commands_of_a_batch_see_what_earlier_ones_did(stack: LedgerStack) -> None:
    """A command that fits alone but not after an accepted one is refused; after a refused one it fits."""
    company = await stack.company()
    payer = await some_payer(company)
    charge = await some_charge(company, 1_000, payer)

    def pay(cents: int) -> acts.Command:
        return command(company, check(company, cents, payer_id=payer, applications=(acts.Application(charge, cents),)))

    verdicts = await post_batch(stack.ledger.pool, [pay(1_500), pay(800), pay(800), pay(200)])
    assert [v.problem.code if v.problem else "posted" for v in verdicts] == [
        "over_applied",
        "posted",
        "over_applied",
        "posted",
    ]


async def test_one_party_changed_twice_in_a_batch_is_written_once(stack: LedgerStack) -> None:
    company = await stack.company()
    patient = UUID((await company.patient())["id"])
    changes = [acts.ChangeParty("patient", patient, {"last_name": name}) for name in ("First", "Second", "Third")]
    verdicts = await post_batch(stack.ledger.pool, [command(company, act) for act in changes])
    assert not any(verdict.problem for verdict in verdicts)
    assert (await company.get(f"/v1/patients/{patient}"))["last_name"] == "Third"


async def test_two_shards_and_bulk_work_get_on_without_deadlock(stack: LedgerStack) -> None:
    """Singles and chunks of six companies through three posters, so that batches of several companies overlap."""
    companies = [await stack.company() for _ in range(6)]
    payers = [await some_payer(company) for company in companies]
    posters = [Poster(stack.ledger.pool, shards=2) for _ in range(3)]

    async def singles(poster: Poster, rng: random.Random) -> list[Verdict]:
        found = []
        for _ in range(8):
            picked = rng.sample(range(6), 4)
            found += await asyncio.gather(
                *(poster.post(command(companies[n], check(companies[n], payer_id=payers[n]))) for n in picked)
            )
        return found

    async def bulk(poster: Poster, n: int) -> list[Verdict]:
        many = [command(companies[n], check(companies[n], payer_id=payers[n])) for _ in range(100)]
        return await poster.post_many(many)

    work = [singles(poster, random.Random(n)) for n, poster in enumerate(posters * 2)]
    work += [bulk(posters[n % 3], n) for n in range(6)]
    async with asyncio.timeout(60):
        verdicts = [verdict for found in await asyncio.gather(*work) for verdict in found]
    assert not any(verdict.problem for verdict in verdicts)
    assert sum([(await company.sums())["payments"] for company in companies]) == len(verdicts) == 6 * 32 + 600
    for company in companies:
        await gapless(stack, company)


async def test_a_caller_that_goes_away_does_not_hold_up_the_others(stack: LedgerStack) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    tasks = [
        asyncio.create_task(stack.ledger.poster.post(command(company, check(company, payer_id=payer))))
        for _ in range(10)
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, Verdict) for one in found] == [False, True] * 5
    assert (await company.sums())["payments"] == 10


async def test_a_company_that_nobody_has_heard_of_is_absent(stack: LedgerStack) -> None:
    stranger = Company(stack, uuid4(), [uuid4()], await stack.today("UTC"))
    verdict = await stack.ledger.post(command(stranger, check(stranger, payer_id=uuid4())))
    assert isinstance(verdict.problem, NotFound)


async def test_a_locked_company_is_answered_unavailable_not_refused(stack: LedgerStack) -> None:
    """Whoever holds the lock for long makes the others wait, then come again; their commands are not bisected."""
    company = await stack.company()
    payer = await some_payer(company)
    pool = await create_pool(stack.dsn, name="impatient", role=ROLE, settings={**KEYED_PLANS, "lock_timeout": "500ms"})
    try:
        async with stack.owner.acquire() as holder, holder.transaction():
            await holder.execute("select 1 from company_book where company_id = $1 for update", company.company_id)
            started = time.monotonic()
            batch = [command(company, check(company, payer_id=payer)) for _ in range(20)]
            verdicts = await Poster(pool).post_many(batch)
            assert time.monotonic() - started < 10, "each of them alone would take twice as long"
        assert all(isinstance(verdict.problem, Unavailable) for verdict in verdicts)
        assert not any(verdict.problem for verdict in await Poster(pool).post_many(batch))
    finally:
        await pool.close()
