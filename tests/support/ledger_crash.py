"""A process of its own that posts one payment and dies where CRASH_AT says: `python -m tests.support.ledger_crash`."""

from __future__ import annotations

import asyncio
import sys
from datetime import date
from uuid import UUID

from services.ledger.domain.commands import Actor, Application, Command, PostPayment
from services.ledger.posting import post_batch
from services.ledger.store import ROLE
from shared.db import create_pool


def payment_command(company_id: UUID, payer_id: UUID, charge_id: UUID, day: date, key: str) -> Command:
    """The payment that is posted before the crash, and again after it."""
    act = PostPayment("check", 4_000, day, payer_id=payer_id, applications=(Application(charge_id, 3_000),))
    return Command(company_id, key, "crash", b"hash", Actor(UUID(int=5), "practice"), "crash", act)


async def _main(dsn: str, *arguments: str) -> None:
    company_id, payer_id, charge_id = map(UUID, arguments[:3])
    pool = await create_pool(dsn, name="crash", role=ROLE)
    command = payment_command(company_id, payer_id, charge_id, date.fromisoformat(arguments[3]), arguments[4])
    (verdict,) = await post_batch(pool, [command])
    print(verdict.response.decode())


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
