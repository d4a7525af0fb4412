"""What a payment may not be: amounts, parties, days, places."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from shared.money import MAX_CENTS
from tests.support.ledger import Company, LedgerStack


async def test_what_a_payment_may_not_be(stack: LedgerStack, company: Company) -> None:
    """Each refusal names its field and stores nothing."""
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"], amount_cents=1_000)
    void = await company.charge(patient)
    await company.post(f"/v1/charges/{void['id']}/void", status=200)
    stranger = await stack.company()
    foreign = await stranger.charge(await stranger.patient())
    one = {"charge_id": charge["id"], "amount_cents": 1_000}
    write_off = {"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 1}
    to_patient = {**write_off, "group_code": "PR"}
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"payer_id": None}, "payer_id", "payer_or_patient"),
        ({"amount_cents": 0}, "amount_cents", "zero_amount"),
        ({"payer_id": str(uuid4())}, "payer_id", "unknown_payer"),
        ({"patient_id": str(uuid4())}, "patient_id", "unknown_patient"),
        ({"location_id": str(uuid4())}, "location_id", "unknown_location"),
        ({"location_id": str(stranger.locations[0])}, "location_id", "unknown_location"),
        ({"deposit_date": str(company.today - timedelta(days=367))}, "deposit_date", "deposit_date_range"),
        ({"deposit_date": str(company.today + timedelta(days=32))}, "deposit_date", "deposit_date_range"),
        ({"amount_cents": 999, "applications": [one]}, "applications", "over_applied"),
        ({"applications": [{**one, "amount_cents": 1_001}]}, "applications.0.amount_cents", "over_applied"),
        ({"applications": [one], "adjustments": [write_off]}, "adjustments.0.amount_cents", "over_applied"),
        ({"adjustments": [{**write_off, "amount_cents": 1_001}]}, "adjustments.0.amount_cents", "over_applied"),
        (
            {"adjustments": [write_off] * 2 + [{**write_off, "amount_cents": 999}]},
            "adjustments.2.amount_cents",
            "over_applied",
        ),
        ({"applications": [one], "adjustments": [to_patient]}, "adjustments.0.amount_cents", "over_applied"),
        (
            {"applications": [{**one, "amount_cents": 1}, {**one, "amount_cents": 1}]},
            "applications.1.charge_id",
            "duplicate_charge",
        ),
        ({"applications": [{**one, "charge_id": str(uuid4())}]}, "applications.0.charge_id", "unknown_charge"),
        ({"applications": [{**one, "charge_id": foreign["id"]}]}, "applications.0.charge_id", "unknown_charge"),
        ({"adjustments": [{**write_off, "charge_id": foreign["id"]}]}, "adjustments.0.charge_id", "unknown_charge"),
        ({"applications": [{**one, "charge_id": void["id"]}]}, "applications.0.charge_id", "charge_void"),
    ]
    before = await stack.rows()
    for fields, field, code in cases:
        body = company.payment_body(**{"payer_id": payer["id"], **fields})
        answer = await company.send("POST", "/v1/payments", body)
        assert (answer.status, answer.code, answer.fields) == (422, code, {field: code}), fields
    assert await stack.rows() == before


async def test_the_edges_of_the_deposit_window_and_of_amounts(company: Company) -> None:
    patient = await company.patient()
    for days in (-366, 31):
        await company.payment(patient_id=patient["id"], deposit_date=str(company.today + timedelta(days=days)))
    assert (await company.payment(patient_id=patient["id"], amount_cents=MAX_CENTS))["amount_cents"] == MAX_CENTS
    for _ in range(3):
        await company.payment(patient_id=patient["id"], amount_cents=MAX_CENTS)
    assert (await company.sums())["amount_cents"] == 4 * MAX_CENTS + 20_000


async def test_an_inactive_location_takes_nothing_new(stack: LedgerStack, company: Company) -> None:
    patient = await company.patient()
    place = str(company.locations[1])
    paid = await company.payment(patient_id=patient["id"])
    await stack.owner.execute(
        "update directory_location set active = false where location_id = $1", company.locations[1]
    )
    for method, path, body in (
        ("POST", "/v1/payments", company.payment_body(patient_id=patient["id"], location_id=place)),
        ("POST", "/v1/charges", company.charge_body(patient, location_id=place)),
        ("PATCH", f"/v1/payments/{paid['id']}", {"location_id": place}),
    ):
        answer = await company.send(method, path, body)
        assert (answer.status, answer.fields) == (422, {"location_id": "inactive_location"})


async def test_the_posting_date_is_the_companys_local_day(stack: LedgerStack) -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"):
        company = await stack.company(time_zone=zone)
        paid = await company.payment(
            patient_id=(await company.patient())["id"], deposit_date=str(await stack.today(zone))
        )
        assert paid["posting_date"] == str(await stack.today(zone))
        await stack.owner.execute(
            "update directory_company set time_zone = 'Asia/Tokyo' where company_id = $1", company.company_id
        )
        assert (await company.get(f"/v1/payments/{paid['id']}"))["posting_date"] == paid["posting_date"]
