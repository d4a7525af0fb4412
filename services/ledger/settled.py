"""What payers' receipts have done to charges, for reversals that do not say what they take back (group CR)."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from services.ledger.domain.books import Books, LineKey, Lines

SETTLED: Final = """
select 'settled', t.company_id, json_build_object('charge_id', t.charge_id, 'payer_id', r.payer_id, 'debit', t.debit,
    'credit', t.credit, 'detail', t.detail, 'cents', sum(t.amount_cents))
from (
    select w.c, r.charge_id from unnest($2::uuid[], $3::text[], $4::text[]) as w (c, k, v)
    join patient p on p.company_id = w.c and p.account_number = w.v
    join charge_revision r on r.company_id = p.company_id and r.patient_id = p.patient_id where w.k = 'settled'
    union
    select w.c, h.charge_id from unnest($2::uuid[], $3::text[], $4::text[]) as w (c, k, v)
    join charge h on h.company_id = w.c and h.external_id = w.v where w.k = 'settled'
) f
join transfer t on t.company_id = f.c and t.charge_id = f.charge_id and t.payment_id is not null
cross join lateral (
    select r.payer_id from payment_revision r where r.company_id = t.company_id and r.payment_id = t.payment_id
    order by r.version desc limit 1
) r
where r.payer_id is not null
group by t.company_id, t.charge_id, r.payer_id, t.debit, t.credit, t.detail
"""
"""Net transfers by charge and payer, of the charges that go by a name of kind `settled`; beside `load_books`, with its
parameters and in its snapshot."""


def read_settled(books: Books, row: dict[str, Any]) -> None:
    """One row of it."""
    charge_id = UUID(row["charge_id"])
    lines = books.settled.setdefault(charge_id, {}).setdefault(UUID(row["payer_id"]), Lines())
    lines.add(LineKey(row["debit"], row["credit"], row["detail"], charge_id), row["cents"])
