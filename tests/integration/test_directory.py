"""A service's copy of what identity says."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.ledger.store import MIGRATIONS
from shared.contracts.identity_events import COMPANY_CHANGED
from shared.directory import Directory
from tests.conftest import MakeDatabase


class Identity:
    """Identity's log, growing; says how often it was read."""

    def __init__(self) -> None:
        self.log: list[dict[str, Any]] = []
        self.reads = 0

    def open_company(self) -> UUID:
        company_id = uuid4()
        state = {
            "company_id": str(company_id),
            "version": 1,
            "code": f"C{len(self.log)}",
            "name": "Practice",
            "service_type": "revequip",
            "time_zone": "UTC",
            "close_policy": "deposit_date",
        }
        self.log.append({"position": len(self.log) + 1, "event": {"type": COMPANY_CHANGED, "data": state}})
        return company_id

    async def get(self, _path: str, params: dict[str, int]) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        self.reads += 1
        found = [item for item in self.log if item["position"] > params["after"]]
        return {"items": found, "next": None}


@pytest.fixture
async def pool(make_database: MakeDatabase) -> Any:
    pool = await asyncpg.create_pool(await make_database(MIGRATIONS))
    yield pool
    await pool.close()


async def test_what_was_made_a_moment_after_the_last_catch_up_is_learned_too(pool: asyncpg.Pool) -> None:
    """A new company is used at once: it must not be refused because somebody else asked identity just before."""
    identity = Identity()
    directory = Directory(pool, identity)  # type: ignore[arg-type]
    for _ in range(3):
        company_id = identity.open_company()
        await directory.catch_up()
        assert await pool.fetchval("select 1 from directory_company where company_id = $1", company_id)


async def test_callers_at_one_moment_share_a_reader(pool: asyncpg.Pool) -> None:
    identity = Identity()
    directory = Directory(pool, identity)  # type: ignore[arg-type]
    identity.open_company()
    await asyncio.gather(*(directory.catch_up() for _ in range(20)))
    assert identity.reads <= 4, "one that was under way, and one for all who asked meanwhile; two pages each"
