"""A transfer or a line of a remittance refers to a charge and a receipt of its own company, or is not kept: proved for
a whole statement at once (migration 0017)."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.support.ledger import Company, LedgerStack

CHARGE = "case n when 2 then $4::uuid else $2::uuid end"
PAYMENT = "case n when 2 then $5::uuid else $3::uuid end"
TRANSFER = (
    "insert into transfer (company_id, version, ordinal, debit, credit, charge_id, payment_id, amount_cents)"
    f" select $1, 1000000, n, 'unapplied', 'receivable_payer', {CHARGE}, {PAYMENT}, 1 from generate_series(1, 3) n"
)
LINE = (
    "insert into remittance_line (company_id, line_key, payment_id, charge_id, version)"
    f" select $1, 'L-' || n, {PAYMENT}, {CHARGE}, 1000000 from generate_series(1, 3) n"
)


async def books(stack: LedgerStack) -> tuple[Company, UUID, UUID]:
    """A company with a charge and a receipt."""
    company = await stack.company()
    charge = await company.charge(await company.patient())
    payment = await company.payment(payer_id=(await company.payer())["id"])
    return company, UUID(charge["id"]), UUID(payment["id"])


@pytest.mark.parametrize("statement", [TRANSFER, LINE])
@pytest.mark.parametrize("wrong", ["charge", "payment"])
async def test_one_wrong_row_refuses_all(stack: LedgerStack, statement: str, wrong: str) -> None:
    """Absent and another company's alike, whoever writes: the service's role or the owner of the tables."""
    company, charge, payment = await books(stack)
    _, foreign_charge, foreign_payment = await books(stack)
    foreign = foreign_charge if wrong == "charge" else foreign_payment
    for other in (uuid4(), foreign):
        pair: list[Any] = [other, payment] if wrong == "charge" else [charge, other]
        for connection in (stack.owner, stack.ledger.pool):
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await connection.execute(statement, company.company_id, charge, payment, *pair)
    count = "select (select count(*) from transfer where version = 1000000) + (select count(*) from remittance_line)"
    assert await stack.owner.fetchval(count) == 0


@pytest.mark.parametrize("statement", [TRANSFER, LINE])
async def test_right_rows_are_taken(stack: LedgerStack, statement: str) -> None:
    company, charge, payment = await books(stack)
    async with stack.ledger.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        tag = await connection.execute(statement, company.company_id, charge, payment, charge, payment)
        await transaction.rollback()
    assert tag == "INSERT 0 3"


async def test_what_is_referred_to_stays(stack: LedgerStack) -> None:
    """Not even their owner may take a charge or a receipt away, or give it another number."""
    company, *_ = await books(stack)
    for table, key in (("charge", "charge_id"), ("payment", "payment_id")):
        for act in (f"delete from {table}", f"update {table} set {key} = gen_random_uuid()"):
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await stack.owner.execute(f"{act} where company_id = $1", company.company_id)
