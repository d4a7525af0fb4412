"""Every role, machine and stranger at every endpoint of identity (quality 3.4), and the views of the matrix (U14)."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from services.identity.api import ENDPOINTS
from shared.access.policy import areas, catalogue
from tests.support.databases import Databases
from tests.support.identity import IdentityStack, same_but_request_id

# Who may call what: the area and level of the contract, then the callers beside the matrix.
ROUTES = {
    "POST /v1/token": "public",
    "POST /v1/revoke": "public",
    "POST /v1/introspect": "public",
    "GET /.well-known/jwks.json": "public",
    "GET /.well-known/oauth-authorization-server": "public",
    "POST /v1/passkeys/options": "public",
    "POST /v1/passkeys/token": "public",
    "POST /v1/oidc/start": "public",
    "POST /v1/oidc/token": "public",
    "POST /v1/password-reset": "public",
    "GET /v1/me": "anyone",
    "GET /v1/me/mfa": "member operator enrolment",
    "POST /v1/me/totp": "member operator enrolment",
    "POST /v1/me/totp/confirm": "member operator enrolment",
    "DELETE /v1/me/totp": "member operator",
    "POST /v1/me/recovery-codes": "member operator",
    "GET /v1/me/passkeys": "member operator",
    "POST /v1/me/passkeys/options": "member operator enrolment",
    "POST /v1/me/passkeys": "member operator enrolment",
    "DELETE /v1/me/passkeys/{id}": "member operator",
    "GET /v1/me/sessions": "member operator",
    "DELETE /v1/me/sessions/{id}": "member operator",
    "POST /v1/me/password": "member operator",
    "GET /v1/companies": "company_constants view operator",
    "POST /v1/companies": "- - operator",
    "GET /v1/companies/{id}": "company_constants view operator",
    "PATCH /v1/companies/{id}": "company_constants edit operator",
    "GET /v1/companies/{id}/locations": "member operator",
    "POST /v1/companies/{id}/locations": "company_constants edit operator",
    "GET /v1/companies/{id}/locations/{location_id}": "member operator",
    "PATCH /v1/companies/{id}/locations/{location_id}": "company_constants edit operator",
    "GET /v1/companies/{id}/locations/{location_id}/access": "users view operator",
    "POST /v1/break-glass": "- - operator",
    "GET /v1/break-glass": "audit_trail view operator",
    "POST /v1/break-glass/{id}/token": "- - operator",
    "DELETE /v1/break-glass/{id}": "users edit operator",
    "GET /v1/users": "users view operator",
    "POST /v1/users": "users add operator",
    "GET /v1/users/{id}": "users view operator",
    "PATCH /v1/users/{id}": "users edit operator",
    "GET /v1/users/{id}/access": "users view operator",
    "DELETE /v1/users/{id}/sessions": "users edit operator",
    "DELETE /v1/users/{id}/mfa": "users edit operator",
    "POST /v1/users/{id}/password-reset": "users edit operator",
    "GET /v1/roles": "users view operator",
    "GET /v1/roles/{key}": "users view operator",
    "GET /v1/clients": "company_constants view operator",
    "POST /v1/clients": "- - operator",
    "DELETE /v1/clients/{id}": "company_constants edit operator",
    "GET /v1/audit": "audit_trail view operator",
    "GET /v1/events": "- - internal",
    "GET /v1/access-versions": "- - internal",
}
GUARDED = [route for route, rule in ROUTES.items() if rule != "public"]
CALLERS = [*catalogue(), "operator", "emr", "internal", "enrolment"]
# What an admitted caller meets: done, a body that lacks everything, nothing there to act on, or oneself, whom one
# administers elsewhere.
ADMITTED = {200, 201, 204, 404, 409, 422}


@dataclass
class World:
    """One company of each service type with a user of each role, and a company that nobody here has."""

    identity: IdentityStack
    tokens: dict[str, str]
    ids: dict[str, dict[str, str]]
    foreign: dict[str, str]


@pytest.fixture(scope="module")
async def world(databases: Databases) -> AsyncIterator[World]:
    async with IdentityStack.fresh(databases) as identity:
        tokens = {"operator": await identity.operator(), "internal": await identity.internal()}
        ids: dict[str, dict[str, str]] = {}
        for service_type, admin in (("revequip", "partner_admin"), ("self_service", "self_service_admin")):
            company = (await identity.company(service_type, service_type))["id"]
            location = (await identity.location(company, "L"))["id"]
            await identity.user(f"other_{admin}", admin, [company])
            for key, role in catalogue().items():
                if service_type == role.service_types[-1]:
                    user = await identity.user(key, key, [company], emr_location_ids=[location])
                    tokens[key] = await identity.token(key)
                    ids[key] = {"id": company, "location_id": location, "user": user["id"], "key": key}
        company = ids["provider"]["id"]
        emr = await identity.client("EMR", [company])
        tokens["emr"] = await identity.client_token(emr["client_id"], emr["client_secret"])
        foreign = (await identity.company("FOREIGN"))["id"]
        stranger = await identity.user("stranger", "provider", [foreign])
        location = (await identity.location(foreign, "F"))["id"]
        other = {"id": foreign, "location_id": location, "user": stranger["id"], "key": "provider"}
        careful = (await identity.company("CAREFUL", mfa_required=True))["id"]
        await identity.user("newcomer", "partner_admin", [careful])
        tokens["enrolment"] = (await identity.sign_in("newcomer"))["access_token"]
        for caller in ("operator", "emr", "internal", "enrolment"):
            ids[caller] = ids["provider"]
        yield World(identity, tokens, ids, other)


def address(route: str, ids: dict[str, str]) -> tuple[str, str]:
    method, path = route.split()
    # Nothing is removed here, and nobody administers his own sign-in.
    nothing = method == "DELETE" or path.endswith("/password-reset")
    key = str(uuid4()) if nothing else ids["user"] if "/users/" in path else ids["id"]
    return method, path.format(id=key, location_id=ids["location_id"], key=ids["key"])


def admitted(route: str, caller: str) -> bool:
    rule = ROUTES[route].split()
    if rule == ["anyone"]:
        return caller != "enrolment"
    if caller in ("operator", "emr", "internal", "enrolment"):
        return caller in rule
    return rule[0] == "member" or (rule[0] != "-" and catalogue()[caller].allows(rule[0], rule[1]))


def test_every_route_is_in_the_table() -> None:
    assert {f"{endpoint.method} {endpoint.path}" for endpoint in ENDPOINTS} == set(ROUTES)
    for endpoint in ENDPOINTS:
        assert endpoint.guard.public == (ROUTES[f"{endpoint.method} {endpoint.path}"] == "public")
        assert endpoint.summary


async def test_nothing_else_is_served(world: World) -> None:
    document = (await world.identity.get("/openapi.json")).body
    served = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert served == set(ROUTES)
    for path in ("/livez", "/readyz", "/metrics", "/docs"):
        assert (await world.identity.get(path)).status == 200


@pytest.mark.parametrize("route", GUARDED)
async def test_who_may_call(world: World, route: str) -> None:
    for caller in CALLERS:
        method, path = address(route, world.ids[caller])
        body: Any = None if method == "GET" else {}
        answer = await world.identity.request(method, path, token=world.tokens[caller], json=body)
        if admitted(route, caller):
            assert answer.status in ADMITTED, f"{caller}: {answer}"
        else:
            assert (answer.status, answer.body["code"]) == (403, "forbidden"), f"{caller}: {answer}"
    anonymous = await world.identity.request(method, path, json=body)
    assert (anonymous.status, anonymous.body["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    "route", [route for route in GUARDED if "{id}" in route and "/clients/" not in route and "/me/" not in route]
)
async def test_d11_foreign_is_absent(world: World, route: str) -> None:
    for caller in catalogue():
        if not admitted(route, caller):
            continue
        absent = {**world.foreign, "id": str(uuid4()), "user": str(uuid4())}
        mixed = {**world.ids[caller], "id": world.foreign["id"], "user": world.foreign["user"]}
        answers = []
        for ids in (world.foreign, absent, mixed):
            method, path = address(route, ids)
            if "/users/" in path:
                path = route.split()[1].format(id=ids["user"])
            body = (
                {"code": "X", "name": "X"}
                if "locations" in path and method == "POST"
                else None
                if method == "GET"
                else {}
            )
            answers.append(await world.identity.request(method, path, token=world.tokens[caller], json=body))
        assert {answer.status for answer in answers} == {404}, (caller, answers)
        assert same_but_request_id(*answers)


class TestViews:
    async def test_u14_the_matrix_as_csv(self, world: World) -> None:
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

    async def test_u14_one_version_for_each_kind_of_service(self, world: World) -> None:
        token = world.tokens["self_service_admin"]
        for service_type, number in (("revserve", 4), ("revequip", 8), ("self_service", 7)):
            roles = (await world.identity.get(f"/v1/roles?service_type={service_type}", token)).body["items"]
            assert len(roles) == number
            assert all(service_type in role["service_types"] for role in roles)
            text = (await world.identity.get(f"/v1/roles?format=csv&service_type={service_type}", token)).raw.decode()
            assert len(text.splitlines()) == 1 + number * len(areas())
        assert (await world.identity.get("/v1/roles?service_type=x", token)).status == 422

    async def test_one_role(self, world: World) -> None:
        token = world.tokens["partner_admin"]
        role = (await world.identity.get("/v1/roles/self_service_admin", token)).body
        assert (role["label"], role["user_type"]) == ("Self Service Admin", "partner")
        assert set(role["assignable_roles"]) == {key for key in catalogue() if key.startswith("self_service")}
        assert role["areas"]["users"] == {"level": "edit", "scope": None, "basis": "stated"}
        assert (await world.identity.get("/v1/roles/janitor", token)).status == 404

    async def test_what_a_user_can_do_and_why(self, world: World) -> None:
        token, ids = world.tokens["partner_admin"], world.ids["front_office_emr_restricted"]
        access = (await world.identity.get(f"/v1/users/{ids['user']}/access", token)).body
        assert [line["area"] for line in access["areas"]] == list(areas())
        line = next(line for line in access["areas"] if line["area"] == "payment_balancing")
        assert (line["level"], line["scope"]) == ("view", "own_emr_locations")
        assert "EMR locations granted" in line["rule"]
        assert [location["id"] for location in access["emr_locations"]] == [ids["location_id"]]
        assert [company["id"] for company in access["companies"]] == [ids["id"]]
        assert access["preview"] is None

    async def test_a_preview_is_a_difference(self, world: World) -> None:
        token, ids = world.tokens["partner_admin"], world.ids["front_office"]
        path = f"/v1/users/{ids['user']}/access"
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
