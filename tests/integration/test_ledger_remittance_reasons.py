"""Reasons (CARC) that no list has: accepted as they stand, since lists age, and shown to a person (feeds.md 5.10).

Decided here where the rules are silent: what was given out is told by its form, the numbers below 400 and the series of
a letter; so no list has to be kept up, and what is new passes.
"""

from __future__ import annotations

import pytest

from tests.support.feed_work import charge_of, check, claim, remit, retried, service, the_exception
from tests.support.ledger import Company
from tests.support.remittances import charges_now, figures, proven
from tests.support.x12_builder import Service


@pytest.mark.parametrize("reason", ["999", "ZZ9", "X", "1234", "400"])
async def test_an_unknown_reason_is_accepted_and_shown(company: Company, reason: str) -> None:
    charge = await charge_of(company, "A")
    feed = await remit(company, check(claim("A", service(adjustments=[("CO", "45", 1_500), ("CO", reason, 500)]))))
    assert (feed["posted"], feed["exceptions"], feed["difference_cents"]) == (1, 1, 0)
    row = await the_exception(company)
    detail = row["detail"]
    assert (row["reason"], row["quarantined"]) == ("unknown_code", False)
    assert (detail["group_code"], detail["reason_code"], detail["adjustment_cents"]) == ("CO", reason, 500)
    assert detail["posted"] is True
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 2_000, 0, 0)
    await proven(company)


async def test_trying_it_again_does_not_write_off_twice(company: Company) -> None:
    charge = await charge_of(company, "A")
    line = service(adjustments=[("CO", "45", 1_500), ("CO", "999", 500), ("CO", "144", -300)])
    await remit(company, check(claim("A", line)))
    before = figures((await charges_now(company, [charge]))[0])
    failed = await retried(company, await the_exception(company))
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "unknown_code")
    assert figures((await charges_now(company, [charge]))[0]) == before
    settled = await company.post(
        f"/v1/exceptions/{failed['id']}/resolve", {"note": "the payer says what it means"}, status=200, key=""
    )
    assert settled["state"] == "resolved"


@pytest.mark.parametrize("reason", ["1", "45", "253", "301", "399", "A1", "B15", "D23", "P12", "W3", "Y1"])
async def test_what_may_be_one_is_nothing_to_look_at(company: Company, reason: str) -> None:
    await charge_of(company, "A")
    await remit(company, check(claim("A", service(adjustments=[("CO", reason, 500)]))))
    assert await company.exceptions() == []


async def test_what_is_passed_to_the_patient_is_shown_too(company: Company) -> None:
    payer = await company.payer()
    charge = await charge_of(company, "A", payer_id=payer["id"])
    line = Service(charge_cents=10_000, adjustments=[("PR", "ZZ9", 2_000)])
    await remit(company, check(claim("A", line)))
    assert (await the_exception(company))["detail"]["group_code"] == "PR"
    assert figures((await charges_now(company, [charge]))[0]) == (8_000, 0, 0, 2_000)
