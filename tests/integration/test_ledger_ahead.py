"""A long remittance, each piece decided while the one before is appended: it comes to what it would come to anyhow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.ledger import store
from services.ledger.ahead import Ahead
from services.ledger.domain import commands as acts
from services.ledger.domain.feed_acts import ApplyRemittance, PostRemittance, RemittanceClaim, RemittanceLine
from services.ledger.feeds import remittance_claims
from services.ledger.poster import Poster
from services.ledger.posting import post_batch
from tests.support import posting
from tests.support.feed_work import charge_of, check, claim, remit, service, true
from tests.support.ledger import Company
from tests.support.x12_builder import ClaimPayment

_SLOW = 0.03
"""An append takes so long that what comes next is loaded and decided before it is committed."""
Interference = Callable[[int], Awaitable[Any]]


async def _nothing(append: int) -> None:
    """Time passes."""


class Watch:
    """Appends, the batches that had been decided by then, and those that had been appended by then; what else happens
    before each append may be added."""

    def __init__(self) -> None:
        self.appends = self.foreseen = self.early = 0
        self.before: Interference | None = _nothing


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Pieces of one line each."""
    seen = Watch()
    append, take = store.append, Ahead.take

    async def slow(connection: Any, what: Any, after: Any = None) -> None:
        if after:
            await asyncio.sleep(2 * _SLOW)  # It comes when the one before has been appended, or refused.
            await append(connection, what, after)
            seen.early += 1
            return
        before, seen.before = seen.before, None
        if before and not connection.is_in_transaction():  # Under the company's lock nobody can come between.
            seen.appends += 1
            try:
                await asyncio.sleep(_SLOW)
                await before(seen.appends)
            finally:
                seen.before = before
        seen.before = seen.before or before
        await append(connection, what)

    async def counted(self: Ahead, commands: Any) -> Any:
        decided = await take(self, commands)
        seen.foreseen += decided is not None
        return decided

    monkeypatch.setattr(remittance_claims, "LINES_A_PIECE", 1)
    monkeypatch.setattr(store, "append", slow)
    monkeypatch.setattr(Ahead, "take", counted)
    return seen


def paid(account: str, icn: str, cents: int = 8_000, **fields: Any) -> ClaimPayment:
    """A claim of one line of 100.00, of which so much is paid and the rest is the patient's."""
    rest = (("PR", "2", 10_000 - cents),)
    return claim(account, service(adjustments=rest), icn=icn, **fields)


async def balances(company: Company) -> list[Any]:
    return [
        [row[name] for name in ("applied_cents", "adjusted_cents", "payer_balance_cents", "patient_balance_cents")]
        for row in sorted((await company.get("/v1/charges", limit=500))["items"], key=lambda row: row["id"])
    ]


async def test_each_piece_sees_what_those_before_it_did(
    watch: Watch, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same charge paid piece after piece: only as often as there is something open, whoever looked ahead."""
    accounts = ["A", "B", "A", "A", "C", "C", "B", "A"]
    other = await company.stack.company()
    for one in (company, other):
        for account in "ABC":
            await charge_of(one, account)
    body = [paid(account, f"ICN-{place}", 6_000) for place, account in enumerate(accounts)]
    feed = await remit(company, check(*body, trace="TWICE"))
    assert watch.foreseen >= len(accounts) - 3, "few were decided ahead: this test tests nothing"
    assert watch.early >= 2, "few were appended ahead: this test tests nothing"

    monkeypatch.setattr(Ahead, "start", lambda self, appended: None)
    foreseen = watch.foreseen
    plain = await remit(other, check(*body, trace="TWICE"))
    assert watch.foreseen == foreseen
    counts = ("received", "posted", "exceptions", "posted_total_cents")
    assert [feed[name] for name in counts] == [plain[name] for name in counts]
    assert await balances(company) == await balances(other)
    assert (await company.sums())["applied_cents"] == 3 * 6_000
    assert await company.reasons() == await other.reasons() == {"over_applied": 5}
    await true(company)


async def test_a_correction_after_its_reversal_in_the_piece_before(watch: Watch, company: Company) -> None:
    """A payer who keeps his control number takes back what another check paid, and pays it anew: that is no repetition,
    which only the piece before tells."""
    charge = await charge_of(company, "A")
    for other in "BC":
        await charge_of(company, other)
    await remit(company, check(claim("A", service(), icn="KEPT"), trace="FIRST"))
    back = service(charge_cents=-10_000, adjustments=(("CO", "45", -2_000),))
    anew = service(adjustments=(("CO", "45", 3_000),))
    pieces = [
        claim("A", back, icn="KEPT", status="22"),
        claim("A", anew, icn="KEPT"),
        claim("B", service(), icn="B"),
        claim("C", service(), icn="C"),
    ]
    watch.foreseen = 0
    await remit(company, check(*pieces, trace="SECOND"))
    assert watch.foreseen >= 2
    assert await company.reasons() == {}
    document = await company.get(f"/v1/charges/{charge['id']}")
    assert (document["applied_cents"], document["adjusted_cents"], document["balance_cents"]) == (7_000, 3_000, 0)
    await true(company)


async def test_somebody_else_takes_what_the_next_piece_would_pay(watch: Watch, company: Company) -> None:
    """A person applies cash to each charge after it was decided on, before its append: no charge is paid twice."""
    charges = [await charge_of(company, name) for name in "ABCDE"]
    taken: list[UUID] = []

    async def cash(append: int) -> None:
        if len(taken) < 3 and append > 1:
            charge_id, patient_id = (UUID(charges[1 + len(taken)][name]) for name in ("id", "patient_id"))
            taken.append(charge_id)
            applied = (acts.Application(charge_id, 9_000),)
            # By a process of its own: this one waits for the append in which we are.
            receipt = posting.check(
                company, 9_000, location_id=company.locations[0], patient_id=patient_id, applications=applied
            )
            (await Poster(company.stack.ledger.pool).post(posting.command(company, receipt))).unwrap()

    watch.before, watch.appends = cash, 0
    await remit(company, check(*(claim(name, service(), icn=name) for name in "ABCDE")))
    assert len(taken) == 3
    found = {charge["id"]: charge for charge in (await company.get("/v1/charges", limit=500))["items"]}
    assert all(one["payer_balance_cents"] >= 0 and one["patient_balance_cents"] >= 0 for one in found.values())
    assert (await company.reasons())["over_applied"] >= 2
    await true(company)


async def test_an_append_that_fails_takes_what_was_decided_on_it_along(
    watch: Watch, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses an append in the middle: that piece and those after it are decided again, none twice."""
    for name in "ABCDEF":
        await charge_of(company, name)
    failed: list[int] = []

    async def refused(append: int) -> None:
        if append in (2, 4):
            failed.append(append)
            raise asyncpg.SerializationError("the books were written meanwhile")

    watch.before, watch.appends = refused, 0
    feed = await remit(company, check(*(claim(name, service(), icn=name) for name in "ABCDEF")))
    assert (len(failed), feed["posted"], feed["exceptions"]) == (2, 1, 0)
    assert (await company.sums())["applied_cents"] == 6 * 8_000
    await true(company)


async def test_who_comes_between_finds_what_was_appended_ahead(
    watch: Watch, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person posts while the next piece is on its way: both are posted, and its turn comes as a repetition."""
    names = "ABCDEFGH"
    charges = [await charge_of(company, name) for name in names]
    ledger, posts = company.stack.ledger, list[asyncio.Task[Any]]()
    patient_id = UUID(charges[0]["patient_id"])
    receipt = posting.check(company, 5_000, location_id=company.locations[0], patient_id=patient_id)
    take, between = Ahead.take, 0

    async def taken(self: Ahead, commands: Any) -> Any:
        nonlocal between
        between += bool(self._sent) and not isinstance(commands[0].act, ApplyRemittance)
        if self._sent and len(posts) < 3:
            posts.append(asyncio.create_task(ledger.post(posting.command(company, receipt))))
        return await take(self, commands)

    monkeypatch.setattr(Ahead, "take", taken)
    feed = await remit(company, check(*(claim(name, service(), icn=name) for name in names)))
    for post in posts:
        (await post).unwrap()
    assert (len(posts), between > 0) == (3, True), "nobody came between: this test tests nothing"
    assert (feed["posted"], feed["exceptions"]) == (1, 0)
    sums = await company.sums()
    assert (sums["applied_cents"], sums["payments"]) == (len(names) * 8_000, 4)
    await true(company)


@pytest.mark.parametrize("appended", [True, False])
async def test_what_was_not_appended_is_not_built_on(
    company: Company, appended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch whose append failed nobody knows what comes next: it may be refused when it is decided again."""
    pool, feed = company.stack.ledger.pool, uuid4()
    line = RemittanceLine(1, "97110", None, (), date(2026, 1, 5), 10_000, 8_000, None, (("CO", "45", 2_000),))
    one_claim = RemittanceClaim("A", "ICN", "1", 10_000, 8_000, date(2026, 1, 5), (line,))
    first = PostRemittance(
        "key", b"hash", "check", 8_000, company.today, "1", "Payer", (), feed, "ST 1", more_claims=True
    )
    receipt = posting.command(company, first)
    rest = posting.command(company, ApplyRemittance("key", feed, "ST 1", (one_claim,)))
    ahead = Ahead(pool)
    ahead.then = lambda: [rest]
    if appended:
        (verdict,) = await post_batch(pool, [receipt], ahead=ahead)
        assert not verdict.problem
    else:

        async def refused(*_: Any) -> None:
            raise asyncpg.SerializationError("the books were written meanwhile")

        with monkeypatch.context() as patch:
            patch.setattr(store, "append", refused)
            with pytest.raises(asyncpg.SerializationError):
                await post_batch(pool, [receipt], ahead=ahead)
    early = await ahead.take([rest])
    assert (early is not None) == appended
    assert early is None or early.sent is None, "nobody knows yet whether the receipt goes on"
    assert await ahead.take([rest]) is None
