"""Remittances against charges: what matches is applied, what does not waits for a person, and no cent is lost.

Decided here where the rules are silent, always in favour of "never lose or invent a cent":

* A zero pay's own adjustments move the patient's part (PR) and write off only what is contractual (CO 45, 253); any
  other reason on an unpaid line is work for a person. A denied claim (CLP02 = 4) writes off nothing at all.
* OA 23 is never posted: it is what earlier payers paid and wrote off, and came with their own remittances.
* An adjustment above the open balance, or a reversal of more than was applied, is not posted in part but not at all,
  and is an exception with its numbers; the money of the line stays unapplied.
* A group code other than CO, PR, OA, PI (such as CR of 4010) does not post: `unknown_code`. An unknown reason does.
* A line that was applied by another payment is not applied again, whichever check repeats it: `duplicate_line`.
* A line's own number (REF*6R) names a charge of the claim before code, date and amount do, and a charge anywhere in
  the company only where it is longer than a mere count of lines. Two lines that mean one charge mean none.
* The same bytes sent again are a feed of their own with duplicates only; while the first is unfinished they finish it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.ledger.api.feeds import take_up_abandoned
from services.ledger.domain.commands import Command
from services.ledger.domain.feed_acts import ApplyRemittance
from services.ledger.feeds import intake, remittances
from services.ledger.feeds.intake import Feed
from services.ledger.posting import Verdict
from services.ledger.service import Ledger
from services.ledger.succession import Succession
from tests.support.databases import Databases
from tests.support.ledger import Company, LedgerStack, fold
from tests.support.x12_builder import Cas, ClaimPayment, Payment, ProviderLevel, Service, x12_file

DERIVED = Path(__file__).resolve().parents[1] / "data" / "x12"
DAY = "2026-01-05"


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await stack.company(locations=2)


async def two_lines(company: Company, account: str, *, second_code: str = "97140", **fields: Any) -> list[Any]:
    """The charges that the derived samples pay: 120.00 and 60.00 of one visit."""
    payer = fields.pop("payer", None) or await company.payer()
    patient = await company.patient(account)
    more = {"date_of_service": DAY, "payer_id": payer["id"], **fields}
    return [
        await company.charge(patient, amount_cents=12_000, modifiers=["GP"], units=2, **more),
        await company.charge(patient, amount_cents=6_000, procedure_code=second_code, modifiers=["GP", "59"], **more),
    ]


async def charges_now(company: Company, charges: Sequence[Any]) -> list[Any]:
    return [await company.get(f"/v1/charges/{charge['id']}") for charge in charges]


def figures(charge: Any) -> tuple[int, int, int, int]:
    """Applied, adjusted, still the payer's, still the patient's."""
    return (
        charge["applied_cents"],
        charge["adjusted_cents"],
        charge["payer_balance_cents"],
        charge["patient_balance_cents"],
    )


async def sent(company: Company, body: bytes | Payment | str, *, status: int = 200) -> Any:
    """Upload a file, a payment of the builder, or a derived sample by the beginning of its name."""
    if isinstance(body, str):
        (path,) = DERIVED.glob(f"{body}*")
        body = path.read_bytes()
    elif isinstance(body, Payment):
        body = x12_file([body])
    answer = await company.upload("x12", body)
    assert answer.status == status, answer
    return answer.body


async def proven(company: Company) -> None:
    assert fold(await company.events()) == await company.totals()


# -- the derived samples, with their charges ------------------------------------------------------------------------


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
    assert (feed["posted"], feed["exceptions"]) == (1, 0)
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


@pytest.mark.parametrize(("status", "adjusted", "patient"), [("4", 0, 0), ("1", 6_000, 1_500)])
async def test_what_an_unpaid_claim_moves(company: Company, status: str, adjusted: int, patient: int) -> None:
    """Denied: nothing, whatever its reasons. Processed and not paid: what is contractual, and the patient's part."""
    charge = await one_charge(company, "A")
    unpaid = (("CO", "45", 6_000), ("PR", "1", 1_500), ("CO", "16", 2_500))
    await sent(company, check(claim("A", service(adjustments=unpaid), status=status)))
    assert figures((await charges_now(company, [charge]))[0]) == (0, adjusted, 10_000 - adjusted - patient, patient)
    assert await company.reasons() == {}


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


# -- matching, made up -----------------------------------------------------------------------------------------------

PAID: tuple[Cas, ...] = (("CO", "45", 2_000),)


def service(**fields: Any) -> Service:
    """A line of 100.00, paid 80.00."""
    return Service(**{"charge_cents": 10_000, "adjustments": PAID, **fields})


def check(*claims: ClaimPayment, trace: str = "", **fields: Any) -> Payment:
    return Payment(**{"trace": trace or f"T{uuid4().hex[:12]}", "claims": claims, **fields})


def claim(account: str, *services: Service, **fields: Any) -> ClaimPayment:
    return ClaimPayment(**{"account": account, "services": services, "icn": f"ICN{uuid4().hex[:8]}", **fields})


async def one_charge(company: Company, account: str, **fields: Any) -> Any:
    patients = (await company.post("/v1/patients/search", {"account_number": account}, status=200))["items"]
    patient = patients[0] if patients else await company.patient(account)
    fields.setdefault("payer_id", (await company.payer())["id"])
    return await company.charge(patient, **{"date_of_service": DAY, **fields})


@pytest.mark.parametrize(
    ("charge", "line", "reason"),
    [
        ({"modifiers": ["GP"]}, {"modifiers": ()}, None),
        ({}, {"code": "97110GP", "modifiers": ()}, None),
        ({"external_id": "LINE-7001"}, {"control_number": "LINE-7001", "code": "97112"}, None),
        ({"external_id": "LINE-7001"}, {"control_number": "LINE-7001", "on": None}, None),
        ({"external_id": "LINE-7001"}, {"control_number": "LINE-7001", "charge_cents": 9_000}, "unmatched_claim"),
        ({}, {"code": "97112"}, "unmatched_claim"),
        ({}, {"on": date(2026, 1, 6)}, "unmatched_claim"),
        ({"amount_cents": 9_999}, {}, "unmatched_claim"),
    ],
)
async def test_what_a_line_means(company: Company, charge: Any, line: Any, reason: str | None) -> None:
    await one_charge(company, "A", **charge)
    await sent(company, check(claim("A", service(**line))))
    assert await company.reasons() == ({reason: 1} if reason else {})
    assert (await company.sums())["applied_cents"] == (0 if reason else 8_000)


async def test_a_lines_own_number_tells_equal_lines_apart(company: Company) -> None:
    first = await one_charge(company, "A", external_id="LINE-1")
    second = await one_charge(company, "A", external_id="LINE-2")
    lines = [service(control_number="LINE-2"), service(control_number="LINE-1", adjustments=())]
    await sent(company, check(claim("A", *lines)))
    assert await company.reasons() == {}
    assert [figures(one)[0] for one in await charges_now(company, [first, second])] == [10_000, 8_000]


async def test_a_number_of_another_line_is_no_match(company: Company) -> None:
    """Only the second line's charge is known; the first must not take it for its own."""
    second = await one_charge(company, "A", external_id="LINE-2")
    lines = [service(control_number="LINE-1", adjustments=()), service(control_number="LINE-2")]
    await sent(company, check(claim("A", *lines)))
    assert await company.reasons() == {"unmatched_claim": 1}
    assert figures((await charges_now(company, [second]))[0])[0] == 8_000


async def test_a_mere_count_of_lines_names_no_charge_of_somebody_else(company: Company) -> None:
    other = await one_charge(company, "B", external_id="1")
    await sent(company, check(claim("A", service(control_number="1"))))
    assert await company.reasons() == {"unmatched_claim": 1}
    assert figures((await charges_now(company, [other]))[0])[0] == 0


async def test_a_claim_without_lines_is_one_line(company: Company) -> None:
    charge = await one_charge(company, "A")
    await sent(company, check(ClaimPayment(account="A", charge_only_cents=10_000, adjustments=PAID)))
    assert await company.reasons() == {}
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 2_000, 0, 0)


async def test_void_and_foreign_charges_are_not_meant(stack: LedgerStack, company: Company) -> None:
    void = await one_charge(company, "A")
    await company.post(f"/v1/charges/{void['id']}/void", status=200)
    stranger = await stack.company()
    foreign = await one_charge(stranger, "A", external_id="LINE-9")
    await sent(company, check(claim("A", service(control_number="LINE-9"))))
    assert await company.reasons() == {"unmatched_claim": 1}
    assert figures((await charges_now(stranger, [foreign]))[0])[0] == 0


@pytest.mark.parametrize(
    ("status", "reason"), [("25", "predetermination"), ("23", "unmatched_claim"), ("19", None), ("2", None)]
)
async def test_the_status_of_a_claim(company: Company, status: str, reason: str | None) -> None:
    await one_charge(company, "A")
    feed = await sent(company, check(claim("A", service(), status=status)))
    assert feed["posted"] == 1
    assert await company.reasons() == ({reason: 1} if reason else {})
    sums = await company.sums()
    assert (sums["amount_cents"], sums["applied_cents"]) == (8_000, 0 if reason else 8_000)


async def test_money_above_the_balance_stays_unapplied(company: Company) -> None:
    charge = await one_charge(company, "A")
    await sent(company, check(claim("A", service())))
    feed = await sent(company, check(claim("A", service())))
    assert feed["posted"] == 1
    (row,) = await company.exceptions()
    assert (row["reason"], row["detail"]["open_balance_cents"], row["detail"]["paid_cents"]) == (
        "over_applied",
        0,
        8_000,
    )
    assert row["payment_id"] == (await company.get("/v1/payments"))["items"][0]["id"]
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 2_000, 0, 0)
    sums = await company.sums()
    assert (sums["applied_cents"], sums["unapplied_cents"], sums["adjusted_cents"]) == (8_000, 8_000, 2_000)
    await proven(company)


async def test_a_secondarys_write_off_above_the_balance_is_left_out(company: Company) -> None:
    """RFI 1696: CO 45 for everything would make a credit balance."""
    charge = await one_charge(company, "A")
    await sent(company, check(claim("A", service())))
    await company.patch(f"/v1/charges/{charge['id']}", {"amount_cents": 10_500})
    await company.patch(f"/v1/charges/{charge['id']}", {"amount_cents": 10_000 + 500})
    await sent(
        company, check(claim("A", Service(charge_cents=10_500, adjustments=(("CO", "45", 10_000),)), status="2"))
    )
    (row,) = await company.exceptions()
    assert (row["reason"], row["detail"]["group_code"], row["detail"]["adjustment_cents"]) == (
        "over_applied",
        "CO",
        10_000,
    )
    assert figures((await charges_now(company, [charge]))[0]) == (8_500, 2_000, 0, 0)


async def test_a_reversal_of_more_than_was_applied_is_left_to_a_person(company: Company) -> None:
    charge = await one_charge(company, "A")
    back = Service(charge_cents=-10_000, adjustments=(("CO", "45", -2_000),))
    keep = Service(charge_cents=20_000, code="97140")
    feed = await sent(company, check(claim("A", back, status="22"), claim("nobody", keep)))
    assert feed["posted"] == 1
    assert await company.reasons() == {"over_applied": 1, "unmatched_claim": 1}
    assert figures((await charges_now(company, [charge]))[0]) == (0, 0, 10_000, 0)
    assert (await company.sums())["unapplied_cents"] == 12_000


async def test_codes_that_are_not_known(company: Company) -> None:
    """An unknown group does not post and is shown; an unknown reason posts (code lists age)."""
    charge = await one_charge(company, "A")
    await sent(company, check(claim("A", service(adjustments=(("CR", "9", 1_000), ("CO", "XYZ9", 500))))))
    (row,) = await company.exceptions()
    assert (row["reason"], row["detail"]["group_code"], row["detail"]["reason_code"]) == ("unknown_code", "CR", "9")
    assert figures((await charges_now(company, [charge]))[0]) == (8_500, 500, 1_000, 0)
    await proven(company)


@pytest.mark.parametrize("icn", ["ICN-THE-SAME", ""], ids=["the payer's number", "no number"])
async def test_a_line_that_another_check_repeats_is_applied_once(company: Company, icn: str) -> None:
    charge = await one_charge(company, "A", amount_cents=10_000)
    line = service(adjustments=(("CO", "45", 6_000),))
    await sent(company, check(claim("A", line, icn=icn)))
    await company.patch(f"/v1/charges/{charge['id']}", {"amount_cents": 10_000})
    second = await sent(company, check(claim("A", line, icn=icn)))
    assert second["posted"] == 1
    assert (await charges_now(company, [charge]))[0]["applied_cents"] == 4_000
    # The builder makes up a payer's number where none is given, so both are the same claim.
    assert await company.reasons() == {"duplicate_line": 1}
    assert (await company.sums())["unapplied_cents"] == 4_000


async def test_provider_level_amounts_beside_claims(company: Company) -> None:
    await one_charge(company, "A")
    rows = (ProviderLevel(reason="WO", cents=1_500, reference="old"), ProviderLevel(reason="L6", cents=-25))
    await sent(company, check(claim("A", service()), provider_level=rows))
    (receipt,) = (await company.get("/v1/payments"))["items"]
    assert (receipt["amount_cents"], receipt["applied_cents"]) == (6_525, 8_000)
    assert (receipt["provider_level_cents"], receipt["unapplied_cents"]) == (-1_475, 0)
    assert receipt["provider_level"] == [
        {"reason_code": "WO", "amount_cents": -1_500},
        {"reason_code": "L6", "amount_cents": 25},
    ]
    await proven(company)


async def test_a_claim_that_does_not_balance_is_not_applied(company: Company) -> None:
    charge = await one_charge(company, "A")
    body = x12_file([check(claim("A", service()))]).replace(b"CAS*CO*45*20~", b"CAS*CO*45*19~")
    assert (await sent(company, body))["posted"] == 1
    (row,) = await company.exceptions()
    assert row["reason"] in ("line_unbalanced", "claim_unbalanced")
    assert row["detail"]["violations"]
    assert (await charges_now(company, [charge]))[0]["applied_cents"] == 0
    assert (await company.sums())["unapplied_cents"] == 8_000


# -- receipts --------------------------------------------------------------------------------------------------------


async def test_the_location_is_the_one_that_all_matched_charges_share(company: Company) -> None:
    here, there = (str(one) for one in company.locations)
    await one_charge(company, "A", location_id=here)
    await one_charge(company, "B", location_id=there)
    await one_charge(company, "C", location_id=there)
    await sent(company, check(claim("B", service()), claim("C", service()), claim("nobody", service())))
    assert (await company.get("/v1/payments"))["items"][0]["location_id"] == there
    await sent(company, check(claim("A", service()), claim("nobody", service())))
    assert (await company.get("/v1/payments"))["items"][0]["location_id"] == here
    await sent(company, check(claim("A", service()), claim("B", service())))
    assert (await company.get("/v1/payments"))["items"][0]["location_id"] is None
    await proven(company)


async def test_the_payer_is_found_by_its_ids_or_name_else_made(company: Company) -> None:
    known = await company.payer(code="BC", name="Blue Cross", era_payer_ids=["99999"])
    by_name = await company.payer(code="AE", name="aetna")
    cases = [
        ({"payer": "whatever", "payer_id": "99999"}, known["id"]),
        ({"payer": "whatever", "payer_id": "BC"}, known["id"]),
        ({"payer": "AETNA", "payer_id": "60054", "payer_ein": "1"}, by_name["id"]),
    ]
    for fields, payer_id in cases:
        await sent(company, check(claim("A", service()), **fields))
        assert (await company.get("/v1/payments"))["items"][0]["payer_id"] == payer_id
    fresh = {"payer": "New Payer", "payer_id": "77777", "payer_ein": "771111111"}
    for _ in range(2):
        await sent(company, check(claim("A", service()), **fresh))
    first, second = (await company.get("/v1/payments"))["items"][:2]
    assert first["payer_id"] == second["payer_id"]
    made = await company.get(f"/v1/payers/{first['payer_id']}")
    assert (made["name"], made["code"], made["era_payer_ids"]) == ("New Payer", "77777", ["77777", "1771111111"])


@pytest.mark.parametrize("npis", [[], ["1234567893"], ["1999999999"]], ids=["none", "ours", "others"])
async def test_a_remittance_for_somebody_else_is_quarantined(stack: LedgerStack, npis: list[str]) -> None:
    company = await stack.company(npis=npis)
    feed = await sent(company, check(claim("A", service()), payee_npi="1234567893"))
    wrong = npis == ["1999999999"]
    assert (feed["posted"], feed["quarantined"]) == (not wrong, wrong)
    if wrong:
        (row,) = await company.exceptions()
        assert (row["reason"], row["quarantined"], row["detail"]["bpr02_cents"]) == ("wrong_payee", True, 8_000)
        assert (await company.rows())["posting"] == 0


async def test_the_same_check_with_other_content_is_a_conflict(company: Company) -> None:
    charge = await one_charge(company, "A")
    await one_charge(company, "B")
    await sent(company, check(claim("A", service(), icn="I1"), trace="CHK-1"))
    feed = await sent(company, check(claim("B", service(), icn="I2"), trace="CHK-1"))
    assert (feed["quarantined"], feed["posted"]) == (1, 0)
    assert await company.reasons(feed_id=feed["feed_id"]) == {"conflict": 1}
    assert (await company.sums())["amount_cents"] == 8_000
    assert figures((await charges_now(company, [charge]))[0])[0] == 8_000
    other = await sent(company, check(claim("B", service(), icn="I2"), trace="CHK-1", on=date(2026, 1, 16)))
    assert other["posted"] == 1, "another date is another check"


async def test_zero_pays_that_repeat_their_trace_number_are_told_apart(company: Company) -> None:
    """RFI 1847: EO0000000000 on all of them."""
    for account in ("A", "B"):
        zero = check(claim(account, Service(charge_cents=100, adjustments=(("CO", "45", 100),))), trace="EO0000000000")
        assert (await sent(company, zero))["posted"] == 1
    assert (await company.sums())["payments"] == 2


async def test_a_notification_that_names_money_is_quarantined(company: Company) -> None:
    feed = await sent(company, check(claim("A", service()), handling="H"))
    assert (feed["quarantined"], await company.reasons()) == (1, {"notification_with_money": 1})


@pytest.mark.parametrize("trace", ["", "T" * 81, "T" * 30_000], ids=["none", "long", "monstrous"])
async def test_a_check_without_a_usable_number_is_quarantined_not_lost(company: Company, trace: str) -> None:
    body = x12_file([check(claim("A", service()), trace="TRACE")]).replace(b"TRN*1*TRACE*", f"TRN*1*{trace}*".encode())
    feed = await sent(company, body)
    assert (feed["received"], feed["quarantined"]) == (1, 1)
    assert await company.reasons() == {"envelope_mismatch": 1}


async def test_monstrous_names_and_numbers_post_all_the_same(company: Company) -> None:
    """Elements as long as a segment may be, of text that does not compress: cut where they are names."""
    noise = "".join(uuid4().hex for _ in range(1_500))
    payment = check(claim(noise[:40_000], service(control_number=noise[40_000:]), icn=noise[:9_000]), payer=noise)
    feed = await sent(company, payment)
    assert (feed["posted"], feed["quarantined"]) == (1, 0), await company.exceptions()
    assert await company.reasons() == {"unmatched_claim": 1}
    again = await sent(company, payment)
    assert again["duplicates"] == 1


# -- files -----------------------------------------------------------------------------------------------------------


async def test_what_was_sent_is_kept_as_it_was(company: Company) -> None:
    body = x12_file([check(claim("A", service()))])
    feed = await sent(company, body)
    assert set(feed) == {
        "feed_id",
        "format",
        "channel",
        "state",
        "received_at",
        "byte_count",
        "received",
        "posted",
        "duplicates",
        "ignored",
        "quarantined",
        "exceptions",
        "control_total_cents",
        "posted_total_cents",
        "difference_cents",
        "acknowledgements",
    }
    assert feed["byte_count"] == len(body)
    raw = await company.send("GET", f"/v1/feeds/{feed['feed_id']}/raw")
    assert (raw.status, raw.raw) == (200, body)
    assert await company.get(f"/v1/feeds/{feed['feed_id']}") == feed
    assert (await company.get("/v1/feeds"))["items"] == [feed]


@pytest.mark.parametrize("body", [b"", b"\n", b"<html>", b"ISA*", b"\x00" * 1_000, b"ISA" * 10_000, b"A" * 3_000_000])
async def test_what_is_no_file_is_refused_and_not_kept(company: Company, body: bytes) -> None:
    before = await company.rows()
    answer = await company.upload("x12", body)
    assert (answer.status, answer.code) == (422, "x12_unreadable"), answer
    assert await company.rows() == before


async def test_a_refusal_does_not_quote_the_file(company: Company) -> None:
    body = x12_file([check(claim("A", service()))])
    head, tail = body[: body.index(b"ST*835")], body[body.index(b"GE*") :]
    for damaged in (
        head + tail.replace(b"GE*1*1", b"GE*Zyzzyva*1").replace(b"IEA*1*000000101", b"IEA*9*Zyzzyva"),
        body.replace(b"BPR*I*80", b"BPR*I*Zyzzyva"),
        body.replace(b"ST*835*", b"ST*Zyzzyva*"),
        body.replace(b"IEA*", b"Zyzzyva*"),
    ):
        answer = await company.upload("x12", damaged)
        assert (answer.status, answer.code) == (422, "x12_unreadable"), answer
        assert b"Zyzzyva" not in answer.raw


async def test_exceptions_are_listed_by_what_is_asked(company: Company) -> None:
    feeds = [await sent(company, check(claim(account, service()))) for account in "ABC"]
    wrong = x12_file([check(claim("D", service()))]).replace(b"SE*", b"SE*9")
    quarantined = await sent(company, wrong)

    async def keys(**params: Any) -> list[str]:
        return [row["feed_id"] for row in await company.exceptions(**params)]

    newest_first = [quarantined["feed_id"], *(feed["feed_id"] for feed in reversed(feeds))]
    assert await keys() == newest_first
    assert await keys(reason="unmatched_claim") == newest_first[1:]
    assert await keys(feed_id=quarantined["feed_id"]) == newest_first[:1]
    assert await keys(source="era") == newest_first
    assert await keys(source="emr") == []
    one, other = [row["id"] for row in await company.exceptions()][:2]
    resolved = await company.post(f"/v1/exceptions/{one}/resolve", {"note": "by hand"}, status=200)
    assert (resolved["id"], resolved["state"]) == (one, "resolved")
    await company.post(f"/v1/exceptions/{other}/dismiss", {"note": "not ours"}, status=200)
    assert await keys(state="open") == newest_first[2:]
    assert await keys(state="resolved") == newest_first[:1]
    page = await company.get("/v1/exceptions", limit=2)
    rest = await company.get("/v1/exceptions", limit=2, cursor=page["next"])
    assert [row["feed_id"] for row in page["items"] + rest["items"]] == newest_first
    refused = await company.send("POST", f"/v1/exceptions/{uuid4()}/resolve", {"note": "x"})
    assert refused.status == 404


async def test_a_file_cut_anywhere_is_refused_whole(company: Company) -> None:
    body = x12_file([check(claim("A", service())), check(claim("B", service()))])
    before = await company.rows()
    for cut in range(1, len(body) - 4, 37):
        answer = await company.upload("x12", body[:cut])
        assert (answer.status, answer.code) == (422, "x12_unreadable"), cut
    assert await company.rows() == before


async def test_many_uploads_of_one_file_at_once_post_it_once(company: Company) -> None:
    charge = await one_charge(company, "A")
    body = x12_file([check(claim("A", service())), check(claim("nobody", service()))])
    answers = await asyncio.gather(*(company.upload("x12", body) for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    feeds = {answer.body["feed_id"] for answer in answers}
    documents = [await company.get(f"/v1/feeds/{feed_id}") for feed_id in feeds]
    assert sum(document["posted"] for document in documents) == 2
    for document in documents:
        assert document["received"] == 2 == document["posted"] + document["duplicates"]
    assert await company.reasons() == {"unmatched_claim": 1}
    assert (await company.sums())["amount_cents"] == 16_000
    assert figures((await charges_now(company, [charge]))[0])[0] == 8_000
    await proven(company)


# -- large files -----------------------------------------------------------------------------------------------------


def large(claims: int, name: str, lines: int = 4) -> Payment:
    """A check of many claims: each with so many lines of which every other has a charge."""
    return check(
        *(
            claim(f"{name}{n}", *(service(on=date(2026, 1, 5) + timedelta(days=d)) for d in range(lines)), icn=f"I{n}")
            for n in range(claims)
        ),
        trace=f"BIG-{name}",
    )


async def charges_of_large(company: Company, claims: int, name: str) -> None:
    payer = await company.payer()
    for n in range(0, claims, 5):
        patient = await company.patient(f"{name}{n}")
        for day in range(0, 4, 2):
            on = str(date(2026, 1, 5) + timedelta(days=day))
            await company.charge(patient, payer_id=payer["id"], date_of_service=on)


async def test_a_large_remittance_interrupted_and_begun_again_equals_the_clean_run(stack: LedgerStack) -> None:
    """Four chunks of claims and another check; the process dies after each in turn, then the same bytes come again."""
    body = x12_file([large(250, "L"), check(claim("nobody", service()), trace="AFTER")])
    clean = await stack.company()
    await charges_of_large(clean, 250, "L")
    feed = await sent(clean, body)
    assert (feed["received"], feed["posted"]) == (2, 2)
    expected = await clean.sums()
    reasons = await clean.reasons()
    assert expected["applied_cents"] == 250 // 5 * 2 * 8_000
    assert (await clean.get("/v1/payments"))["items"][1]["location_id"] == str(clean.locations[0])

    for survived in range(5):
        company = await stack.company()
        await charges_of_large(company, 250, "L")
        await interrupted(stack, company, body, survived)
        half = (await company.get("/v1/feeds"))["items"][0]
        assert half["state"] == "processing"
        finished = await sent(company, body)
        assert finished["feed_id"] == half["feed_id"], "the same bytes finish what was begun"
        assert {k: finished[k] for k in ("received", "posted", "duplicates", "exceptions")} == {
            k: feed[k] for k in ("received", "posted", "duplicates", "exceptions")
        }
        assert await company.sums() == expected
        assert await company.reasons() == reasons
        assert (await company.get("/v1/payments"))["items"][1]["location_id"] == str(company.locations[0])
        await proven(company)


async def test_the_location_of_a_large_remittance_is_shared_by_all_of_its_chunks(company: Company) -> None:
    """The first claim lies elsewhere, three chunks before the last: then there is no location that all share."""
    here, there = (str(one) for one in company.locations)
    await one_charge(company, "M0", location_id=there)
    await one_charge(company, "M249", location_id=here)
    await sent(company, large(250, "M"))
    receipt = (await company.get("/v1/payments"))["items"][0]
    assert (receipt["applied_cents"], receipt["location_id"]) == (16_000, None)
    await one_charge(company, "S0", location_id=there)
    await sent(company, large(250, "S"))
    receipt = (await company.get("/v1/payments"))["items"][0]
    assert (receipt["applied_cents"], receipt["location_id"]) == (8_000, there), "of a chunk that is not the last"
    await proven(company)


async def test_a_large_remittance_is_corrected_where_its_location_could_not_be_told(stack: LedgerStack) -> None:
    """A patient has a charge elsewhere that no line means: only what was matched says where the receipt belongs. An
    interruption before the correction is made good, whatever charges came in between."""
    for survived in (1, 4):
        company = await stack.company(locations=2)
        here, there = (str(one) for one in company.locations)
        await one_charge(company, "Q0", location_id=here)
        await one_charge(company, "Q240", location_id=here)
        patient = (await company.post("/v1/patients/search", {"account_number": "Q0"}, status=200))["items"][0]
        await company.charge(patient, location_id=there, amount_cents=77, date_of_service="2026-01-09")
        body = x12_file([large(250, "Q")])
        await interrupted(stack, company, body, survived)
        patient = await company.patient("Q249")
        await company.charge(patient, location_id=there, amount_cents=78)
        await sent(company, body)
        receipt = (await company.get("/v1/payments"))["items"][0]
        assert (receipt["applied_cents"], receipt["location_id"]) == (16_000, here)
        await proven(company)


class ProcessDied(Exception):
    """Stands for the end of a process between two postings."""


class Dying(Ledger):
    """A ledger whose process ends after so many postings."""

    def __init__(self, stack: LedgerStack, postings: int) -> None:
        super().__init__(stack.ledger.pool, stack.ledger.directory)
        self.left = postings

    async def post(self, command: Command) -> Verdict:
        self.live()
        return await super().post(command)

    def live(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ProcessDied()


class DyingSuccession(Succession):
    """The same for pieces that are not posted by the ledger."""

    def __init__(self, ledger: Dying) -> None:
        super().__init__(ledger)
        self.dying = ledger

    async def post(self, command: Command, following: Command | None) -> Verdict:
        if isinstance(command.act, ApplyRemittance):
            self.dying.live()
        return await super().post(command, following)


async def interrupted(stack: LedgerStack, company: Company, body: bytes, postings: int) -> None:
    """Process a file as the upload does, until the process dies."""
    feed = Feed(company.company_id, uuid4(), "x12", "era")
    digest = hashlib.sha256(body).digest()
    await intake.open_feed(stack.ledger.pool, feed, channel="http", sender="tests", body_hash=digest, chunks=[body])
    found = await remittances.examine(lambda: [body])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remittances, "Succession", DyingSuccession)
        with pytest.raises(ProcessDied):
            await remittances.process(Dying(stack, postings), feed, lambda: [body], "correlation", found)


async def test_an_abandoned_feed_is_taken_up_and_a_half_stored_one_is_closed(
    stack: LedgerStack, company: Company
) -> None:
    body = x12_file([check(claim("A", service()))])
    pool = stack.ledger.pool
    whole, torn = (Feed(company.company_id, uuid4(), "x12", "era") for _ in range(2))
    await intake.open_feed(pool, whole, channel="http", sender="tests", body_hash=b"1", chunks=[body])
    await intake.open_feed(pool, torn, channel="http", sender="tests", body_hash=b"2", byte_count=len(body))
    await intake.add_chunk(pool, torn, 0, body[:300])
    app = stack.client.app
    assert app is not None
    await take_up_abandoned(app)
    assert (await company.get(f"/v1/feeds/{whole.feed_id}"))["state"] == "processing", "somebody may be at it"
    await stack.owner.execute("update feed set worked_at = worked_at - interval '3 minutes'")
    await asyncio.gather(*(take_up_abandoned(app) for _ in range(4)))
    done = await company.get(f"/v1/feeds/{whole.feed_id}")
    assert (done["state"], done["posted"], done["received"]) == ("done", 1, 1)
    closed = await company.get(f"/v1/feeds/{torn.feed_id}")
    assert (closed["state"], closed["received"]) == ("done", 0)
    assert (await company.sums())["payments"] == 1


async def test_a_feed_that_cannot_be_worked_off_does_not_stop_the_others(stack: LedgerStack, company: Company) -> None:
    pool = stack.ledger.pool
    bad, good = (Feed(company.company_id, uuid4(), "x12", "era") for _ in range(2))
    await intake.open_feed(pool, bad, channel="http", sender="tests", body_hash=b"3", chunks=[b"not x12 at all"])
    body = x12_file([check(claim("A", service()))])
    await intake.open_feed(pool, good, channel="http", sender="tests", body_hash=b"4", chunks=[body])
    await stack.owner.execute("update feed set worked_at = worked_at - interval '3 minutes'")
    assert stack.client.app is not None
    await take_up_abandoned(stack.client.app)
    assert (await company.get(f"/v1/feeds/{good.feed_id}"))["posted"] == 1


async def test_claims_of_a_conflicting_check_never_reach_the_first_ones_receipt(company: Company) -> None:
    """The second file has the same check with more claims than the first: its later chunks must not be applied."""
    await charges_of_large(company, 250, "C")
    small = replace(large(250, "C"), claims=large(250, "C").claims[:2], amount_cents=None)
    whole = large(250, "C")
    padding = ProviderLevel(reason="72", cents=whole.net_cents - small.net_cents)
    await sent(company, replace(small, provider_level=(replace(padding, cents=-padding.cents),)))
    before = await company.totals()
    feed = await sent(company, whole)
    assert (feed["quarantined"], feed["posted"], feed["state"]) == (1, 0, "done")
    assert await company.reasons(feed_id=feed["feed_id"]) == {"conflict": 1}
    assert await company.totals() == before


async def test_a_body_over_eight_megabytes_is_taken_and_worked_off_later(company: Company) -> None:
    await one_charge(company, "A")
    filler = "X" * 60_000
    noise = [check(claim(f"N{n}", service(), last_name=filler)) for n in range(145)]
    body = x12_file([check(claim("A", service())), *noise])
    assert len(body) > 8 << 20
    feed = await sent(company, body, status=202)
    assert feed["state"] == "processing"
    async with asyncio.timeout(60):
        while (now := await company.get(f"/v1/feeds/{feed['feed_id']}"))["state"] == "processing":
            await asyncio.sleep(0.05)
    assert (now["received"], now["posted"], now["byte_count"]) == (146, 146, len(body))
    sums = await company.sums()
    assert (sums["payments"], sums["applied_cents"]) == (146, 8_000)
    bad = await company.upload("x12", body[:-10])
    assert (bad.status, bad.code) == (422, "x12_unreadable")


async def test_a_large_file_does_not_hold_up_the_others(stack: LedgerStack, company: Company) -> None:
    other = await stack.company()
    patient = await other.patient()
    body = x12_file([large(600, "H", lines=8)])
    upload = asyncio.create_task(company.upload("x12", body))
    slowest = 0.0
    loop = asyncio.get_running_loop()
    while not upload.done():
        started = loop.time()
        await other.payment(patient_id=patient["id"])
        slowest = max(slowest, loop.time() - started)
    assert (await upload).body["posted"] == 1
    assert slowest < 1.0


def test_pieces_are_keyed_by_content_and_place() -> None:
    """What the keys rest on: the same bytes are cut into the same pieces, whatever chunks they arrive in."""
    body = x12_file([large(100, "P")])

    def pieces(size: int) -> list[tuple[int, int, bytes]]:
        cut = [body[start : start + size] for start in range(0, len(body), size)]
        (transaction,) = remittances.contents(cut).transactions
        found = remittances._pieces(lambda: cut, {1: transaction})
        return [(piece.number, len(piece.claims), remittances._hash(piece)) for piece in found]

    assert pieces(len(body)) == pieces(777) == pieces(64)
    assert len(pieces(len(body))) == 2
