"""Hostile input with a meaning of its own in identity; what is hostile anywhere is in `tests/hostile`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.databases import Databases
from tests.support.identity import IdentityStack
from tests.support.second_factor import grant, run_sql


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


async def test_case_81_nobody_grants_himself_what_he_does_not_have(identity: IdentityStack) -> None:
    mine, other = [(await identity.company(code))["id"] for code in ("OWN81", "OTHER81")]
    foreign = (await identity.location(other, "A"))["id"]
    me = await identity.user("climber", "practice_admin", [mine])
    await identity.user("colleague", "practice_admin", [mine])
    token, path = await identity.token("climber"), f"/v1/users/{me['id']}"
    counted = "select (select count(*) from event) as events, u::text, c::text, l::text from app_user u"
    counted += (
        " left join user_company c on c.user_id = u.id left join user_location l on l.user_id = u.id order by 2, 3"
    )
    before = await run_sql(identity, counted)
    for field, change, status in (
        ("company_ids", {"company_ids": [mine, other]}, 422),
        ("company_ids", {"company_ids": [other], "default_company_id": other}, 422),
        ("default_company_id", {"default_company_id": other}, 422),
        ("emr_location_ids", {"emr_location_ids": [foreign]}, 422),
        (None, {"role": "partner_admin", "user_type": "partner"}, 403),
        (None, {"affiliation": "rcm"}, 403),
    ):
        answer = await identity.patch(path, change, token)
        assert answer.status == status, (change, answer)
        assert [error["field"] for error in answer.body.get("errors", [])] == ([field] if field else []), change
        assert b"OTHER81" not in answer.raw
    assert await run_sql(identity, counted) == before
    refusal = await grant(identity, "climber", company_id=other)
    assert (refusal.status, refusal.body["error"]) == (400, "invalid_grant")


async def test_case_81_the_last_administrator_does_not_remove_himself(identity: IdentityStack) -> None:
    mine = (await identity.company("LAST81"))["id"]
    last = await identity.user("last.one", "partner_admin", [mine])
    token = await identity.token("last.one")
    for field, change in (("active", {"active": False}), ("company_ids", {"company_ids": []})):
        answer = await identity.patch(f"/v1/users/{last['id']}", change, token)
        assert (answer.status, answer.body["errors"][0]["field"]) == (422, field), answer
    assert (await identity.get(f"/v1/users/{last['id']}", token)).body == last
