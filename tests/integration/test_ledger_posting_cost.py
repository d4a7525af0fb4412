"""What a posting costs: a constant number of statements, whatever the size of the batch."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest

from services.ledger import store
from services.ledger.domain import commands as acts
from services.ledger.poster import Poster
from services.ledger.posting import post_batch
from tests.support.ledger import LedgerStack
from tests.support.posting import check, command, in_background, some_charge, some_payer

STATEMENTS_PER_BATCH = ["load_books", "append_books"]


HELD_BATCH = ["BEGIN", "for update", "load_books", "append_books", "COMMIT"]


class Wire:
    """What the driver sends, statement by statement, BEGIN and COMMIT included."""

    def __init__(self) -> None:
        self.queries: list[str] = []

    def __call__(self, record: Any) -> None:
        if not in_background(record.query):
            self.queries.append(record.query)

    @property
    def short(self) -> list[str]:
        return [next((name for name in HELD_BATCH if name in query), query[:200]) for query in self.queries]


@pytest.fixture
async def wire(stack: LedgerStack) -> AsyncIterator[Wire]:
    wire = Wire()
    pool: Any = stack.ledger.pool
    holders = [holder for holder in pool._holders if holder._con is not None]
    for holder in holders:
        holder._con.add_query_logger(wire)
    connect = pool._connect

    async def logged(*arguments: Any, **more: Any) -> asyncpg.Connection:
        connection: asyncpg.Connection = await connect(*arguments, **more)
        connection.add_query_logger(wire)
        return connection

    pool._connect = logged
    stack.ledger.poster = Poster(pool)  # Which remembers nothing of the tests before.
    yield wire
    pool._connect = connect
    for holder in pool._holders:
        if holder._con is not None:
            holder._con.remove_query_logger(wire)


async def test_a_payment_costs_two_statements(stack: LedgerStack, wire: Wire) -> None:
    company = await stack.company()
    payer = await company.payer()
    patient = await company.patient()
    charge = await company.charge(patient, payer_id=payer["id"])
    wire.queries.clear()
    await company.payment(
        payer_id=payer["id"],
        applications=[{"charge_id": charge["id"], "amount_cents": 4_000}],
        adjustments=[{"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 1_000}],
    )
    assert wire.short == STATEMENTS_PER_BATCH


async def test_a_refusal_and_a_repetition_cost_no_append(stack: LedgerStack, wire: Wire) -> None:
    company = await stack.company()
    payer = await company.payer()
    known, unknown = company.payment_body(payer_id=payer["id"]), company.payment_body(payer_id=str(uuid4()))
    await company.post("/v1/payments", known, key="again")
    # What remembered books took on trust is refused by the append once, and then looked up.
    for body, key, status, cost in (
        (known, "again", 201, ["append_books", "load_books"]),
        (known, "again", 201, ["load_books"]),  # Nothing was written, so nothing is remembered.
        (unknown, "new", 422, ["load_books"]),
    ):
        wire.queries.clear()
        assert (await company.send("POST", "/v1/payments", body, key=key)).status == status
        assert wire.short == cost


@pytest.mark.parametrize(("lines", "batches"), [(1, 1), (200, 1), (1_000, 5)])
async def test_bulk_costs_two_statements_a_chunk(stack: LedgerStack, wire: Wire, lines: int, batches: int) -> None:
    company = await stack.company()
    payer = await company.payer()
    rows = [{**company.payment_body(payer_id=payer["id"]), "idempotency_key": f"line-{n}"} for n in range(lines)]
    wire.queries.clear()
    answer = await company.send(
        "POST",
        "/v1/payments/bulk",
        data=b"\n".join(orjson.dumps(row) for row in rows),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert [row["status"] for row in answer.lines] == [201] * lines
    assert wire.short == STATEMENTS_PER_BATCH + ["append_books"] * (batches - 1), "the books are remembered"


async def test_books_written_meanwhile_are_decided_again_under_their_lock(stack: LedgerStack, wire: Wire) -> None:
    """Another process posts between our load and our append: the first try is refused, the second holds the lock."""
    company = await stack.company()
    payer = await some_payer(company)
    load, other = store.load, Poster(stack.ledger.pool)

    async def slow(connection: Any, wants: Any) -> Any:
        books = await load(connection, wants)
        if not meanwhile:
            meanwhile.append(True)
            assert not (await other.post(command(company, check(company, payer_id=payer)))).problem
            wire.queries.clear()
        return books

    meanwhile: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "load", slow)
        verdict = await Poster(stack.ledger.pool).post(command(company, check(company, payer_id=payer)))
    assert not verdict.problem
    assert wire.short == ["append_books", *HELD_BATCH]
    versions = await stack.ledger.pool.fetch(
        "select version from posting where company_id = $1 order by version", company.company_id
    )
    assert [row["version"] for row in versions] == list(range(1, len(versions) + 1))


async def test_concurrent_payments_share_their_statements(stack: LedgerStack, wire: Wire) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    wire.queries.clear()
    await asyncio.gather(
        *(stack.ledger.poster.post(command(company, check(company, payer_id=payer))) for _ in range(128))
    )
    assert wire.short == ["append_books"] * 2, "64 commands at most in a batch, and no timer"


@pytest.mark.measured
async def test_a_table_that_grows_from_empty_does_not_slow_down(stack: LedgerStack) -> None:
    """Plans made while the tables were empty must stay good (measured elsewhere: 5x within 8,000 payments)."""
    company = await stack.company()
    payer = await some_payer(company)
    charges = [await some_charge(company, 90_000_000, payer) for _ in range(10)]

    async def chunk() -> float:
        many = [
            command(company, check(company, payer_id=payer, applications=(acts.Application(charges[n % 10], 1),)))
            for n in range(200)
        ]
        started = time.perf_counter()
        await post_batch(stack.ledger.pool, many)
        return time.perf_counter() - started

    times = [await chunk() for _ in range(32)]
    # Ten charges with hundreds of applications each are no practice's, so some growth is the sums' and not the plans'.
    assert statistics.median(times[-8:]) < 3 * statistics.median(times[:8]), times
