"""The matrix as identity shows it, and what it means for one user (U14). Who may call what: tests/access."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from shared.access.policy import BREAK_GLASS, areas, catalogue
from tests.support.databases import Databases
from tests.support.identity import IdentityStack


@dataclass
class World:
    """A company with an administrator who looks at two users, one of them with a location; and another kind's."""

    identity: IdentityStack
    tokens: dict[str, str]
    company: str
    location: str
    users: dict[str, str]


@pytest.fixture(scope="module")
async def world(databases: Databases) -> AsyncIterator[World]:
    async with IdentityStack.fresh(databases) as identity:
        company = (await identity.company("revequip", "revequip"))["id"]
        location = (await identity.location(company, "L"))["id"]
        users = {
            key: (await identity.user(key, key, [company], emr_location_ids=[location]))["id"]
            for key in ("partner_admin", "front_office", "front_office_emr_restricted")
        }
        other = (await identity.company("self", "self_service"))["id"]
        await identity.user("self_service_admin", "self_service_admin", [other])
        tokens = {name: await identity.token(name) for name in ("partner_admin", "self_service_admin")}
        yield World(identity, tokens, company, location, users)


async def test_u14_the_matrix_as_csv(world: World) -> None:
    token = world.tokens["partner_admin"]
    by_header = await world.identity.get("/v1/roles", token, headers={"Accept": "text/csv"})
    by_parameter = await world.identity.get("/v1/roles?format=csv", token)
    assert by_header.raw == by_parameter.raw
    assert by_header.headers["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(by_header.raw.decode())))
    assert [(row["area"], row["role"]) for row in rows] == [(area, key) for area in areas() for key in catalogue()]
    for row in rows:
        grant = catalogue()[row["role"]].grant(row["area"])
        assert (row["level"], row["scope"], row["basis"]) == (grant.level, grant.scope or "", grant.basis)


async def test_u14_one_version_for_each_kind_of_service(world: World) -> None:
    token = world.tokens["self_service_admin"]
    for service_type, number in (("revserve", 4), ("revequip", 8), ("self_service", 7)):
        roles = (await world.identity.get(f"/v1/roles?service_type={service_type}", token)).body["items"]
        assert len(roles) == number
        assert all(service_type in role["service_types"] for role in roles)
        text = (await world.identity.get(f"/v1/roles?format=csv&service_type={service_type}", token)).raw.decode()
        assert len(text.splitlines()) == 1 + number * len(areas())
    assert (await world.identity.get("/v1/roles?service_type=x", token)).status == 422


async def test_the_catalogue_is_paged_as_every_list(world: World) -> None:
    token, found, cursor = world.tokens["partner_admin"], [], ""
    while True:
        page = (await world.identity.get(f"/v1/roles?limit=4{cursor}", token)).body
        found += [role["key"] for role in page["items"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert found == list(catalogue())
    whole = (await world.identity.get("/v1/roles?limit=15", token)).body
    assert (len(whole["items"]), whole["next"]) == (15, None)
    for wrong in ("limit=0", "limit=501", "cursor=janitor", "service_type=self_service&cursor=provider"):
        answer = await world.identity.get(f"/v1/roles?{wrong}", token)
        assert (answer.status, answer.body["errors"][0]["field"]) == (422, wrong.rpartition("&")[2].partition("=")[0])


async def test_one_role(world: World) -> None:
    token = world.tokens["partner_admin"]
    role = (await world.identity.get("/v1/roles/self_service_admin", token)).body
    assert (role["label"], role["user_type"]) == ("Self Service Admin", "partner")
    assert set(role["assignable_roles"]) == {key for key in catalogue() if key.startswith("self_service")}
    assert role["areas"]["users"] == {"level": "edit", "scope": None, "basis": "stated"}


@pytest.mark.parametrize("role", [BREAK_GLASS, "operator", "emr", "internal", "mfa_enrolment", "janitor"])
async def test_what_is_no_role_of_the_catalogue_is_given_to_nobody(world: World, role: str) -> None:
    operator = await world.identity.operator()
    path = f"/v1/users/{world.users['front_office']}"
    for answer in (
        await world.identity.get(f"{path}/access?role={role}", operator),
        await world.identity.patch(path, {"role": role}, operator),
    ):
        assert answer.status == 422, answer
        assert [(one["field"], one["code"]) for one in answer.body["errors"]] == [("role", "unknown_role")]
    assert (await world.identity.get(f"/v1/roles/{role}", operator)).status == 404


async def test_what_a_user_can_do_and_why(world: World) -> None:
    token, user = world.tokens["partner_admin"], world.users["front_office_emr_restricted"]
    access = (await world.identity.get(f"/v1/users/{user}/access", token)).body
    assert [line["area"] for line in access["areas"]] == list(areas())
    line = next(line for line in access["areas"] if line["area"] == "payment_balancing")
    assert (line["level"], line["scope"]) == ("view", "own_emr_locations")
    assert "EMR locations granted" in line["rule"]
    assert [location["id"] for location in access["emr_locations"]] == [world.location]
    assert [company["id"] for company in access["companies"]] == [world.company]
    assert access["preview"] is None


async def test_a_preview_is_a_difference(world: World) -> None:
    token, user = world.tokens["partner_admin"], world.users["front_office"]
    path = f"/v1/users/{user}/access"
    preview = (await world.identity.get(f"{path}?role=provider", token)).body["preview"]
    before, after = catalogue()["front_office"], catalogue()["provider"]
    changed = [area for area in areas() if before.grant(area).level != after.grant(area).level]
    assert [line["area"] for line in preview["differences"]] == changed
    assert changed == ["active_charges", "delayed_charges", "charges_by_patient"]
    assert preview["refused"] is None
    refused = (await world.identity.get(f"{path}?role=partner_csr", token)).body["preview"]["refused"]
    assert "partner" in refused
    assert (await world.identity.get(f"{path}?role=janitor", token)).status == 422
    same = (await world.identity.get(f"{path}?role=front_office", token)).body["preview"]
    assert same["differences"] == []
