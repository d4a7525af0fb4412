"""Users: type, role, companies, default, locations, and who may administer whom (U1-U13, D4, D7, D8, D11)."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from shared.access.policy import catalogue
from tests.support.identity import PASSWORD, Answer, IdentityStack, same_but_request_id

_numbers = count(1)


def name(stem: str = "user") -> str:
    return f"{stem}_{next(_numbers)}"


async def company(identity: IdentityStack, service_type: str = "revequip") -> str:
    return str((await identity.company(name("C"), service_type))["id"])


ADMIN = {"revserve": "practice_admin", "revequip": "partner_admin", "self_service": "self_service_admin"}


async def admin_of(identity: IdentityStack, *companies: str, role: str = "partner_admin") -> str:
    """The access token of an administrator of the companies, in the first one."""
    made = await identity.user(name("admin"), role, companies)
    return await identity.token(made["user_name"])


def body(role: str = "front_office", user_type: str = "customer", **fields: Any) -> dict[str, Any]:
    whole = {
        "user_name": name(),
        "first_name": "Ana",
        "last_name": "Diaz",
        "email": "ana@practice.example",
        "user_type": user_type,
        "role": role,
        "password": PASSWORD,
        **fields,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def refused(answer: Answer, field: str, code: str | None = None) -> None:
    assert answer.status == 422, answer
    assert field in [error["field"] for error in answer.body["errors"]], answer
    if code:
        assert code in [error["code"] for error in answer.body["errors"]], answer


class TestTypeAndRole:
    @pytest.mark.parametrize("field", ["user_type", "role", "user_name", "first_name", "last_name", "email"])
    async def test_u1_what_is_required_is_named(self, identity: IdentityStack, field: str) -> None:
        token = await admin_of(identity, await company(identity))
        refused(await identity.post("/v1/users", {**body(), field: None}, token), field)
        refused(await identity.post("/v1/users", {**body(), field: ""}, token), field)
        without = {key: value for key, value in body().items() if key != field}
        refused(await identity.post("/v1/users", without, token), field, "missing")

    async def test_unknown_role_and_type(self, identity: IdentityStack) -> None:
        token = await admin_of(identity, await company(identity))
        refused(await identity.post("/v1/users", body(role="janitor"), token), "role", "unknown_role")
        refused(await identity.post("/v1/users", body(role="operator"), token), "role", "unknown_role")
        refused(await identity.post("/v1/users", body(user_type="operator"), token), "user_type")

    @pytest.mark.parametrize("role", [key for key, known in catalogue().items() if known.user_type])
    async def test_u4_a_role_that_demands_a_partner(self, identity: IdentityStack, role: str) -> None:
        service_type = catalogue()[role].service_types[0]
        mine = await company(identity, service_type)
        for token in (await admin_of(identity, mine, role=ADMIN[service_type]), await identity.operator()):
            new = body(role, "customer", company_ids=[mine])
            refused(await identity.post("/v1/users", new, token), "user_type", "role_requires_type")
            made = await identity.post("/v1/users", body(role, "partner", company_ids=[mine]), token)
            assert made.status == 201, made
            path = f"/v1/users/{made.body['id']}"
            refused(await identity.patch(path, {"user_type": "customer"}, token), "user_type", "role_requires_type")
            assert (await identity.get(path, token)).body == made.body

    async def test_u4_change_of_role(self, identity: IdentityStack) -> None:
        mine = await company(identity)
        token = await admin_of(identity, mine)
        made = (await identity.post("/v1/users", body("front_office", "customer"), token)).body
        change = {"role": "partner_csr"}
        refused(await identity.patch(f"/v1/users/{made['id']}", change, token), "user_type", "role_requires_type")
        both = {"role": "partner_csr", "user_type": "partner"}
        assert (await identity.patch(f"/v1/users/{made['id']}", both, token)).status == 200

    async def test_u4_the_database_refuses_it_too(self, identity: IdentityStack) -> None:
        mine = await company(identity, "self_service")
        made = await identity.user(name(), "self_service_manager", [mine])
        connection = await asyncpg.connect(identity.dsn)
        try:
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await connection.execute("update app_user set user_type = 'customer' where id = $1", made["id"])
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await connection.execute("update app_user set role = 'provider' where id = $1", made["id"])
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await connection.execute("update company set service_type = 'revserve' where id = $1", mine)
        finally:
            await connection.close()

    @pytest.mark.parametrize("role", list(catalogue()))
    @pytest.mark.parametrize("service_type", ["revserve", "revequip", "self_service"])
    async def test_u9_u10_roles_apply_to_service_types(
        self, identity: IdentityStack, role: str, service_type: str
    ) -> None:
        mine = await company(identity, service_type)
        new = body(role, "partner", company_ids=[mine])
        answer = await identity.post("/v1/users", new, await identity.operator())
        if service_type in catalogue()[role].service_types:
            assert answer.status == 201, answer
        else:
            refused(answer, "role", "service_type")

    async def test_d7_one_role_for_every_company_granted(self, identity: IdentityStack) -> None:
        serve, equip = await company(identity, "revserve"), await company(identity, "revequip")
        self_service = await company(identity, "self_service")
        operator = await identity.operator()
        both = await identity.post("/v1/users", body("provider", "partner", company_ids=[serve, equip]), operator)
        assert both.status == 201, both
        mixed = body("provider", "partner", company_ids=[serve, self_service])
        refused(await identity.post("/v1/users", mixed, operator), "role", "service_type")
        path = f"/v1/users/{both.body['id']}"
        refused(await identity.patch(path, {"company_ids": [serve, self_service]}, operator), "role", "service_type")
        refused(await identity.patch(path, {"role": "partner_csr"}, operator), "role", "service_type")


class TestCompanies:
    async def test_u3_u7_a_customer_gets_the_active_company(self, identity: IdentityStack) -> None:
        first, second = await company(identity), await company(identity)
        admin = (await identity.user(name("admin"), "partner_admin", [first, second]))["user_name"]
        token = await identity.token(admin)
        made = await identity.post("/v1/users", body(), token)
        assert (made.status, made.body["company_ids"], made.body["default_company_id"]) == (201, [first], first)
        switched = await identity.post("/v1/users", body(), await identity.token(admin, second))
        assert switched.body["company_ids"] == [second]
        for other in ([second], [first, second], [], [str(uuid4())]):
            refused(await identity.post("/v1/users", body(company_ids=other), token), "company_ids")
        assert (await identity.post("/v1/users", body(company_ids=[first]), token)).status == 201

    async def test_the_operator_names_exactly_one_for_a_customer(self, identity: IdentityStack) -> None:
        first, second = await company(identity), await company(identity)
        operator = await identity.operator()
        for wrong in (..., [], [first, second], [str(uuid4())]):
            refused(await identity.post("/v1/users", body(company_ids=wrong), operator), "company_ids")
        assert (await identity.post("/v1/users", body(company_ids=[first]), operator)).status == 201

    async def test_u5_a_partner_gets_what_the_creator_has(self, identity: IdentityStack) -> None:
        first, second, foreign = [await company(identity) for _ in range(3)]
        token = await admin_of(identity, first, second)
        made = await identity.post("/v1/users", body(user_type="partner", company_ids=[second, first]), token)
        assert (made.status, made.body["default_company_id"]) == (201, second)
        refused(await identity.post("/v1/users", body(user_type="partner"), token), "company_ids")
        refused(await identity.post("/v1/users", body(user_type="partner", company_ids=[]), token), "company_ids")
        answers = [
            await identity.post("/v1/users", body(user_type="partner", company_ids=[first, wrong]), token)
            for wrong in (foreign, str(uuid4()))
        ]
        for answer in answers:
            refused(answer, "company_ids", "unknown_company")
        assert same_but_request_id(*answers)

    async def test_u5_no_company_of_others_is_shown(self, identity: IdentityStack) -> None:
        mine, other = await company(identity), await company(identity)
        token = await admin_of(identity, mine)
        location = (await identity.location(other, "X1"))["id"]
        shared = await identity.user(
            name(), "provider", [other, mine], default_company_id=other, emr_location_ids=[location]
        )
        for seen in (
            (await identity.get(f"/v1/users/{shared['id']}", token)).body,
            next(u for u in (await identity.get("/v1/users", token)).body["items"] if u["id"] == shared["id"]),
        ):
            assert seen["company_ids"] == [mine]
            assert seen["default_company_id"] is None
            assert seen["emr_location_ids"] == []
        access = await identity.get(f"/v1/users/{shared['id']}/access", token)
        assert other not in access.raw.decode()

    async def test_u6_the_default_is_granted(self, identity: IdentityStack) -> None:
        first, second, third = [await company(identity) for _ in range(3)]
        token = await admin_of(identity, first, second, third)
        new = body(user_type="partner", company_ids=[first, second], default_company_id=third)
        refused(await identity.post("/v1/users", new, token), "default_company_id")
        made = (await identity.post("/v1/users", {**new, "default_company_id": second}, token)).body
        path = f"/v1/users/{made['id']}"
        refused(await identity.patch(path, {"company_ids": [first]}, token), "default_company_id", "not_granted")
        refused(await identity.patch(path, {"default_company_id": third}, token), "default_company_id")
        refused(await identity.patch(path, {"default_company_id": None}, token), "default_company_id")
        assert (await identity.get(path, token)).body == made
        change = {"company_ids": [first], "default_company_id": first}
        assert (await identity.patch(path, change, token)).body["default_company_id"] == first
        assert (await identity.sign_in(made["user_name"]))["company_id"] == first

    async def test_u13_an_account_that_reaches_further_is_the_operators(self, identity: IdentityStack) -> None:
        mine, other = await company(identity), await company(identity)
        token = await admin_of(identity, mine)
        shared = await identity.user(name(), "provider", [other, mine])
        path = f"/v1/users/{shared['id']}"
        for change in (
            {"password": "another good password"},
            {"active": False},
            {"role": "front_office"},
            {"first_name": "Eve"},
            {"user_name": name("eve")},
        ):
            assert (await identity.patch(path, change, token)).status == 403
        refused(await identity.patch(path, {"default_company_id": other}, token), "default_company_id")
        leave = await identity.patch(path, {"company_ids": []}, token)
        assert (leave.status, leave.body["company_ids"]) == (200, [])
        assert (await identity.get(path, token)).status == 404
        whole = (await identity.get(path, await identity.operator())).body
        assert whole["company_ids"] == [other]

    async def test_case_81_locations_belong_to_granted_companies(self, identity: IdentityStack) -> None:
        mine, other = await company(identity), await company(identity)
        token = await admin_of(identity, mine)
        good, foreign = (await identity.location(mine, "A"))["id"], (await identity.location(other, "B"))["id"]
        restricted = "front_office_emr_restricted"
        answers = [
            await identity.post("/v1/users", body(restricted, emr_location_ids=[good, wrong]), token)
            for wrong in (foreign, str(uuid4()))
        ]
        for answer in answers:
            refused(answer, "emr_location_ids", "unknown_location")
        assert same_but_request_id(*answers)
        made = await identity.post("/v1/users", body(restricted, emr_location_ids=[good]), token)
        assert (made.status, made.body["emr_location_ids"]) == (201, [good])
        path = f"/v1/users/{made.body['id']}"
        refused(await identity.patch(path, {"emr_location_ids": [foreign]}, token), "emr_location_ids")
        assert (await identity.patch(path, {"emr_location_ids": []}, token)).body["emr_location_ids"] == []


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


class TestFields:
    @pytest.mark.parametrize(
        ("password", "code"),
        [
            ("short77", "length"),
            ("x" * 257, "length"),
            ("e\u0301" * 600, "length"),
            ("ab\u0000cdefgh", "invalid_text"),
            ("password1", "too_common"),
            ("PASSWORD1", "too_common"),
            ("\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44", "too_common"),
        ],
    )
    async def test_passwords_refused(self, identity: IdentityStack, password: str, code: str) -> None:
        token = await admin_of(identity, await company(identity))
        answer = await identity.post("/v1/users", body(password=password), token)
        refused(answer, "password", code)
        assert password not in answer.raw.decode()
        named = body(user_name="some.long.name")
        refused(await identity.post("/v1/users", {**named, "password": "Some.Long.Name"}, token), "password")

    @pytest.mark.parametrize(
        "password", ["  leading and trailing  ", "x" * 256, "e\u0301" * 200, "caf\u00e9 au lait", "12345 passwords"]
    )
    async def test_passwords_kept_as_they_are(self, identity: IdentityStack, password: str) -> None:
        token = await admin_of(identity, await company(identity))
        new = body(password=password)
        assert (await identity.post("/v1/users", new, token)).status == 201
        assert await identity.sign_in(new["user_name"], password)
        decomposed = password.replace("\u00e9", "e\u0301")
        assert await identity.sign_in(new["user_name"], decomposed)
        stripped = await identity.ask_token(
            grant_type="password", username=new["user_name"], password=password.strip() + "!"
        )
        assert stripped.status == 400

    @pytest.mark.parametrize(
        "wrong",
        ["", "with space", "tab\t", "\u0430dmin", "adm\u200bin", "x" * 101, "caf\u00e9", "a/b", "a\u0000b", 7],
    )
    async def test_case_82_user_names_that_are_refused(self, identity: IdentityStack, wrong: Any) -> None:
        token = await admin_of(identity, await company(identity))
        refused(await identity.post("/v1/users", body(user_name=wrong), token), "user_name")

    async def test_user_names_are_unique_whatever_their_case(self, identity: IdentityStack) -> None:
        token = await admin_of(identity, await company(identity))
        stranger = await admin_of(identity, await company(identity))
        first = body(user_name=name("Maria.Lopez"))
        assert (await identity.post("/v1/users", first, token)).status == 201
        for taken in (first["user_name"], first["user_name"].upper(), "OPERATOR"):
            for creator in (token, stranger):
                answer = await identity.post("/v1/users", body(user_name=taken), creator)
                refused(answer, "user_name", "taken")
        assert await identity.sign_in(first["user_name"].upper())
        other = (await identity.post("/v1/users", body(), token)).body
        answer = await identity.patch(f"/v1/users/{other['id']}", {"user_name": first["user_name"].upper()}, token)
        refused(answer, "user_name", "taken")

    @pytest.mark.parametrize(
        "email", ["no-at", "a@b@c", "a@", "@b", "a b@c.d", "\u0430@b.example", "x" * 250 + "@b.cd"]
    )
    async def test_emails_refused(self, identity: IdentityStack, email: str) -> None:
        token = await admin_of(identity, await company(identity))
        refused(await identity.post("/v1/users", body(email=email), token), "email")

    async def test_a_patch_changes_only_what_is_given(self, identity: IdentityStack) -> None:
        token = await admin_of(identity, await company(identity))
        made = (await identity.post("/v1/users", body(), token)).body
        path = f"/v1/users/{made['id']}"
        changed = await identity.patch(path, {"last_name": "Ruiz"}, token)
        assert changed.body == {**made, "last_name": "Ruiz", "version": 2}
        assert (await identity.get(path, token)).body == changed.body
        assert (await identity.patch(path, {}, token)).body == changed.body
        assert (await identity.patch(path, {"last_name": "Ruiz"}, token)).body == changed.body
        for field in ("last_name", "email", "role", "password", "company_ids", "emr_location_ids", "active"):
            refused(await identity.patch(path, {field: None}, token), field, "null")

    @pytest.mark.parametrize("field", ["id", "version", "authz_version", "password_hash", "created_by", "company_id"])
    async def test_nothing_else_can_be_assigned(self, identity: IdentityStack, field: str) -> None:
        token = await admin_of(identity, await company(identity))
        refused(await identity.post("/v1/users", body(**{field: "1"}), token), field, "extra_forbidden")
        made = (await identity.post("/v1/users", body(), token)).body
        refused(await identity.patch(f"/v1/users/{made['id']}", {field: "1"}, token), field, "extra_forbidden")

    async def test_lists_come_in_pages(self, identity: IdentityStack) -> None:
        token = await admin_of(identity, await company(identity))
        made = [(await identity.post("/v1/users", body(), token)).body["id"] for _ in range(5)]
        seen: list[str] = []
        cursor = ""
        while True:
            page = (await identity.get(f"/v1/users?limit=2{cursor}", token)).body
            assert len(page["items"]) <= 2
            seen += [user["id"] for user in page["items"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert seen[1:] == made
