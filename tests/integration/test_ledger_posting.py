"""The one write path: what is read back is what was decided in memory, and what was posted stays as it is."""

from __future__ import annotations

import random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from services.ledger import queries, store
from services.ledger.posting import post_batch
from tests.support.ledger import Company, LedgerStack, fold
from tests.support.ledger_acts import Clerk
from tests.support.posting import check, command, some_payer


@pytest.mark.parametrize("seed", range(6))
async def test_random_histories_read_back_as_they_were_decided(stack: LedgerStack, seed: int) -> None:
    """Batches of random commands: every document read from the database is the one that was answered from memory,
    and the events alone add up to the control totals of every version."""
    rng = random.Random(seed)
    company = await stack.company(locations=2)
    feed_id = uuid4()
    await stack.owner.execute(
        "insert into feed (company_id, feed_id, format, channel, sender) values ($1, $2, 'x12', 'http', 'tests')",
        company.company_id,
        feed_id,
    )
    clerk = Clerk(rng, company.company_id, company.locations, company.today, feed_id)
    pool = stack.ledger.pool
    for _ in range(30):
        batch = [clerk.command() for _ in range(rng.choice((1, 1, 2, 5)))]
        last: dict[str, dict[str, Any]] = {}
        for one, verdict in zip(batch, await post_batch(pool, batch), strict=True):
            if verdict.problem is None:
                document = orjson.loads(verdict.response)
                clerk.learn(one, document)
                last[document.get("id", "")] = document
        for kind, known in (("charge", clerk.charges), ("payment", clerk.payments)):
            ids = [UUID(one) for one in known]
            for document in await queries.read_documents(pool, company.company_id, kind, ids):
                read = orjson.loads(store.encode(document))
                known[read["id"]] = read
                # Another command of the batch may have touched it later; then its version tells.
                answered = last.get(read["id"])
                if answered and answered["company_version"] == read["company_version"]:
                    links = {"reversed_by_id", "refunded_cents", "available_cents"}
                    assert {k: v for k, v in answered.items() if k not in links} == {
                        k: v for k, v in read.items() if k not in links
                    }
    events = await company.events()
    head = events[-1].data.version
    for version in (*rng.sample(range(1, head + 1), min(8, head)), head):
        assert fold(events, version) == await company.totals(version)
    assert await company.totals() == fold(events)
    await everything_adds_up(stack, company)


async def everything_adds_up(stack: LedgerStack, company: Company) -> None:
    """P1 and P2 by plain SQL over the transfers, beside the code that is tested."""
    wrong = await stack.owner.fetch(
        "select p.payment_id from payment p"
        " join lateral (select * from payment_revision r where r.payment_id = p.payment_id"
        "   order by version desc limit 1) r on true"
        " left join transfer t on (t.company_id, t.payment_id) = (p.company_id, p.payment_id)"
        " where p.company_id = $1 group by p.payment_id, r.amount_cents"
        " having r.amount_cents <> coalesce(sum(case 'cash' when debit then t.amount_cents"
        "   when credit then -t.amount_cents end), 0)",
        company.company_id,
    )
    wrong += await stack.owner.fetch(
        "select h.charge_id from charge h"
        " join lateral (select * from charge_revision r where r.charge_id = h.charge_id"
        "   order by version desc limit 1) r on true"
        " left join transfer t on (t.company_id, t.charge_id) = (h.company_id, h.charge_id)"
        " where h.company_id = $1 group by h.charge_id, r.amount_cents"
        " having r.amount_cents <> coalesce(sum(case 'revenue' when credit then t.amount_cents"
        "   when debit then -t.amount_cents end), 0)",
        company.company_id,
    )
    assert not wrong


async def test_the_service_may_not_change_what_was_posted(stack: LedgerStack) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    await stack.ledger.post(command(company, check(company, payer_id=payer)))
    for table in (
        "posting",
        "transfer",
        "payment",
        "payment_revision",
        "charge",
        "charge_revision",
        "event",
        "idempotency",
    ):
        for statement in (f"update {table} set company_id = company_id", f"delete from {table}", f"truncate {table}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await stack.ledger.pool.execute(statement)
