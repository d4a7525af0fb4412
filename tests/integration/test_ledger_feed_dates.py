"""The day that money came in, in whatever format it is told: a slip of the year must not hide it from every report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Any

import pytest

from services.ledger.domain import payments
from tests.support.csv_files import PAYMENTS, agree, row, table
from tests.support.csv_files import sent as csv_sent
from tests.support.emr import Emr
from tests.support.fhir_builder import detail, reconciliation
from tests.support.fhir_sender import Sender
from tests.support.hl7_messages import ft1, message
from tests.support.ledger import Company, LedgerStack
from tests.support.remittances import proven


async def by_event(company: Company, on: date) -> Any:
    emr = await Emr.of(company)
    return await emr.send(emr.payment(transaction_date=str(on)))


async def by_hl7(company: Company, on: date) -> Any:
    paid = ft1("PY", "TX1", "25.00", "CASH", f4=f"{on:%Y%m%d}")
    answer = await company.upload("hl7v2", message(paid, control_id=f"FAR-{on}"))
    return await company.get(f"/v1/feeds/{answer.headers['X-Feed-Id']}")


async def by_csv(company: Company, on: date) -> Any:
    await agree(company, PAYMENTS)
    return await csv_sent(company, table(row(company.locations[0], **{"Paid on": str(on)})))


async def by_notice(company: Company, on: date) -> Any:
    sender = Sender(company, await company.stack.emr_client([company]))
    await company.patient("ABC-1001")
    patient = {"identifier": {"value": "ABC-1001"}, "type": "Patient"}
    return await sender.feed(sender.notice(request=patient, paymentDate=str(on)))


async def by_reconciliation(company: Company, on: date) -> Any:
    sender = Sender(company, await company.stack.emr_client([company]))
    return await sender.feed(reconciliation("25.00", detail("25.00"), paymentDate=str(on)))


FORMATS = [by_event, by_hl7, by_csv, by_notice, by_reconciliation]


@pytest.mark.parametrize("send", FORMATS)
async def test_a_payment_of_a_day_too_far_ahead_waits_until_that_is_near(
    stack: LedgerStack, send: Callable[[Company, date], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    company = await stack.company()
    feed = await send(company, company.today + timedelta(days=32))
    assert (feed["received"], feed["quarantined"], feed["difference_cents"]) == (1, 1, 2_500)
    (waits,) = await company.exceptions()
    assert (waits["reason"], waits["quarantined"]) == ("deposit_date_range", True)
    assert (await company.sums())["payments"] == 0
    monkeypatch.setattr(payments, "_DAYS_AHEAD", 32)  # as if a day had passed
    again = await company.post(f"/v1/exceptions/{waits['id']}/retry", status=200, key="")
    assert again["state"] == "retried"
    assert (await company.sums())["amount_cents"] == 2_500
    await proven(company)


@pytest.mark.parametrize("send", FORMATS)
@pytest.mark.parametrize("days", [31, -4_000])
async def test_one_that_is_announced_or_of_years_ago_is_posted(
    stack: LedgerStack, send: Callable[[Company, date], Awaitable[Any]], days: int
) -> None:
    company = await stack.company()
    feed = await send(company, company.today + timedelta(days=days))
    assert (feed["received"], feed["posted"], feed["difference_cents"]) == (1, 1, 0)


async def test_a_change_to_such_a_day_leaves_the_payment_where_it_stands(company: Company, emr: Emr) -> None:
    await emr.send(emr.payment())
    assert await emr.outcome(emr.payment(version=2, transaction_date="2062-01-06")) == {"quarantined": 1}
    (stands,) = (await company.get("/v1/payments"))["items"]
    assert stands["deposit_date"] == "2026-01-06"
    assert await emr.outcome(emr.payment(version=3, transaction_date="2026-01-07")) == {"posted": 1}
    await proven(company)
