"""CSV files as senders write them, with the profiles that say so."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from tests.support.ledger import Answer, Company, clinic_of

HEADER = (
    "Id", "Ver", "Clinic", "Account", "First", "Last", "Born", "Amount", "How", "Check", "Paid on", "Type", "State",
)  # fmt: skip
PAYMENTS: dict[str, Any] = {
    "kind": "payment",
    "columns": {
        "emr_clinic_id": "Clinic",
        "account_number": "Account",
        "first_name": "First",
        "last_name": "Last",
        "date_of_birth": "Born",
        "amount": "Amount",
        "method": "How",
        "check_number": "Check",
        "transaction_date": "Paid on",
        "payment_type": "Type",
    },
    "translations": {"method": {"CC": "credit_card", "chk": "check"}},
    "key": ["Id"],
    "version": "Ver",
    "deleted": {"column": "State", "values": ["void"]},
}
TOTALLED: dict[str, Any] = {**PAYMENTS, "total": {"column": "Id", "label": "TOTAL", "amount": "Amount", "rows": "Ver"}}
CHARGES: dict[str, Any] = {
    "kind": "charge",
    "header": False,
    "delimiter": ";",
    "encoding": "windows-1252",
    "skip_lines": 1,
    "date_format": "DD.MM.YYYY",
    "decimal_sign": ",",
    "thousands_sign": ".",
    "columns": {
        "emr_clinic_id": 1,
        "account_number": 2,
        "first_name": 3,
        "last_name": 4,
        "date_of_birth": 5,
        "date_of_service": 6,
        "procedure_code": 7,
        "modifiers": [8, 9],
        "amount": 10,
        "diagnosis_codes": 11,
    },
    "constants": {"units": "2"},
    "key": [2, 6, 7],
}


def row(location: UUID | str, number: int | str = 1, **changes: str) -> dict[str, str]:
    """A payment of 25.00 of a patient of its own."""
    return {
        "Id": f"P-{number}",
        "Ver": "1",
        "Clinic": location if isinstance(location, str) else clinic_of(location),
        "Account": f"CSV-{number}",
        "First": "Jane",
        "Last": "Roe",
        "Born": "1980-02-29",
        "Amount": "25.00",
        "How": "cc",
        "Check": "",
        "Paid on": "2026-01-06",
        "Type": "copay",
        "State": "",
        **changes,
    }


def payments(company: Company, count: int, start: int = 0) -> list[dict[str, str]]:
    return [row(company.locations[0], n) for n in range(start, start + count)]


def table(*rows: Mapping[str, str]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, HEADER, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def total_row(amount: str, rows: int) -> dict[str, str]:
    return {"Id": "Total", "Amount": amount, "Ver": str(rows)}


async def agree(company: Company, profile: Mapping[str, Any] = PAYMENTS, name: str = "bank") -> Any:
    """Store a profile."""
    answer = await company.send("PUT", f"/v1/feeds/csv/profiles/{name}", dict(profile))
    assert answer.status == 200, answer
    return answer.body


async def upload(company: Company, content: bytes, name: str = "bank", **more: Any) -> Answer:
    headers = {"Content-Type": "text/csv"}
    token = more.pop("token", None) or company.token()
    return await company.stack.request(
        "POST", "/v1/feeds/csv", token, data=content, headers=headers, params={"profile": name}, **more
    )


async def sent(company: Company, content: bytes, name: str = "bank") -> Any:
    """The feed's document."""
    answer = await upload(company, content, name)
    assert answer.status == 200, answer
    return answer.body
