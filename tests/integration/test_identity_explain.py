"""`/access`: what a user sees and why, the preview of a change, and who can see a location. Each line is compared with
what the guards of every route of all services say, because both come from one policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.identity.api import ENDPOINTS as IDENTITY
from services.ledger.api import ENDPOINTS as LEDGER
from services.reporting.api import ENDPOINTS as REPORTING
from shared.access.policy import areas, catalogue
from shared.access.principal import Principal
from tests.support.databases import Databases
from tests.support.identity import IdentityStack, same_but_request_id
from tests.support.ledger import LedgerStack
from tests.support.tokens import TokenMaker

ROLES = list(catalogue())
_PLAIN = [one for one in LEDGER if one.method == "GET" and "{" not in one.path and "?" not in one.path]


@dataclass
class World:
    """One company of each service type, a user of each role with one of two locations granted."""

    identity: IdentityStack
    ledger: LedgerStack
    users: dict[str, dict[str, Any]]
    company: dict[str, str]
    granted: dict[str, str]
    other: dict[str, str]

    async def access(self, role: str, query: str = "") -> Any:
        path = f"/v1/users/{self.users[role]['id']}/access{query}"
        answer = await self.identity.get(path, await self.identity.operator())
        assert answer.status == 200, answer
        return answer.body


@pytest.fixture(scope="module")
async def world(databases: Databases) -> AsyncIterator[World]:
    async with IdentityStack.fresh(databases) as identity, LedgerStack.fresh(databases) as ledger:
        made = World(identity, ledger, {}, {}, {}, {})
        for kind in ("revequip", "self_service"):
            made.company[kind] = (await identity.company(kind, kind))["id"]
            made.granted[kind] = (await identity.location(made.company[kind], "A"))["id"]
            made.other[kind] = (await identity.location(made.company[kind], "B"))["id"]
        for key, role in catalogue().items():
            kind = role.service_types[-1]
            made.users[key] = await identity.user(key, key, [made.company[kind]], emr_location_ids=[made.granted[kind]])
        yield made


def gives(line: dict[str, Any], level: str) -> bool:
    """What a line says, read as its reader would: none < view < add < edit, and `partial` as D9 has it."""
    rank = {"none": 0, "view": 1, "partial": 1, "add": 2, "edit": 3}
    return line["level"] in ("partial", "edit") if level == "partial" else rank[line["level"]] >= rank[level]


def principal(role: str) -> Principal:
    return Principal(uuid4(), "c", "u", "partner", role, "practice", uuid4(), "*", 1, str(uuid4()), 1 << 33)


@pytest.mark.parametrize("role", ROLES)
async def test_every_line_is_what_every_guard_says(world: World, role: str) -> None:
    """A guard by areas admits exactly those to whom the explanation gives one of its cells."""
    lines = {line["area"]: line for line in (await world.access(role))["areas"]}
    assert tuple(lines) == areas()
    compared = 0
    for endpoint in (*IDENTITY, *LEDGER, *REPORTING):
        guard = endpoint.guard
        if guard.any_of and not guard.member and not guard.authenticated:
            expected = any(gives(lines[area], level) for area, level in guard.any_of)
            assert guard.admits(principal(role)) == expected, endpoint.path
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("role", ROLES)
async def test_every_line_is_what_the_services_answer(world: World, role: str) -> None:
    """The same by HTTP: the ledger's lists, with a token of that role."""
    lines = {line["area"]: line for line in (await world.access(role))["areas"]}
    company = UUID(world.company[catalogue()[role].service_types[-1]])
    tokens: TokenMaker = world.ledger.tokens
    for endpoint in _PLAIN:
        if not endpoint.guard.any_of:
            continue
        answer = await world.ledger.request("GET", endpoint.path, tokens.token(role, company))
        possible = any(gives(lines[area], level) for area, level in endpoint.guard.any_of)
        # Beside a guard some lists look closer: at what is asked for, or at the scope.
        assert answer.status != 403 or not possible or endpoint.path in _LOOK_CLOSER, (endpoint.path, answer)
        assert answer.status == 403 or possible, (endpoint.path, answer)


_LOOK_CLOSER = {"/v1/charges", "/v1/payments", "/v1/control-totals", "/v1/reconciliation", "/v1/claims"}


async def test_reasons_for_getting_in_or_not(world: World, databases: Databases) -> None:
    identity = world.identity
    operator = await identity.operator()
    company = (await identity.company("WHY"))["id"]
    user = await identity.user("why", "partner_admin", [company])
    await identity.user("why2", "partner_admin", [company])
    path = f"/v1/users/{user['id']}/access"

    async def reasons() -> tuple[bool, list[str]]:
        (line,) = (await identity.get(path, operator)).body["companies"]
        return line["admitted"], [reason["text"] for reason in line["reasons"] if not reason["holds"]]

    assert await reasons() == (True, [])
    await identity.patch(f"/v1/companies/{company}", {"mfa_required": True}, operator)
    admitted, (text,) = await reasons()
    assert not admitted
    assert "second factor" in text
    assert (await identity.sign_in("why"))["scope"] == "mfa_enrolment"
    await identity.patch(f"/v1/companies/{company}", {"mfa_required": False, "active": False}, operator)
    assert await reasons() == (False, ["The company is closed"])
    assert (
        await identity.ask_token(grant_type="password", username="why", password="correct horse battery")
    ).status == 400
    await identity.patch(f"/v1/companies/{company}", {"active": True}, operator)
    await identity.patch(f"/v1/users/{user['id']}", {"active": False}, operator)
    assert await reasons() == (False, ["The user is inactive and cannot sign in"])


@pytest.mark.parametrize("role", ROLES)
async def test_a_preview_is_the_difference_of_two_explanations(world: World, role: str) -> None:
    own = {line["area"]: (line["level"], line["scope"]) for line in (await world.access(role))["areas"]}
    for other in ROLES:
        preview = (await world.access(role, f"?role={other}"))["preview"]
        theirs = {line["area"]: (line["level"], line["scope"]) for line in (await world.access(other))["areas"]}
        named = [*preview["gained"], *preview["lost"], *preview["changed"], *preview["unchanged"]]
        assert sorted(named) == sorted(areas())
        differing = {
            area for area in areas() if own[area] != theirs[area] and {own[area][0], theirs[area][0]} != {"none"}
        }
        assert set(named) - set(preview["unchanged"]) == differing
        for area in preview["gained"]:
            assert theirs[area][0] != "none"
        for area in preview["lost"]:
            assert own[area][0] != "none"
        back = (await world.access(other, f"?role={role}"))["preview"]
        assert (set(back["gained"]), set(back["lost"])) == (set(preview["lost"]), set(preview["gained"]))
        codes = {refusal["code"] for refusal in preview["refusals"]}
        change = {"role": other}
        answer = await world.identity.patch(
            f"/v1/users/{world.users[role]['id']}", change, await world.identity.operator()
        )
        if answer.status == 200:
            await world.identity.patch(
                f"/v1/users/{world.users[role]['id']}", {"role": role}, await world.identity.operator()
            )
        assert (answer.status == 200) == (not codes) or "last_administrator" in answer.raw.decode(), (other, preview)


async def test_each_refusal_is_named(world: World) -> None:
    """A Customer who should get a Self-Service role in a RevEquip company: the type (U4) and the service type (U9)."""
    preview = (await world.access("provider", "?role=self_service_admin"))["preview"]
    assert {(one["field"], one["code"]) for one in preview["refusals"]} == {
        ("user_type", "role_requires_type"),
        ("role", "service_type"),
    }


async def test_who_can_see_a_location(world: World) -> None:
    operator = await world.identity.operator()
    company, granted, other = (where["revequip"] for where in (world.company, world.granted, world.other))
    for location in (granted, other):
        path = f"/v1/companies/{company}/locations/{location}/access"
        found: dict[str, Any] = {}
        cursor = ""
        while True:
            page = (await world.identity.get(f"{path}?limit=3{cursor}", operator)).body
            found |= {one["role"]: {line["area"]: line for line in one["areas"]} for one in page["items"]}
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert set(found) == {key for key, role in catalogue().items() if "revequip" in role.service_types}
        restricted = found["front_office_emr_restricted"]
        assert ("payment_balancing" in restricted) == (location == granted)
        assert "patients" in restricted  # R7: the restriction is on Payment Balancing only.
        assert "payment_balancing" in found["partner_admin"]
        assert "payment_balancing" not in found["front_office"]
        if location == granted:
            assert "R1" in restricted["payment_balancing"]["requirements"]


async def test_a_foreign_location_is_absent(world: World) -> None:
    admin = await world.identity.token("partner_admin")
    mine, foreign = world.company["revequip"], world.company["self_service"]
    answers = [
        await world.identity.get(f"/v1/companies/{company}/locations/{location}/access", admin)
        for company, location in (
            (foreign, world.granted["self_service"]),
            (mine, world.granted["self_service"]),
            (mine, uuid4()),
            (uuid4(), world.granted["revequip"]),
        )
    ]
    assert {answer.status for answer in answers} == {404}
    assert same_but_request_id(*answers)
