"""Hostile input with a meaning of its own in identity; what is hostile anywhere is in `tests/hostile`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.databases import Databases
from tests.support.identity import IdentityStack


@pytest.fixture(scope="module")
async def identity(databases: Databases) -> AsyncIterator[IdentityStack]:
    async with IdentityStack.fresh(databases) as stack:
        company = await stack.company("HOST")
        await stack.user("admin", "partner_admin", [company["id"]])
        yield stack


async def test_case_14_names_are_kept_in_one_form(identity: IdentityStack) -> None:
    """NFC and NFD of one name are one name."""
    token = await identity.token("admin")
    for number, spelling in enumerate(("Jos\u00e9", "Jose\u0301", "  Jos\u00e9 ")):
        body = {
            "user_name": f"jose{number}",
            "first_name": spelling,
            "last_name": "Diaz",
            "email": "jose@practice.example",
            "user_type": "customer",
            "role": "front_office",
        }
        assert (await identity.post("/v1/users", body, token)).body["first_name"] == "Jos\u00e9"


@pytest.mark.parametrize("name", ["adm\u0456n", "\uff41dmin", "admin\u200b", "ADMIN", "admin "])
async def test_case_82_names_that_look_alike_are_no_two_names(identity: IdentityStack, name: str) -> None:
    """Refused as what they are, or as taken."""
    body = {
        "user_name": name,
        "first_name": "A",
        "last_name": "B",
        "email": "a@practice.example",
        "user_type": "customer",
        "role": "front_office",
    }
    answer = await identity.post("/v1/users", body, await identity.token("admin"))
    assert (answer.status, [error["field"] for error in answer.body["errors"]]) == (422, ["user_name"])


@pytest.mark.parametrize("size", [257, 100_000, 1_000_000])
async def test_case_76_a_long_password_is_refused_before_it_is_hashed(identity: IdentityStack, size: int) -> None:
    answer = await identity.ask_token(grant_type="password", username="admin", password="x" * size)
    assert answer.status in (400, 413), answer
    assert b"xxxx" not in answer.raw
