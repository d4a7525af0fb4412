"""The ledger's OpenAPI document against its answers: every name, type and null that a caller gets is in it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from tests.support.ledger import Answer, Company, LedgerStack

LISTS = ("/v1/patients", "/v1/payers", "/v1/referring-physicians", "/v1/charges", "/v1/payments", "/v1/batches")


class Contract:
    """The document as a strict reader takes it: what it does not name may not be there."""

    def __init__(self, document: Any) -> None:
        self.paths = document["paths"]
        self.schemas = document["components"]["schemas"]
        for schema in self.schemas.values():
            schema["additionalProperties"] = False
        self.seen: set[str] = set()

    def check(self, method: str, path: str, answer: Answer) -> Any:
        """The body, after it was compared. Fails for an answer that the document does not describe."""
        template = re.sub(r"/[0-9a-f-]{36}(?=/|$)", "/{id}", path)
        template = re.sub(r"(?<=/batches/).+", "{number}", template)
        schema = self.paths[template][method.lower()]["responses"][str(answer.status)]["content"]["application/json"]
        assert schema["schema"], f"nothing is said of {method} {template}"
        whole = {**schema["schema"], "components": {"schemas": self.schemas}}
        Draft202012Validator(whole, format_checker=FormatChecker()).validate(answer.body)
        self.seen.add(f"{method} {template}")
        return answer.body


@pytest.fixture
async def contract(stack: LedgerStack) -> Contract:
    return Contract((await stack.request("GET", "/openapi.json", None)).body)


async def test_answers_are_as_the_document_says(company: Company, contract: Contract) -> None:
    async def call(method: str, path: str, body: Any = None) -> Any:
        answer = await company.send(method, path, body)
        assert answer.status in (200, 201), answer
        return contract.check(method, path, answer)

    person = {"account_number": "A-1", "first_name": "Pat", "last_name": "Doe", "date_of_birth": "1980-02-29"}
    payer = await call("POST", "/v1/payers", {"code": "BCBS", "name": "Blue", "era_payer_ids": ["1"]})
    patient = await call("POST", "/v1/patients", {**person, "payer_id": payer["id"]})
    physician = {"npi": "1234567893", "first_name": "Ada", "last_name": "Roe"}
    parties = {"patients": patient, "payers": payer}
    parties["referring-physicians"] = await call("POST", "/v1/referring-physicians", physician)
    for kind, party in parties.items():
        await call("GET", f"/v1/{kind}/{party['id']}")
        await call("POST", f"/v1/{kind}/search", {"limit": 1})
    await call("PATCH", f"/v1/patients/{patient['id']}", {"payer_id": None})
    await call("PATCH", f"/v1/payers/{payer['id']}", {"payer_class": "commercial"})
    await call("PATCH", f"/v1/referring-physicians/{parties['referring-physicians']['id']}", {"last_name": "Poe"})

    body = company.charge_body(patient, payer_id=payer["id"], modifiers=["GP"], external_id="x", delayed=True)
    charge = await call("POST", "/v1/charges", body)
    own = f"/v1/charges/{charge['id']}"
    await call("POST", f"{own}/release")
    await call("PATCH", own, {"units": 2})
    await call("POST", f"{own}/transfer", {"to": "patient", "amount_cents": 100})
    await call("POST", f"{own}/adjustments", {"group_code": "CO", "reason_code": "45", "amount_cents": 100})
    await call("GET", own)
    without = await call("POST", "/v1/charges", company.charge_body(patient))
    await call("POST", f"/v1/charges/{without['id']}/void")

    row = {"charge_id": charge["id"], "amount_cents": 500}
    moved = {**row, "group_code": "PR", "reason_code": "1"}
    full = company.payment_body(payer_id=payer["id"], batch_number="B 1", memo="m", applications=[row])
    payment = await call("POST", "/v1/payments", {**full, "adjustments": [moved]})
    bare = company.payment_body(patient_id=patient["id"], method="cash", check_number=None, location_id=None)
    bare = await call("POST", "/v1/payments", bare)
    await call("POST", f"/v1/payments/{bare['id']}/applications", {"applications": [row], "adjustments": []})
    await call("PATCH", f"/v1/payments/{bare['id']}", {"check_number": "9"})
    await call("POST", f"/v1/payments/{bare['id']}/refund", {"amount_cents": 5})
    await call("POST", f"/v1/payments/{payment['id']}/reversal", {})
    await call("GET", f"/v1/payments/{payment['id']}")
    await call("GET", f"/v1/payments/{bare['id']}/history")
    await call("POST", "/v1/batches", {"batch_number": "B 1", "control_total_cents": 5})
    await call("GET", "/v1/batches/B 1")
    await call("GET", "/v1/control-totals")
    for path in LISTS:
        page = await company.send("GET", path, params={"limit": 1})
        assert len(contract.check("GET", path, page)["items"]) == 1
        await call("GET", path)

    books = re.compile(
        r"\w+ /v1/(patients|payers|referring-physicians|charges|payments(?!/bulk)|batches|control-totals)"
    )
    declared = {f"{method.upper()} {path}" for path, methods in contract.paths.items() for method in methods}
    assert contract.seen == {name for name in declared if books.match(name)}
