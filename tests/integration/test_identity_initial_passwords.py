"""Passwords that somebody else chose: good for choosing another, for three days (ASVS 5.0 6.4.1)."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.identity.api import ENDPOINTS as IDENTITY
from services.identity.app import MIGRATIONS
from services.ledger.api import ENDPOINTS as LEDGER
from services.reporting.api import ENDPOINTS as REPORTING
from shared.access.policy import MFA_ENROLMENT, PASSWORD_CHANGE
from shared.access.principal import Principal
from tests.support.databases import Databases
from tests.support.identity import PASSWORD, Answer, IdentityStack
from tests.support.second_factor import audited, enrol, grant, renew, run_sql

_numbers = count(1)
INITIAL, OWN = "handed over on paper", "seven purple lanterns"


async def newcomer(identity: IdentityStack, **constants: Any) -> dict[str, Any]:
    company = (await identity.company(f"C{next(_numbers)}", **constants))["id"]
    name = f"u{next(_numbers)}"
    return await identity.user(name, "provider", [company], password=INITIAL, must_change_password=True)


async def choose(identity: IdentityStack, token: str, new: str = OWN, old: str = INITIAL) -> Answer:
    return await identity.post("/v1/me/password", {"old_password": old, "password": new}, token)


async def days_later(identity: IdentityStack, days: int) -> None:
    await run_sql(
        identity,
        "update app_user set password_initial_until = password_initial_until - make_interval(days => $1)",
        days,
    )


class TestOfAUser:
    async def test_gives_a_token_for_choosing_another_and_nothing_else(self, identity: IdentityStack) -> None:
        user = await newcomer(identity)
        first = await grant(identity, user["user_name"], INITIAL)
        assert first.status == 200
        assert first.body.keys() == {"access_token", "token_type", "expires_in", "scope", "company_id"}
        assert (first.body["scope"], first.body["company_id"]) == (PASSWORD_CHANGE, None)
        token = first.body["access_token"]
        for path in ("/v1/me", "/v1/users", "/v1/companies", "/v1/me/sessions", "/v1/me/mfa"):
            assert (await identity.get(path, token)).status == 403
        assert (await identity.request("POST", "/v1/me/totp", token=token)).status == 403
        assert (await choose(identity, token)).status == 204
        assert (await grant(identity, user["user_name"], INITIAL)).status == 400
        full = await grant(identity, user["user_name"], OWN)
        assert full.body["company_id"] == user["company_ids"][0]
        assert (await identity.get("/v1/me", full.body["access_token"])).status == 200
        assert {"password_change_begun", "password_changed"} <= set(await audited(identity))

    async def test_cannot_become_the_long_term_password(self, identity: IdentityStack) -> None:
        user = await newcomer(identity)
        token = (await grant(identity, user["user_name"], INITIAL)).body["access_token"]
        same = await choose(identity, token, INITIAL)
        assert (same.status, same.body["errors"][0]["field"], same.body["code"]) == (422, "password", "unchanged")
        assert (await choose(identity, token, OWN, old="a wrong old password")).status == 422
        assert (await grant(identity, user["user_name"], INITIAL)).body["scope"] == PASSWORD_CHANGE

    async def test_the_token_chooses_once(self, identity: IdentityStack) -> None:
        user = await newcomer(identity)
        one, other = [(await grant(identity, user["user_name"], INITIAL)).body["access_token"] for _ in range(2)]
        assert (await choose(identity, one)).status == 204
        for token in (one, other):
            again = await choose(identity, token, "eight purple lanterns", old=OWN)
            assert (again.status, again.body["code"]) == (401, "token_stale")

    async def test_ends_when_nobody_uses_it(self, identity: IdentityStack) -> None:
        user = await newcomer(identity)
        token = (await grant(identity, user["user_name"], INITIAL)).body["access_token"]
        await days_later(identity, 2)
        assert (await grant(identity, user["user_name"], INITIAL)).status == 200
        await days_later(identity, 1)
        late, wrong = [await grant(identity, user["user_name"], typed) for typed in (INITIAL, "a wrong password")]
        assert (late.status, late.raw) == (wrong.status, wrong.raw) == (400, wrong.raw)
        (entry,) = await run_sql(identity, "select details::text as text from audit where details ? 'reason'")
        assert "initial_password_expired" in entry["text"]
        again = await identity.patch(
            f"/v1/users/{user['id']}",
            {"password": INITIAL, "must_change_password": True},
            await identity.operator(),
        )
        assert again.status == 200
        assert (await choose(identity, token)).status == 401, "the token of the first one"
        assert (await grant(identity, user["user_name"], INITIAL)).body["scope"] == PASSWORD_CHANGE

    async def test_an_administrator_sets_one_in_place_of_a_users_own(self, identity: IdentityStack) -> None:
        company = (await identity.company(f"C{next(_numbers)}"))["id"]
        user = await identity.user(f"u{next(_numbers)}", "provider", [company])
        before = await identity.sign_in(user["user_name"])
        change = {"password": INITIAL, "must_change_password": True}
        assert (await identity.patch(f"/v1/users/{user['id']}", change, await identity.operator())).status == 200
        assert (await renew(identity, before["refresh_token"])).status == 400
        assert (await grant(identity, user["user_name"], PASSWORD)).status == 400
        assert (await grant(identity, user["user_name"], INITIAL)).body["scope"] == PASSWORD_CHANGE

    async def test_the_second_factor_is_asked_for_first_and_enrolled_afterwards(self, identity: IdentityStack) -> None:
        user = await newcomer(identity, mfa_required=True)
        token = (await grant(identity, user["user_name"], INITIAL)).body["access_token"]
        assert (await choose(identity, token)).status == 204
        enrolling = await grant(identity, user["user_name"], OWN)
        assert enrolling.body["scope"] == MFA_ENROLMENT
        app = await enrol(identity, enrolling.body["access_token"])
        change = {"password": INITIAL, "must_change_password": True}
        assert (await identity.patch(f"/v1/users/{user['id']}", change, await identity.operator())).status == 200
        assert (await grant(identity, user["user_name"], INITIAL)).body["error"] == "mfa_required"
        asked = await grant(identity, user["user_name"], INITIAL, otp=app.code(1))
        assert asked.body["scope"] == PASSWORD_CHANGE
        assert (await choose(identity, asked.body["access_token"])).status == 204

    async def test_a_reset_code_makes_it_ones_own(self, identity: IdentityStack) -> None:
        user = await newcomer(identity)
        path = f"/v1/users/{user['id']}/password-reset"
        code = (await identity.request("POST", path, token=await identity.operator())).body["code"]
        body = {"user_name": user["user_name"], "code": code, "password": OWN}
        assert (await identity.post("/v1/password-reset", body)).status == 204
        assert "scope" not in (await grant(identity, user["user_name"], OWN)).body

    async def test_is_asked_for_together_with_a_password(self, identity: IdentityStack) -> None:
        user = await newcomer(identity)
        new = {"user_name": f"u{next(_numbers)}", "first_name": "A", "last_name": "B", "email": "a@b.example"}
        new |= {"user_type": "customer", "role": "provider", "company_ids": user["company_ids"]}
        operator = await identity.operator()
        for answer in (
            await identity.post("/v1/users", {**new, "must_change_password": True}, operator),
            await identity.patch(f"/v1/users/{user['id']}", {"must_change_password": True}, operator),
        ):
            assert (answer.status, answer.body["errors"][0]["field"]) == (422, "must_change_password")

    async def test_is_not_asked_for_unless_said(self, identity: IdentityStack) -> None:
        """The contract: a password given with a user signs him in."""
        company = (await identity.company(f"C{next(_numbers)}"))["id"]
        user = await identity.user(f"u{next(_numbers)}", "provider", [company])
        assert (await identity.sign_in(user["user_name"])).keys() >= {"refresh_token"}


def test_choosing_is_all_that_the_token_admits_to_in_any_service() -> None:
    holder = Principal(
        subject=uuid4(),
        client_id="console",
        user_name="u",
        user_type="partner",
        role=PASSWORD_CHANGE,
        affiliation="practice",
        company_id=None,
        locations=frozenset(),
        authz_version=1,
        token_id=str(uuid4()),
        expires_at=1 << 40,
    )
    endpoints = [*IDENTITY, *LEDGER, *REPORTING]
    admitted = [f"{one.method} {one.path}" for one in endpoints if one.guard.admits(holder)]
    assert admitted == ["POST /v1/me/password"]


class TestOfTheOperator:
    async def test_the_generated_one_is_changed_or_replaced(
        self, databases: Databases, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def printed() -> list[str]:
            return [
                line.rsplit(" ", 1)[1] for line in capsys.readouterr().out.splitlines() if "shown this once" in line
            ]

        dsn = await databases.create(MIGRATIONS)
        try:
            async with IdentityStack.running(dsn, operator_password=None):
                (first,) = printed()
            async with IdentityStack.running(dsn, operator_password=None) as identity:
                assert printed() == [], "shown once"
                assert (await grant(identity, "operator", first)).body["scope"] == PASSWORD_CHANGE
                await days_later(identity, 3)
                assert (await grant(identity, "operator", first)).status == 400
            async with IdentityStack.running(dsn, operator_password=None) as identity:
                (second,) = printed()
                token = (await grant(identity, "operator", second)).body["access_token"]
                assert (await choose(identity, token, OWN, old=second)).status == 204
                assert (await grant(identity, "operator", OWN)).body.keys() >= {"refresh_token"}
                await days_later(identity, 30)
            async with IdentityStack.running(dsn, operator_password=None) as identity:
                assert printed() == []
                assert (await grant(identity, "operator", OWN)).status == 200
            async with IdentityStack.running(dsn, operator_password=SecretStr(INITIAL)) as identity:
                assert (await grant(identity, "operator", INITIAL)).body.keys() >= {"refresh_token"}, "configured"
        finally:
            await databases.drop(dsn)
