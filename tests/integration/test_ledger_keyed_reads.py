"""A batch reads what it wants and no more, however much a company has, by plans that were made when it had little."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from services.ledger import store
from services.ledger.domain.wants import Wants
from shared.db import KEYED_PLANS, connect
from tests.support.databases import Databases
from tests.support.feed_work import charge_of, check, claim, remit, service
from tests.support.ledger import Company, LedgerStack

_MANY = 3_000
_FILL = (
    "insert into patient select $1, gen_random_uuid(), 'many-' || n, 'A', 'B', '1980-01-01', null, 1 from {many}",
    "insert into charge (company_id, charge_id, version, posted_at, source, external_id, poster_id)"
    " select $1, gen_random_uuid(), 1, now(), 'manual', 'many-' || n, $1 from {many}",
    "insert into charge_revision select h.company_id, h.charge_id, 1, 'active', p.patient_id, r.location_id, null,"
    " r.date_of_service, '97110', '{{}}', 1, '{{M54.5}}', 12000 from charge h"
    " join patient p on p.company_id = h.company_id and p.account_number = h.external_id"
    " cross join (select * from charge_revision where company_id = $1 limit 1) r where h.company_id = $1",
    "insert into transfer select company_id, 1000, row_number() over (), 'receivable_patient', 'revenue', '',"
    " charge_id, null, 12000 from charge where company_id = $1 and external_id like 'many-%'",
    "insert into idempotency select $1, 'many-' || n, 'r', $1, '', '{{}}' from {many}",
    "insert into payer select $1, gen_random_uuid(), 'many-' || n, 'Many ' || n, null, array['e' || n], 1 from {many}",
    "insert into feed_document select $1, 's', 'payment', 'many-' || n, 1, null, false, '' from {many}",
    "insert into remittance_line select company_id, 'many-' || n, payment_id, charge_id, version"
    " from (select * from remittance_line where company_id = $1 limit 1) r, {many}",
    "insert into claim select $1, gen_random_uuid(), 'many-' || n from {many} on conflict do nothing",
)


@pytest.fixture
async def grown(databases: Databases) -> AsyncIterator[tuple[Company, asyncpg.Connection]]:
    """A company that has grown since the connection's plans were made, and nobody has counted its rows."""
    async with LedgerStack.fresh(databases) as stack:
        company = await stack.company()
        await charge_of(company, "A")
        await remit(company, check(claim("A", service())))
        connection = await connect(stack.dsn, settings=KEYED_PLANS)
        for table in ("patient", "charge", "charge_revision", "transfer", "payer", "remittance_line", "claim"):
            await connection.execute(f"alter table {table} set (autovacuum_enabled = off)")
        await read_and_note(connection, company.company_id)
        for statement in _FILL:
            many = f"generate_series(1, {_MANY}) as n"
            await stack.owner.execute(statement.format(many=many), company.company_id)
        yield company, connection
        await connection.close()


async def read_and_note(connection: asyncpg.Connection, company_id: UUID) -> None:
    """Ten of everything that a feed may want, and ten statements about claims. But of payers by their ids in files:
    those are looked for among the payers of the company, who are hundreds at most."""
    names = [f"many-{n}" for n in range(1, 11)]
    wants = Wants()
    for kind in ("key", "account", "account_charges", "external_charges", "payer_code", "line", "settled"):
        wants.add(kind, *names)
    wants.add("payer_name", *(f"Many {n}" for n in range(1, 11)))
    wants.add("document", *(("s", "payment", name) for name in names))
    wants.add("waiting", *(("s", name) for name in names))
    wants.add("trace", *names)
    await store.load(connection, {company_id: wants})
    rows = [
        {
            "place": place,
            "claim_id": str(uuid4()),
            "claim_number": name,
            "statement_key": f"{uuid4()}",
            "state": "paid",
            "standing": 3,
            "codes": [],
        }
        for place, name in enumerate(names)
    ]
    feed = await connection.fetchval("select feed_id from feed where company_id = $1 limit 1", company_id)
    said = orjson.dumps(rows).decode()
    await connection.execute("select note_claims($1, $2, 'ST 1', '835', null, $3)", company_id, feed, said)


async def test_ten_of_everything_are_ten_of_everything(grown: tuple[Company, asyncpg.Connection]) -> None:
    company, connection = grown
    async with connection.transaction():
        await read_and_note(connection, company.company_id)
        rows = await connection.fetch(
            "select relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as touched"
            " from pg_stat_xact_user_tables"
        )
    touched = {row["relname"]: row["touched"] for row in rows if row["touched"]}
    assert {"patient", "charge", "remittance_line", "claim", "payer", "feed_document"} <= touched.keys()
    assert max(touched.values()) < _MANY / 10, touched
