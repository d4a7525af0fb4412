"""Users: who may administer whom (U11, U12, D4, D8, D11)."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from shared.access.policy import catalogue
from tests.support.identity import IdentityStack, same_but_request_id
from tests.support.identity_users import ADMIN, admin_of, body, company, name, refused


class TestAuthority:
    @pytest.mark.parametrize(("service_type", "role"), list(ADMIN.items()))
    async def test_d4_only_assignable_roles(self, identity: IdentityStack, service_type: str, role: str) -> None:
        mine = await company(identity, service_type)
        token = await admin_of(identity, mine, role=role)
        for key, known in catalogue().items():
            answer = await identity.post("/v1/users", body(key, "partner", company_ids=[mine]), token)
            if key not in catalogue()[role].assignable:
                assert answer.status == 403, (key, answer)
            elif service_type in known.service_types:
                assert answer.status == 201, (key, answer)
            else:
                refused(answer, "role", "service_type")

    @pytest.mark.parametrize("role", list(catalogue()))
    async def test_u11_exactly_three_roles_create_users(self, identity: IdentityStack, role: str) -> None:
        mine = await company(identity, catalogue()[role].service_types[-1])
        user = await identity.user(name(), role, [mine])
        token = await identity.token(user["user_name"])
        new = body("self_service_manager" if role.startswith("self") else "provider", "partner", company_ids=[mine])
        answer = await identity.post("/v1/users", new, token)
        assert answer.status == (201 if role in ADMIN.values() else 403), answer

    async def test_d4_nobody_changes_his_own_role(self, identity: IdentityStack) -> None:
        mine = await company(identity)
        user = await identity.user(name("admin"), "partner_admin", [mine])
        await identity.user(name("admin"), "partner_admin", [mine])
        token = await identity.token(user["user_name"])
        path = f"/v1/users/{user['id']}"
        assert (await identity.patch(path, {"role": "practice_admin"}, token)).status == 403
        assert (await identity.patch(path, {"role": "partner_admin", "first_name": "Me"}, token)).status == 200

    async def test_a_higher_role_is_out_of_reach(self, identity: IdentityStack) -> None:
        mine = await company(identity)
        higher = await identity.user(name(), "partner_admin", [mine])
        token = await admin_of(identity, mine, role="practice_admin")
        for change in ({"password": "another good password"}, {"role": "front_office"}, {"active": False}):
            assert (await identity.patch(f"/v1/users/{higher['id']}", change, token)).status == 403

    @pytest.mark.parametrize(
        ("field", "change"),
        [
            ("active", {"active": False}),
            ("role", {"role": "front_office"}),
            ("company_ids", {"company_ids": ["other"], "default_company_id": "other"}),
        ],
    )
    async def test_d4_the_last_administrator_stays(
        self, identity: IdentityStack, field: str, change: dict[str, Any]
    ) -> None:
        mine, other = await company(identity), await company(identity)
        last = await identity.user(name("admin"), "practice_admin", [mine, other])
        await identity.user(name("admin"), "practice_admin", [other])
        await identity.user(name("gone"), "practice_admin", [mine], active=False)
        operator, path = await identity.operator(), f"/v1/users/{last['id']}"
        change = {
            key: [other] if value == ["other"] else other if value == "other" else value
            for key, value in change.items()
        }
        refused(await identity.patch(path, change, operator), field, "last_administrator")
        await identity.user(name("admin"), "practice_admin", [mine])
        assert (await identity.patch(path, change, operator)).status == 200

    async def test_d4_two_administrators_cannot_remove_each_other_at_once(self, identity: IdentityStack) -> None:
        operator = await identity.operator()
        await asyncio.gather(*(identity.get("/v1/companies", operator) for _ in range(20)))  # Connections are open.
        for _ in range(5):
            mine = await company(identity)
            pair = [await identity.user(name("admin"), "practice_admin", [mine]) for _ in range(2)]
            tokens = [await identity.token(user["user_name"]) for user in pair]
            answers = await asyncio.gather(
                *(
                    identity.patch(f"/v1/users/{victim['id']}", {"active": False}, token)
                    for victim, token in zip(pair, reversed(tokens), strict=True)
                )
            )
            # The second is refused because it would leave nobody, or because its author is no longer active.
            assert sorted(answer.status for answer in answers) in ([200, 401], [200, 422]), answers

    async def test_the_operator_is_nobodys_to_change(self, identity: IdentityStack) -> None:
        operator = await identity.operator()
        path = f"/v1/users/{(await identity.get('/v1/me', operator)).body['id']}"
        assert (await identity.patch(path, {"active": False}, operator)).status == 404
        assert (await identity.get(path, operator)).status == 404

    async def test_d8_only_the_operator_sets_an_affiliation(self, identity: IdentityStack) -> None:
        mine = await company(identity)
        token = await admin_of(identity, mine)
        for affiliation in ("rcm", "integration"):
            assert (await identity.post("/v1/users", body(affiliation=affiliation), token)).status == 403
        made = (await identity.post("/v1/users", body(affiliation="practice"), token)).body
        path = f"/v1/users/{made['id']}"
        assert (await identity.patch(path, {"affiliation": "rcm"}, token)).status == 403
        rcm = await identity.patch(path, {"affiliation": "rcm"}, await identity.operator())
        assert (rcm.status, rcm.body["affiliation"]) == (200, "rcm")
        assert (await identity.patch(path, {"affiliation": "practice"}, token)).status == 403
        assert (await identity.patch(path, {"first_name": "Bo", "affiliation": "rcm"}, token)).status == 200

    async def test_d11_a_foreign_user_is_an_absent_one(self, identity: IdentityStack) -> None:
        token = await admin_of(identity, await company(identity))
        foreign = await identity.user(name(), "provider", [await company(identity)])
        operator_id = (await identity.get("/v1/me", await identity.operator())).body["id"]
        for path, method in (("", "GET"), ("", "PATCH"), ("/access", "GET")):
            answers = [
                await identity.request(
                    method, f"/v1/users/{key}{path}", token=token, json={"active": False} if method == "PATCH" else None
                )
                for key in (foreign["id"], str(uuid4()), operator_id, "no-id")
            ]
            assert {answer.status for answer in answers} == {404}
            assert same_but_request_id(*answers)
        listed = (await identity.get("/v1/users?limit=500", token)).body["items"]
        assert foreign["id"] not in [user["id"] for user in listed]

    async def test_u12_a_new_role_counts_from_the_next_token_on(self, identity: IdentityStack) -> None:
        mine = await company(identity)
        token = await admin_of(identity, mine)
        other = await identity.user(name("admin"), "practice_admin", [mine])
        signed_in = await identity.sign_in(other["user_name"])
        old = signed_in["access_token"]
        assert (await identity.get("/v1/users", old)).status == 200
        await identity.patch(f"/v1/users/{other['id']}", {"role": "front_office"}, token)
        stale = await identity.get("/v1/users", old)
        assert (stale.status, stale.body["code"]) == (401, "token_stale")
        new = await identity.ask_token(grant_type="refresh_token", refresh_token=signed_in["refresh_token"])
        assert (await identity.get("/v1/users", new.body["access_token"])).status == 403
