"""Adjustments of one line that go both ways: a payer's incentive (CARC 144), or what he paid above the charge (94).

They balance a line only together, so they are posted together or not at all (rule L; feeds.md section 5, item 11).
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.databases import Databases
from tests.support.feed_work import charge_of, check, claim, remit, service
from tests.support.ledger import Company, LedgerStack
from tests.support.remittances import charges_now, figures, proven
from tests.support.x12_builder import Cas, ProviderLevel, Service

BOTH_WAYS: dict[str, list[Cas]] = {
    "an incentive": [("CO", "45", 2_500), ("CO", "144", -500)],
    "the incentive first": [("CO", "144", -500), ("CO", "45", 2_500)],
    "under two groups": [("CO", "45", 2_500), ("OA", "94", -500)],
    "more than the charge": [("CO", "45", 11_000), ("CO", "94", -10_500), ("CO", "253", 500)],
    "and a part of the patient": [("CO", "45", 2_000), ("PR", "2", 500), ("CO", "144", -500)],
}


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await stack.company()


@pytest.mark.parametrize("name", BOTH_WAYS)
async def test_what_a_line_adds_makes_room_for_what_it_writes_off(company: Company, name: str) -> None:
    rows = BOTH_WAYS[name]
    charge = await charge_of(company, "A")
    await remit(company, check(claim("A", service(adjustments=rows))))
    assert not await company.exceptions()
    patient = sum(cents for group, _, cents in rows if group == "PR")
    (now,) = await charges_now(company, [charge])
    paid = 10_000 - sum(cents for _, _, cents in rows)
    assert figures(now) == (paid, 10_000 - paid - patient, 0, patient)
    back = Service(charge_cents=-10_000, adjustments=[(group, reason, -cents) for group, reason, cents in rows])
    await remit(
        company,
        check(claim("A", back, status="22"), provider_level=[ProviderLevel(reason="FB", cents=-paid)], method="NON"),
    )
    (now,) = await charges_now(company, [charge])
    assert figures(now)[:2] == (0, 0)
    assert figures(now)[2] + figures(now)[3] == 10_000
    assert not await company.exceptions()
    await proven(company)


async def test_where_their_sum_does_not_fit_none_of_them_is_posted(company: Company) -> None:
    """After a write-off by hand there is no room. Alone, the part that adds to the balance would fit."""
    charge = await charge_of(company, "A")
    rows = [{"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 1_000}]
    await company.post(
        "/v1/payments", company.payment_body(amount_cents=0, payer_id=charge["payer_id"], adjustments=rows)
    )
    await remit(company, check(claim("A", service(adjustments=BOTH_WAYS["an incentive"]))))
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 1_000, 1_000, 0)
    waiting = {row["detail"]["reason_code"]: row for row in await company.exceptions()}
    assert {code: row["reason"] for code, row in waiting.items()} == {"45": "over_applied", "144": "over_applied"}
    await proven(company)


async def test_a_reversal_of_what_was_never_posted_leaves_nothing_behind(company: Company) -> None:
    """The original's adjustments went to a person, so there is nothing to take back, whatever part of it would fit."""
    charge = await charge_of(company, "A")
    rows: list[Cas] = [("CO", "45", -2_500), ("CO", "144", 500)]
    await remit(company, check(claim("A", service(adjustments=[("CO", "96", 500), ("XX", "45", 1_500)]))))
    before = figures((await charges_now(company, [charge]))[0])
    assert before == (8_000, 500, 1_500, 0)
    back = Service(charge_cents=-10_000, adjustments=rows)
    await remit(
        company,
        check(claim("A", back, status="22"), provider_level=[ProviderLevel(reason="FB", cents=-8_000)], method="NON"),
    )
    assert figures((await charges_now(company, [charge]))[0]) == (0, 500, 9_500, 0)
    assert await company.reasons() == {"unknown_code": 1, "over_applied": 2}
    await proven(company)
