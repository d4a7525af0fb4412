"""One check that is told twice at the same moment, by a payer who names the payee by tax id and by a clearinghouse that
puts the NPI in its place: whoever is first posts it, the other waits for a person, and no cent is doubled."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from services.ledger.domain.feed_acts import PostRemittance
from services.ledger.feeds import mappings, remittance_claims
from services.ledger.posting import post_batch
from tests.support import posting
from tests.support.feed_work import charge_of, check, claim, retried, service, the_exception, true
from tests.support.fhir_builder import body, reconciliation
from tests.support.ledger import Company, LedgerStack, counts
from tests.support.x12_builder import Payment, x12_file

NPI, TAX_ID = "1234567893", "987654321"
POSTED, DUPLICATE, QUARANTINED = (1, 1, 0, 0, 0), (1, 0, 1, 0, 0), (1, 0, 0, 0, 1)


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await paid_under_both_names(stack, [NPI])


async def paid_under_both_names(stack: LedgerStack, npis: list[str]) -> Company:
    company = await stack.company(npis=npis)
    payees = [{"alias": TAX_ID, "npi": npi} for npi in npis]
    mapping = {"clinics": [], "payers": [], "procedures": [], "payees": payees}
    assert (await company.send("PUT", "/v1/feed-mappings", mapping, key="")).status == 200
    return company


def files(payment: Payment) -> list[bytes]:
    """By tax id alone, and by NPI."""
    return [x12_file([replace(payment, payee_npi="")]), x12_file([payment])]


async def upload(company: Company, body: bytes) -> tuple[int, ...]:
    answer = await company.upload("x12", body)
    assert answer.status == 200, answer
    return counts(answer.body)


async def one_was_posted(company: Company, payment: Payment, found: list[tuple[int, ...]]) -> None:
    """Of its two files, in whatever order, and so it stays."""
    assert sorted(found) == sorted([POSTED, QUARANTINED])
    assert [(row["reason"], row["quarantined"]) for row in await company.exceptions()] == [("conflict", True)]
    row = await the_exception(company)
    assert row["item_key"] == f"ST 1 TRN {payment.trace}"
    assert row["detail"] == {
        "transaction": 1,
        "trace_number": payment.trace,
        "bpr02_cents": payment.net_cents,
        "clp04_sum_cents": payment.net_cents,
        "plb_sum_cents": 0,
        "claims": len(payment.claims),
        "problems": [],
        "message": "It was posted before, under another name of its payee",
    }
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "conflict")
    again = [await upload(company, body) for body in files(payment)]
    assert again == [DUPLICATE if one == POSTED else QUARANTINED for one in found]
    sums = await company.sums()
    assert (sums["payments"], sums["amount_cents"]) == (1, payment.net_cents)
    assert sums["applied_cents"] == payment.net_cents
    await true(company)


@pytest.mark.parametrize("lines", [300, 1])
async def test_both_judged_before_either_is_posted(
    company: Company, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they are posted in several pieces: nothing of the second is applied to anything."""
    read, both = mappings.read, asyncio.Barrier(2)

    async def met(*arguments: Any) -> mappings.Mappings:
        """The last that is read before anything is posted."""
        await both.wait()
        return await read(*arguments)

    payment = check(*(claim(name, service()) for name in "ABC"))
    for name in "ABC":
        await charge_of(company, name)
    monkeypatch.setattr(remittance_claims, "LINES_A_PIECE", lines)
    with monkeypatch.context() as patch:
        patch.setattr(mappings, "read", met)
        async with asyncio.timeout(30):
            found = await asyncio.gather(*(upload(company, one) for one in files(payment)))
    await one_was_posted(company, payment, found)


async def test_both_decided_before_either_is_appended(company: Company) -> None:
    """By two processes, each of which has loaded books without the other's receipt."""
    await charge_of(company, "A")
    payment = check(claim("A", service()))
    stack = company.stack
    async with LedgerStack.running(stack.dsn, tokens=stack.tokens) as other, asyncio.timeout(30):
        async with stack.owner.acquire() as holder, holder.transaction():
            await holder.execute("select from company_book where company_id = $1 for update", company.company_id)
            both = zip((company, replace(company, stack=other)), files(payment), strict=True)
            tasks = [asyncio.create_task(upload(one, body)) for one, body in both]
            while await stack.owner.fetchval(
                "select count(*) < 2 from pg_stat_activity where datname = current_database()"
                " and wait_event_type = 'Lock' and query like '%append_books%'"
            ):
                await asyncio.sleep(0.01)
        found = await asyncio.gather(*tasks)
    await one_was_posted(company, payment, found)


async def test_both_in_one_batch(company: Company) -> None:
    """The second sees what the first is about to post."""
    feed, twins = uuid4(), ("by tax id", "by NPI")
    receipts = [
        PostRemittance(
            key, b"hash", "check", 8_000, company.today, "1", "Payer", (), feed, "ST 1", twins=frozenset(twins) - {key}
        )
        for key in twins
    ]
    batch = [posting.command(company, receipt) for receipt in receipts]
    first, second = await post_batch(company.stack.ledger.pool, batch)
    assert (first.problem, second.problem and second.problem.code) == (None, "conflict")
    assert (await company.sums())["amount_cents"] == 8_000


async def test_many_pairs_at_once(company: Company) -> None:
    """Through two processes, in any order."""
    payments = [check(claim(f"P{n}", service())) for n in range(16)]
    for payment in payments:
        await charge_of(company, payment.claims[0].account)
    stack = company.stack
    async with LedgerStack.running(stack.dsn, tokens=stack.tokens) as other:
        doors = [company, replace(company, stack=other)]
        work = [(payment, body, door) for payment in payments for body, door in zip(files(payment), doors, strict=True)]
        random.Random(21).shuffle(work)
        found = await asyncio.gather(*(upload(door, body) for _, body, door in work))
    outcomes: dict[str, Counter[tuple[int, ...]]] = {payment.trace: Counter() for payment in payments}
    for (payment, _, _), one in zip(work, found, strict=True):
        outcomes[payment.trace][one] += 1
    assert all(one == {POSTED: 1, QUARANTINED: 1} for one in outcomes.values()), outcomes
    assert await company.reasons() == {"conflict": len(payments)}
    sums = await company.sums()
    assert (sums["payments"], sums["amount_cents"]) == (len(payments), 8_000 * len(payments))
    assert sums["applied_cents"] == 8_000 * len(payments)
    await true(company)


@pytest.mark.parametrize("tax_id_first", [True, False])
@pytest.mark.parametrize("npis", [[NPI], []])
async def test_either_may_be_first_whichever_of_them_knows_the_other_name(
    stack: LedgerStack, npis: list[str], tax_id_first: bool
) -> None:
    """By NPI without the tax id, to a company that is known by it; with the tax id, to one of which no NPI is known."""
    company = await paid_under_both_names(stack, npis)
    await charge_of(company, "A")
    payment = check(claim("A", service()))
    by_tax_id, by_npi = files(payment)
    both = [by_tax_id, by_npi.replace(b"REF*TJ*987654321", b"REF*TJ*") if npis else by_npi]
    found = [await upload(company, body) for body in both[:: 1 if tax_id_first else -1]]
    assert found == [POSTED, QUARANTINED]
    assert (await company.sums())["amount_cents"] == 8_000
    await true(company)


async def test_one_that_was_refused_is_no_reason_to_refuse_the_other(company: Company) -> None:
    """For itself it may be: both are of a day that is too far ahead."""
    payment = check(claim("A", service()), on=company.today + timedelta(days=60))
    answer = await company.upload("x12", b"".join(files(payment)))
    assert counts(answer.body) == (2, 0, 0, 0, 2)
    assert await company.reasons() == {"deposit_date_range": 2}


@pytest.mark.parametrize("tax_id_first", [True, False])
@pytest.mark.parametrize("payments", [1, 2])
async def test_a_payment_that_fhir_told_of_is_not_posted_under_the_second_name(
    company: Company, payments: int, tax_id_first: bool
) -> None:
    """The first 835 is a duplicate of what FHIR has told; the second is no other payment, nor another one of FHIR's."""
    await company.stack.emr_client([company])
    payment = check(claim("A", service()), trace="EFT-7")
    for n in range(payments):
        told = reconciliation("80.00", id=f"R-{n}", identifier=[{"value": f"R-{n}"}])
        told |= {"paymentIdentifier": {"value": payment.trace}, "paymentIssuer": {"display": payment.payer}}
        answer = await company.upload("fhir", body(told))
        assert (answer.status, answer.body["posted"]) == (200, 1), answer
    found = [await upload(company, one) for one in files(payment)[:: 1 if tax_id_first else -1]]
    assert found == [DUPLICATE, QUARANTINED]
    assert (await company.sums())["amount_cents"] == payments * 8_000
    await true(company)
