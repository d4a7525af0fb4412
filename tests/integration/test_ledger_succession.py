"""Pieces of a long remittance whose books are loaded while the piece before is kept: the same books as one by one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

from services.ledger import store
from services.ledger.domain.commands import Command
from services.ledger.domain.feed_acts import ApplyRemittance
from services.ledger.feeds import remittances
from services.ledger.posting import Verdict
from services.ledger.succession import Succession
from tests.support.databases import Databases
from tests.support.ledger import Company, LedgerStack, fold
from tests.support.x12_builder import ClaimPayment, Payment, Service, x12_file

ACCOUNTS = [f"A-{n}" for n in range(7)]


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remittances, "_LINES_PER_CHUNK", 3)


class OneByOne:
    """The same pieces without any of this."""

    def __init__(self, ledger: Any) -> None:
        self.ledger = ledger

    async def post(self, command: Command, _: Command | None) -> Verdict:
        verdict: Verdict = await self.ledger.post(command)
        return verdict

    async def aclose(self) -> None:
        pass


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`load` and `append` of pieces, in the order in which they were begun and done."""
    seen: list[str] = []
    load, append = store.load, store.append

    async def seen_load(connection: Any, wants: Any) -> Any:
        piece = any("receipt" in one.by_kind for one in wants.values())
        if piece:
            seen.append("load")
        return await load(connection, wants)

    async def seen_append(connection: Any, *rest: Any) -> None:
        await append(connection, *rest)
        if rest[1].rows["remittance_line"]:
            seen.append("kept")

    monkeypatch.setattr(store, "load", seen_load)
    monkeypatch.setattr(store, "append", seen_append)
    return seen


def long_remittance(rng: random.Random, claims: int = 40) -> bytes:
    """Many claims of few patients, so that pieces meet the same charges: paid in part, taken back, paid too much, and
    some lines told twice."""
    made = []
    for _ in range(claims):
        reversal = rng.random() < 0.2
        off = rng.choice((0, 500, 9_000))
        paid = Service(
            charge_cents=-10_000 if reversal else 10_000,
            adjustments=[("CO", "45", (-1 if reversal else 1) * (10_000 - rng.choice((1_000, 4_000)) - off))]
            + ([("PR", "2", (-1 if reversal else 1) * off)] if off else []),
            control_number=rng.choice(("", f"L-{rng.randrange(6)}")),
        )
        icn = f"ICN-{rng.randrange(claims)}"
        account = rng.choice((*ACCOUNTS, "nobody"))
        made.append(ClaimPayment(account=account, services=[paid], status="22" if reversal else "1", icn=icn))
    return x12_file([Payment(trace=f"LONG-{rng.random()}", claims=made)])


async def prepared(stack: LedgerStack) -> Company:
    company = await stack.company()
    payer = await company.payer()
    for account in ACCOUNTS:
        patient = await company.patient(account)
        await company.charge(patient, amount_cents=10_000, payer_id=payer["id"], date_of_service="2026-01-05")
    return company


async def state(company: Company) -> tuple[Any, ...]:
    """Everything that a posting leaves, without the ids and moments that differ from company to company."""
    charges = (await company.get("/v1/charges", limit=500))["items"]
    figures = ("applied_cents", "adjusted_cents", "payer_balance_cents", "patient_balance_cents", "company_version")
    exceptions = await company.stack.owner.fetch(
        "select reason, (detail::jsonb - 'charge_id')::text as detail from feed_exception where company_id = $1",
        company.company_id,
    )
    transfers = await company.stack.owner.fetch(
        "select version, ordinal, debit, credit, detail, amount_cents from transfer where company_id = $1"
        " order by version, ordinal",
        company.company_id,
    )
    return (
        await company.sums(),
        sorted(tuple(one[name] for name in figures) for one in charges),
        sorted(map(tuple, exceptions)),
        list(map(tuple, transfers)),
    )


@pytest.mark.parametrize("seed", range(6))
async def test_the_same_books_as_one_by_one(stack: LedgerStack, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    body = long_remittance(random.Random(seed))
    quick, plain = await prepared(stack), await prepared(stack)
    assert (await quick.upload("x12", body)).status == 200
    with monkeypatch.context() as patch:
        patch.setattr(remittances, "Succession", OneByOne)
        assert (await plain.upload("x12", body)).status == 200
    assert await state(quick) == await state(plain)
    assert fold(await quick.events()) == await quick.totals()


async def test_the_next_books_are_loaded_before_the_last_piece_is_kept(
    stack: LedgerStack, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the second piece is under way each is loaded once, and early."""
    company = await prepared(stack)
    claims = [ClaimPayment(account=name, services=[Service(charge_cents=10_000)], icn=name) for name in ACCOUNTS[:5]]
    monkeypatch.setattr(remittances, "_LINES_PER_CHUNK", 1)
    assert (await company.upload("x12", x12_file([Payment(trace="T", claims=claims)]))).status == 200
    assert loads == ["kept", "load", "load", "kept", "load", "kept", "load", "kept", "kept"]


async def test_after_somebody_elses_writing_it_goes_on_as_before(
    stack: LedgerStack, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third piece is refused what was loaded for it and loads again, the fourth on its turn, then early."""
    company = await prepared(stack)
    payer = await company.payer()
    claims = [ClaimPayment(account=name, services=[Service(charge_cents=10_000)], icn=name) for name in ACCOUNTS]
    monkeypatch.setattr(remittances, "_LINES_PER_CHUNK", 1)
    post, turn = Succession.post, 0

    async def and_somebody_else(self: Succession, command: Command, following: Command | None) -> Verdict:
        nonlocal turn
        turn += 1
        if turn == 3:
            await asyncio.sleep(0.05)
            await company.payment(payer_id=payer["id"])
        return await post(self, command, following)

    monkeypatch.setattr(Succession, "post", and_somebody_else)
    assert (await company.upload("x12", x12_file([Payment(trace="T", claims=claims)]))).status == 200
    third, fourth = ["load", "load", "kept"], ["load", "load", "kept"]
    assert loads == ["kept", "load", "load", "kept", *third, *fourth, "load", "kept", "load", "kept", "kept"]
    assert (await company.sums())["applied_cents"] == 70_000


async def test_who_else_writes_meanwhile_loses_nothing_and_finds_no_stale_books(
    stack: LedgerStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person writes off what a piece is about to pay, between its load and its turn: the write-off counts."""
    company = await prepared(stack)
    charges = (await company.get("/v1/charges", limit=500))["items"]
    (last,) = [one for one in charges if one["id"] == max(c["id"] for c in charges)]
    claims = [ClaimPayment(account=name, services=[Service(charge_cents=10_000)], icn=name) for name in ACCOUNTS]
    monkeypatch.setattr(remittances, "_LINES_PER_CHUNK", 1)
    post, written = Succession.post, 0

    async def and_somebody_else(self: Succession, command: Command, following: Command | None) -> Verdict:
        nonlocal written
        if isinstance(command.act, ApplyRemittance):
            await asyncio.sleep(0.05)  # What is coming has been loaded by now.
            body = {"group_code": "CO", "reason_code": "45", "amount_cents": 100}
            await company.post(f"/v1/charges/{last['id']}/adjustments", body)
            written += 100
        return await post(self, command, following)

    monkeypatch.setattr(Succession, "post", and_somebody_else)
    assert (await company.upload("x12", x12_file([Payment(trace="T", claims=claims)]))).status == 200
    assert written == 600
    charge = await company.get(f"/v1/charges/{last['id']}")
    assert (charge["adjusted_cents"], charge["applied_cents"]) == (600, 0), "10,000 is above what is open"
    assert await company.reasons() == {"over_applied": 1}
    assert fold(await company.events()) == await company.totals()


async def test_a_piece_that_was_posted_before_is_passed_over(stack: LedgerStack, loads: list[str]) -> None:
    company = await prepared(stack)
    body = long_remittance(random.Random(7))
    assert (await company.upload("x12", body)).status == 200
    before = await state(company)
    again = await company.upload("x12", body)
    assert (again.body["posted"], again.body["duplicates"]) == (0, 1)
    assert await state(company) == before
    feeds = await company.stack.owner.fetch(
        "select state from feed where company_id = $1", UUID(str(company.company_id))
    )
    assert [row["state"] for row in feeds] == ["done", "done"]
