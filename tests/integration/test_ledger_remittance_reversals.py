"""Reversals of 4010: the group CR stands where the original had its own, and what it takes back is told by the books.

Decided here where the rules are silent: a line that takes back all that a payer had paid takes back all that he had
adjusted; where a reason could mean several codes, or none, its adjustment stays and a person is told what stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.feed_work import charge_of, check, claim, remit, retried, service, the_exception
from tests.support.ledger import Company, LedgerStack
from tests.support.remittances import charges_now, figures, proven
from tests.support.x12_builder import Cas, ClaimPayment, Payment, ProviderLevel, Service

UNTOUCHED = (0, 0, 10_000, 0)
OTHER = {"payer": "SECOND PLAN", "payer_id": "22222", "payer_ein": "222222222"}


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await stack.company()


def back(*rows: Cas, status: str = "22", account: str = "A", **fields: Any) -> ClaimPayment:
    """The line of 100.00 taken back, with these adjustments as they are sent."""
    line = Service(charge_cents=-10_000, adjustments=[(group, reason, -cents) for group, reason, cents in rows])
    return claim(account, line, status=status, **fields)


def renamed(rows: Sequence[Cas]) -> list[Cas]:
    return [("CR", reason, cents) for _, reason, cents in rows]


def forwarded(*claims: ClaimPayment, **fields: Any) -> Payment:
    """A remittance of nothing: what it takes back is owed until the next one (RFI 1756)."""
    net = sum(one.paid_cents for one in claims)
    return check(*claims, provider_level=[ProviderLevel(reason="FB", cents=net)], method="NON", **fields)


async def now(company: Company, charge: Any) -> tuple[int, int, int, int]:
    return figures((await charges_now(company, [charge]))[0])


ORIGINALS: dict[str, list[Cas]] = {
    "a write-off": [("CO", "45", 2_000)],
    "a write-off and the patient's part": [("CO", "45", 1_500), ("PR", "1", 300), ("PR", "2", 200)],
    "several groups of one reason": [("CO", "45", 1_500), ("PI", "45", 500)],
    "what an earlier payer did": [("OA", "23", 1_000), ("CO", "45", 1_000)],
    "paid in full": [],
    "paid nothing": [("CO", "45", 4_000), ("PR", "1", 6_000)],
}


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("same_reasons", [True, False], ids=["same reasons", "another reason"])
async def test_a_reversal_takes_back_what_was_adjusted(company: Company, name: str, same_reasons: bool) -> None:
    rows = ORIGINALS[name]
    charge = await charge_of(company, "A")
    await remit(company, check(claim("A", service(adjustments=rows))))
    before = await now(company, charge)
    assert before != UNTOUCHED
    assert before[0] == 10_000 - sum(cents for _, _, cents in rows)
    told = renamed(rows) if same_reasons else [("CR", "96", sum(cents for _, _, cents in rows))] if rows else []
    correction = claim("A", service(adjustments=[("CO", "45", 3_000)]))
    await remit(company, check(back(*told), correction, claim("B", service())))
    assert await company.reasons() == {"unmatched_claim": 1}
    assert await now(company, charge) == (7_000, 3_000, 0, 0)
    await remit(company, forwarded(back(("CR", "45", 3_000))))
    assert await now(company, charge) == UNTOUCHED
    assert await net_adjustments(company) == {}
    await proven(company)


async def net_adjustments(company: Company) -> dict[str, int]:
    """By code, over all receipts: what was taken back was taken back under the code it was posted under."""
    rows = await company.stack.owner.fetch(
        "select detail, sum(case when debit in ('adjustment', 'receivable_patient') then amount_cents"
        " else -amount_cents end)::bigint as cents from transfer where company_id = $1 and detail like '%:%'"
        " group by detail",
        company.company_id,
    )
    return {row["detail"]: row["cents"] for row in rows if row["cents"]}


async def test_a_charge_without_a_payer_had_nothing_moved_to_the_patient(company: Company) -> None:
    charge = await charge_of(company, "A", payer_id=None)
    rows: list[Cas] = [("CO", "45", 1_500), ("PR", "1", 500)]
    await remit(company, check(claim("A", service(adjustments=rows))))
    assert await now(company, charge) == (8_000, 1_500, 0, 500)
    await remit(company, forwarded(back(*renamed(rows))))
    assert await now(company, charge) == (0, 0, 0, 10_000)
    assert await company.exceptions() == []


async def test_another_payers_adjustments_stay(company: Company) -> None:
    charge = await charge_of(company, "A")
    first: list[Cas] = [("CO", "45", 1_000), ("PR", "1", 4_000)]
    second: list[Cas] = [("OA", "23", 6_000), ("CO", "45", 1_500)]
    await remit(company, check(claim("A", service(adjustments=first))))
    await remit(company, check(claim("A", service(adjustments=second), status="2"), **OTHER))
    assert await now(company, charge) == (7_500, 2_500, 0, 0)
    await remit(company, forwarded(back(*renamed(second)), **OTHER))
    assert (await now(company, charge))[:2] == (5_000, 1_000)
    assert await net_adjustments(company) == {"CO:45": 1_000, "PR:1": 4_000}
    assert await company.exceptions() == []
    await proven(company)


async def test_of_two_payments_the_reason_tells_which_one_is_meant(company: Company) -> None:
    charge = await charge_of(company, "A")
    await remit(company, check(claim("A", service(adjustments=[("CO", "45", 2_000), ("OA", "23", 5_000)]))))
    second: list[Cas] = [("PI", "131", 1_500), ("OA", "23", 5_000)]
    await remit(company, check(claim("A", service(adjustments=second))))
    assert await now(company, charge) == (6_500, 3_500, 0, 0)
    await remit(company, forwarded(back(*renamed(second))))
    assert await now(company, charge) == (3_000, 2_000, 5_000, 0)
    assert await net_adjustments(company) == {"CO:45": 2_000}
    assert await company.exceptions() == []


async def test_a_payment_is_taken_back_and_not_the_denial_before_it(company: Company) -> None:
    """All that was paid is taken back, but by its reasons nothing of what was adjusted."""
    charge = await charge_of(company, "A")
    await remit(company, check(claim("A", service(adjustments=[("CO", "45", 4_000), ("OA", "18", 6_000)]))))
    second: list[Cas] = [("OA", "23", 4_000)]
    await remit(company, check(claim("A", service(adjustments=second))))
    assert await now(company, charge) == (6_000, 4_000, 0, 0)
    await remit(company, forwarded(back(*renamed(second))))
    assert await now(company, charge) == (0, 4_000, 6_000, 0)
    assert await company.reasons() == {"denied_line": 1}


UNKNOWN: dict[str, tuple[list[list[Cas]], list[Cas], dict[str, int]]] = {
    "one reason under two groups": (
        [[("CO", "45", 1_000), ("OA", "23", 5_000)], [("PI", "45", 2_000), ("OA", "23", 5_000)]],
        [("CR", "45", 1_000), ("CR", "23", 5_000)],
        {"CO:45": 1_000, "PI:45": 2_000},
    ),
    "another reason, and something is still paid": (
        [[("CO", "45", 2_000), ("OA", "23", 5_000)], [("PI", "131", 1_500), ("OA", "23", 5_000)]],
        [("CR", "96", 1_500), ("CR", "23", 5_000)],
        {"CO:45": 2_000, "PI:131": 1_500},
    ),
    "another reason, and more stands than is taken back": (
        [[("CO", "45", 4_000), ("PR", "1", 6_000)], [("OA", "23", 4_000)]],
        [("CR", "96", 4_000)],
        {"CO:45": 4_000, "PR:1": 6_000},
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_what_cannot_be_known_waits_for_a_person_with_its_numbers(company: Company, name: str) -> None:
    originals, rows, before = UNKNOWN[name]
    charge = await charge_of(company, "A")
    for one in originals:
        await remit(company, check(claim("A", service(adjustments=one))))
    applied, adjusted, *_ = await now(company, charge)
    reversal = back(*rows)
    await remit(company, forwarded(reversal))
    row = await the_exception(company)
    assert row["reason"] == "unknown_code"
    said = {one: row["detail"][one] for one in ("group_code", "reason_code", "adjustment_cents", "adjusted_before")}
    assert said == {
        "group_code": "CR",
        "reason_code": rows[0][1],
        "adjustment_cents": -rows[0][2],
        "adjusted_before": before,
    }
    assert (await now(company, charge))[:2] == (applied + reversal.paid_cents, adjusted), "the write-offs stand"
    assert (await retried(company, row))["state"] == "open"
    await proven(company)


async def test_an_adjustment_by_hand_is_no_payers(company: Company) -> None:
    charge = await charge_of(company, "A")
    own = {"group_code": "CO", "reason_code": "45", "amount_cents": 2_000}
    await company.post(f"/v1/charges/{charge['id']}/adjustments", own)
    await remit(company, check(claim("A", service(adjustments=[("OA", "23", 2_000)]))))
    assert await now(company, charge) == (8_000, 2_000, 0, 0)
    await remit(company, forwarded(back(("CR", "23", 2_000))))
    assert await now(company, charge) == (0, 2_000, 8_000, 0)
    assert await company.exceptions() == []


async def test_a_reversal_before_its_original_is_applied_when_that_is_here(company: Company) -> None:
    charge = await charge_of(company, "A")
    rows: list[Cas] = [("CO", "45", 1_500), ("PR", "1", 500)]
    await remit(company, forwarded(back(*renamed(rows))))
    early = await the_exception(company)
    assert early["reason"] == "over_applied"
    await remit(company, check(claim("A", service(adjustments=rows))))
    assert (await retried(company, early))["state"] == "retried"
    assert await now(company, charge) == UNTOUCHED
    assert await net_adjustments(company) == {}


async def test_a_reversal_in_a_later_piece_of_a_long_remittance(company: Company) -> None:
    charge = await charge_of(company, "Z")
    rows: list[Cas] = [("CO", "45", 1_500), ("PR", "1", 500)]
    await remit(company, check(claim("Z", service(adjustments=rows))))
    others = [back(account=f"N{number}") for number in range(350)]
    await remit(company, forwarded(*others, back(*renamed(rows), account="Z")))
    assert await now(company, charge) == UNTOUCHED
    assert await company.reasons() == {"unmatched_claim": 350}
    await proven(company)


async def test_taken_back_twice_is_left_to_a_person(company: Company) -> None:
    charge = await charge_of(company, "A")
    await remit(company, check(claim("A", service())))
    for _ in range(2):
        await remit(company, forwarded(back(("CR", "45", 2_000))))
    assert await company.reasons() == {"over_applied": 1}
    assert await now(company, charge) == UNTOUCHED


async def test_a_correction_that_adds_under_cr_does_not_say_who_bears_it(company: Company) -> None:
    charge = await charge_of(company, "A")
    await remit(company, check(claim("A", service())))
    await remit(company, check(back(("CR", "45", 2_000)), claim("A", service(adjustments=[("CR", "45", 1_000)]))))
    row = await the_exception(company)
    assert (row["reason"], row["detail"]["adjustment_cents"]) == ("unknown_code", 1_000)
    assert await now(company, charge) == (9_000, 0, 1_000, 0)
