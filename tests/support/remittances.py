"""Short ways to send remittances and to look at what they made of charges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.ledger import Company, fold
from tests.support.x12_builder import Payment, x12_file

DERIVED = Path(__file__).resolve().parents[1] / "data" / "x12"


async def charges_now(company: Company, charges: Sequence[Any]) -> list[Any]:
    return [await company.get(f"/v1/charges/{charge['id']}") for charge in charges]


def figures(charge: Any) -> tuple[int, int, int, int]:
    """Applied, adjusted, still the payer's, still the patient's."""
    return (
        charge["applied_cents"],
        charge["adjusted_cents"],
        charge["payer_balance_cents"],
        charge["patient_balance_cents"],
    )


async def sent(company: Company, body: bytes | Payment | str, *, status: int = 200) -> Any:
    """Upload a file, a payment of the builder, or a derived sample by the beginning of its name."""
    if isinstance(body, str):
        (path,) = DERIVED.glob(f"{body}*")
        body = path.read_bytes()
    elif isinstance(body, Payment):
        body = x12_file([body])
    answer = await company.upload("x12", body)
    assert answer.status == status, answer
    return answer.body


async def proven(company: Company) -> None:
    assert fold(await company.events()) == await company.totals()
