"""P5: lines folded per second, from messages to committed tables, against raw `INSERT ... SELECT ... GROUP BY`.

The floor adds the same lines up in PostgreSQL, into the same two rollups, from a table that holds the lines already.
The product parses and checks the events, keeps them, appends the lines, and then adds them up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import asyncpg
import orjson

from bench.rounds import Result, measure
from services.reporting.inbox import Inbox
from services.reporting.store import MIGRATIONS, ROLE
from shared.bus import Message
from shared.contracts.ledger_events import POSTING
from shared.db import create_pool
from shared.ids import uuid7
from shared.migrate import migrate
from shared.process import calm_collector

_EVENTS, _POSTINGS, _COMPANIES = 500, 10, 20
_LINES = _EVENTS * _POSTINGS * 2
_DAY = date(2026, 11, 2)

_WORDS = "location_id, poster_id, affiliation, source, method, payer_id, batch_number"
_FLOOR = tuple(
    f"""
    insert into floor_{by} as r
    select company_id, {by}_date, {_WORDS}, sum(receipt_count), sum(applied_cents), sum(adjusted_cents),
        sum(provider_level_cents), sum(unapplied_cents)
    from floor_line group by company_id, {by}_date, {_WORDS}
    on conflict (company_id, {by}_date, {_WORDS}) do update set
        receipt_count = r.receipt_count + excluded.receipt_count,
        applied_cents = r.applied_cents + excluded.applied_cents,
        adjusted_cents = r.adjusted_cents + excluded.adjusted_cents,
        provider_level_cents = r.provider_level_cents + excluded.provider_level_cents,
        unapplied_cents = r.unapplied_cents + excluded.unapplied_cents
    """  # noqa: S608 - names of our own
    for by in ("posting", "deposit")
)


class _Events:
    """Ever new events of twenty companies: a day's postings, deposited in the last three days, all applied."""

    def __init__(self) -> None:
        self._random = random.Random(7)
        self._versions = {uuid7(): 0 for _ in range(_COMPANIES)}
        self._locations = [uuid7() for _ in range(5)]
        self._posters = [uuid7() for _ in range(5)]

    def batch(self) -> list[Message]:
        """Five hundred events of ten postings of two lines each."""
        companies = list(self._versions)
        return [self._event(companies[index % _COMPANIES]) for index in range(_EVENTS)]

    def _event(self, company: UUID) -> Message:
        first = self._versions[company] + 1
        self._versions[company] += _POSTINGS
        postings = [self._posting(first + index) for index in range(_POSTINGS)]
        now = datetime.now(UTC)
        event_id = uuid7()
        data = {"company_id": company, "first_version": first, "version": first + _POSTINGS - 1, "postings": postings}
        envelope = {
            "specversion": "1.0",
            "id": event_id,
            "source": "ledger",
            "type": POSTING,
            "time": now,
            "data": data,
        }
        return Message(str(event_id), POSTING, POSTING, orjson.dumps(envelope))

    def _posting(self, version: int) -> dict[str, object]:
        chance, cents = self._random, self._random.randint(1, 50_000)
        deposit_day = _DAY - timedelta(days=chance.randrange(3))
        location, patient = chance.choice(self._locations), uuid7()
        receipt = {
            "payment_id": uuid7(),
            "receipt_version": version,
            "posted_at": datetime.now(UTC),
            "posting_date": _DAY,
            "deposit_date": deposit_day,
            "poster_id": chance.choice(self._posters),
            "affiliation": "practice",
            "source": "manual",
            "method": chance.choice(["check", "cash", "eft"]),
            "location_id": location,
            "patient_id": patient,
            "batch_number": f"B{deposit_day.day}",
            "count": 1,
            "parts": [
                {"kind": "unapplied", "amount_cents": cents, "patient_id": patient},
                {
                    "kind": "applied",
                    "amount_cents": cents,
                    "patient_id": patient,
                    "charge_id": uuid7(),
                    "charge_location_id": location,
                    "procedure_code": "97110",
                },
            ],
        }
        posting_id = uuid7()
        return {
            "version": version,
            "posting_id": posting_id,
            "kind": "payment",
            "posted_at": datetime.now(UTC),
            "receipts": [receipt],
        }


def folding(dsn: str) -> list[Result]:
    """The ratio of lines per second, in a process set up as ours are."""
    calm_collector()
    with asyncio.Runner() as runner:
        runner.run(migrate(dsn, MIGRATIONS))
        pool = runner.run(create_pool(dsn, name="bench", role=ROLE, size=2))
        owner = runner.run(asyncpg.connect(dsn))
        inbox, events = Inbox(pool), _Events()
        runner.run(inbox.handle(events.batch()))
        runner.run(_prepare_floor(owner))

        def floor() -> float:
            return _rate(lambda: runner.run(_fold_raw(owner)))

        def product() -> float:
            batch = events.batch()
            return _rate(lambda: runner.run(inbox.handle(batch)))

        result = measure("fold_lines", floor, product)
        runner.run(pool.close())
        runner.run(owner.close())
        return [result]


async def _prepare_floor(owner: asyncpg.Connection) -> None:
    await owner.execute("create table floor_line as select * from balancing_line")
    for by in ("posting", "deposit"):
        await owner.execute(f"create table floor_{by} (like balancing_{by}_day including all)")


async def _fold_raw(owner: asyncpg.Connection) -> None:
    async with owner.transaction():
        for statement in _FLOOR:
            await owner.execute(statement)


def _rate(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return _LINES / (time.perf_counter() - started)
