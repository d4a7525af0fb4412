"""Users: type, role, and the fields that are theirs (U1, U4, U9, U10, D7)."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from shared.access.policy import catalogue
from tests.support.identity import IdentityStack
from tests.support.identity_users import ADMIN, admin_of, body, company, name, refused


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
