"""What the other services ask the ledger: its event log, heads, control totals, and how it is."""

from __future__ import annotations

from typing import Any

import orjson

from tests.support.ledger import Company, LedgerStack, fold


async def test_the_event_log_is_paged_by_version(stack: LedgerStack, company: Company) -> None:
    for _ in range(5):
        await company.patient()
    token = stack.internal()

    async def page(**params: Any) -> Any:
        answer = await stack.request(
            "GET", "/v1/events", token, params={"company_id": str(company.company_id), **params}
        )
        assert answer.status == 200, answer
        return answer.body

    whole = await page()
    assert [item["data"]["version"] for item in whole["items"]] == [1, 2, 3, 4, 5]
    assert whole["next"] is None
    first = await page(limit="2")
    assert first["next"] == 2
    rest = await page(limit="10", after_version="2")
    assert first["items"] + rest["items"] == whole["items"]
    assert (await page(after_version="5"))["items"] == []
    assert (await page(after_version=str(2**63 - 1)))["items"] == []
    envelope = whole["items"][0]
    assert (envelope["specversion"], envelope["type"], envelope["source"]) == ("1.0", "ledger.posting.v1", "ledger")
    assert envelope["subject"] == str(company.company_id)
    stored = await stack.owner.fetchval(
        "select payload from event where company_id = $1 and version = 1", company.company_id
    )
    assert orjson.loads(stored) == envelope
    for params in (
        {},
        {"company_id": "x"},
        {"company_id": str(company.company_id), "after_version": "-1"},
        {"company_id": str(company.company_id), "after_version": "9" * 30},
        {"company_id": str(company.company_id), "limit": "501"},
    ):
        assert (await stack.request("GET", "/v1/events", token, params=params)).status == 422, params


async def test_heads_name_the_version_of_every_company(stack: LedgerStack, company: Company) -> None:
    await company.patient()
    heads = (await stack.request("GET", "/v1/events/heads", stack.internal())).body["items"]
    assert {"company_id": str(company.company_id), "version": 1} in heads
    assert len(heads) == len({row["company_id"] for row in heads})


async def test_control_totals_of_any_version_for_services_and_people(stack: LedgerStack, company: Company) -> None:
    patient = await company.patient()
    first = await company.payment(patient_id=patient["id"])
    await company.payment(patient_id=patient["id"], location_id=str(company.locations[1]))
    await company.patch(f"/v1/payments/{first['id']}", {"location_id": None})
    document = await company.get("/v1/control-totals")
    assert document["company_id"] == str(company.company_id)
    assert document["as_of_version"] == 4
    assert [row["location_id"] for row in document["items"]] == [None, str(company.locations[1])]
    params = {"company_id": str(company.company_id)}
    assert (await stack.request("GET", "/v1/control-totals", stack.internal(), params=params)).body == document
    past = await company.get("/v1/control-totals", as_of_version=2)
    assert [row["location_id"] for row in past["items"]] == [str(company.locations[0])]
    assert past["as_of_version"] == 2
    assert (await company.get("/v1/control-totals", as_of_version=0))["items"] == []
    assert (await company.get("/v1/control-totals", as_of_version=10**9))["as_of_version"] == 4
    assert (await stack.request("GET", "/v1/control-totals", stack.internal())).fields == {"company_id": "missing"}
    for as_of in ("-1", "x", "9" * 40):
        answer = await company.send("GET", "/v1/control-totals", params={"as_of_version": as_of})
        assert (answer.status, list(answer.fields)) == (422, ["as_of_version"])
    for version in range(5):
        assert await company.totals(version) == fold(await company.events(), version)


async def test_health_and_the_description_of_the_api(stack: LedgerStack) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs"):
        assert (await stack.request("GET", path, None)).status == 200, path
    document = (await stack.request("GET", "/openapi.json", None)).body
    assert document["openapi"] == "3.1.0"
    assert "/v1/payments/{id}/reversal" in document["paths"]
