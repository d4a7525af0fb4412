"""Changes of ways to sign in: only soon after a sign-in, one's own and those of others; and what ends with them (ASVS
5.0 6.3.3, 7.2.4, 7.4.3, 7.5.1, 7.5.2)."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest

from shared.access.policy import MFA_ENROLMENT
from tests.support.authenticator import Authenticator
from tests.support.databases import Databases
from tests.support.identity import OPERATOR_PASSWORD, Answer, IdentityStack
from tests.support.second_factor import App, enrol, grant, renew, run_sql

_numbers = count(1)


async def company(identity: IdentityStack) -> str:
    return str((await identity.company(f"C{next(_numbers)}"))["id"])


async def somebody(identity: IdentityStack, role: str = "provider", where: str | None = None) -> dict[str, Any]:
    return await identity.user(f"u{next(_numbers)}", role, [where or await company(identity)])


async def a_while_later(identity: IdentityStack, user_name: str) -> None:
    """Sixteen minutes after whatever sign-ins there were."""
    await run_sql(
        identity,
        "update refresh_token set started_at = started_at - interval '16 minutes'"
        " where user_id = (select id from app_user where user_name = $1)",
        user_name,
    )


class TestOfOthers:
    async def test_take_a_fresh_sign_in(self, identity: IdentityStack) -> None:
        where = await company(identity)
        admin, user = await somebody(identity, "partner_admin", where), await somebody(identity, "provider", where)
        old = await identity.token(admin["user_name"])
        await a_while_later(identity, admin["user_name"])
        path = f"/v1/users/{user['id']}"
        acts: list[tuple[str, str, Any]] = [
            ("PATCH", path, {"email": "another@practice.example"}),
            ("PATCH", path, {"user_name": f"u{next(_numbers)}"}),
            ("PATCH", path, {"password": "another good password"}),
            ("PATCH", f"/v1/users/{admin['id']}", {"email": "mine@practice.example"}),
            ("DELETE", f"{path}/mfa", None),
            ("POST", f"{path}/password-reset", None),
            ("PATCH", f"/v1/companies/{where}", {"mfa_required": True}),
        ]
        before = await run_sql(identity, "select u::text, c::text from app_user u, company c order by 1, 2")
        for method, where_to, body in acts:
            refused = await identity.request(method, where_to, token=old, json=body)
            assert (refused.status, refused.body["code"]) == (403, "sign_in_again"), (method, where_to, body)
        assert await run_sql(identity, "select u::text, c::text from app_user u, company c order by 1, 2") == before
        fresh = await identity.token(admin["user_name"], fresh=True)
        assert (await identity.request(*acts[0][:2], token=fresh, json=acts[0][2])).status == 200

    async def test_nothing_else_does(self, identity: IdentityStack) -> None:
        """Names and rights are changed with any open session, and thieves are thrown out."""
        where = await company(identity)
        admin, user = await somebody(identity, "partner_admin", where), await somebody(identity, "provider", where)
        old = await identity.token(admin["user_name"])
        await a_while_later(identity, admin["user_name"])
        path = f"/v1/users/{user['id']}"
        same = {"email": user["email"], "user_name": user["user_name"], "first_name": "Other", "role": "front_office"}
        assert (await identity.patch(path, same, old)).status == 200
        assert (await identity.request("DELETE", f"{path}/sessions", token=old)).status == 204

    async def test_the_operators_too(self, databases: Databases) -> None:
        async with IdentityStack.fresh(databases) as own:
            user = await own.user("u", "provider", [(await own.company("C"))["id"]])
            token = await own.operator()
            await a_while_later(own, "operator")
            refused = await own.patch(f"/v1/users/{user['id']}", {"email": "another@practice.example"}, token)
            assert (refused.status, refused.body["code"]) == (403, "sign_in_again")

    async def test_take_the_second_factor_that_the_administrator_has(self, identity: IdentityStack) -> None:
        where = await company(identity)
        admin, user = await somebody(identity, "partner_admin", where), await somebody(identity, "provider", where)
        weak = await identity.token(admin["user_name"])
        app = await enrol(identity, await identity.token(admin["user_name"], fresh=True))
        path, change = f"/v1/users/{user['id']}", {"email": "another@practice.example"}
        assert (await identity.patch(path, change, weak)).body["code"] == "sign_in_again"
        strong = (await grant(identity, admin["user_name"], otp=app.code(1))).body["access_token"]
        assert (await identity.patch(path, change, strong)).status == 200


class TestEndingSessions:
    async def test_of_ones_own_takes_no_fresh_sign_in(self, identity: IdentityStack) -> None:
        """Whose telephone was stolen has no second factor left to sign in with, only the session that is open."""
        user = await somebody(identity)
        app = await enrol(identity, await identity.token(user["user_name"]))
        thief = (await grant(identity, user["user_name"], otp=app.code(1))).body
        mine = await identity.token(user["user_name"])
        await a_while_later(identity, user["user_name"])
        found = (await identity.get("/v1/me/sessions", mine)).body["items"]
        (other,) = [one for one in found if not one["current"]]
        assert (await identity.request("DELETE", f"/v1/me/sessions/{other['id']}", token=mine)).status == 204
        assert (await renew(identity, thief["refresh_token"])).status == 400

    @pytest.mark.parametrize("end", [True, False])
    @pytest.mark.parametrize("change", ["totp", "recovery codes", "totp removed", "passkey", "passkey removed"])
    async def test_with_a_change_of_factors(self, identity: IdentityStack, change: str, end: bool) -> None:
        user = await somebody(identity)
        other = await identity.sign_in(user["user_name"])
        mine = await identity.sign_in(user["user_name"])
        token = mine["access_token"]
        query = "?end_other_sessions=true" if end else ""
        if change == "totp":
            begun = (await identity.request("POST", "/v1/me/totp", token=token)).body
            answer = await identity.post(f"/v1/me/totp/confirm{query}", {"code": App(begun["secret"]).code()}, token)
        elif change == "recovery codes":
            await enrol(identity, token)
            answer = await identity.request("POST", f"/v1/me/recovery-codes{query}", token=token)
        elif change == "totp removed":
            code = (await enrol(identity, token)).code(1)
            answer = await identity.request("DELETE", f"/v1/me/totp{query}", token=token, json={"code": code})
        elif change == "passkey":
            answer = await add_passkey(identity, token, query)
        else:
            key = (await add_passkey(identity, token)).body["id"]
            answer = await identity.request("DELETE", f"/v1/me/passkeys/{key}{query}", token=token)
        assert answer.status in (200, 201, 204), answer
        assert (await renew(identity, other["refresh_token"])).status == (400 if end else 200)
        assert (await renew(identity, mine["refresh_token"])).status == 200, "one's own goes on"
        assert (await identity.get("/v1/me/sessions", other["access_token"])).status == (401 if end else 200)

    async def test_not_with_a_change_that_is_refused(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        other = await identity.sign_in(user["user_name"])
        app = await enrol(identity, await identity.token(user["user_name"]))
        path, body = "/v1/me/totp?end_other_sessions=true", {"code": app.wrong}
        token = await identity.token(user["user_name"])
        assert (await identity.request("DELETE", path, token=token, json=body)).status == 422
        assert (await renew(identity, other["refresh_token"])).status == 200


class TestReplacing:
    """A sign-in that names the refresh token of the session before ends it."""

    async def test_by_password(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        elsewhere, old = [await identity.sign_in(user["user_name"]) for _ in range(2)]
        new = await grant(identity, user["user_name"], refresh_token=old["refresh_token"])
        assert new.status == 200
        internal = await identity.internal()
        for token, good in ((new.body["access_token"], True), (old["access_token"], False)):
            told = await identity.request("POST", "/v1/introspect", data={"token": token}, token=internal)
            assert told.body["active"] is good, "stale is the old one, and not the one that came with its end"
        assert (await identity.get("/v1/me/sessions", old["access_token"])).status == 401
        assert (await renew(identity, old["refresh_token"])).status == 400
        assert (await renew(identity, elsewhere["refresh_token"])).status == 200, "another browser's goes on"
        assert (await renew(identity, new.body["refresh_token"])).status == 200

    async def test_by_passkey(self, identity: IdentityStack) -> None:
        user, key = await somebody(identity), Authenticator()
        old = await identity.sign_in(user["user_name"])
        assert (await add_passkey(identity, old["access_token"], key=key)).status == 201
        options = (await identity.request("POST", "/v1/passkeys/options")).body
        body = {"credential": key.get(options), "refresh_token": old["refresh_token"]}
        new = await identity.post("/v1/passkeys/token", body)
        assert new.status == 200, new
        assert (await renew(identity, old["refresh_token"])).status == 400
        assert (await renew(identity, new.body["refresh_token"])).status == 200

    async def test_whosever_it_was(self, identity: IdentityStack) -> None:
        """On a shared machine the one before has forgotten to sign out."""
        before, after = await somebody(identity), await somebody(identity)
        left = await identity.sign_in(before["user_name"])
        assert (await grant(identity, after["user_name"], refresh_token=left["refresh_token"])).status == 200
        assert (await renew(identity, left["refresh_token"])).status == 400

    async def test_not_by_a_sign_in_that_fails(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        old = (await identity.sign_in(user["user_name"]))["refresh_token"]
        elsewhere = await company(identity)
        assert (await grant(identity, user["user_name"], "a wrong password", refresh_token=old)).status == 400
        assert (await grant(identity, user["user_name"], refresh_token=old, company_id=elsewhere)).status == 400
        await enrol(identity, await identity.token(user["user_name"]))
        assert (await grant(identity, user["user_name"], refresh_token=old)).body["error"] == "mfa_required"
        assert (await renew(identity, old)).status == 200

    async def test_what_is_no_token_is_passed_over(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        ended = (await identity.sign_in(user["user_name"]))["refresh_token"]
        await identity.form("/v1/revoke", token=ended)
        for token in ("x", ended, "\0" * 3):
            assert (await grant(identity, user["user_name"], refresh_token=token)).status == 200

    async def test_by_many_at_once(self, identity: IdentityStack) -> None:
        """No two of them wait for each other for ever."""
        user = await somebody(identity)
        old = [(await identity.sign_in(user["user_name"]))["refresh_token"] for _ in range(8)]
        answers = await asyncio.gather(
            *(grant(identity, user["user_name"], refresh_token=token) for token in old),
            *(grant(identity, user["user_name"]) for _ in range(8)),
            *(renew(identity, token) for token in old),
        )
        assert {answer.status for answer in answers[:16]} == {200}
        assert {answer.status for answer in answers[16:]} <= {200, 400}
        assert {(await renew(identity, token)).status for token in old} == {400}


class TestTheOperatorsSecondFactor:
    async def test_is_asked_for_where_the_setting_says_so(self, databases: Databases) -> None:
        async with (
            IdentityStack.fresh(databases) as plain,
            IdentityStack.running(plain.dsn, operator_mfa_required=True) as strict,
        ):
            open_before = await plain.sign_in("operator", OPERATOR_PASSWORD)
            first = await grant(strict, "operator", OPERATOR_PASSWORD)
            assert (first.status, first.body["scope"]) == (200, MFA_ENROLMENT)
            token = first.body["access_token"]
            assert (await strict.get("/v1/companies", token)).status == 403
            assert (await renew(strict, open_before["refresh_token"])).body["error"] == "mfa_required"
            app = await enrol(strict, token)
            assert (await grant(strict, "operator", OPERATOR_PASSWORD)).body["error"] == "mfa_required"
            full = await grant(strict, "operator", OPERATOR_PASSWORD, otp=app.code(1))
            assert (await strict.get("/v1/companies", full.body["access_token"])).status == 200
            assert (await renew(strict, full.body["refresh_token"])).status == 200


async def add_passkey(identity: IdentityStack, token: str, query: str = "", key: Authenticator | None = None) -> Answer:
    options = (await identity.request("POST", "/v1/me/passkeys/options", token=token)).body
    body = {"name": "A phone", "credential": (key or Authenticator()).create(options)}
    return await identity.post(f"/v1/me/passkeys{query}", body, token)
