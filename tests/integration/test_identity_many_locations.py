"""Locations stand in the access token, which must stay small enough to be sent and believed."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest

from services.identity.domain import MOST_LOCATIONS
from tests.support.identity import IdentityStack
from tests.support.second_factor import run_sql

RESTRICTED = "front_office_emr_restricted"


async def _locations(identity: IdentityStack, company: str, number: int) -> list[str]:
    """That many locations, made in one statement: one by one takes too long."""
    rows = await run_sql(
        identity,
        "insert into location (company_id, id, code, name, version)"
        " select $1, gen_random_uuid(), 'L' || n, 'Location ' || n, 1"
        " from generate_series(1, $2::int) n returning id",
        UUID(company),
        number,
    )
    return [str(row["id"]) for row in rows]


async def test_as_many_as_there_may_be_are_in_a_token_that_is_believed(identity: IdentityStack) -> None:
    company, other = [(await identity.company(code))["id"] for code in ("MANY", "MANY2")]
    name = "with." + "a-long-name" * 8
    granted = [await _locations(identity, one, MOST_LOCATIONS) for one in (company, other)]
    await identity.user(name, RESTRICTED, [company, other], emr_location_ids=granted[0] + granted[1])
    for one, mine in zip((company, other), granted, strict=True):
        me = await identity.get("/v1/me", await identity.token(name, one))
        assert me.status == 200, me
        assert Counter(place["id"] for place in me.body["emr_locations"]) == Counter(mine)


@pytest.mark.parametrize("role", [RESTRICTED, "front_office"])
async def test_one_more_is_refused_when_it_is_granted(identity: IdentityStack, role: str) -> None:
    """Whatever the role, because it may change."""
    company = (await identity.company(f"MORE{role[-3:]}"))["id"]
    many = await _locations(identity, company, MOST_LOCATIONS + 1)
    user = await identity.user(f"more{role[-3:]}", role, [company], emr_location_ids=many[1:])
    path, operator = f"/v1/users/{user['id']}", await identity.operator()
    refused = [
        await identity.patch(path, {"emr_location_ids": many}, operator),
        await identity.post("/v1/users", {**_new(user), "company_ids": [company], "emr_location_ids": many}, operator),
    ]
    for answer in refused:
        assert answer.status == 422, answer
        assert [(one["field"], one["code"]) for one in answer.body["errors"]] == [("emr_location_ids", "too_many")]
    assert sorted((await identity.get(path, operator)).body["emr_location_ids"]) == sorted(many[1:])


def _new(user: dict[str, str]) -> dict[str, str]:
    names = ("first_name", "last_name", "email", "user_type", "role")
    return {"user_name": "another", **{name: user[name] for name in names}}
