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
