"""Claims of posted remittances that could not be applied, tried again.

Decided here where the rules are silent:

* A claim of which a part can be applied is applied that far; each rest is an exception of its own.
* A claim is applied only within what its receipt still has unapplied: a person may have used that money meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from shared.ids import INTEGRATION_POSTER_ID
from tests.support.feed_work import (
    PAID,
    charge_of,
    check,
    claim,
    remit,
    retried,
    service,
    the_exception,
    true,
)
from tests.support.ledger import Company, LedgerStack, together
from tests.support.x12_builder import ClaimPayment, Service, x12_file


async def the_receipt(company: Company) -> Any:
    (receipt,) = (await company.get("/v1/payments"))["items"]
    return receipt


async def test_a_claim_whose_charge_was_posted_later(company: Company) -> None:
    await remit(company, check(claim("A", service())))
    row = await the_exception(company)
    assert (row["reason"], row["quarantined"]) == ("unmatched_claim", False)
    before = await company.rows()
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "unmatched_claim")
    assert failed["history"][-1]["detail"]["paid_cents"] == 8_000
    assert await company.rows() == {**before, "exception_history": before["exception_history"] + 1}
    charge = await charge_of(company, "A", location_id=str(company.locations[1]))
    answers = await together(*(retried(company, row) for _ in range(6)))
    assert {answer["state"] for answer in answers} == {"retried"}
    now = await company.get(f"/v1/charges/{charge['id']}")
    assert (now["applied_cents"], now["adjusted_cents"], now["balance_cents"]) == (8_000, 2_000, 0)
    receipt = await the_receipt(company)
    assert (receipt["unapplied_cents"], receipt["location_id"]) == (0, str(company.locations[1]))
    assert receipt["poster_id"] == str(INTEGRATION_POSTER_ID)
    # The line counts as applied: another check cannot repeat it.
    assert await company.stack.owner.fetchval(
        "select count(*) from remittance_line where company_id = $1", company.company_id
    )
    await true(company)


async def test_a_claim_of_which_a_part_can_be_applied(company: Company) -> None:
    await remit(company, check(claim("A", service(), service(code="97140"), service(code="97530"))))
    row = await the_exception(company)
    await charge_of(company, "A")
    done = await retried(company, row)
    assert done["state"] == "retried"
    rest = await company.exceptions(state="open")
    assert [(one["reason"], one["detail"]["line"]) for one in sorted(rest, key=lambda one: one["detail"]["line"])] == [
        ("unmatched_claim", 2),
        ("unmatched_claim", 3),
    ]
    assert (await the_receipt(company))["applied_cents"] == 8_000
    await charge_of(company, "A", procedure_code="97140", location_id=str(company.locations[1]))
    states = {one["detail"]["line"]: (await retried(company, one))["state"] for one in rest}
    assert states == {2: "retried", 3: "open"}
    receipt = await the_receipt(company)
    assert (receipt["applied_cents"], receipt["location_id"]) == (16_000, None)
    await true(company)


async def test_lines_that_were_told_apart_later(company: Company) -> None:
    services = [service(control_number=number) for number in ("LINE-1", "LINE-2")]
    charges = [await charge_of(company, "A") for _ in services]
    await remit(company, check(claim("A", *services)))
    rows = await company.exceptions()
    assert [row["reason"] for row in rows] == ["ambiguous_line"] * 2
    for charge in charges:
        await company.post(f"/v1/charges/{charge['id']}/void", status=200)
    named = [await charge_of(company, "A", external_id=number) for number in ("LINE-1", "LINE-2")]
    for row in rows:
        assert (await retried(company, row))["state"] == "retried"
    for charge in named:
        assert (await company.get(f"/v1/charges/{charge['id']}"))["balance_cents"] == 0
    assert (await the_receipt(company))["unapplied_cents"] == 0
    await true(company)


async def test_a_balance_that_was_corrected_later(company: Company) -> None:
    """What took the balance was a mistake, and is reversed: the line can be applied."""
    charge = await charge_of(company, "A")
    application = {"charge_id": charge["id"], "amount_cents": 9_000}
    wrong = await company.payment(payer_id=charge["payer_id"], amount_cents=9_000, applications=[application])
    await remit(company, check(claim("A", service())))
    row = await the_exception(company)
    assert row["reason"] == "over_applied"
    failed = await retried(company, row)
    assert failed["history"][-1]["detail"]["open_balance_cents"] == 1_000
    await company.post(f"/v1/payments/{wrong['id']}/reversal", {})
    assert (await retried(company, row))["state"] == "retried"
    now = await company.get(f"/v1/charges/{charge['id']}")
    assert (now["applied_cents"], now["adjusted_cents"], now["balance_cents"]) == (8_000, 2_000, 0)
    await true(company)


async def test_an_adjustment_that_was_above_the_balance(company: Company) -> None:
    charge = await charge_of(company, "A")
    written_off = {"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 1_500}
    wrong = await company.payment(payer_id=charge["payer_id"], amount_cents=0, adjustments=[written_off])
    await remit(company, check(claim("A", service())))
    row = await the_exception(company)
    assert (row["reason"], row["detail"]["adjustment_cents"]) == ("over_applied", 2_000)
    assert (await company.get(f"/v1/charges/{charge['id']}"))["applied_cents"] == 8_000
    failed = await retried(company, row)
    assert failed["history"][-1]["detail"]["open_balance_cents"] == 500
    await company.post(f"/v1/payments/{wrong['id']}/reversal", {})
    answers = await together(*(retried(company, row) for _ in range(4)))
    assert {answer["state"] for answer in answers} == {"retried"}
    now = await company.get(f"/v1/charges/{charge['id']}")
    assert (now["applied_cents"], now["adjusted_cents"], now["balance_cents"]) == (8_000, 2_000, 0)
    await true(company)


async def test_money_that_a_person_used_meanwhile_is_not_used_again(company: Company) -> None:
    await remit(company, check(claim("A", service())))
    row, receipt = await the_exception(company), await the_receipt(company)
    other = await charge_of(company, "other")
    by_hand = {"applications": [{"charge_id": other["id"], "amount_cents": 1_000}]}
    await company.post(f"/v1/payments/{receipt['id']}/applications", by_hand)
    charge = await charge_of(company, "A")
    before = await company.totals()
    failed = await retried(company, row)
    assert failed["history"][-1]["reason"] == "over_applied"
    assert failed["history"][-1]["detail"] == {"paid_cents": 8_000, "unapplied_cents": 7_000}
    assert await company.totals() == before
    await company.post(f"/v1/payments/{receipt['id']}/reversal", {})
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "already_reversed")
    assert (await company.get(f"/v1/charges/{charge['id']}"))["applied_cents"] == 0
    await true(company)


async def test_what_is_taken_back_frees_the_money_for_what_is_paid(company: Company) -> None:
    """A check over nothing: a reversal of one claim pays another. Neither charge was known when it came."""
    taken = ClaimPayment(
        account="B",
        services=[Service(charge_cents=-10_000, adjustments=(("CO", "45", -2_000),))],
        status="22",
        icn="I-B",
    )
    paid = await charge_of(company, "B")
    wrong = {"charge_id": paid["id"], "amount_cents": 8_000}
    by_hand = await company.payment(payer_id=paid["payer_id"], amount_cents=8_000)
    await remit(company, check(claim("A", service()), taken))
    assert await company.reasons() == {"unmatched_claim": 1, "over_applied": 1}
    charge = await charge_of(company, "A")
    await company.post(f"/v1/payments/{by_hand['id']}/applications", {"applications": [wrong]})
    await company.post(
        f"/v1/charges/{paid['id']}/adjustments", {"group_code": "CO", "reason_code": "45", "amount_cents": 2_000}
    )
    answer = await company.post(
        "/v1/exceptions/retry", {"ids": [row["id"] for row in await company.exceptions()]}, status=200
    )
    assert answer["retried"] == 2, answer
    assert (await company.get(f"/v1/charges/{charge['id']}"))["balance_cents"] == 0
    assert (await company.get(f"/v1/charges/{paid['id']}"))["balance_cents"] == 10_000
    await true(company)


async def test_charges_that_come_late_end_in_the_same_books(stack: LedgerStack) -> None:
    """The same check before and after its charges: denials, deductibles, several lines, places; retried all at once."""
    visit = [
        service(),
        service(code="97140", adjustments=(("CO", "45", 3_000), ("PR", "2", 1_000))),
        service(code="97530", adjustments=(("PR", "1", 10_000),)),
        service(code="97112", adjustments=(("CO", "16", 10_000),)),
    ]
    claims = [claim(f"N{n}", *visit[: 1 + n % 4], status="4" if n == 5 else "1") for n in range(8)]
    body = [check(*claims), check(*(replace(one, icn="", account=f"M{n}") for n, one in enumerate(claims)))]

    async def charges(company: Company) -> None:
        for n, one in enumerate(claims):
            for name in (f"N{n}", f"M{n}"):
                for line in one.services:
                    place = str(company.locations[n % 2 if name[0] == "N" else 0])
                    await charge_of(company, name, procedure_code=line.code, location_id=place)

    async def books(company: Company) -> Any:
        receipts = (await company.get("/v1/payments"))["items"]
        places = {
            one["check_number"]: company.locations.index(UUID(at)) if (at := one["location_id"]) else None
            for one in receipts
        }
        rows = (await company.get("/v1/charges", limit=500))["items"]
        names = ("procedure_code", "applied_cents", "adjusted_cents", "payer_balance_cents", "patient_balance_cents")
        return places, sorted([row[name] for name in names] for row in rows), await company.sums()

    clean, late = [await stack.company(locations=2) for _ in range(2)]
    await charges(clean)
    await remit(clean, *body)
    await remit(late, *body)
    await charges(late)
    answer = await late.post("/v1/exceptions/retry", {"reason": "unmatched_claim"}, status=200)
    assert answer["retried"] == len(answer["items"]) == 16
    assert await books(late) == await books(clean)
    await true(late)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"status": "25"}, "predetermination"), ({"charge_only_cents": 1}, "claim_unbalanced")],
)
async def test_claims_that_can_never_be_applied(company: Company, fields: Any, reason: str) -> None:
    await charge_of(company, "A")
    if reason == "claim_unbalanced":
        body = x12_file([check(claim("A", service(), adjustments=PAID))]).replace(b"CLP*A*1*100*", b"CLP*A*1*101*")
        assert (await company.upload("x12", body)).status == 200
    else:
        await remit(company, check(claim("A", service(), **fields)))
    row = await the_exception(company)
    assert row["reason"] == reason
    assert (await retried(company, row))["history"][-1]["reason"] == reason
    assert (await company.sums())["applied_cents"] == 0


async def test_claims_with_the_same_numbers_are_told_apart_by_their_place(company: Company) -> None:
    same = {"icn": "SAME"}
    await remit(company, check(claim("A", service(), **same), claim("A", service(code="97140"), **same)))
    first, second = sorted(await company.exceptions(), key=lambda row: row["detail"]["claim"])
    assert (first["detail"]["claim"], second["detail"]["claim"]) == (1, 2)
    await charge_of(company, "A", procedure_code="97140")
    assert (await retried(company, first))["state"] == "open"
    assert (await retried(company, second))["state"] == "retried"
    await charge_of(company, "A")
    assert (await retried(company, first))["state"] == "retried"
    await true(company)
