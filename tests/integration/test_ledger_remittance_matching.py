"""Lines of remittances against charges: what matches is applied, what does not waits for a person.

Decided here where the rules are silent, always in favour of "never lose or invent a cent":

* An adjustment above the open balance, or a reversal of more than was applied, is not posted in part but not at all,
  and is an exception with its numbers; the money of the line stays unapplied.
* A group code other than CO, PR, OA, PI does not post (`unknown_code`); CR of 4010 only takes back.
* A line that was applied by another payment is not applied again, whichever check repeats it: `duplicate_line`.
* A line's own number (REF*6R) names a charge of the claim before code, date and amount do, and a charge anywhere in
  the company only where it is longer than a mere count of lines. Two lines that mean one charge mean none, unless they
  carry one number and only add up to what one charge is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest

from tests.support.feed_work import PAID, charge_of, check, claim, service
from tests.support.ledger import Company, LedgerStack
from tests.support.remittances import charges_now, figures, proven, sent
from tests.support.x12_builder import Cas, ClaimPayment, ProviderLevel, Service, x12_file


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
    await charge_of(company, "A", **charge)
    await sent(company, check(claim("A", service(**line))))
    assert await company.reasons() == ({reason: 1} if reason else {})
    assert (await company.sums())["applied_cents"] == (0 if reason else 8_000)


async def test_a_lines_own_number_tells_equal_lines_apart(company: Company) -> None:
    first = await charge_of(company, "A", external_id="LINE-1")
    second = await charge_of(company, "A", external_id="LINE-2")
    lines = [service(control_number="LINE-2"), service(control_number="LINE-1", adjustments=())]
    await sent(company, check(claim("A", *lines)))
    assert await company.reasons() == {}
    assert [figures(one)[0] for one in await charges_now(company, [first, second])] == [10_000, 8_000]


async def test_a_number_of_another_line_is_no_match(company: Company) -> None:
    """Only the second line's charge is known; the first must not take it for its own."""
    second = await charge_of(company, "A", external_id="LINE-2")
    lines = [service(control_number="LINE-1", adjustments=()), service(control_number="LINE-2")]
    await sent(company, check(claim("A", *lines)))
    assert await company.reasons() == {"unmatched_claim": 1}
    assert figures((await charges_now(company, [second]))[0])[0] == 8_000


async def test_a_mere_count_of_lines_names_no_charge_of_somebody_else(company: Company) -> None:
    other = await charge_of(company, "B", external_id="1")
    await sent(company, check(claim("A", service(control_number="1"))))
    assert await company.reasons() == {"unmatched_claim": 1}
    assert figures((await charges_now(company, [other]))[0])[0] == 0


async def test_a_claim_without_lines_is_one_line(company: Company) -> None:
    charge = await charge_of(company, "A")
    await sent(company, check(ClaimPayment(account="A", charge_only_cents=10_000, adjustments=PAID)))
    assert await company.reasons() == {}
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 2_000, 0, 0)


async def test_void_and_foreign_charges_are_not_meant(stack: LedgerStack, company: Company) -> None:
    void = await charge_of(company, "A")
    await company.post(f"/v1/charges/{void['id']}/void", status=200)
    stranger = await stack.company()
    foreign = await charge_of(stranger, "A", external_id="LINE-9")
    await sent(company, check(claim("A", service(control_number="LINE-9"))))
    assert await company.reasons() == {"unmatched_claim": 1}
    assert figures((await charges_now(stranger, [foreign]))[0])[0] == 0


@pytest.mark.parametrize(
    ("status", "reason"), [("25", "predetermination"), ("23", "unmatched_claim"), ("19", None), ("2", None)]
)
async def test_the_status_of_a_claim(company: Company, status: str, reason: str | None) -> None:
    await charge_of(company, "A")
    feed = await sent(company, check(claim("A", service(), status=status)))
    assert feed["posted"] == 1
    assert await company.reasons() == ({reason: 1} if reason else {})
    sums = await company.sums()
    assert (sums["amount_cents"], sums["applied_cents"]) == (8_000, 0 if reason else 8_000)


async def test_money_above_the_balance_stays_unapplied(company: Company) -> None:
    charge = await charge_of(company, "A")
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
    charge = await charge_of(company, "A")
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
    charge = await charge_of(company, "A")
    back = Service(charge_cents=-10_000, adjustments=(("CO", "45", -2_000),))
    keep = Service(charge_cents=20_000, code="97140")
    feed = await sent(company, check(claim("A", back, status="22"), claim("nobody", keep)))
    assert feed["posted"] == 1
    assert await company.reasons() == {"over_applied": 1, "unmatched_claim": 1}
    assert figures((await charges_now(company, [charge]))[0]) == (0, 0, 10_000, 0)
    assert (await company.sums())["unapplied_cents"] == 12_000


async def test_a_group_that_is_none_does_not_post(company: Company) -> None:
    charge = await charge_of(company, "A")
    await sent(company, check(claim("A", service(adjustments=(("CR", "9", 1_000), ("CO", "45", 500))))))
    (row,) = await company.exceptions()
    assert (row["reason"], row["detail"]["group_code"], row["detail"]["reason_code"]) == ("unknown_code", "CR", "9")
    assert figures((await charges_now(company, [charge]))[0]) == (8_500, 500, 1_000, 0)
    await proven(company)


@pytest.mark.parametrize("icn", ["ICN-THE-SAME", ""], ids=["the payer's number", "no number"])
async def test_a_line_that_another_check_repeats_is_applied_once(company: Company, icn: str) -> None:
    charge = await charge_of(company, "A", amount_cents=10_000)
    line = service(adjustments=(("CO", "45", 6_000),))
    await sent(company, check(claim("A", line, icn=icn)))
    await company.patch(f"/v1/charges/{charge['id']}", {"amount_cents": 10_000})
    second = await sent(company, check(claim("A", line, icn=icn)))
    assert second["posted"] == 1
    assert (await charges_now(company, [charge]))[0]["applied_cents"] == 4_000
    # The builder makes up a payer's number where none is given, so both are the same claim.
    assert await company.reasons() == {"duplicate_line": 1}
    assert (await company.sums())["unapplied_cents"] == 4_000


async def test_a_negative_claim_that_does_not_say_it_is_a_reversal_is_called_that(company: Company) -> None:
    """Under status 1 and the same number it repeats nothing; whether it takes back, CLP02 should have said."""
    charge = await charge_of(company, "A")
    await sent(company, check(claim("A", service(), icn="ICN-1")))
    back = Service(charge_cents=-10_000, adjustments=(("CO", "45", -2_000),))
    levels = [ProviderLevel(reason="FB", cents=-8_000)]
    await sent(company, check(claim("A", back, icn="ICN-1"), provider_level=levels))
    (row,) = await company.exceptions()
    assert (row["reason"], row["detail"]["claim_status"], row["detail"]["paid_cents"]) == (
        "unmarked_reversal",
        "1",
        -8_000,
    )
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 2_000, 0, 0)
    await sent(company, check(claim("A", back, icn="ICN-1", status="22"), provider_level=levels))
    assert figures((await charges_now(company, [charge]))[0]) == (0, 0, 10_000, 0)
    await proven(company)


async def test_provider_level_amounts_beside_claims(company: Company) -> None:
    await charge_of(company, "A")
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
    charge = await charge_of(company, "A")
    body = x12_file([check(claim("A", service()))]).replace(b"CAS*CO*45*20~", b"CAS*CO*45*19~")
    assert (await sent(company, body))["posted"] == 1
    (row,) = await company.exceptions()
    assert row["reason"] in ("line_unbalanced", "claim_unbalanced")
    assert row["detail"]["violations"]
    assert (await charges_now(company, [charge]))[0]["applied_cents"] == 0
    assert (await company.sums())["unapplied_cents"] == 8_000


async def test_a_line_of_nothing_means_no_charge(company: Company) -> None:
    """Codes that only report something are charged 0.00: the books have no such charge, and there is no work in it."""
    charge = await charge_of(company, "A")
    report = Service(charge_cents=0, code="G8978")
    feed = await sent(company, check(claim("A", service(), report), claim("A", report)))
    assert (feed["posted"], feed["exceptions"]) == (1, 0), await company.exceptions()
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 2_000, 0, 0)
    await proven(company)


def split(first: Sequence[Cas], second: Sequence[Cas], number: str = "L-77", sign: int = 1, **fields: Any) -> Any:
    """A line of 400.00, told as one of 300.00 and one of 100.00."""
    parts = [(30_000, first), (10_000, second)]
    lines = [
        service(
            charge_cents=sign * cents,
            adjustments=[(group, reason, sign * amount) for group, reason, amount in rows],
            control_number=number,
        )
        for cents, rows in parts
    ]
    return claim("A", *lines, **fields)


@pytest.mark.parametrize("external_id", [None, "L-77", "A-L-77"])
async def test_a_line_that_the_payer_has_split_is_applied_to_its_one_charge(
    company: Company, external_id: str | None
) -> None:
    """Three units of four are paid. Both parts carry the number of the line that was sent (REF*6R)."""
    charge = await charge_of(company, "A", amount_cents=40_000, units=4, external_id=external_id)
    parts = [("CO", "45", 6_000)], [("CO", "151", 10_000)]
    feed = await sent(company, check(split(*parts, icn="I1")))
    assert (feed["posted"], await company.reasons()) == (1, {"denied_line": 1})
    assert figures((await charges_now(company, [charge]))[0]) == (24_000, 6_000, 10_000, 0)
    again = await sent(company, check(split(*parts, icn="I1")))
    assert await company.reasons() == {"denied_line": 1, "duplicate_line": 2}, again
    paid = check(split(*parts, sign=-1, status="22", icn="I1"), split(parts[0], [("CO", "45", 2_000)], icn="I1"))
    await sent(company, paid)
    assert await company.reasons() == {"denied_line": 1, "duplicate_line": 2}
    assert figures((await charges_now(company, [charge]))[0]) == (32_000, 8_000, 0, 0)
    await proven(company)


@pytest.mark.parametrize(
    ("charges", "number"),
    [
        ([{"amount_cents": 39_999}], "L-77"),  # They do not add up to it.
        ([{"amount_cents": 40_000}] * 2, "L-77"),  # Two that it may be.
        ([{"amount_cents": 40_000}], ""),  # Nothing says that they are one.
    ],
)
async def test_lines_that_need_not_be_parts_of_one_are_left_to_a_person(
    company: Company, charges: list[dict[str, Any]], number: str
) -> None:
    payer = await company.payer()
    made = [await charge_of(company, "A", payer_id=payer["id"], **fields) for fields in charges]
    await sent(company, check(split([("CO", "45", 6_000)], [("CO", "45", 2_000)], number)))
    assert await company.reasons() == {"unmatched_claim": 1}
    assert {figures(one)[0] for one in await charges_now(company, made)} == {0}
    assert (await company.sums())["unapplied_cents"] == 32_000


async def test_a_charge_that_another_line_means_is_not_joined_from_parts(company: Company) -> None:
    charge = await charge_of(company, "A", amount_cents=40_000, units=4)
    parts = split([("CO", "45", 6_000)], [("CO", "45", 2_000)])
    whole = service(charge_cents=40_000, adjustments=[("CO", "45", 30_000)])
    await sent(company, check(claim("A", whole, *parts.services)))
    assert await company.reasons() == {"unmatched_claim": 2}
    assert figures((await charges_now(company, [charge]))[0]) == (10_000, 30_000, 0, 0)
    await proven(company)
