"""Idempotency keys: the same request again, the same key for another, and keys that are none."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson
import pytest

from tests.support.ledger import Company


async def test_the_same_key_and_body_give_the_first_answer_again(company: Company) -> None:
    patient = await company.patient()
    body = company.payment_body(patient_id=patient["id"])
    first = await company.send("POST", "/v1/payments", body, key="k-1")
    shuffled = orjson.dumps(dict(reversed(body.items())), option=orjson.OPT_INDENT_2)
    again = await company.send(
        "POST", "/v1/payments", data=shuffled, headers={"Content-Type": "application/json"}, key="k-1"
    )
    assert (first.status, again.status) == (201, 201)
    assert first.raw == again.raw
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    await company.patch(f"/v1/payments/{first.body['id']}", {"memo": "changed since"})
    assert (await company.send("POST", "/v1/payments", body, key="k-1")).raw == first.raw


async def test_a_key_used_otherwise_is_refused_and_nothing_changes(company: Company) -> None:
    patient = await company.patient()
    charge = await company.charge(patient)
    body = company.payment_body(patient_id=patient["id"])
    paid = await company.post("/v1/payments", body, key="k-2")
    other = await company.payment(patient_id=patient["id"])
    before = await company.rows()
    someone_else = company.token("self_service_admin", subject=uuid4())
    apply = {"applications": [{"charge_id": charge["id"], "amount_cents": 1}]}
    for answer in (
        await company.send("POST", "/v1/payments", {**body, "amount_cents": 9_999}, key="k-2"),
        await company.send("POST", "/v1/payments", body, key="k-2", token=someone_else),
        await company.send("POST", f"/v1/payments/{paid['id']}/reversal", {}, key="k-2"),
        await company.send("POST", f"/v1/payments/{paid['id']}/applications", apply, key="k-2"),
        await company.send("POST", "/v1/charges", company.charge_body(patient), key="k-2"),
    ):
        assert (answer.status, answer.fields) == (422, {"Idempotency-Key": "idempotency_mismatch"})
    assert await company.rows() == before
    await company.post(f"/v1/payments/{paid['id']}/reversal", {}, key="k-3")
    answer = await company.send("POST", f"/v1/payments/{other['id']}/reversal", {}, key="k-3")
    assert answer.fields == {"Idempotency-Key": "idempotency_mismatch"}, "another payment's reversal is another request"


async def test_every_call_that_moves_money_demands_a_key(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"])
    paid = await company.payment(patient_id=patient["id"])
    calls: list[tuple[str, Any]] = [
        ("/v1/payments", company.payment_body(patient_id=patient["id"])),
        ("/v1/charges", company.charge_body(patient)),
        (f"/v1/charges/{charge['id']}/void", None),
        (f"/v1/charges/{charge['id']}/adjustments", {"group_code": "CO", "reason_code": "45", "amount_cents": 1}),
        (f"/v1/charges/{charge['id']}/transfer", {"to": "patient", "amount_cents": 1}),
        (f"/v1/payments/{paid['id']}/applications", {"applications": [{"charge_id": charge["id"], "amount_cents": 1}]}),
        (f"/v1/payments/{paid['id']}/reversal", {}),
        (f"/v1/payments/{paid['id']}/refund", {"amount_cents": 1}),
    ]
    before = await company.rows()
    for path, body in calls:
        answer = await company.send("POST", path, body, key="")
        assert (answer.status, answer.fields) == (422, {"Idempotency-Key": "idempotency_key"}), path
    assert await company.rows() == before


@pytest.mark.parametrize("key", ["x" * 201, "with space", "émigré", "tab\tinside", "x" * 8_000], ids=range(5))
async def test_keys_that_are_none(company: Company, key: str) -> None:
    body = company.payment_body(patient_id=(await company.patient())["id"])
    answer = await company.send("POST", "/v1/payments", body, key=key)
    assert (answer.status, answer.fields) == (422, {"Idempotency-Key": "idempotency_key"})


async def test_a_repeated_key_header_is_refused_and_the_longest_is_taken(company: Company) -> None:
    body = company.payment_body(patient_id=(await company.patient())["id"])
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Authorization", f"Bearer {company.token()}")]
    async with company.stack.client.post("/v1/payments", json=body, headers=twice) as answer:
        assert answer.status == 422
    await company.post("/v1/payments", body, key="~" * 200)
