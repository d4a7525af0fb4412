"""Changing a password, and starting anew with a code from an administrator (ASVS 5.0 6.2, 6.4; quality cases 76-78)."""

from __future__ import annotations

import asyncio
import unicodedata
from collections import Counter
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain import check_password, nfkc
from services.identity.passwords import Hasher, common_passwords
from shared.errors import Invalid
from tests.support.identity import PASSWORD, Answer, IdentityStack
from tests.support.second_factor import audited, enrol, grant, renew, run_sql

_numbers = count(1)
NEW = "another good password"


def name() -> str:
    return f"u{next(_numbers)}"


async def somebody(identity: IdentityStack) -> dict[str, Any]:
    company = (await identity.company(f"C{next(_numbers)}"))["id"]
    return await identity.user(name(), "provider", [company])


async def change(identity: IdentityStack, token: str, old: str, new: str) -> Answer:
    return await identity.post("/v1/me/password", {"old_password": old, "password": new}, token)


class TestChanging:
    async def test_with_the_old_one_ends_the_other_sessions(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        mine, other = [await identity.sign_in(user["user_name"]) for _ in range(2)]
        assert (await change(identity, mine["access_token"], PASSWORD, NEW)).status == 204
        assert (await renew(identity, other["refresh_token"])).status == 400
        assert (await renew(identity, mine["refresh_token"])).status == 200
        assert (await grant(identity, user["user_name"])).status == 400
        assert (await grant(identity, user["user_name"], NEW)).status == 200
        assert "password_changed" in await audited(identity)

    async def test_not_without_it(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        token = await identity.token(user["user_name"])
        for wrong in ("wrong password", "", "x" * 100_000, "a\0b"):
            answer = await change(identity, token, wrong, NEW)
            assert (answer.status, answer.body["errors"][0]["field"]) == (422, "old_password")
        assert (await grant(identity, user["user_name"])).status == 200

    async def test_guesses_at_the_old_one_meet_the_limit(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        token = await identity.token(user["user_name"])
        answers = await asyncio.gather(*(change(identity, token, f"guess {n}", NEW) for n in range(60)))
        seen = Counter(answer.status for answer in answers)
        assert seen.keys() == {422, 429}
        assert seen[422] <= 12
        assert (await grant(identity, user["user_name"])).status == 429, "they are failed sign-ins of the account"

    async def test_an_administrators_own_too(self, identity: IdentityStack) -> None:
        """The route by which administrators set passwords of others would need no old one."""
        company = (await identity.company(f"C{next(_numbers)}"))["id"]
        admin = await identity.user(name(), "partner_admin", [company])
        token = await identity.token(admin["user_name"])
        refused = await identity.patch(f"/v1/users/{admin['id']}", {"password": NEW}, token)
        assert refused.status == 403
        assert (await change(identity, token, PASSWORD, NEW)).status == 204

    @pytest.mark.parametrize(
        ("new", "code"), [("short77", "length"), ("x" * 257, "length"), ("password1", "too_common"), ("a\0bcdefgh", "")]
    )
    async def test_the_new_one_is_checked_like_any(self, identity: IdentityStack, new: str, code: str) -> None:
        token = await identity.token((await somebody(identity))["user_name"])
        answer = await change(identity, token, PASSWORD, new)
        assert (answer.status, answer.body["errors"][0]["field"]) == (422, "password")
        assert answer.body["code"] == (code or "invalid_text")
        assert new not in answer.raw.decode()


class TestResetting:
    async def code_for(self, identity: IdentityStack, user: dict[str, Any]) -> str:
        issued = await identity.request(
            "POST", f"/v1/users/{user['id']}/password-reset", token=await identity.operator()
        )
        assert issued.status == 201, issued
        assert issued.body.keys() == {"code", "expires_at"}
        return str(issued.body["code"])

    async def reset(self, identity: IdentityStack, user: str, code: str, password: str = NEW) -> Answer:
        return await identity.post("/v1/password-reset", {"user_name": user, "code": code, "password": password})

    async def test_once_with_the_code(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        session = await identity.sign_in(user["user_name"])
        code = await self.code_for(identity, user)
        assert (await grant(identity, user["user_name"])).status == 200, "until it is used nothing changes"
        assert (await self.reset(identity, user["user_name"].upper(), code.upper().replace("-", " "))).status == 204
        assert (await renew(identity, session["refresh_token"])).status == 400
        assert (await grant(identity, user["user_name"])).status == 400
        assert (await grant(identity, user["user_name"], NEW)).status == 200
        again = await self.reset(identity, user["user_name"], code, "a third good password")
        assert (again.status, again.body["code"]) == (422, "wrong_code")
        assert {"password_reset_issued", "password_reset", "password_reset_failed"} <= set(await audited(identity))

    async def test_by_many_at_once_it_works_once(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        code = await self.code_for(identity, user)
        passwords = [f"a good password {number}" for number in range(6)]
        async with IdentityStack.running(identity.dsn) as other:
            answers = await asyncio.gather(
                *(
                    self.reset((identity, other)[number % 2], user["user_name"], code, password)
                    for number, password in enumerate(passwords)
                )
            )
        assert Counter(answer.status for answer in answers)[204] == 1
        won = next(password for password, answer in zip(passwords, answers, strict=True) if answer.status == 204)
        await run_sql(identity, "delete from login_failure")
        for password in passwords:
            assert (await grant(identity, user["user_name"], password)).status == (200 if password == won else 400)

    async def test_it_ends_after_an_hour_and_when_there_is_another(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        first, second = await self.code_for(identity, user), await self.code_for(identity, user)
        assert (await self.reset(identity, user["user_name"], first)).status == 422
        await run_sql(identity, "update password_reset set expires_at = expires_at - interval '1 hour'")
        assert (await self.reset(identity, user["user_name"], second)).status == 422
        third = await self.code_for(identity, user)
        assert (await change(identity, await identity.token(user["user_name"]), PASSWORD, NEW)).status == 204
        assert (await self.reset(identity, user["user_name"], third)).status == 422, (
            "a change of password ends it as well"
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"role": "partner_admin", "user_type": "partner"},
            {"user_name": "renamed"},
            {"email": "somebody.else@practice.example"},
            {"active": False},
            {"company_ids": "another one, too"},
        ],
        ids=lambda change: next(iter(change)),
    )
    async def test_it_is_for_the_user_as_he_was(self, identity: IdentityStack, change: dict[str, Any]) -> None:
        """Who could give it to a provider must not come in by it as the administrator that the provider became."""
        company = (await identity.company(f"C{next(_numbers)}"))["id"]
        user = await identity.user(name(), "provider", [company], user_type="partner")
        code = await self.code_for(identity, user)
        body: dict[str, Any] = dict(change)
        if "company_ids" in body:
            body["company_ids"] = [company, (await identity.company(f"C{next(_numbers)}"))["id"]]
        changed = await identity.patch(f"/v1/users/{user['id']}", body, await identity.operator())
        assert changed.status == 200, changed
        if "active" in body:
            path = f"/v1/users/{user['id']}"
            assert (await identity.patch(path, {"active": True}, await identity.operator())).status == 200
        answer = await self.reset(identity, changed.body["user_name"], code)
        assert (answer.status, answer.body["code"]) == (422, "wrong_code")

    async def test_a_change_that_is_none_of_these_leaves_it_good(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        code = await self.code_for(identity, user)
        body = {"first_name": "Other"}
        assert (await identity.patch(f"/v1/users/{user['id']}", body, await identity.operator())).status == 200
        assert (await self.reset(identity, user["user_name"], code)).status == 204

    async def test_case_78_nobody_learns_who_is_a_user(self, identity: IdentityStack) -> None:
        user, without = await somebody(identity), await somebody(identity)
        code = await self.code_for(identity, user)
        wrong = code[:-1] + ("a" if code[-1] != "a" else "b")
        pairs = ((user["user_name"], wrong), (without["user_name"], code), ("nobody", code), (user["user_name"], "x"))
        answers = [await self.reset(identity, *pair) for pair in pairs]
        assert {answer.status for answer in answers} == {422}
        assert len({str({**answer.body, "request_id": ""}) for answer in answers}) == 1

    async def test_guesses_meet_the_limit(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        code = await self.code_for(identity, user)
        answers = await asyncio.gather(
            *(self.reset(identity, user["user_name"], f"aaaa-aaaa-aaaa-aaaa-aaaa-{n:04}") for n in range(60))
        )
        assert Counter(answer.status for answer in answers)[422] <= 12
        assert (await self.reset(identity, user["user_name"], code)).status == 429

    async def test_it_is_no_way_around_the_second_factor(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        app = await enrol(identity, await identity.token(user["user_name"]))
        code = await self.code_for(identity, user)
        assert (await self.reset(identity, user["user_name"], code)).status == 204
        assert (await grant(identity, user["user_name"], NEW)).body["error"] == "mfa_required"
        assert (await grant(identity, user["user_name"], NEW, otp=app.code(1))).status == 200

    async def test_the_code_is_stored_as_a_hash(self, identity: IdentityStack) -> None:
        code = await self.code_for(identity, await somebody(identity))
        rows = await run_sql(identity, "select r::text as text from password_reset r")
        plain = code.replace("-", "")
        assert not any(secret in row["text"] for row in rows for secret in (code, plain, plain.encode().hex()))


class TestTheRules:
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=8, max_size=60))
    def test_any_characters_in_either_composition(self, password: str) -> None:
        """No composition rules: what is long enough and not common is taken, and typed composed or decomposed it is
        the same password."""
        if not 8 <= len(nfkc(password)) <= 256 or nfkc(password).casefold() in common_passwords():
            return
        chosen = check_password(password, ["somebody"], common=common_passwords(), context=set())
        for form in ("NFC", "NFD"):
            assert nfkc(unicodedata.normalize(form, password)) == chosen  # type: ignore[arg-type]

    def test_common_passwords_are_refused_as_whole_words_only(self) -> None:
        some = [word for word in sorted(common_passwords()) if len(word) >= 8][:200]
        assert len(some) > 100
        for word in some:
            with pytest.raises(Invalid, match="easy to guess"):
                check_password(word.upper(), [], common=common_passwords(), context=set())
            assert check_password(f"{word} and more", [], common=common_passwords(), context=set())

    async def test_an_old_hash_is_made_again_at_the_next_sign_in(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        stronger = Hasher(time_cost=2, memory_cost=16)
        query = "select password_hash from app_user where user_name = $1"
        before = (await run_sql(identity, query, user["user_name"]))[0][0]
        async with IdentityStack.running(identity.dsn, stronger) as other:
            assert (await grant(other, user["user_name"])).status == 200
            after = (await run_sql(identity, query, user["user_name"]))[0][0]
            assert (await grant(other, user["user_name"])).status == 200
            assert (await run_sql(identity, query, user["user_name"]))[0][0] == after
        assert ("m=8,t=1" in before, "m=16,t=2" in after) == (True, True)
