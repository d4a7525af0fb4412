"""Patients, payers and referring physicians by HTTP: made, read, changed, searched and listed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.support.ledger import Company, LedgerStack, patient_body

PARTIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "patients": (
        patient_body("A-1", payer_id=None),
        {"last_name": "Roe", "payer_id": None},
        {"account_number": "A-1"},
    ),
    "payers": (
        {"code": "BCBS", "name": "Blue Cross", "payer_class": "commercial", "era_payer_ids": ["12345", "BC"]},
        {"name": "Blue Cross Blue Shield", "payer_class": None, "era_payer_ids": []},
        {"name": "blue"},
    ),
    "referring-physicians": (
        {"npi": "1234567893", "first_name": "Ref", "last_name": "Erring"},
        {"last_name": "Referring"},
        {"npi": "1234567893"},
    ),
}


@pytest.mark.parametrize("path", PARTIES)
async def test_a_party_is_made_read_changed_found_and_listed(company: Company, path: str) -> None:
    body, changes, found_by = PARTIES[path]
    made = await company.post(f"/v1/{path}", body)
    assert set(made) == {"id", "company_version", *body}
    assert {name: made[name] for name in body} == body
    assert made["company_version"] == 1
    assert await company.get(f"/v1/{path}/{made['id']}") == made
    changed = await company.patch(f"/v1/{path}/{made['id']}", changes)
    assert changed == {**made, **changes, "company_version": 2}
    assert await company.get(f"/v1/{path}/{made['id']}") == changed
    assert await company.post(f"/v1/{path}/search", found_by, status=200) == {"items": [changed], "next": None}
    assert await company.get(f"/v1/{path}") == {"items": [changed], "next": None}


@pytest.mark.parametrize(
    ("path", "field"), [("patients", "account_number"), ("payers", "code"), ("referring-physicians", "npi")]
)
async def test_a_party_is_unique_in_its_company_only(
    stack: LedgerStack, company: Company, path: str, field: str
) -> None:
    body = PARTIES[path][0]
    first = await company.post(f"/v1/{path}", body)
    refused = await company.send("POST", f"/v1/{path}", body)
    assert (refused.status, refused.fields) == (422, {field: "taken"})
    other = await company.post(f"/v1/{path}", {**body, field: "1234567894" if field == "npi" else "OTHER"})
    refused = await company.send("PATCH", f"/v1/{path}/{other['id']}", {field: first[field]})
    assert refused.fields == {field: "taken"}
    await company.patch(f"/v1/{path}/{first['id']}", {field: first[field]})
    await (await stack.company()).post(f"/v1/{path}", body)


async def test_of_many_callers_who_add_one_account_number_one_succeeds(company: Company) -> None:
    body = patient_body("the same")
    answers = await asyncio.gather(*(company.send("POST", "/v1/patients", body) for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [201] + [422] * 11


@pytest.mark.parametrize("path", PARTIES)
async def test_a_patch_names_something_and_clears_only_what_may_be_empty(company: Company, path: str) -> None:
    made = await company.post(f"/v1/{path}", PARTIES[path][0])
    nothing = await company.send("PATCH", f"/v1/{path}/{made['id']}", {})
    assert (nothing.status, nothing.fields) == (422, {"body": "nothing_to_change"})
    for name in made.keys() - {"id", "company_version", "payer_id", "payer_class"}:
        refused = await company.send("PATCH", f"/v1/{path}/{made['id']}", {name: None})
        assert (refused.status, list(refused.fields)) == (422, [name])
    assert (await company.get(f"/v1/{path}/{made['id']}")) == made


async def test_search_takes_only_its_own_fields_and_matches_beginnings(company: Company) -> None:
    for last_name in ("Smith", "Smithers", "Jones", "100%", "O_x"):
        await company.patient(last_name=last_name)

    async def names(**body: Any) -> list[str]:
        return [row["last_name"] for row in (await company.post("/v1/patients/search", body, status=200))["items"]]

    assert sorted(await names(last_name="smith")) == ["Smith", "Smithers"]
    assert await names(last_name="%") == []
    assert await names(last_name="_") == []
    assert await names(last_name="100%") == ["100%"]
    assert await names(last_name="Smith", first_name="Nobody") == []
    for path, field in (("payers", "npi"), ("referring-physicians", "code"), ("patients", "code")):
        refused = await company.send("POST", f"/v1/{path}/search", {field: "1234567893"})
        assert (refused.status, refused.fields) == (422, {field: "extra_forbidden"}), path


async def test_nobody_is_born_tomorrow(company: Company) -> None:
    later = str(datetime.now(UTC).date() + timedelta(days=2))  # Tomorrow is today somewhere.
    refused = await company.send("POST", "/v1/patients", patient_body(date_of_birth=later))
    assert (refused.status, refused.fields) == (422, {"date_of_birth": "date_in_future"})
    patient = await company.patient()
    refused = await company.send("PATCH", f"/v1/patients/{patient['id']}", {"date_of_birth": later})
    assert refused.fields == {"date_of_birth": "date_in_future"}


async def test_an_unknown_payer_of_a_patient_is_named(company: Company) -> None:
    refused = await company.send("POST", "/v1/patients", patient_body(payer_id=str(uuid4())))
    assert (refused.status, refused.fields) == (422, {"payer_id": "unknown_payer"})
