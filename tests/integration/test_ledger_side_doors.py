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
async def test_the_fee_schedule_is_a_constant_of_the_company(company: Company, role: str) -> None:
    token = company.token(role)
    assert (await company.send("GET", "/v1/fee-schedule", token=token)).status == (
        200 if may(role, "company_constants", "view") else 403
    )
    fees = {"fees": [{"procedure_code": "97110", "amount_cents": 9_000}]}
    answer = await company.send("PUT", "/v1/fee-schedule", fees, token=token)
    assert answer.status == (200 if may(role, "company_constants", "edit") else 403)
    assert (await company.get("/v1/fee-schedule"))["fees"] == (fees["fees"] if answer.status == 200 else [])
