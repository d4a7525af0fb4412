"""Hostile input with a meaning of its own in the ledger: refused by name, never stored, never echoed. What is hostile
anywhere (malformed bodies, texts, amounts, dates, tokens, bytes) is tried at every endpoint in `tests/hostile`.

Cases are numbered as in the list of bad inputs that the project keeps (HTTP and JSON 1-24, money and dates 25-37,
business 38-46).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from yarl import URL

from tests.support.ledger import Company, LedgerStack, patient_body

MARK = "Zyzzyva"
"""Stands in whatever is sent; it must not come back."""
SOME_ID = "0196f0c5-0000-7000-8000-000000000001"
JSON = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Scene:
    """A company with what the cases refer to."""

    company: Company
    patient: Any
    payer: Any
    charge: Any
    payment: Any

    @classmethod
    async def made(cls, stack: LedgerStack) -> Scene:
        company = await stack.company()
        patient, payer = await company.patient(), await company.payer()
        charge = await company.charge(patient, payer_id=payer["id"])
        return cls(company, patient, payer, charge, await company.payment(patient_id=patient["id"]))

    def body(self, path: str) -> dict[str, Any]:
        """A good body for a path."""
        if path == "/v1/patients":
            return patient_body("hostile")
        if path == "/v1/charges":
            return self.company.charge_body(self.patient)
        return self.company.payment_body(patient_id=self.patient["id"])


@pytest.fixture(scope="module")
async def scene(stack: LedgerStack) -> Scene:
    return await Scene.made(stack)


async def refused(scene: Scene, answer: Any, status: int, code: str, field: str | None, before: dict[str, int]) -> None:
    """The whole contract of a refusal."""
    assert (answer.status, answer.body["code"]) == (status, code), answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    body = answer.body
    assert set(body) == {"type", "title", "status", "code", "detail", "request_id", "errors"}
    assert body["status"] == status
    assert body["request_id"] == answer.headers["X-Request-Id"]
    if field is not None:
        assert field in {error["field"] for error in body["errors"]}, answer
    assert MARK.encode() not in answer.raw
    assert await scene.company.stack.rows() == before


# -- fields --------------------------------------------------------------------------------------------------------


def dumps(value: Any) -> bytes:
    """JSON that may hold lone surrogates."""
    return json.dumps(value).encode()


async def test_text_is_kept_in_one_form(scene: Scene) -> None:
    """14: NFC, so that what looks the same is the same; the second spelling of an account number is taken."""
    composed, apart = "Mu\u00f1oz", "Mun\u0303oz"
    first = await scene.company.post("/v1/patients", patient_body(apart, last_name=apart))
    assert (first["account_number"], first["last_name"]) == (composed, composed)
    answer = await scene.company.send("POST", "/v1/patients", patient_body(f" {composed} "))
    assert answer.fields == {"account_number": "taken"}


@pytest.mark.parametrize("cents", [0, -1])
async def test_nothing_is_no_amount_either(scene: Scene, cents: int) -> None:
    """25: zero too, but for a payment with adjustments."""
    row = {"charge_id": scene.charge["id"], "amount_cents": cents}
    before = await scene.company.stack.rows()
    for path, body, name in (
        ("/v1/charges", {**scene.body("/v1/charges"), "amount_cents": cents}, "amount_cents"),
        ("/v1/payments", {**scene.body("/v1/payments"), "applications": [row]}, "applications.0.amount_cents"),
        (f"/v1/payments/{scene.payment['id']}/refund", {"amount_cents": cents}, "amount_cents"),
    ):
        await refused(scene, await scene.company.send("POST", path, body), 422, "invalid", name, before)


FIELDS: list[tuple[str, str, Any]] = [
    ("/v1/payments", "posting_date", "2026-01-05"),  # 33
    ("/v1/payments", "posted_at", "2026-01-05T00:00:00Z"),
    ("/v1/payments", "company_id", SOME_ID),  # 38
    ("/v1/payments", "company_version", 1),
    ("/v1/payments", "poster_id", SOME_ID),
    ("/v1/payments", "affiliation", "rcm"),
    ("/v1/payments", "source", "era"),
    ("/v1/payments", "currency", "EUR"),  # 31
    ("/v1/payments", "id", SOME_ID),
    ("/v1/payments", "__proto__", {}),  # 8
    ("/v1/payments", "method", "barter"),
    ("/v1/payments", "method", "Check"),
    ("/v1/payments", "location_id", "not-an-id"),  # 15, 39
    ("/v1/payments", "location_id", 1 << 70),
    ("/v1/payments", "location_id", "{" + SOME_ID + "}"),
    ("/v1/payments", "applications", {}),
    ("/v1/payments", "applications", [{}] * 501),
    ("/v1/payments", "applications", [None]),
    ("/v1/payments", "memo", "x" * 2_001),
    ("/v1/charges", "procedure_code", "9711"),  # 45
    ("/v1/charges", "procedure_code", "97110; drop table charge"),
    ("/v1/charges", "procedure_code", "9711o"),
    ("/v1/charges", "modifiers", ["GP"] * 5),
    ("/v1/charges", "modifiers", ["gp"]),
    ("/v1/charges", "diagnosis_codes", []),
    ("/v1/charges", "diagnosis_codes", ["back pain"]),
    ("/v1/charges", "units", 0),
    ("/v1/charges", "units", True),
    ("/v1/charges", "units", 1.0),
    ("/v1/charges", "delayed", "yes"),
    ("/v1/charges", "delayed", 1),
    ("/v1/charges", "status", "closed"),
    ("/v1/patients", "payer_id", 5),
    ("/v1/patients", "nickname", MARK),
]


@pytest.mark.parametrize(("path", "name", "value"), FIELDS)
async def test_a_field_that_is_none(scene: Scene, path: str, name: str, value: Any) -> None:
    before = await scene.company.stack.rows()
    answer = await scene.company.send("POST", path, data=dumps({**scene.body(path), name: value}), headers=JSON)
    assert answer.status == 422
    assert any(row["field"].startswith(name) for row in answer.body["errors"]), answer
    await refused(scene, answer, 422, "invalid", None, before)


# -- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/payments/1", 404),  # 15
        ("GET", f"/v1/payments/{2**63}", 404),
        ("GET", "/v1/payments/..%2f..%2fetc%2fpasswd", 404),  # 22
        ("GET", "/v1/feeds/%00", 404),
        ("GET", "/v1/batches/%00", 404),
        ("GET", f"/v1/batches/{quote(MARK)}", 404),
        ("GET", "/v1/batches/%ff%fe", 404),
        ("GET", "/v1/batches/%ed%a0%80", 404),
        ("GET", "/v1/batches/" + "x" * 3_000, 404),
        ("GET", "/v1/batches/a%0d%0aX-Injected:1", 404),
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/payments", 405),
        ("PUT", f"/v1/payments/{SOME_ID}", 405),
        ("GET", "/v1/payments?limit=1000000000", 422),  # 23
        ("GET", "/v1/payments?offset=-1", 422),
        ("GET", "/v1/payments?sort=amount_cents", 422),
        ("GET", "/v1/payments?limit=1&limit=2", 422),
        ("GET", f"/v1/payments?batch_number=%00{MARK}", 422),
        ("GET", "/v1/payments?batch_number=", 422),
        ("GET", "/v1/payments?unassigned=perhaps", 422),
        ("GET", "/v1/payments?deposit_from=1900-13-01", 422),  # 24
        ("GET", "/v1/payments?deposit_from=1900-01-01&deposit_to=2199-12-31", 200),
        ("GET", "/v1/charges?status=everything", 422),
        ("GET", "/v1/charges?location_id=x", 422),
        ("GET", "/v1/charges?from_=2026-01-01", 422),  # 8
        ("GET", "/v1/exceptions?state=lost", 422),
        ("GET", f"/v1/exceptions?reason={quote('x' * 300)}", 422),
        ("GET", "/v1/batches?cursor=%00", 422),
        ("GET", "/v1/patients?" + "&".join(f"a{n}=1" for n in range(300)), 422),  # 21
        ("GET", f"/v1/patients?last_name={MARK}", 422),
        ("GET", f"/v1/patients?access_token={MARK}", 422),
    ],
)
async def test_an_address_that_leads_nowhere(scene: Scene, method: str, path: str, status: int) -> None:
    before = await scene.company.stack.rows()
    url = URL(str(scene.company.stack.client.make_url("/"))[:-1] + path, encoded=True)
    headers = {"Authorization": f"Bearer {scene.company.token()}", "X-HTTP-Method-Override": "DELETE"}  # 20
    async with scene.company.stack.client.session.request(method, url, headers=headers) as response:
        raw = await response.read()
        assert response.status == status, raw
        assert MARK.encode() not in raw
        assert "X-Injected" not in response.headers
        if status != 200:
            assert orjson.loads(raw)["status"] == status
    assert await scene.company.stack.rows() == before


async def test_headers_that_are_too_many_or_too_long(scene: Scene) -> None:
    """18."""
    for headers in ({"X-Long": "x" * 100_000}, {f"X-{n}": "x" * 20 for n in range(10_000)}):
        answer = await scene.company.stack.request("GET", "/v1/patients", scene.company.token(), headers=headers)
        assert answer.status in (400, 431)
    for given in ("short", "x" * 500, "semi;colon here"):
        answer = await scene.company.stack.request(
            "GET", "/v1/patients", scene.company.token(), headers={"X-Request-Id": given}
        )
        assert answer.status == 200
        assert answer.headers["X-Request-Id"] != given


# -- business ------------------------------------------------------------------------------------------------------


async def test_what_was_settled_cannot_be_settled_again(stack: LedgerStack) -> None:
    """41, 42."""
    scene = await Scene.made(stack)
    company, charge = scene.company, scene.charge
    paid = await company.payment(
        payer_id=scene.payer["id"],
        amount_cents=10_000,
        applications=[{"charge_id": charge["id"], "amount_cents": 10_000}],
    )
    other = await company.charge(scene.patient)
    one = {"charge_id": other["id"], "amount_cents": 1}
    cases: list[tuple[str, dict[str, Any], str, str]] = [
        (f"/v1/payments/{paid['id']}/applications", {"applications": [one]}, "applications", "over_applied"),
        (
            f"/v1/payments/{scene.payment['id']}/applications",
            {"applications": [{"charge_id": charge["id"], "amount_cents": 1}]},
            "applications.0.amount_cents",
            "over_applied",
        ),
        (
            f"/v1/payments/{scene.payment['id']}/applications",
            {"applications": [one, one]},
            "applications.1.charge_id",
            "duplicate_charge",
        ),
        (f"/v1/payments/{paid['id']}/refund", {"amount_cents": 1}, "amount_cents", "over_refunded"),
        (f"/v1/payments/{scene.payment['id']}/refund", {"amount_cents": 10_001}, "amount_cents", "over_refunded"),
        (
            f"/v1/payments/{scene.payment['id']}/refund",
            {"amount_cents": 1, "deposit_date": str(company.today + timedelta(days=32))},
            "deposit_date",
            "deposit_date_range",
        ),
        (
            f"/v1/payments/{scene.payment['id']}/reversal",
            {"deposit_date": str(company.today - timedelta(days=367))},
            "deposit_date",
            "deposit_date_range",
        ),
        (f"/v1/charges/{charge['id']}/transfer", {"to": "patient", "amount_cents": 1}, "amount_cents", "over_applied"),
    ]
    before = await stack.rows()
    for path, body, name, code in cases:
        await refused(scene, await company.send("POST", path, body), 422, code, name, before)
    for body in ({"applications": []}, {}, {"applications": [], "adjustments": []}):
        answer = await company.send("POST", f"/v1/payments/{scene.payment['id']}/applications", body)
        await refused(scene, answer, 422, "invalid", "applications", before)


async def test_the_worker_is_alive_after_all_of_this(scene: Scene) -> None:
    assert (await scene.company.stack.request("GET", "/readyz", None)).body == {"status": "ok", "failed": []}
    await scene.company.payment(patient_id=scene.patient["id"])
