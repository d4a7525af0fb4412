"""A payer that keeps his control number (CLP07): what he took back he may pay again under it, and take back again.

Anything else that a line repeats across payments stays a repetition (feeds.md 0.6).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise, permutations
from typing import Any

import pytest

from tests.support.databases import Databases
from tests.support.feed_work import charge_of, check, remit
from tests.support.feed_work import claim as claim_of
from tests.support.ledger import Company, LedgerStack
from tests.support.remittances import charges_now, figures, proven
from tests.support.x12_builder import ClaimPayment, Payment, ProviderLevel, Service

LINED = pytest.mark.parametrize("lined", [True, False], ids=["lines", "no lines"])


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await stack.company()


def claim(paid_cents: int, *, lined: bool = True, why: tuple[str, str] = ("CO", "45"), **fields: Any) -> ClaimPayment:
    """The line of 100.00, paid as said; taken back where that is negative."""
    charge_cents = 10_000 if paid_cents >= 0 else -10_000
    rows = [(*why, charge_cents - paid_cents)]
    fields = {"icn": "ICN-1", "status": "1" if paid_cents >= 0 else "22", **fields}
    if lined:
        return claim_of("A", Service(charge_cents=charge_cents, adjustments=rows), **fields)
    return claim_of("A", charge_only_cents=charge_cents, adjustments=rows, **fields)


def owed(*claims: ClaimPayment) -> Payment:
    """A remittance that comes to nothing: what it takes back is carried forward."""
    net = sum(one.paid_cents for one in claims)
    return check(*claims, provider_level=[ProviderLevel(reason="FB", cents=net)], method="NON")


async def now(company: Company, charge: Any) -> tuple[int, int]:
    return figures((await charges_now(company, [charge]))[0])[:2]


@LINED
async def test_each_correction_under_the_same_number_is_applied(company: Company, lined: bool) -> None:
    charge = await charge_of(company, "A")
    paid = [6_000, 7_000, 5_000, 8_000]
    await remit(company, check(claim(paid[0], lined=lined)))
    for before, after in pairwise(paid):
        await remit(company, owed(claim(-before, lined=lined), claim(after, lined=lined)))
        assert await now(company, charge) == (after, 10_000 - after)
    assert not await company.exceptions()
    await proven(company)


@LINED
async def test_taken_back_in_one_check_and_corrected_in_the_next(company: Company, lined: bool) -> None:
    charge = await charge_of(company, "A")
    await remit(company, check(claim(6_000, lined=lined)))
    await remit(company, owed(claim(-6_000, lined=lined)))
    assert await now(company, charge) == (0, 0)
    await remit(company, check(claim(7_000, lined=lined)))
    await remit(company, owed(claim(-7_000, lined=lined)))
    assert await now(company, charge) == (0, 0)
    assert not await company.exceptions()


@LINED
async def test_what_was_not_taken_back_is_repeated(company: Company, lined: bool) -> None:
    """Nor is what stands taken back twice. What an earlier payer did is not posted, so there would be room."""
    charge = await charge_of(company, "A")
    part: Any = {"lined": lined, "why": ("OA", "23")}
    await remit(company, check(claim(3_000, **part)))
    await remit(company, check(claim(3_000, **part)))
    assert await now(company, charge) == (3_000, 0)
    await remit(company, owed(claim(-3_000, **part)))
    assert await now(company, charge) == (0, 0)
    await remit(company, owed(claim(-3_000, **part)))
    await remit(company, check(claim(2_000, **part)))
    await remit(company, check(claim(2_000, **part)))
    assert await now(company, charge) == (2_000, 0)
    assert await company.reasons() == {"duplicate_line": 3}
    await proven(company)


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_the_order_of_one_remittance_does_not_matter(company: Company, order: tuple[int, ...]) -> None:
    charge = await charge_of(company, "A")
    other = await charge_of(company, "B")
    await remit(company, check(claim(6_000)))
    parts = [claim(-6_000), claim(7_000), claim_of("B", Service(charge_cents=10_000))]
    await remit(company, check(*(parts[i] for i in order)))
    assert (await now(company, charge), await now(company, other)) == ((7_000, 3_000), (10_000, 0))
    assert not await company.exceptions()


async def test_a_correction_of_another_status(company: Company) -> None:
    """Paid as primary, corrected as primary and forwarded (CLP02 19), and that taken back."""
    charge = await charge_of(company, "A")
    await remit(company, check(claim(6_000)))
    await remit(company, owed(claim(-6_000), claim(7_000, status="19")))
    await remit(company, owed(claim(-7_000), claim(8_000, status="19")))
    assert await now(company, charge) == (8_000, 2_000)
    assert not await company.exceptions()


@LINED
async def test_a_reversal_that_negates_nothing_is_left_to_a_person(company: Company, lined: bool) -> None:
    """All of a reversal is negated (RFI 1147, 1429). One that is not would be applied as a second payment."""
    charge = await charge_of(company, "A")
    part: Any = {"lined": lined, "why": ("OA", "23")}
    await remit(company, check(claim(3_000, **part)))
    await remit(company, check(claim(3_000, status="22", **part)))
    assert await now(company, charge) == (3_000, 0)
    (row,) = await company.exceptions()
    assert (row["reason"], row["detail"]["claim_status"], row["detail"]["paid_cents"]) == (
        "positive_reversal",
        "22",
        3_000,
    )
    assert (await company.sums())["unapplied_cents"] == 3_000
