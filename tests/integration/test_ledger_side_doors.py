"""What a route's guard leaves to its handler: nobody gets by another way what his role does not give him. Who may call
what, and other companies' objects: tests/access."""

from __future__ import annotations

from typing import Any

import pytest

from shared.access.policy import catalogue
from tests.support.ledger import Company


def may(role: str, area: str, level: str) -> bool:
    return catalogue()[role].allows(area, level)


@pytest.mark.parametrize("role", list(catalogue()))
async def test_b6_control_totals_show_what_rcm_staff_posted_to_full_access_alone(company: Company, role: str) -> None:
    """Base is full access without RCM staff, here as in the report."""
    patient = await company.patient()
    for affiliation in ("practice", "rcm"):
        poster = company.token("partner_payment_poster", affiliation=affiliation)
        await company.post("/v1/payments", company.payment_body(patient_id=patient["id"]), token=poster)
    everything = (await company.get("/v1/control-totals"))["items"]
    assert {row["affiliation"] for row in everything} == {"practice", "rcm"}
    answer = await company.send("GET", "/v1/control-totals", token=company.token(role))
    if catalogue()[role].grant("payment_balancing").scope != "all_locations":
        assert answer.status == 403
    elif may(role, "payment_balancing_full_access", "view"):
        assert answer.body["items"] == everything
    else:
        assert answer.body["items"] == [row for row in everything if row["affiliation"] != "rcm"]


@pytest.mark.parametrize("delayed", [False, True])
@pytest.mark.parametrize("role", list(catalogue()))
async def test_a_write_off_beside_an_application_takes_the_right_to_write_off(
    company: Company, role: str, delayed: bool
) -> None:
    """D9 lets some apply existing money and no more. Who may post payments may adjust with them; everybody else needs
    what `/charges/{id}/adjustments` needs."""
    patient = await company.patient()
    charge = await company.charge(patient, delayed=delayed)
    payment = await company.payment(patient_id=patient["id"], amount_cents=100)
    path, token = f"/v1/payments/{payment['id']}/applications", company.token(role)
    applied = {"applications": [{"charge_id": charge["id"], "amount_cents": 1}]}
    written_off = {
        "adjustments": [{"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 9_000}]
    }
    before = await company.get(f"/v1/charges/{charge['id']}")
    alone = await company.send("POST", f"/v1/charges/{charge['id']}/adjustments", _first(written_off), token=token)
    writes_off = alone.status == 201
    applies = may(role, "unassigned_payments", "partial") or may(role, "payment_posting", "partial")
    answer = await company.send("POST", path, applied | {"adjustments": [_one_cent(written_off)]}, token=token)
    allowed = applies and (writes_off or may(role, "payment_posting", "add"))
    assert answer.status == (201 if allowed else 403), answer
    if not allowed and not writes_off:
        assert await company.get(f"/v1/charges/{charge['id']}") == before
    assert (await company.send("POST", path, applied, token=token)).status == (201 if applies else 403)


def _first(body: Any) -> Any:
    row = _one_cent(body)
    return {name: value for name, value in row.items() if name != "charge_id"}


def _one_cent(body: Any) -> Any:
    return {**body["adjustments"][0], "amount_cents": 1}


async def test_a_charge_that_is_absent_is_so_for_who_may_not_write_off(company: Company) -> None:
    other = await company.stack.company()
    foreign = await other.charge(await other.patient())
    charge = await company.charge(await company.patient())
    payment = await company.payment(patient_id=charge["patient_id"])
    path, provider = f"/v1/payments/{payment['id']}/applications", company.token("provider")
    told = []
    for absent in (foreign["id"], payment["id"]):
        body = {
            "applications": [{"charge_id": charge["id"], "amount_cents": 1}],
            "adjustments": [{"charge_id": absent, "group_code": "CO", "reason_code": "45", "amount_cents": 1}],
        }
        answer = await company.send("POST", path, body, token=provider)
        told.append((answer.status, answer.fields))
    assert told[0] == told[1] == (422, {"adjustments.0.charge_id": "unknown_charge"})


@pytest.mark.parametrize("role", list(catalogue()))
async def test_one_payment_is_shown_to_whom_its_list_shows_it(company: Company, role: str) -> None:
    """Who has unassigned payments and no payment posting sees a payment for as long as it has money to assign."""
    charge = await company.charge(await company.patient())
    made = [await company.payment(patient_id=charge["patient_id"], amount_cents=100) for _ in range(4)]
    assigned, reversed_, refunded, waiting = (payment["id"] for payment in made)
    applied = {"applications": [{"charge_id": charge["id"], "amount_cents": 100}]}
    await company.post(f"/v1/payments/{assigned}/applications", applied)
    reversal = await company.post(f"/v1/payments/{reversed_}/reversal", {})
    refund = await company.post(f"/v1/payments/{refunded}/refund", {"amount_cents": 100})
    token = company.token(role)
    listed = await company.send("GET", "/v1/payments?unassigned=true", token=token)
    shown = {row["id"] for row in listed.body["items"]} if listed.status == 200 else set()
    assert shown <= {waiting}
    if may(role, "payment_posting", "view"):
        shown = {assigned, reversed_, refunded, waiting, reversal["id"], refund["id"]}
    for one in (assigned, reversed_, refunded, waiting, reversal["id"], refund["id"]):
        for path in (f"/v1/payments/{one}", f"/v1/payments/{one}/history"):
            answer = await company.send("GET", path, token=token)
            assert answer.status == (200 if one in shown else 403), (path, answer)


@pytest.mark.parametrize("role", list(catalogue()))
async def test_the_fee_schedule_is_a_constant_of_the_company(company: Company, role: str) -> None:
    token = company.token(role)
    assert (await company.send("GET", "/v1/fee-schedule", token=token)).status == (
        200 if may(role, "company_constants", "view") else 403
    )
    fees = {"fees": [{"procedure_code": "97110", "amount_cents": 9_000}]}
    answer = await company.send("PUT", "/v1/fee-schedule", fees, token=token)
    assert answer.status == (200 if may(role, "company_constants", "edit") else 403)
    assert (await company.get("/v1/fee-schedule"))["fees"] == (fees["fees"] if answer.status == 200 else [])


@pytest.mark.parametrize("role", list(catalogue()))
async def test_a_list_of_all_charges_has_the_delayed_ones_for_who_may_see_them(company: Company, role: str) -> None:
    """A list without `status` takes the right to see active charges; that of a patient is an area of its own."""
    patient = await company.patient()
    delayed, active = [(await company.charge(patient, delayed=one))["id"] for one in (True, False)]
    token = company.token(role)

    async def listed(query: str) -> set[str] | int:
        answer = await company.send("GET", f"/v1/charges{query}", token=token)
        return {row["id"] for row in answer.body["items"]} if answer.status == 200 else answer.status

    sees_delayed = may(role, "delayed_charges", "view")
    everything = {active, delayed} if sees_delayed else {active}
    assert await listed("") == (everything if may(role, "active_charges", "view") else 403)
    assert await listed("?limit=1") == ({active} if may(role, "active_charges", "view") else 403)
    assert await listed("?status=delayed") == ({delayed} if sees_delayed else 403)
    by_patient = may(role, "charges_by_patient", "view")
    assert await listed(f"?patient_id={patient['id']}") == ({active, delayed} if by_patient else 403)
