"""Every call of the books with everything in it that there can be: `as_documented` compares each answer with the
OpenAPI document, name, type and null."""

from __future__ import annotations

import re
from typing import Any

from services.ledger.api import ENDPOINTS
from tests.support.contract import Watch
from tests.support.ledger import Company

LISTS = ("/v1/patients", "/v1/payers", "/v1/referring-physicians", "/v1/charges", "/v1/payments", "/v1/batches")


async def test_answers_are_as_the_document_says(company: Company, answers_seen: Watch) -> None:
    answers_seen.seen.clear()

    async def call(method: str, path: str, body: Any = None) -> Any:
        answer = await company.send(method, path, body)
        assert answer.status in (200, 201), answer
        return answer.body

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
        assert len((await company.get(path, limit=1))["items"]) == 1
        await call("GET", path)

    books = re.compile(r"/v1/(patients|payers|referring-physicians|charges|payments(?!/bulk)|batches|control-totals)")
    declared = {(one.method, one.path, one.status) for one in ENDPOINTS if books.match(one.path)}
    assert {one for one in answers_seen.seen if books.match(one[1])} == declared
