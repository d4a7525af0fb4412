"""An EMR's reports of its days, and what the ledger says of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.support.emr import Emr, emr_event
from tests.support.ledger import Company, clinic_of

DAY = "2026-01-06"


def total(payment_type: str, payments: int, amount_cents: int) -> dict[str, Any]:
    return {"payment_type": payment_type, "payments": payments, "amount_cents": amount_cents}


def listed(payment_id: str, amount_cents: int, version: int = 1, payment_type: str = "copay") -> dict[str, Any]:
    return {
        "payment_id": payment_id,
        "payment_version": version,
        "amount_cents": amount_cents,
        "payment_type": payment_type,
    }


def report(emr: Emr, *totals: Any, payments: list[Any] | None = None, time: datetime | None = None, **data: Any) -> Any:
    said = {"emr_clinic_id": clinic_of(emr.company.locations[0]), "date": DAY, "totals": list(totals), **data}
    if payments is not None:
        said["payments"] = payments
    event = emr_event(emr.source, "totals", said, change="reported")
    return {**event, "time": (time or datetime.now(UTC)).isoformat()}


def of_list(emr: Emr, *payments: dict[str, Any], **more: Any) -> Any:
    """A report whose totals are those of its list."""
    types = {one["payment_type"] for one in payments}
    totals = [
        total(
            name,
            sum(one["payment_type"] == name for one in payments),
            sum(one["amount_cents"] for one in payments if one["payment_type"] == name),
        )
        for name in sorted(types)
    ]
    return report(emr, *totals, payments=list(payments), **more)


async def reconciled(company: Company, **params: Any) -> Any:
    params = {"from": DAY, "to": DAY, **params}
    return await company.get("/v1/reconciliation", **params)


async def rows(company: Company, **params: Any) -> dict[str, Any]:
    """By payment type, of one day and clinic."""
    document = await reconciled(company, **params)
    found = {row["payment_type"]: row for row in document["items"]}
    assert len(found) == len(document["items"])
    return found


def figures(payments: int, amount_cents: int) -> dict[str, int]:
    return {"payments": payments, "amount_cents": amount_cents}


def told(row: Any) -> list[tuple[str, str, str]]:
    return [(one["kind"], one["emr_payment_id"], one["reason"]) for one in row["differences"]]


def explained(row: Any) -> dict[str, tuple[int, int]]:
    return {one["reason"]: (one["payments"], one["amount_cents"]) for one in row["explained"]}
