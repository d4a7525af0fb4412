"""The preview of a role says what the change itself would be answered: for whom, by whom, and when it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from shared.access.policy import catalogue
from tests.support.databases import Databases
from tests.support.identity import IdentityStack


@dataclass
class World:
    """Companies with administrators and others, who share one, reach into another, or are the only one there."""

    identity: IdentityStack
    users: dict[str, dict[str, Any]]

    async def preview(self, editor: str, user: str, role: str) -> Any:
        path = f"/v1/users/{self.users[user]['id']}/access?role={role}"
        answer = await self.identity.get(path, await self._token(editor))
        assert answer.status == 200, answer
        return answer.body["preview"]

    async def change(self, editor: str, user: str, role: str) -> Any:
        """The answer to the change itself, which is taken back."""
        path, operator = f"/v1/users/{self.users[user]['id']}", await self.identity.operator()
        answer = await self.identity.patch(path, {"role": role}, await self._token(editor))
        if answer.status == 200:
            assert (await self.identity.patch(path, {"role": self.users[user]["role"]}, operator)).status == 200
        return answer

    async def _token(self, editor: str) -> str:
        identity = self.identity
        return await (identity.operator() if editor == "operator" else identity.token(editor, fresh=True))


@pytest.fixture(scope="module")
async def world(databases: Databases) -> Any:
    async with IdentityStack.fresh(databases) as identity:
        first, second, third = [(await identity.company(code))["id"] for code in ("ONE", "TWO", "THREE")]
        other = (await identity.company("RS", "revserve"))["id"]
        users = {
            "practice": await identity.user("practice", "practice_admin", [first]),
            "partner": await identity.user("partner", "partner_admin", [first]),
            "desk": await identity.user("desk", "front_office", [first]),
            "poster": await identity.user("poster", "partner_payment_poster", [first]),
            "both": await identity.user("both", "partner_payment_poster", [first, second]),
            "mixed": await identity.user("mixed", "front_office", [first, other]),
            "second": await identity.user("second", "partner_admin", [second]),
            "reaching": await identity.user("reaching", "practice_admin", [first, third]),
            "alone": await identity.user("alone", "practice_admin", [other]),
        }
        yield World(identity, users)


@pytest.mark.parametrize("editor", ["operator", "practice", "partner"])
@pytest.mark.parametrize("user", ["practice", "partner", "desk", "poster", "both", "mixed"])
async def test_it_is_refused_exactly_when_the_change_is(world: World, editor: str, user: str) -> None:
    outcomes = set()
    for role in catalogue():
        preview = await world.preview(editor, user, role)
        answer = await world.change(editor, user, role)
        assert bool(preview["refusals"]) == (answer.status != 200), (role, preview["refusals"], str(answer))
        assert (preview["refused"] is None) == (answer.status == 200)
        if answer.status != 200:
            assert preview["refused"] == answer.body["detail"], role
        outcomes.add(answer.status)
    assert outcomes - {200}


async def test_the_last_administrator_is_told_of(world: World) -> None:
    preview = await world.preview("operator", "alone", "front_office")
    assert [(one["field"], one["code"]) for one in preview["refusals"]] == [("role", "last_administrator")]
    assert (await world.change("operator", "alone", "front_office")).status == 422


async def test_companies_that_the_editor_does_not_have_decide_nothing_that_he_is_told(world: World) -> None:
    """`mixed` has one of another service type, which would refuse a role of this one; of another company `reaching` is
    the last administrator."""
    refusals = (await world.preview("partner", "reaching", "front_office"))["refusals"]
    assert [one["code"] for one in refusals] == ["forbidden"]
    refusals = (await world.preview("partner", "mixed", "partner_payment_poster"))["refusals"]
    assert [one["code"] for one in refusals] == ["forbidden"]
    told = (await world.preview("operator", "mixed", "partner_payment_poster"))["refusals"]
    assert [one["code"] for one in told] == ["service_type"]
