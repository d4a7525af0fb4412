"""A line that a payer did not pay, for a reason that is not written off by itself, inside a claim that he did process.

Decided here where the rules are silent: a claim denied whole (CLP02 = 4) is worked from the list of claims, where it is
`denied`; a line denied inside another claim is seen nowhere there, so it is an exception on the posted receipt, as long
as its charge is still owed. Nobody but a person takes such a line off the books: a retry never does.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.feed_work import charge_of, check, claim, remit, retried, service, the_exception, true
from tests.support.ledger import Company
from tests.support.remittances import charges_now, figures
from tests.support.x12_builder import Cas


async def two_charges(company: Company) -> list[Any]:
    payer = await company.payer()
    return [
        await charge_of(company, "A", payer_id=payer["id"]),
        await charge_of(company, "A", procedure_code="97140", payer_id=payer["id"]),
    ]


def unpaid(*adjustments: Cas, code: str = "97140", **fields: Any) -> Any:
    return service(code=code, adjustments=adjustments, **fields)


@pytest.mark.parametrize("cas", [("CO", "97"), ("CO", "50"), ("CO", "16"), ("OA", "18"), ("PI", "204"), ("CR", "96")])
async def test_a_denied_line_of_a_paid_claim_waits_for_a_person(company: Company, cas: tuple[str, str]) -> None:
    charges = await two_charges(company)
    feed = await remit(company, check(claim("A", service(), unpaid((*cas, 10_000)), icn="I1")))
    assert (feed["posted"], feed["exceptions"], feed["posted_total_cents"]) == (1, 1, 8_000)
    row = await the_exception(company)
    assert (row["reason"], row["quarantined"], row["state"]) == ("denied_line", False, "open")
    (receipt,) = (await company.get("/v1/payments"))["items"]
    assert row["payment_id"] == receipt["id"]
    assert row["detail"] == {
        "claim": 1,
        "claim_id": "A",
        "claim_status": "1",
        "line": 2,
        "procedure_code": "97140",
        "charge_id": charges[1]["id"],
        "paid_cents": 0,
        "open_balance_cents": 10_000,
        "applied_cents": 0,
        "charge_cents": 10_000,
        "denied_cents": 10_000,
        "adjustments": [[*cas, 10_000]],
    }
    assert [figures(one) for one in await charges_now(company, charges)] == [(8_000, 2_000, 0, 0), (0, 0, 10_000, 0)]
    assert (await company.get("/v1/claims", state="paid"))["items"]
    await true(company)


@pytest.mark.parametrize(
    "cas",
    [
        (("CO", "45", 10_000),),
        (("CO", "253", 200), ("CO", "45", 9_800)),
        (("PR", "1", 10_000),),
        (("PR", "204", 4_000), ("CO", "45", 6_000)),
        (("OA", "23", 10_000),),
        (("OA", "23", 7_000), ("PR", "2", 3_000)),
    ],
)
async def test_what_is_contractual_the_patients_or_paid_by_another_is_no_denial(
    company: Company, cas: tuple[Cas, ...]
) -> None:
    await two_charges(company)
    feed = await remit(company, check(claim("A", service(), unpaid(*cas))))
    assert (feed["posted"], feed["exceptions"]) == (1, 0), await company.exceptions()


async def test_a_deductible_beside_a_denial_still_moves(company: Company) -> None:
    """Nothing was paid in all, but the payer does not call the claim denied: the list of claims has a zero pay."""
    charge = await charge_of(company, "A")
    cas = (("CO", "45", 6_000), ("PR", "1", 1_500), ("CO", "151", 2_000), ("OA", "59", 500))
    await remit(company, check(claim("A", service(adjustments=cas))))
    row = await the_exception(company)
    assert row["detail"]["denied_cents"] == row["detail"]["open_balance_cents"] - 1_500 == 2_500
    assert row["detail"]["adjustments"] == [["CO", "151", 2_000], ["OA", "59", 500]]
    assert figures((await charges_now(company, [charge]))[0]) == (0, 6_000, 2_500, 1_500)


async def test_a_claim_denied_whole_stays_one_row_in_the_list_of_claims(company: Company) -> None:
    await two_charges(company)
    lines = [unpaid(("CO", "16", 10_000), code=code) for code in ("97110", "97140")]
    feed = await remit(company, check(claim("A", *lines, status="4"), method="NON", handling="H"))
    assert (feed["posted"], feed["exceptions"]) == (1, 0)
    assert [one["claim_number"] for one in (await company.get("/v1/claims", state="denied"))["items"]] == ["A"]


async def test_a_claim_called_denied_of_which_something_was_paid_is_taken_as_processed(company: Company) -> None:
    """CLP02 = 4 is for claims of which nothing was; what was adjusted beside the money must not be lost."""
    charges = await two_charges(company)
    await remit(company, check(claim("A", service(), unpaid(("CO", "97", 10_000)), status="4")))
    assert [figures(one) for one in await charges_now(company, charges)] == [(8_000, 2_000, 0, 0), (0, 0, 10_000, 0)]
    assert await company.reasons() == {"denied_line": 1}
    await true(company)


async def test_a_claim_without_lines_is_its_own_denied_line(company: Company) -> None:
    await charge_of(company, "A")
    whole = claim("A", charge_only_cents=10_000, adjustments=(("CO", "29", 10_000),))
    await remit(company, check(whole, method="NON"))
    detail = (await the_exception(company))["detail"]
    assert (detail["line"], detail["denied_cents"], detail["adjustments"]) == (0, 10_000, [["CO", "29", 10_000]])


async def test_what_nobody_owes_any_more_is_no_work(company: Company) -> None:
    """A claim sent twice is paid once and denied once, as a duplicate."""
    charge = await charge_of(company, "A")
    await remit(company, check(claim("A", service())))
    await remit(company, check(claim("A", service(adjustments=(("CO", "18", 10_000),))), method="NON"))
    assert await company.reasons() == {}
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 2_000, 0, 0)


async def test_a_denial_taken_back_and_paid_leaves_the_exception_to_its_person(company: Company) -> None:
    charges = await two_charges(company)
    denial = (("CO", "97", 10_000),)
    await remit(company, check(claim("A", service(), unpaid(*denial), icn="I1")))
    back = claim(
        "A",
        service(charge_cents=-10_000, adjustments=(("CO", "45", -2_000),)),
        unpaid(("CO", "97", -10_000), charge_cents=-10_000),
        status="22",
        icn="I1",
    )
    again = claim("A", service(), unpaid(("CO", "45", 3_000)), icn="I2")
    feed = await remit(company, check(back, again))
    assert (feed["posted"], feed["exceptions"], feed["posted_total_cents"]) == (1, 0, 7_000)
    assert [figures(one) for one in await charges_now(company, charges)] == [(8_000, 2_000, 0, 0), (7_000, 3_000, 0, 0)]
    row = await the_exception(company)
    await company.post(f"/v1/exceptions/{row['id']}/resolve", {"note": "paid on appeal"}, status=200)
    assert await company.reasons(state="open") == {}
    await true(company)


async def test_a_retry_never_writes_a_denial_off_nor_posts_its_line_twice(company: Company) -> None:
    charges = await two_charges(company)
    cas = (("CO", "45", 6_000), ("PR", "1", 1_500), ("CO", "97", 2_500))
    await remit(company, check(claim("A", service(), unpaid(*cas))))
    row = await the_exception(company)
    before, totals = await charges_now(company, charges), await company.totals()
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "denied_line")
    assert failed["history"][-1]["detail"]["denied_cents"] == 2_500
    assert (await charges_now(company, charges), await company.totals()) == (before, totals)
    await true(company)


async def test_a_denied_line_found_only_by_a_retry_is_told_then(company: Company) -> None:
    payer = await company.payer()
    await charge_of(company, "A", payer_id=payer["id"])
    await remit(company, check(claim("A", service(), unpaid(("CO", "97", 10_000)))))
    row = await the_exception(company, reason="unmatched_claim")
    await charge_of(company, "A", procedure_code="97140", payer_id=payer["id"])
    assert (await retried(company, row))["state"] == "retried"
    assert await company.reasons(state="open") == {"denied_line": 1}
    await true(company)
