"""Remittances of the derived samples, with their charges: what is applied, adjusted, moved, and taken back.

Decided here where the rules are silent, always in favour of "never lose or invent a cent":

* A zero pay's own adjustments move the patient's part (PR) and write off only what is contractual (CO 45, 253); any
  other reason on an unpaid line is work for a person. A denied claim (CLP02 = 4) writes off nothing at all.
* OA 23 is never posted: it is what earlier payers paid and wrote off, and came with their own remittances.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.feed_work import DAY, charge_of, check, claim, service
from tests.support.ledger import Company
from tests.support.remittances import charges_now, figures, proven, sent


async def two_lines(company: Company, account: str, *, second_code: str = "97140", **fields: Any) -> list[Any]:
    """The charges that the derived samples pay: 120.00 and 60.00 of one visit."""
    payer = fields.pop("payer", None) or await company.payer()
    patient = await company.patient(account)
    more = {"date_of_service": DAY, "payer_id": payer["id"], **fields}
    return [
        await company.charge(patient, amount_cents=12_000, modifiers=["GP"], units=2, **more),
        await company.charge(patient, amount_cents=6_000, procedure_code=second_code, modifiers=["GP", "59"], **more),
    ]


async def test_a_clean_claim_is_applied_adjusted_and_passed_to_the_patient(company: Company) -> None:
    charges = await two_lines(company, "PT-1001")
    feed = await sent(company, "01")
    assert (feed["posted"], feed["exceptions"], feed["posted_total_cents"]) == (1, 0, 9_836)
    assert [figures(charge) for charge in await charges_now(company, charges)] == [
        (6_370, 4_130, 0, 1_500),
        (3_466, 2_034, 0, 500),
    ]
    (receipt,) = (await company.get("/v1/payments"))["items"]
    assert (receipt["amount_cents"], receipt["applied_cents"], receipt["unapplied_cents"]) == (9_836, 9_836, 0)
    assert (receipt["adjusted_cents"], receipt["source"], receipt["affiliation"]) == (6_164, "era", "integration")
    assert (receipt["check_number"], receipt["deposit_date"], receipt["method"]) == (
        "EFT2026011500001",
        "2026-01-15",
        "eft",
    )
    assert receipt["location_id"] == str(company.locations[0])
    codes = {(row["group_code"], row["reason_code"]): row["amount_cents"] for row in receipt["adjustments"]}
    assert set(codes) == {("CO", "45"), ("CO", "253"), ("PR", "2")}
    (payer,) = [row for row in (await company.get("/v1/payers"))["items"] if row["name"] == "EXAMPLE HEALTH PLAN"]
    assert (receipt["payer_id"], payer["era_payer_ids"]) == (payer["id"], ["12345", "1512345678"])
    await proven(company)


@pytest.mark.parametrize(
    "names", [("PT-1001", "PT-1001"), ("PT-1001-1", "PT-1001-2")], ids=["by the claim's id", "by the line's number"]
)
async def test_a_claim_is_found_by_the_names_of_its_charges(company: Company, names: tuple[str, str]) -> None:
    """The patient's account is another; the charges carry our claim id, alone or with REF*6R."""
    patient = await company.patient("another account")
    more = {"date_of_service": DAY, "modifiers": []}
    charges = [
        await company.charge(patient, amount_cents=12_000, external_id=names[0], **more),
        await company.charge(patient, amount_cents=6_000, procedure_code="97140", external_id=names[1], **more),
    ]
    assert (await sent(company, "01"))["exceptions"] == 0
    # Without a payer of its own a charge is the patient's: there is nothing to move to him.
    assert [figures(charge) for charge in await charges_now(company, charges)] == [
        (6_370, 4_130, 0, 1_500),
        (3_466, 2_034, 0, 500),
    ]


async def test_a_reversal_and_its_correction_in_one_remittance(company: Company) -> None:
    payer = await company.payer(era_payer_ids=["12345"])
    first = await two_lines(company, "PT-1001", payer=payer)
    other = await two_lines(company, "PT-1002", payer=payer)
    await sent(company, "01")
    feed = await sent(company, "02")
    assert (feed["posted"], feed["exceptions"], await company.reasons()) == (1, 1, {"denied_line": 1})
    assert [figures(charge) for charge in await charges_now(company, first)] == [
        (4_966, 5_534, 0, 1_500),
        (0, 0, 5_500, 500),  # CO 97 on an unpaid line is a denial to be worked, not a write-off.
    ]
    assert [figures(charge) for charge in await charges_now(company, other)] == [
        (6_370, 4_130, 0, 1_500),
        (3_466, 2_034, 0, 500),
    ]
    assert await company.sums() == {
        "payments": 2,
        "amount_cents": 9_836 + 4_966,
        "applied_cents": 9_836 + 4_966,
        "adjusted_cents": 5_534 + 6_164,
        "provider_level_cents": 0,
        "unapplied_cents": 0,
    }
    await proven(company)


async def test_a_reversal_carried_forward_and_collected(company: Company) -> None:
    """04 takes back what 01 paid without taking money: the debt is FB at provider level, and 05 collects it."""
    payer = await company.payer(era_payer_ids=["12345"])
    first = await two_lines(company, "PT-1001", payer=payer)
    await two_lines(company, "PT-1003", payer=payer)
    await two_lines(company, "PT-1004", payer=payer)
    await sent(company, "01")
    feed = await sent(company, "04")
    assert (feed["posted"], feed["exceptions"], feed["posted_total_cents"]) == (1, 0, 0)
    assert [figures(charge) for charge in await charges_now(company, first)] == [(0, 0, 12_000, 0), (0, 0, 6_000, 0)]
    (taken, _) = (await company.get("/v1/payments"))["items"]
    assert (taken["amount_cents"], taken["applied_cents"], taken["provider_level_cents"]) == (0, -9_836, 9_836)
    assert taken["unapplied_cents"] == 0
    feed = await sent(company, "05")
    assert (feed["posted"], feed["exceptions"]) == (1, 0)
    collected = (await company.get("/v1/payments"))["items"][0]
    assert (collected["amount_cents"], collected["applied_cents"]) == (9_836, 19_672)
    assert (collected["provider_level_cents"], collected["unapplied_cents"]) == (-9_836, 0)
    sums = await company.sums()
    assert (sums["amount_cents"], sums["provider_level_cents"], sums["applied_cents"]) == (19_672, 0, 19_672)
    await proven(company)


async def test_a_denial_moves_and_writes_off_nothing(company: Company) -> None:
    charges = await two_lines(company, "PT-1006", second_code="97530")
    feed = await sent(company, "07")
    assert (feed["posted"], feed["exceptions"]) == (1, 0)
    assert [figures(charge) for charge in await charges_now(company, charges)] == [(0, 0, 12_000, 0), (0, 0, 6_000, 0)]
    assert (await company.sums())["payments"] == 1
    await proven(company)


@pytest.mark.parametrize(
    ("status", "adjusted", "patient", "reasons"), [("4", 0, 0, {}), ("1", 6_000, 1_500, {"denied_line": 1})]
)
async def test_what_an_unpaid_claim_moves(
    company: Company, status: str, adjusted: int, patient: int, reasons: dict[str, int]
) -> None:
    """Denied: nothing, whatever its reasons. Processed and not paid: what is contractual, and the patient's part."""
    charge = await charge_of(company, "A")
    unpaid = (("CO", "45", 6_000), ("PR", "1", 1_500), ("CO", "16", 2_500))
    await sent(company, check(claim("A", service(adjustments=unpaid), status=status)))
    assert figures((await charges_now(company, [charge]))[0]) == (0, adjusted, 10_000 - adjusted - patient, patient)
    assert await company.reasons() == reasons


async def test_a_secondary_payer_does_not_repeat_what_the_first_did(company: Company) -> None:
    payer = await company.payer()
    patient = await company.patient("PT-1007")
    charge = await company.charge(patient, amount_cents=18_000, units=3, payer_id=payer["id"], date_of_service=DAY)
    await company.payment(
        payer_id=payer["id"],
        amount_cents=10_000,
        applications=[{"charge_id": charge["id"], "amount_cents": 10_000}],
        adjustments=[
            {"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 6_000},
            {"charge_id": charge["id"], "group_code": "PR", "reason_code": "2", "amount_cents": 2_000},
        ],
    )
    feed = await sent(company, "08")
    assert (feed["posted"], feed["exceptions"]) == (1, 0)
    (now,) = await charges_now(company, [charge])
    assert figures(now) == (11_500, 6_000, 0, 500)
    receipt = (await company.get("/v1/payments"))["items"][0]
    assert (receipt["method"], receipt["check_number"], receipt["adjusted_cents"]) == ("check", "0004512", 0)
    await proven(company)


async def test_a_capitation_payment_is_all_provider_level(company: Company) -> None:
    assert (await sent(company, "09"))["posted_total_cents"] == 420_000
    (receipt,) = (await company.get("/v1/payments"))["items"]
    assert receipt["provider_level"] == [{"reason_code": "CT", "amount_cents": 420_000}]
    assert (receipt["provider_level_cents"], receipt["unapplied_cents"]) == (420_000, 0)
    await proven(company)


async def test_lines_that_cannot_be_told_apart_are_left_to_a_person(company: Company) -> None:
    patient, payer = await company.patient("PT-1016"), await company.payer()
    for _ in range(2):
        await company.charge(patient, amount_cents=9_000, units=2, payer_id=payer["id"], date_of_service=DAY)
    await sent(company, "32")
    rows = await company.exceptions()
    assert [(row["reason"], row["quarantined"]) for row in rows] == [("ambiguous_line", False)] * 2
    assert {row["detail"]["line"] for row in rows} == {1, 2}
    assert all(row["detail"]["candidates"] == 2 and row["detail"]["paid_cents"] == 6_000 for row in rows)
    (receipt,) = (await company.get("/v1/payments"))["items"]
    assert (receipt["applied_cents"], receipt["unapplied_cents"]) == (0, 12_000)
    # A person settles it: the money is there to be applied.
    charge = (await company.get("/v1/charges"))["items"][0]
    row = {"charge_id": charge["id"], "amount_cents": 6_000}
    await company.post(f"/v1/payments/{receipt['id']}/applications", {"applications": [row]})
    await company.post(f"/v1/exceptions/{rows[0]['id']}/resolve", {"note": "by hand"}, status=200)
    states = {row["id"]: row["state"] for row in await company.exceptions()}
    assert states == {rows[0]["id"]: "resolved", rows[1]["id"]: "open"}
    await proven(company)


async def test_two_lines_that_fit_one_charge_are_ambiguous_too(company: Company) -> None:
    patient, payer = await company.patient("PT-1016"), await company.payer()
    charge = await company.charge(patient, amount_cents=9_000, payer_id=payer["id"], date_of_service=DAY)
    await sent(company, "32")
    assert await company.reasons() == {"ambiguous_line": 2}
    assert figures((await charges_now(company, [charge]))[0]) == (0, 0, 9_000, 0)
