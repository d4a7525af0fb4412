"""A charge that one message takes back and brings again, corrected, under the name that it has (FT1-2).

Decided here where the rules are silent: the lines of a message are said in their order. What is taken back and then
brought stands; what is brought and then taken back does not.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.hl7_messages import codes, ft1, message
from tests.support.ledger import COUNTS, Company, LedgerStack

WRONG, RIGHT = ft1("CG", "TX1", "60.00"), ft1("CG", "TX1", "70.00")
BACK = [ft1("CD", "TX1", "60.00"), ft1("CG", "TX1", "-60.00", quantity=-1)]


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    """One with a single location, which is that of every message."""
    return await stack.company()


async def send(company: Company, control_id: str, time: str, *lines: str) -> tuple[int, ...]:
    answer = await company.upload("hl7v2", message(*lines, control_id=control_id, time=time))
    assert codes(answer.raw) == ["AA"], answer
    feed = await company.get(f"/v1/feeds/{answer.headers['X-Feed-Id']}")
    return tuple(feed[name] for name in COUNTS)


async def standing(company: Company) -> list[Any]:
    rows = (await company.get("/v1/charges"))["items"]
    return [row["amount_cents"] for row in rows if row["status"] != "void"]


@pytest.mark.parametrize("back", BACK, ids=["CD", "negative"])
async def test_what_is_taken_back_and_brought_again_is_corrected(company: Company, back: str) -> None:
    assert await send(company, "M1", "20260115100000", WRONG) == (1, 1, 0, 0, 0)
    assert await send(company, "M2", "20260115110000", back, RIGHT) == (2, 2, 0, 0, 0)
    assert await standing(company) == [7_000]
    assert await send(company, "M3", "20260115110000", back, RIGHT) == (2, 0, 1, 1, 0)
    assert await standing(company) == [7_000]
    assert await send(company, "M4", "20260115120000", ft1("CD", "TX1", "70.00")) == (1, 1, 0, 0, 0)
    assert await standing(company) == []


@pytest.mark.parametrize("back", BACK, ids=["CD", "negative"])
async def test_so_it_is_when_the_correction_comes_first(company: Company, back: str) -> None:
    assert await send(company, "M2", "20260115110000", back, RIGHT) == (2, 1, 0, 1, 0)
    assert await standing(company) == [7_000]


async def test_what_is_brought_and_taken_back_does_not_stand(company: Company) -> None:
    assert await send(company, "M1", "20260115100000", WRONG, BACK[0]) == (2, 2, 0, 0, 0)
    assert await standing(company) == []
