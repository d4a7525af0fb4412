"""A real ledger's events in reporting: its control totals and documents against the reports (P4, Q1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.bus import Message, Outcome
from shared.contracts.envelope import encode
from tests.support.databases import Databases
from tests.support.ledger import Company, LedgerStack
from tests.support.reporting import ReportingStack

FIGURES = ("payments", "amount_cents", "applied_cents", "adjusted_cents", "provider_level_cents", "unapplied_cents")


@pytest.fixture(scope="module")
async def ledger(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as stack:
        yield stack


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[ReportingStack]:
    async with ReportingStack.fresh(databases) as stack:
        yield stack


async def _follow(stack: ReportingStack, company: Company) -> None:
    batch = [Message(str(event.id), event.type, event.type, encode(event).encode()) for event in await company.events()]
    assert set(await stack.inbox.handle(batch)) == {Outcome.DONE}


async def _report(stack: ReportingStack, company: Company, **params: Any) -> Any:
    token = stack.tokens.token("practice_admin", company.company_id)
    asked = {"from": "2020-01-01", "to": "2030-12-31", "variation": "full_access", "limit": 500, **params}
    answer = await stack.get("/v1/reports/payment-balancing", token, asked)
    assert answer.status == 200, answer.raw
    return answer.body


async def test_reports_are_the_ledgers_control_totals_and_documents(ledger: LedgerStack, stack: ReportingStack) -> None:
    company = await ledger.company(locations=2)
    patient, payer = await company.patient(), await company.payer()
    charges = [
        await company.charge(patient, location_id=str(location), procedure_code=code)
        for location, code in zip(company.locations * 2, ("97110", "97110", "97140", "97530"), strict=True)
    ]

    def part(place: int, cents: int) -> dict[str, Any]:
        return {"charge_id": charges[place]["id"], "amount_cents": cents}

    write_off = {"charge_id": charges[0]["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 700}
    first = await company.payment(
        payer_id=payer["id"], batch_number="A", applications=[part(0, 4_000), part(1, 3_000)], adjustments=[write_off]
    )
    await company.payment(patient_id=patient["id"], amount_cents=2_500, method="cash", check_number=None)
    zero = {**write_off, "charge_id": charges[2]["id"]}
    await company.payment(payer_id=payer["id"], amount_cents=0, adjustments=[zero], batch_number="A")
    later = await company.payment(payer_id=payer["id"], amount_cents=9_000, location_id=None)
    await company.post(f"/v1/payments/{later['id']}/applications", {"applications": [part(3, 5_000)]})
    await company.patch(f"/v1/payments/{first['id']}", {"batch_number": "B", "location_id": str(company.locations[1])})
    await company.post(f"/v1/payments/{later['id']}/reversal", {"deposit_date": str(company.today)})
    await _follow(stack, company)

    report = await _report(stack, company)
    totals = await company.totals()
    expected: Counter[tuple[str, ...]] = Counter()
    found: Counter[tuple[str, ...]] = Counter()
    for words, figures in totals.items():
        for name, value in figures:
            expected[(*words, name)] += value
    words_of_row = ("location_id", "deposit_date", "posting_date", "source", "affiliation")
    for item in report["items"]:
        for name in FIGURES:
            found[(*(str(item[word]) for word in words_of_row), name)] += item[name]
    assert +found == +expected
    assert -found == -expected
    for item in report["items"]:
        document = await company.get(f"/v1/payments/{item['payment_id']}")
        for name in FIGURES[1:]:
            assert item[name] == document[name], name
        assert (item["batch_number"], item["check_number"]) == (document["batch_number"], document["check_number"])
        assert item["first_version"] <= document["company_version"]
    assert (report["totals"]["payments"], len(report["items"])) == (5, 5)
    lines = await _report(stack, company, level="cpt")
    assert sum(item["amount_cents"] for item in lines["items"]) == report["totals"]["amount_cents"]
