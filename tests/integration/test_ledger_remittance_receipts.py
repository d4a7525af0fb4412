"""Receipts of remittances: location, payer, payee, number; conflicts, and checks without a usable name."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from uuid import uuid4

import pytest

from services.ledger.domain import payments
from services.ledger.feeds import remittance_claims
from tests.support.feed_work import charge_of, check, claim, retried, service
from tests.support.ledger import Company, LedgerStack
from tests.support.remittances import charges_now, figures, proven, sent
from tests.support.x12_builder import Service, x12_file


async def test_the_location_is_the_one_that_all_matched_charges_share(company: Company) -> None:
    here, there = (str(one) for one in company.locations)
    await charge_of(company, "A", location_id=here)
    await charge_of(company, "B", location_id=there)
    await charge_of(company, "C", location_id=there)
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
    charge = await charge_of(company, "A")
    await charge_of(company, "B")
    await sent(company, check(claim("A", service(), icn="I1"), trace="CHK-1"))
    feed = await sent(company, check(claim("B", service(), icn="I2"), trace="CHK-1"))
    assert (feed["quarantined"], feed["posted"]) == (1, 0)
    (conflict,) = [row for row in await company.exceptions(feed_id=feed["feed_id"]) if row["quarantined"]]
    assert conflict["reason"] == "conflict"
    assert conflict["detail"] == {"message": "It was posted before with other content", "errors": []}
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


@pytest.mark.parametrize(
    ("bpr", "reason"),
    [
        ("BPR*H*-80*C*NON", "notification_with_money"),
        ("BPR*I*-80*C*NON", "notification_with_money"),
        ("BPR*I*-80*C*CHK", "negative_payment"),
    ],
)
async def test_money_below_zero_that_nobody_moved_is_quarantined(company: Company, bpr: str, reason: str) -> None:
    """What a payer is owed stands in PLB beside a BPR02 of zero (RFI 1756); a check of less than nothing is none."""
    charge = await charge_of(company, "A")
    await sent(company, check(claim("A", service())))
    back = claim("A", service(charge_cents=-10_000, adjustments=(("CO", "45", -2_000),)), status="22")
    body = x12_file([check(back)]).replace(b"BPR*I*80*D*ACH", bpr.encode())
    feed = await sent(company, body)
    assert (feed["quarantined"], feed["control_total_cents"], feed["posted_total_cents"]) == (1, -8_000, 0)
    (row,) = await company.exceptions()
    (problem,) = row["detail"]["problems"]
    assert (row["reason"], row["quarantined"], row["detail"]["clp04_sum_cents"]) == (reason, True, -8_000)
    assert (problem["code"], problem["bpr02"]) == (reason, -8_000)
    assert (await company.sums())["amount_cents"] == 8_000
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 2_000, 0, 0)


async def test_what_a_payer_draws_from_the_account_is_money_paid_back(company: Company) -> None:
    charge = await charge_of(company, "A")
    await sent(company, check(claim("A", service())))
    back = claim("A", service(charge_cents=-10_000, adjustments=(("CO", "45", -2_000),)), status="22")
    feed = await sent(company, check(back))
    assert (feed["posted"], feed["posted_total_cents"], feed["exceptions"]) == (1, -8_000, 0)
    assert (await company.sums())["amount_cents"] == 0
    assert figures((await charges_now(company, [charge]))[0]) == (0, 0, 10_000, 0)
    await proven(company)


NO_NUMBER = "TRN02, the number of the check or transfer, is missing"
NO_DATE = "There is no payment date: neither BPR16 nor DTM*405 is one"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"TRN*1*TRACE*": "TRN*1**"}, [NO_NUMBER]),
        ({"TRN*1*TRACE*": f"TRN*1*{'T' * 81}*"}, ["TRN02 is longer than 80 characters"]),
        ({"TRN*1*TRACE*": f"TRN*1*{'T' * 30_000}*"}, ["TRN02 is longer than 80 characters"]),
        ({"20260115~": "~"}, [NO_DATE]),
        ({"20260115~": "00010101~"}, [NO_DATE]),
        ({"TRN*1*TRACE*": "TRN*1**", "20260115~": "~"}, [NO_NUMBER, NO_DATE]),
    ],
    ids=["no number", "long number", "monstrous number", "no date", "filler date", "neither"],
)
async def test_a_check_without_number_or_date_is_quarantined_and_it_is_told_what_is_missing(
    company: Company, changes: dict[str, str], told: list[str]
) -> None:
    body = x12_file([check(claim("A", service()), trace="TRACE")]).decode()
    for old, new in changes.items():
        body = body.replace(old, new)
    feed = await sent(company, body.encode())
    assert (feed["received"], feed["quarantined"]) == (1, 1)
    (row,) = await company.exceptions()
    assert row["reason"] == "envelope_mismatch"
    assert [problem["detail"] for problem in row["detail"]["problems"]] == told


async def test_a_settlement_of_the_coming_month_is_posted_and_a_later_one_waits(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person's payment may be as far ahead and no further. Twice two pieces, of which the second must not post."""
    monkeypatch.setattr(remittance_claims, "LINES_A_PIECE", 1)
    await charge_of(company, "A")
    await charge_of(company, "B")
    last = company.today + timedelta(days=31)
    paid = check(claim("A", service()), claim("B", service()), trace="FAR")
    feed = await sent(company, replace(paid, on=last + timedelta(days=1)))
    assert (feed["quarantined"], feed["posted_total_cents"], feed["difference_cents"]) == (1, 0, 16_000)
    (row,) = await company.exceptions()
    assert (row["reason"], row["quarantined"]) == ("deposit_date_range", True)
    assert row["detail"] == {
        "field": "BPR16",
        "deposit_date": str(last + timedelta(days=1)),
        "latest": str(last),
        "message": "The payment date is too far ahead",
    }
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "deposit_date_range")
    assert (await company.rows())["remittance_line"] == 0
    assert (await sent(company, replace(paid, on=last)))["posted"] == 1
    assert (await company.sums())["applied_cents"] == 16_000
    assert await company.reasons(state="open") == {"deposit_date_range": 1}
    await proven(company)


async def test_a_settlement_that_was_too_far_ahead_posts_once_its_day_is_near(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge = await charge_of(company, "A")
    await sent(company, check(claim("A", service()), on=company.today + timedelta(days=40)))
    (row,) = await company.exceptions()
    monkeypatch.setattr(payments, "_DAYS_AHEAD", 40)  # as if nine days had passed
    assert (await retried(company, row))["state"] == "retried"
    assert figures((await charges_now(company, [charge]))[0])[0] == 8_000
    await proven(company)


@pytest.mark.parametrize("on", [date(2062, 1, 15), date(2199, 12, 31)])
async def test_a_payment_of_another_age_waits(company: Company, on: date) -> None:
    await sent(company, check(claim("A", service()), on=on))
    assert await company.reasons() == {"deposit_date_range": 1}
    assert (await company.sums())["payments"] == 0


@pytest.mark.parametrize("on", [date(2003, 10, 16), date(2019, 2, 28)])
async def test_remittances_of_years_ago_are_loaded(company: Company, on: date) -> None:
    """What a practice brings along when it moves here."""
    await charge_of(company, "A", date_of_service=str(on))
    line = service(on=on)
    feed = await sent(company, check(claim("A", line, on=on), on=on))
    assert (feed["posted"], feed["exceptions"]) == (1, 0)
    assert (await company.get("/v1/payments"))["items"][0]["deposit_date"] == str(on)


async def test_a_filler_for_the_payment_date_gives_way_to_the_day_the_835_was_made(company: Company) -> None:
    body = x12_file([check(claim("A", service()), trace="TRACE")]).decode()
    old = "*" * 12 + "20260115~"
    assert (await sent(company, body.replace(old, "*" * 12 + "99991231~").encode()))["posted"] == 1
    assert (await company.get("/v1/payments"))["items"][0]["deposit_date"] == "2026-01-15"


async def test_monstrous_names_and_numbers_post_all_the_same(company: Company) -> None:
    """Elements as long as a segment may be, of text that does not compress: cut where they are names."""
    noise = "".join(uuid4().hex for _ in range(1_500))
    payment = check(claim(noise[:40_000], service(control_number=noise[40_000:]), icn=noise[:9_000]), payer=noise)
    feed = await sent(company, payment)
    assert (feed["posted"], feed["quarantined"]) == (1, 0), await company.exceptions()
    assert await company.reasons() == {"unmatched_claim": 1}
    again = await sent(company, payment)
    assert again["duplicates"] == 1


@pytest.mark.parametrize("payer_id", ["", "CLEARING-77"])
async def test_a_payment_is_the_same_whatever_number_a_clearinghouse_gives_the_payer(
    company: Company, payer_id: str
) -> None:
    """N104 is optional and rewritten on the way; TRN03 is what the bank has too (CAQH CORE 370)."""
    await charge_of(company, "A")
    direct = check(claim("A", service()))
    await sent(company, direct)
    again = await sent(company, replace(direct, payer_id=payer_id))
    assert (again["posted"], again["quarantined"]) == (0, 1)
    assert await company.reasons() == {"conflict": 1}
    assert (await company.sums())["amount_cents"] == 8_000
