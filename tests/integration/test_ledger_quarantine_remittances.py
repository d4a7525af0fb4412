"""Remittances that wait: what a retry posts, what it finds to be there already, and what stays wrong."""

from __future__ import annotations

from typing import Any

import pytest

from services.ledger.deciding import Verdict
from services.ledger.feeds import remittance_claims
from services.ledger.service import Ledger
from tests.support.feed_work import (
    charge_of,
    check,
    claim,
    feed_now,
    remit,
    retried,
    service,
    the_exception,
    true,
)
from tests.support.ledger import Company, LedgerStack, together
from tests.support.x12_builder import x12_file


async def set_npis(company: Company, *npis: str) -> None:
    await company.stack.owner.execute(
        "update directory_company set npis = $2 where company_id = $1", company.company_id, list(npis)
    )


async def test_a_remittance_for_an_npi_that_was_added_later(stack: LedgerStack) -> None:
    company = await stack.company(npis=["1999999999"])
    charge = await charge_of(company, "A")
    ours = check(claim("X", service()), payee_npi="1999999999")
    feed = await remit(company, ours, check(claim("A", service()), claim("nobody", service()), trace="LATE"))
    row = await the_exception(company, reason="wrong_payee")
    before = await company.rows()
    failed = await retried(company, row)
    assert failed["history"][-1]["detail"]["problems"][0]["code"] == "wrong_payee"
    assert await company.rows() == {**before, "exception_history": before["exception_history"] + 1}
    await set_npis(company, "1999999999", "1234567893")
    answers = await together(*(retried(company, row) for _ in range(4)))
    assert {answer["state"] for answer in answers} == {"retried"}
    assert await feed_now(company, feed) == {"posted": 2}
    receipt = next(one for one in (await company.get("/v1/payments"))["items"] if one["check_number"] == "LATE")
    assert (receipt["amount_cents"], receipt["applied_cents"]) == (16_000, 8_000)
    assert (await company.get(f"/v1/charges/{charge['id']}"))["balance_cents"] == 0
    assert await company.reasons(state="open") == {"unmatched_claim": 2}
    again = await company.upload("x12", x12_file([ours]))
    assert again.body["duplicates"] == 1
    await true(company)


async def test_the_same_check_in_a_good_file_makes_the_retry_a_duplicate(stack: LedgerStack) -> None:
    company = await stack.company(npis=["1999999999"])
    payment = check(claim("A", service()))
    feed = await remit(company, payment)
    await set_npis(company)
    assert (await remit(company, payment))["posted"] == 1
    row = await the_exception(company, reason="wrong_payee")
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"duplicates": 1}
    assert (await company.sums())["payments"] == 1
    await true(company)


async def test_what_is_wrong_with_a_remittance_stays_wrong(company: Company) -> None:
    await remit(company, check(claim("A", service()), trace="CHK"))
    await remit(company, check(claim("B", service()), trace="CHK"))
    await remit(company, check(claim("A", service()), amount_cents=1))
    before = await company.totals()
    expected = {"conflict": "message", "transaction_unbalanced": "problems"}
    rows = [row for row in await company.exceptions() if row["quarantined"]]
    assert {row["reason"] for row in rows} == set(expected)
    for row in rows:
        failed = await retried(company, row)
        assert (failed["state"], failed["history"][-1]["reason"]) == ("open", row["reason"])
        assert expected[row["reason"]] in failed["history"][-1]["detail"]
    assert await company.totals() == before
    await true(company)


class ProcessDied(Exception):
    """Stands for the end of a process between two postings."""


async def test_a_large_remittance_interrupted_while_it_is_retried(
    stack: LedgerStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pieces: after the first the receipt is posted and counted, and the exception waits for the rest."""
    monkeypatch.setattr(remittance_claims, "LINES_A_PIECE", 2)
    company = await stack.company(npis=["1999999999"])
    for name in "ABC":
        await charge_of(company, name)
    feed = await remit(company, check(*(claim(name, service()) for name in "ABC")))
    row = await the_exception(company)
    await set_npis(company)
    post = Ledger.post

    async def dies_at_the_second(self: Ledger, command: Any, then: Any = None) -> Verdict:
        if command.key.endswith(":1"):
            raise ProcessDied()
        return await post(self, command, then)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "post", dies_at_the_second)
        answer = await company.send("POST", f"/v1/exceptions/{row['id']}/retry", key="")
        assert answer.status == 500
    assert (await the_exception(company))["state"] == "open"
    assert await feed_now(company, feed) == {"posted": 1}
    assert (await company.sums())["applied_cents"] == 16_000
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"posted": 1}
    assert (await company.sums())["applied_cents"] == 24_000
    await true(company)
