"""Commands for the one write path, without HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from services.ledger.domain import commands as acts
from tests.support.ledger import Company, LedgerStack

_BACKGROUND = ("insert into audit", "update feed set worked_at", "typeinfo_tree", "current_setting('jit')")
BOX = acts.Actor(UUID(int=7), "practice")


def in_background(query: str) -> bool:
    """Whether a statement is what the process does beside its postings, whenever it does: it writes the audit, many
    entries at a time, and looks for abandoned feeds; on a connection that is new the driver asks about types."""
    return any(text in query for text in _BACKGROUND)


def command(company: Company, act: acts.Act, key: str = "", body: bytes = b"body", **more: Any) -> acts.Command:
    return acts.Command(
        company_id=company.company_id,
        key=key or str(uuid4()),
        route=more.pop("route", "test"),
        body_hash=body,
        actor=more.pop("actor", BOX),
        correlation_id="correlation-of-the-test",
        act=act,
        **more,
    )


def check(company: Company, cents: int = 1_000, **fields: Any) -> acts.PostPayment:
    """A check of a payer that is not named: money that stays unapplied."""
    return acts.PostPayment("check", cents, company.today, **fields)


async def some_payer(company: Company) -> UUID:
    return UUID((await company.payer())["id"])


async def some_charge(company: Company, cents: int = 10_000, payer: UUID | None = None) -> UUID:
    patient = await company.patient()
    more = {"payer_id": str(payer)} if payer else {}
    return UUID((await company.charge(patient, amount_cents=cents, **more))["id"])


async def gapless(stack: LedgerStack, company: Company) -> None:
    """Versions without a gap, in commit order: of postings, of events and of the outbox."""
    head = await stack.owner.fetchval("select version from company_book where company_id = $1", company.company_id)
    versions = await stack.owner.fetch(
        "select version from posting where company_id = $1 order by posted_at, version", company.company_id
    )
    assert [row["version"] for row in versions] == list(range(1, head + 1))
    events = await stack.owner.fetch(
        "select e.first_version, e.version from event e join outbox o using (company_id, first_version)"
        " where company_id = $1 order by o.outbox_id",
        company.company_id,
    )
    expected = 1
    for row in events:
        assert row["first_version"] == expected
        expected = row["version"] + 1
    assert expected == head + 1
