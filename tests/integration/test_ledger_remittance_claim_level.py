"""CAS of a claim as a whole beside its service lines: what lines say was paid is more than was (feeds.md 1.2:
sum SVC03 - claim-level CAS = CLP04). Never may more be applied than the claim was paid."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.ledger import Company, LedgerStack, fold
from tests.support.x12_builder import Cas, ClaimPayment, Payment, Service, x12_file

CODES = ("97110", "97140", "97112")


async def charged(company: Company, account: str, lines: int) -> list[Any]:
    payer, patient = await company.payer(), await company.patient(account)
    fields = {"payer_id": payer["id"], "date_of_service": "2026-01-05", "amount_cents": 10_000}
    return [await company.charge(patient, procedure_code=code, **fields) for code in CODES[:lines]]


def claim(account: str, lines: Sequence[Sequence[Cas]], adjustments: Sequence[Cas], **fields: Any) -> ClaimPayment:
    services = [
        Service(charge_cents=10_000, code=code, adjustments=cas) for code, cas in zip(CODES, lines, strict=False)
    ]
    return ClaimPayment(account=account, services=services, adjustments=adjustments, icn=f"I-{account}", **fields)


async def receipt_of(company: Company, *claims: ClaimPayment) -> Any:
    answer = await company.upload("x12", x12_file([Payment(trace="T", claims=claims)]))
    assert (answer.status, answer.body["posted"]) == (200, 1), answer
    (receipt,) = (await company.get("/v1/payments"))["items"]
    return receipt


async def figures(company: Company, charges: Sequence[Any]) -> list[tuple[int, int, int]]:
    """Applied, adjusted, the patient's."""
    now = [await company.get(f"/v1/charges/{charge['id']}") for charge in charges]
    return [(one["applied_cents"], one["adjusted_cents"], one["patient_balance_cents"]) for one in now]


async def test_of_a_claim_with_one_line_it_is_the_lines(company: Company) -> None:
    """As in the TR3's managed care example: the line says 80.00, the claim was paid 50.00."""
    charges = await charged(company, "A", 1)
    receipt = await receipt_of(company, claim("A", [[("CO", "45", 2_000)]], [("PR", "1", 2_500), ("CO", "A2", 500)]))
    assert (receipt["amount_cents"], receipt["applied_cents"], receipt["unapplied_cents"]) == (5_000, 5_000, 0)
    assert await figures(company, charges) == [(5_000, 2_500, 2_500)]
    assert await company.reasons() == {}


async def test_of_several_lines_nobody_can_tell_which_was_paid_less(company: Company) -> None:
    charges = await charged(company, "A", 2)
    receipt = await receipt_of(company, claim("A", [[], [("CO", "45", 2_000)]], [("PR", "1", 3_000)]))
    assert (receipt["amount_cents"], receipt["applied_cents"], receipt["unapplied_cents"]) == (15_000, 0, 15_000)
    assert await figures(company, charges) == [(0, 0, 0)] * 2
    (row,) = await company.exceptions()
    assert (row["reason"], row["quarantined"]) == ("claim_level_adjustment", False)
    numbers = {"paid_cents": 15_000, "lines_paid_cents": 18_000, "adjustments": [["PR", "1", 3_000]]}
    assert {name: row["detail"][name] for name in numbers} == numbers


@pytest.mark.parametrize(
    ("reason", "adjusted", "denied"), [("29", (0, 2_000), {"denied_line": 2}), ("45", (10_000, 10_000), {})]
)
async def test_of_a_claim_that_was_paid_nothing_it_is_every_lines(
    company: Company, reason: str, adjusted: tuple[int, int], denied: dict[str, int]
) -> None:
    """One reason took all that the lines had been paid: of none anything was. Only what is contractual writes off."""
    charges = await charged(company, "A", 2)
    paid = ClaimPayment(account="B", services=[Service(charge_cents=1_000)])
    taken: list[Cas] = [("CO", reason, 18_000)]
    receipt = await receipt_of(company, paid, claim("A", [[], [("CO", "253", 2_000)]], taken))
    assert (receipt["amount_cents"], receipt["applied_cents"]) == (1_000, 0)
    assert await figures(company, charges) == [(0, cents, 0) for cents in adjusted]
    assert await company.reasons() == {"unmatched_claim": 1, **denied}


@pytest.mark.parametrize("seed", range(4))
async def test_no_more_is_ever_applied_than_was_paid(stack: LedgerStack, seed: int) -> None:
    rng = random.Random(seed)
    company = await stack.company()
    claims = []
    for n in range(8):
        lines = rng.randint(1, 3)
        await charged(company, f"A{n}", lines)
        own: list[list[Cas]] = [[("CO", "45", rng.choice((0, 1_000)))] for _ in range(lines)]
        whole: list[Cas] = [
            (rng.choice(("CO", "PR")), rng.choice(("45", "1", "29")), rng.choice((0, 500, 9_000 * lines)))
            for _ in range(rng.randint(0, 2))
        ]
        made = claim(f"A{n}", own, whole)
        claims.append(made if made.paid_cents >= 0 else claim(f"A{n}", own, []))
    receipt = await receipt_of(company, *claims)
    assert receipt["amount_cents"] == receipt["applied_cents"] + receipt["unapplied_cents"]
    assert receipt["unapplied_cents"] >= 0
    for made in claims:
        patient = (await company.post("/v1/patients/search", {"account_number": made.account}, status=200))["items"][0]
        found = (await company.get("/v1/charges", patient_id=patient["id"]))["items"]
        assert sum(one["applied_cents"] for one in found) in (0, made.paid_cents)
        assert all(one["balance_cents"] >= 0 for one in found)
    assert fold(await company.events()) == await company.totals()
