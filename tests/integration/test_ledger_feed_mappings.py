"""Clinics, payers and procedures by the names of their source, and what waited for such a name.

Decided here where the rules are silent: a mapped clinic counts only where no company has a clinic of that name, so
nobody can draw another's events to himself.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from shared.bus import Outcome
from tests.support.emr import BATCH, Emr
from tests.support.feed_work import (
    check,
    claim,
    feed_now,
    register_clinic,
    remit,
    retried,
    service,
    the_exception,
    true,
    unknown,
)
from tests.support.ledger import Company, LedgerStack


async def map_words(company: Company, **rows: Any) -> Any:
    answer = await company.send(
        "PUT", "/v1/feed-mappings", {"clinics": [], "payers": [], "procedures": [], **rows}, key=""
    )
    assert answer.status == 200, answer
    return answer.body


async def test_a_clinic_by_another_name(stack: LedgerStack, emr: Emr) -> None:
    company, other = emr.company, await stack.company()
    await stack.owner.execute(
        "update directory_client set company_ids = company_ids || $2::uuid where client_id = $1",
        emr.client,
        other.company_id,
    )
    feed = await emr.send(unknown(emr, "Old Mill"), unknown(emr, "Old Mill", "p-2"))
    await map_words(company, clinics=[{"alias": "Old Mill", "location_id": str(company.locations[1])}])
    for row in await company.exceptions():
        assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"posted": 2}
    assert (await emr.send(unknown(emr, "Old Mill", "p-3")))["posted"] == 1
    assert await emr.deliver(unknown(emr, "Old Mill", "p-4")) == [Outcome.DONE]
    receipts = (await company.get("/v1/payments"))["items"]
    assert {one["location_id"] for one in receipts} == {str(company.locations[1])}
    assert len(receipts) == 4
    # The clinic opens at another company of the same EMR: it is that one's, whatever was mapped here.
    await register_clinic(other, "Old Mill")
    await emr.deliver(unknown(emr, "Old Mill", "p-5"))
    assert ((await company.sums())["payments"], (await other.sums())["payments"]) == (4, 1)
    await true(company)


async def test_a_procedure_by_the_code_of_its_source(emr: Emr) -> None:
    company = emr.company
    odd, plain = emr.charge("c-1", procedure_code="PT-EVAL LOW"), emr.charge("c-2", procedure_code="EVAL1")
    refused = await emr.send(odd, status=422)
    assert [error["field"] for error in refused["errors"]] == ["data.procedure_code"]
    feed = await emr.send(odd, **{"Content-Type": BATCH})
    assert feed["quarantined"] == 1
    row = await the_exception(company)
    failed = await retried(company, row)
    assert failed["history"][-1]["detail"]["errors"][0]["field"] == "data.procedure_code"
    codes = [{"alias": "PT-EVAL LOW", "procedure_code": "97161"}, {"alias": "EVAL1", "procedure_code": "97162"}]
    await map_words(company, procedures=codes)
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"posted": 1}
    assert (await emr.send(odd))["duplicates"] == 1
    alone = await company.upload("emr", json.dumps(emr.charge("c-3", procedure_code="PT-EVAL LOW")).encode())
    assert (alone.status, alone.body["posted"]) == (200, 1), alone
    await emr.deliver(plain)
    charges = {one["external_id"]: one["procedure_code"] for one in (await company.get("/v1/charges"))["items"]}
    assert charges == {"c-1": "97161", "c-2": "97162", "c-3": "97161"}
    # An event is the same whatever is mapped; but without the mapping this code is none at all.
    await map_words(company)
    again = await emr.send(odd, plain)
    assert (again["duplicates"], again["quarantined"]) == (1, 1)
    await map_words(company, procedures=codes)
    assert (await retried(company, await the_exception(company, state="open")))["state"] == "retried"
    assert await feed_now(company, again) == {"duplicates": 2}
    await true(company)


async def test_a_payer_by_another_name(company: Company) -> None:
    payers = [await company.payer() for _ in range(2)]
    rows = [
        {"alias": "EXAMPLE Health plan", "payer_id": payers[0]["id"]},
        {"alias": "99999", "payer_id": payers[1]["id"]},
    ]
    await map_words(company, payers=rows)
    await remit(company, check(claim("A", service())))
    await remit(company, check(claim("A", service()), payer_id="99999", payer="EXAMPLE HEALTH PLAN"))
    found = [one["payer_id"] for one in (await company.get("/v1/payments"))["items"]]
    assert found == [payers[1]["id"], payers[0]["id"]]
    assert len((await company.get("/v1/payers"))["items"]) == 2


async def test_mappings_are_replaced_whole_and_remembered(company: Company) -> None:
    location, payer = str(company.locations[0]), (await company.payer())["id"]
    users = [uuid4(), uuid4()]
    first = {"clinics": [{"alias": "x", "location_id": location}], "payers": [], "procedures": []}
    second = {**first, "payers": [{"alias": "P", "payer_id": payer}]}
    for user, body in zip(users, (first, second), strict=True):
        token = company.token("self_service_admin", subject=user)
        assert (await company.send("PUT", "/v1/feed-mappings", body, key="", token=token)).status == 200
    now = await company.get("/v1/feed-mappings")
    assert [(row["alias"], row["location_id"], row["changed_by"]) for row in now["clinics"]] == [
        ("x", location, str(users[0]))
    ]
    assert [(row["alias"], row["changed_by"]) for row in now["payers"]] == [("P", str(users[1]))]
    await map_words(company)
    assert await company.get("/v1/feed-mappings") == {"clinics": [], "payers": [], "procedures": [], "payees": []}
    kept = await company.stack.owner.fetch(
        "select alias, target from feed_mapping where company_id = $1 order by change_no", company.company_id
    )
    assert [(row["alias"], row["target"]) for row in kept] == [("x", location), ("P", payer), ("P", None), ("x", None)]


async def test_mappings_that_are_refused(stack: LedgerStack, company: Company) -> None:
    stranger = await stack.company()
    foreign = (await stranger.payer())["id"]
    location = str(company.locations[0])
    for field, rows in (
        ("clinics.0.location_id", {"clinics": [{"alias": "a", "location_id": str(stranger.locations[0])}]}),
        ("payers.0.payer_id", {"payers": [{"alias": "a", "payer_id": foreign}]}),
        ("payers.0.payer_id", {"payers": [{"alias": "a", "payer_id": str(uuid4())}]}),
        ("clinics.1.alias", {"clinics": [{"alias": "a", "location_id": location}] * 2}),
        ("procedures.0.procedure_code", {"procedures": [{"alias": "a", "procedure_code": "9711"}]}),
        ("procedures.0.alias", {"procedures": [{"alias": "", "procedure_code": "97110"}]}),
        ("extra", {"extra": []}),
    ):
        body = {"clinics": [], "payers": [], "procedures": [], **rows}
        answer = await company.send("PUT", "/v1/feed-mappings", body, key="")
        assert answer.status == 422, (field, answer)
        assert field in answer.fields, answer
    assert (await company.rows())["feed_mapping"] == 0
