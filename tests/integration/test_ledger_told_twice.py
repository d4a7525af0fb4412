"""One payment of a payer told by an 835 and by a FHIR PaymentReconciliation: posted once, whichever comes first, by
whatever channel, and at the same moment.

Decided here where the rules are silent:

* The first one's receipt stands as it was applied; the second is a `duplicate`, `same_payment`, and changes nothing.
* With another total it is a `conflict` with both totals, until one of them is corrected.
* A format that uses a trace twice tells of two payments, as before; each receipt answers to one of each format.
* A reconciliation that is taken back while an 835 holds takes nothing back; one that was taken back before hides none.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import date
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from services.ledger.store import MIGRATIONS
from tests.support.drop import Drop
from tests.support.feed_work import charge_of, check, claim, service, true
from tests.support.fhir_builder import Raw, body, bundle, detail, notice, patient, reconciliation
from tests.support.ledger import COUNTS, Company, LedgerStack, clinic_of, counts
from tests.support.x12_builder import Payment, x12_file

TRACE = "EFT-900"
NAME = "Example Health"
Step = Callable[[], Awaitable[Any]]


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    company = await stack.company()
    await stack.emr_client([company])
    return company


def remittance(trace: str = TRACE, **fields: Any) -> Payment:
    """80.00 for one line of claim A."""
    return check(claim("A", service(), icn="I1"), trace=trace, payer=NAME, **fields)


def recon(amount: str = "80.00", *, trace: str = TRACE, name: str = "R-1", version: int = 1, **changes: Any) -> Raw:
    return reconciliation(
        amount,
        detail(amount, "A"),
        **{
            "identifier": [{"value": name}],
            "id": name,
            "meta": {"versionId": str(version)},
            "paymentIdentifier": {"value": trace},
            **changes,
        },
    )


async def x12(company: Company, *payments: Payment) -> tuple[int, ...]:
    answer = await company.upload("x12", x12_file(list(payments)))
    assert answer.status == 200, answer
    return counts(answer.body)


async def fhir(company: Company, one: Raw) -> tuple[int, ...]:
    answer = await company.upload("fhir", body(one))
    assert answer.status == 200, answer
    return counts(answer.body)


async def receipts(company: Company) -> list[tuple[int, str]]:
    """Amount and trace of what stands."""
    rows = (await company.get("/v1/payments", limit=500))["items"]
    return sorted((row["amount_cents"], row["check_number"]) for row in rows if row["amount_cents"])


POSTED, DUPLICATE, QUARANTINED, IGNORED = (1, 1, 0, 0, 0), (1, 0, 1, 0, 0), (1, 0, 0, 0, 1), (1, 0, 0, 1, 0)


@pytest.mark.parametrize("first", ["x12", "fhir"])
async def test_the_second_one_is_a_duplicate(company: Company, first: str) -> None:
    await company.charge(await company.patient("A"), external_id="A")
    tellings = [partial(x12, company, remittance()), partial(fhir, company, recon())]
    if first == "fhir":
        tellings.reverse()
    assert [await one() for one in tellings] == [POSTED, DUPLICATE]
    assert [await one() for one in tellings] == [DUPLICATE, DUPLICATE]
    assert await receipts(company) == [(8_000, TRACE)]
    assert (await company.sums())["applied_cents"] == 8_000
    reasons = await company.stack.owner.fetch(
        "select reason from feed_item where company_id = $1 and outcome = 'duplicate'", company.company_id
    )
    assert Counter(row["reason"] for row in reasons)["same_payment"] == 1
    assert await company.exceptions() == []
    await true(company)


@pytest.mark.parametrize("first", ["x12", "fhir"])
async def test_another_total_waits_with_both_numbers(company: Company, first: str) -> None:
    tellings = [partial(x12, company, remittance()), partial(fhir, company, recon("70.00"))]
    if first == "fhir":
        tellings.reverse()
    assert [await one() for one in tellings] == [POSTED, QUARANTINED]
    (row,) = await company.exceptions(reason="conflict")
    numbers = {name: row["detail"][name] for name in ("stated_cents", "known_cents", "difference_cents")}
    known, stated = (8_000, 7_000) if first == "x12" else (7_000, 8_000)
    assert (row["reason"], row["detail"]["trace_number"]) == ("conflict", TRACE)
    assert numbers == {"stated_cents": stated, "known_cents": known, "difference_cents": stated - known}
    path = f"/v1/exceptions/{row['id']}/retry"
    assert (await company.post(path, status=200, key=""))["state"] == "open"
    assert len(await receipts(company)) == 1
    if first == "fhir":
        # The payer corrects its reconciliation: now the 835 tells of nothing new.
        assert await fhir(company, recon("80.00", version=2)) == POSTED
        assert (await company.post(path, status=200, key=""))["state"] == "retried"
        assert await receipts(company) == [(8_000, TRACE)]
    else:
        assert await fhir(company, recon("80.00", version=2)) == DUPLICATE
    await true(company)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"paymentIssuer": {"identifier": {"value": "999999999"}, "display": "By its number"}}, True),
        ({"paymentIssuer": {"display": "EXAMPLE HEALTH"}}, True),
        ({"paymentIssuer": {"display": "Example Hlth"}}, True),  # mapped
        ({"paymentIssuer": {"display": "Another Payer"}}, False),
        ({"trace": "EFT-901"}, False),
    ],
    ids=["by its id", "by its name", "by a mapping", "another payer", "another trace"],
)
@pytest.mark.parametrize("first", ["x12", "fhir"])
async def test_it_is_the_same_by_payer_and_trace(company: Company, first: str, other: Raw, same: bool) -> None:
    payer = await company.payer(name=NAME, era_payer_ids=["999999999"])
    mapping = {"clinics": [], "payers": [{"alias": "example hlth", "payer_id": payer["id"]}], "procedures": []}
    assert (await company.send("PUT", "/v1/feed-mappings", mapping)).status == 200
    tellings = [partial(x12, company, remittance()), partial(fhir, company, recon(**other))]
    if first == "fhir":
        tellings.reverse()
    assert [await one() for one in tellings] == [POSTED, DUPLICATE if same else POSTED]
    assert len(await receipts(company)) == (1 if same else 2)


async def test_a_trace_that_a_payer_uses_again(company: Company) -> None:
    """Two 835s of one trace and different days are two payments, also where FHIR has told of one of them or both."""
    one, two = remittance(), remittance(on=date(2026, 1, 16))
    tellings = {
        "835 of the 15th": partial(x12, company, one),
        "835 of the 16th": partial(x12, company, two),
        "R-1": partial(fhir, company, recon()),
        "R-2": partial(fhir, company, recon(name="R-2")),
    }
    for order in permutations(tellings):
        other = await company.stack.company()
        await company.stack.emr_client([other])
        found = [await partial(tellings[name].func, other, *tellings[name].args[1:])() for name in order]
        assert Counter(found) == {POSTED: 2, DUPLICATE: 2}, order
        assert await receipts(other) == [(8_000, TRACE)] * 2, order
        await true(other)


async def test_zero_pays_are_told_apart_by_nothing(company: Company) -> None:
    zero = check(claim("A", service(adjustments=(("CO", "45", 10_000),))), trace=TRACE, payer=NAME)
    assert await x12(company, zero) == POSTED
    assert await fhir(company, recon("80.00")) == POSTED
    again = check(claim("B", service(adjustments=(("CO", "45", 10_000),))), trace=TRACE, payer=NAME)
    assert await x12(company, again) == POSTED


@pytest.mark.parametrize("first", ["x12", "fhir"])
async def test_a_reconciliation_taken_back_takes_nothing_of_an_835(company: Company, first: str) -> None:
    tellings = [partial(x12, company, remittance()), partial(fhir, company, recon())]
    if first == "fhir":
        tellings.reverse()
    for one in tellings:
        await one()
    gone = recon(version=2, status="entered-in-error")
    assert await fhir(company, gone) == IGNORED
    assert await receipts(company) == [(8_000, TRACE)]
    assert await fhir(company, recon(version=3)) == DUPLICATE
    assert await fhir(company, recon("60.00", version=4)) == QUARANTINED
    if first == "fhir":
        assert await fhir(company, recon("0.00", version=5, detail=None)) == QUARANTINED
    assert await receipts(company) == [(8_000, TRACE)]
    await true(company)


async def test_a_reconciliation_taken_back_before_hides_no_835(company: Company) -> None:
    assert await fhir(company, recon()) == POSTED
    assert await fhir(company, recon(version=2, status="entered-in-error")) == POSTED
    assert await x12(company, remittance()) == POSTED
    assert await fhir(company, recon(version=3)) == DUPLICATE
    assert await fhir(company, recon(version=4, status="entered-in-error")) == IGNORED
    assert await receipts(company) == [(8_000, TRACE)]
    await true(company)


async def test_a_notice_of_what_an_835_brought_is_no_news(company: Company) -> None:
    """It names the payment that the reconciliation tells of, and so the receipt of the 835."""
    assert await x12(company, remittance()) == POSTED
    assert await fhir(company, recon()) == DUPLICATE
    place = {"identifier": {"value": clinic_of(company.locations[0])}}
    told = notice("80.00", payment={"identifier": {"value": TRACE}}, payee=place, request={"reference": "Account/a1"})
    account = {"resourceType": "Account", "id": "a1", "status": "active", "subject": [{"reference": "Patient/p1"}]}
    assert (await fhir(company, bundle(told, account, patient())))[1] == 0
    assert await receipts(company) == [(8_000, TRACE)]


@pytest.mark.parametrize("first", ["x12", "fhir"])
async def test_a_notice_alone_is_a_patients_payment_of_whatever_trace(company: Company, first: str) -> None:
    """It names no payer: a patient's check may have the number and the amount of a payer's."""
    place = {"identifier": {"value": clinic_of(company.locations[0])}}
    told = notice("80.00", payment={"identifier": {"value": TRACE}}, payee=place, request={"reference": "Patient/p1"})
    steps: dict[str, Step] = {
        "x12": partial(x12, company, remittance()),
        "fhir": partial(fhir, company, bundle(told, patient())),
    }
    for name in sorted(steps, key=lambda name: name != first):
        await steps[name]()
    assert await receipts(company) == [(8_000, TRACE)] * 2
    await true(company)


async def test_what_follows_in_a_long_835_is_not_applied_to_the_other_receipt(company: Company) -> None:
    await charge_of(company, "A")
    claims = [claim(f"N{n}", service(), icn=f"I{n}") for n in range(700)]
    long = check(*claims, claim("A", service(), icn="IA"), trace=TRACE, payer=NAME)
    total = f"{701 * 80}.00"
    assert await fhir(company, recon(total, detail=None)) == POSTED
    assert await x12(company, long, remittance("T-2")) == (2, 1, 1, 0, 0)
    assert await receipts(company) == [(8_000, "T-2"), (701 * 8_000, TRACE)]
    assert (await company.sums())["applied_cents"] == 8_000
    await true(company)


@pytest.mark.parametrize("seed", range(3))
async def test_at_the_same_moment(stack: LedgerStack, seed: int) -> None:
    """Twelve payments, each told four times at once: the count of writes decides, not what was seen before."""
    company = await stack.company()
    await stack.emr_client([company])
    steps: list[Step] = []
    for n in range(12):
        for version in (1, 2):
            steps.append(partial(fhir, company, recon(trace=f"T-{n}", name=f"R-{n}", version=version)))
            steps.append(partial(x12, company, remittance(f"T-{n}")))
    random.Random(seed).shuffle(steps)
    await asyncio.gather(*(one() for one in steps))
    # The same bytes that come while they are worked on are one feed.
    assert sum(feed["posted"] for feed in (await company.get("/v1/feeds", limit=500))["items"]) == 12
    assert await receipts(company) == sorted((8_000, f"T-{n}") for n in range(12))
    assert await company.reasons() == {"unmatched_claim": 12}
    await true(company)


async def test_by_the_watched_directory_as_well(company: Company, tmp_path: Path) -> None:
    drop = Drop(company, tmp_path)
    drop.put("fhir/a.json", body(recon()))
    await drop.watcher().look()
    assert await x12(company, remittance()) == DUPLICATE
    assert await x12(company, remittance("T-2")) == POSTED
    drop.put("b.fhir", body(recon(trace="T-2", name="R-2")))
    drop.put("c.835", x12_file([remittance(), remittance("T-2")]))
    await drop.watcher().look()
    assert len(drop.at("done")) == 3
    assert await receipts(company) == [(8_000, TRACE), (8_000, "T-2")]
    summed = Counter[str]()
    for feed in await drop.feeds():
        summed.update({name: feed[name] for name in COUNTS})
    assert summed == {"received": 6, "posted": 2, "duplicates": 4, "ignored": 0, "quarantined": 0}
    await true(company)


async def test_what_was_posted_before_is_known_as_well(company: Company) -> None:
    """The migration finds the traces of receipts that were posted without them."""
    owner, own = company.stack.owner, company.company_id
    zero = check(claim("Z", service(adjustments=(("CO", "45", 10_000),))), trace="Z-1", payer=NAME)
    await x12(company, remittance(), zero)
    await fhir(company, recon(trace="T-2", name="R-2"))
    place = {"identifier": {"value": clinic_of(company.locations[0])}}
    await fhir(company, notice("5.00", payee=place))
    columns = "trace_number, told_by, payment_id, told_key"
    rows = f"select {columns} from payer_trace where company_id = $1 order by trace_number"
    known = await owner.fetch(rows, own)
    assert [(row["trace_number"], row["told_by"]) for row in known] == [(TRACE, "x12"), ("T-2", "fhir")]
    migration = next(MIGRATIONS.glob("0014_*")).read_text()
    begin = migration.index("insert into payer_trace")
    await owner.execute("delete from payer_trace")
    await owner.execute(migration[begin : migration.index(";", begin)])
    assert await owner.fetch(rows, own) == known
    assert await fhir(company, recon()) == DUPLICATE
    assert await x12(company, remittance("T-2")) == DUPLICATE
