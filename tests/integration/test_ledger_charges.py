"""Charges by HTTP: the document, its life from delayed to closed or void, and lists."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.support.ledger import Company, fold, instant


async def test_a_charge_document(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    body = company.charge_body(
        patient, payer_id=payer["id"], modifiers=["GP", "59"], delayed=True, external_id="line 7", units=3
    )
    made = await company.post("/v1/charges", body)
    assert instant(made.pop("posted_at"))
    assert UUID(made.pop("id"))
    assert UUID(made.pop("poster_id"))
    assert made == {
        **body,
        "status": "delayed",
        "source": "manual",
        "applied_cents": 0,
        "adjusted_cents": 0,
        "balance_cents": 10_000,
        "payer_balance_cents": 10_000,
        "patient_balance_cents": 0,
        "company_version": 3,
    }


async def test_the_life_of_a_charge(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"], delayed=True)
    path = f"/v1/charges/{charge['id']}"
    released = await company.post(f"{path}/release", status=200)
    assert (released["status"], released["delayed"]) == ("active", False)
    assert (await company.send("POST", f"{path}/release")).fields == {"status": "not_delayed"}
    changed = await company.patch(path, {"amount_cents": 12_000, "units": 2, "modifiers": ["GP"]})
    assert (changed["balance_cents"], changed["units"], changed["modifiers"]) == (12_000, 2, ["GP"])
    written = await company.post(
        f"{path}/adjustments", {"group_code": "CO", "reason_code": "45", "amount_cents": 3_000}
    )
    assert (written["adjusted_cents"], written["balance_cents"]) == (3_000, 9_000)
    moved = await company.post(f"{path}/transfer", {"to": "patient", "amount_cents": 2_000})
    assert (moved["payer_balance_cents"], moved["patient_balance_cents"]) == (7_000, 2_000)
    await company.post(f"{path}/transfer", {"to": "payer", "amount_cents": 500})
    paid = await company.payment(
        payer_id=payer["id"], amount_cents=9_000, applications=[{"charge_id": charge["id"], "amount_cents": 9_000}]
    )
    closed = await company.get(path)
    assert (closed["status"], closed["balance_cents"]) == ("closed", 0)
    assert (closed["payer_balance_cents"], closed["patient_balance_cents"]) == (0, 0)
    refused = await company.send("POST", f"{path}/void")
    assert refused.fields == {"status": "has_payments"}
    await company.post(f"/v1/payments/{paid['id']}/reversal", {})
    assert (await company.get(path))["status"] == "active"
    void = await company.post(f"{path}/void", status=200)
    assert (void["status"], void["balance_cents"]) == ("void", 0)
    for action, body in (
        ("void", None),
        ("transfer", {"to": "patient", "amount_cents": 1}),
        ("adjustments", {"group_code": "CO", "reason_code": "45", "amount_cents": 1}),
    ):
        assert (await company.send("POST", f"{path}/{action}", body)).fields == {"status": "charge_void"}
    assert (await company.send("PATCH", path, {"units": 1})).fields == {"status": "charge_void"}
    assert await company.totals() == fold(await company.events())


async def test_a_charge_follows_its_payer(company: Company) -> None:
    """Without a payer all of it is the patient's; with the first payer it is the payer's to pay."""
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient)
    assert charge["patient_balance_cents"] == 10_000
    insured = await company.patch(f"/v1/charges/{charge['id']}", {"payer_id": payer["id"]})
    assert (insured["payer_balance_cents"], insured["patient_balance_cents"]) == (10_000, 0)
    alone = await company.patch(f"/v1/charges/{charge['id']}", {"payer_id": None})
    assert (alone["payer_balance_cents"], alone["patient_balance_cents"]) == (0, 10_000)


async def test_a_charge_is_never_lowered_below_what_is_settled(company: Company) -> None:
    patient = await company.patient()
    charge = await company.charge(patient)
    await company.payment(patient_id=patient["id"], applications=[{"charge_id": charge["id"], "amount_cents": 6_000}])
    path = f"/v1/charges/{charge['id']}"
    assert (await company.send("PATCH", path, {"amount_cents": 5_999})).fields == {"amount_cents": "over_applied"}
    assert (await company.patch(path, {"amount_cents": 6_000}))["status"] == "closed"


async def test_what_is_moved_to_the_patient_is_what_the_payer_owes(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"])
    path = f"/v1/charges/{charge['id']}"
    to_patient = {"group_code": "PR", "reason_code": "2", "amount_cents": 4_000}
    moved = await company.post(f"{path}/adjustments", to_patient)
    assert (moved["adjusted_cents"], moved["patient_balance_cents"], moved["balance_cents"]) == (0, 4_000, 10_000)
    await company.post(f"{path}/adjustments", {**to_patient, "amount_cents": 6_000})
    for body in ({**to_patient, "amount_cents": 1},):
        assert (await company.send("POST", f"{path}/adjustments", body)).fields == {"amount_cents": "over_applied"}
    assert (await company.send("POST", f"{path}/transfer", {"to": "patient", "amount_cents": 1})).status == 422
    cash = await company.charge(patient)
    refused = await company.send("POST", f"/v1/charges/{cash['id']}/transfer", {"to": "payer", "amount_cents": 1})
    assert refused.fields == {"to": "no_payer"}
    refused = await company.send("POST", f"/v1/charges/{cash['id']}/adjustments", {**to_patient, "amount_cents": 1})
    assert refused.fields == {"amount_cents": "over_applied"}


async def test_lists_of_charges(company: Company) -> None:
    patient, other = await company.patient(), await company.patient()
    active = await company.charge(patient)
    delayed = await company.charge(patient, delayed=True, date_of_service="2026-01-06")
    elsewhere = await company.charge(other, location_id=str(company.locations[1]))
    void = await company.charge(other)
    await company.post(f"/v1/charges/{void['id']}/void", status=200)

    async def ids(**params: Any) -> list[str]:
        return [row["id"] for row in (await company.get("/v1/charges", **params))["items"]]

    assert await ids() == [one["id"] for one in (void, elsewhere, delayed, active)]
    assert await ids(status="active") == [elsewhere["id"], active["id"]]
    assert await ids(status="delayed") == [delayed["id"]]
    assert await ids(status="void") == [void["id"]]
    assert await ids(patient_id=patient["id"]) == [delayed["id"], active["id"]]
    assert await ids(location_id=company.locations[1]) == [elsewhere["id"]]
    assert await ids(**{"from": "2026-01-06", "to": "2026-01-06"}) == [delayed["id"]]
    backwards = await company.send("GET", "/v1/charges", params={"from": "2026-01-06", "to": "2026-01-05"})
    assert (backwards.status, backwards.fields) == (422, {"to": "range"})
