"""Second factors: codes of an app, recovery codes, and companies that require one (ASVS 5.0 6.3.3, 6.5)."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from uuid import uuid4

import pytest
from pydantic import SecretStr

from services.identity import codes
from services.identity.api import ENDPOINTS as IDENTITY
from services.identity.sealing import SealBroken, Sealer
from services.ledger.api import ENDPOINTS as LEDGER
from services.reporting.api import ENDPOINTS as REPORTING
from shared.access.policy import MFA_ENROLMENT
from shared.access.principal import Principal
from tests.support.databases import Databases
from tests.support.identity import PASSWORD, SECRETS_KEY, IdentityStack
from tests.support.second_factor import App, audited, enrol, grant, renew, run_sql, time_passes

_numbers = count(1)


def name(stem: str = "u") -> str:
    return f"{stem}{next(_numbers)}"


async def somebody(identity: IdentityStack, role: str = "partner_admin", **constants: bool) -> str:
    """A new user in a company of his own; his name."""
    company = (await identity.company(name("C"), **constants))["id"]
    return str((await identity.user(name(), role, [company]))["user_name"])


async def somebody_with_app(identity: IdentityStack) -> tuple[str, App]:
    user = await somebody(identity)
    return user, await enrol(identity, await identity.token(user))


class TestSigningIn:
    async def test_takes_a_code_once_one_is_enrolled(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        begun = (await identity.request("POST", "/v1/me/totp", token=await identity.token(user))).body
        assert begun.keys() == {"secret", "otpauth_uri"}
        assert begun["otpauth_uri"].startswith(f"otpauth://totp/Practice%20billing:{user}?secret={begun['secret']}")
        assert (await grant(identity, user)).status == 200, "not before a code is confirmed"
        app = App(begun["secret"])
        wrong = await identity.post("/v1/me/totp/confirm", {"code": app.wrong}, await identity.token(user))
        assert (wrong.status, wrong.body["errors"][0]["field"]) == (422, "code")
        assert (
            await identity.post("/v1/me/totp/confirm", {"code": app.code()}, await identity.token(user))
        ).status == 200
        asked = await grant(identity, user)
        assert (asked.status, asked.body["error"]) == (400, "mfa_required")
        assert (await grant(identity, user, otp=app.code(1))).status == 200
        again = await identity.request("POST", "/v1/me/totp", token=await identity.token(user))
        assert (again.status, again.body["code"]) == (409, "totp_in_use")

    async def test_only_the_right_password_learns_that_a_code_is_needed(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        answers = [
            await grant(identity, user, "wrong password"),
            await grant(identity, user, "wrong password", otp=app.code(1)),
            await grant(identity, user, otp=app.wrong),
            await grant(identity, user, otp="x" * 5_000),
            await grant(identity, user, otp="\u0661\u0662\u0663\u0664\u0665\u0666"),
            await grant(identity, "nobody", otp=app.code(1)),
        ]
        assert {(answer.status, answer.raw) for answer in answers} == {(400, answers[0].raw)}
        assert answers[0].body["error"] == "invalid_grant"

    async def test_a_code_is_never_accepted_twice(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        assert (await grant(identity, user, otp=app.code())).status == 400, "it confirmed the enrolment"
        assert (await grant(identity, user, otp=app.code(1))).status == 200
        for used in (app.code(1), app.code(), app.code(-1)):
            assert (await grant(identity, user, otp=used)).status == 400, "a later one was accepted"

    async def test_nor_by_many_at_once(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        async with IdentityStack.running(
            identity.dsn
        ) as other:  # A second process has no locks in common with this one.
            for _ in range(3):
                await time_passes(identity, user)
                code = app.code()
                answers = await asyncio.gather(
                    *(grant(one, user, otp=code) for one in (identity, other) for _ in range(3))
                )
                assert Counter(answer.status for answer in answers)[200] == 1, [str(answer) for answer in answers]
                await run_sql(identity, "delete from login_failure")

    async def test_wrong_codes_are_failed_sign_ins_and_questions_are_not(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        for number in range(10):
            assert (await grant(identity, user, otp=app.wrong)).status == 400
            if number == 5:
                # Asking again and again what is missing neither costs the owner anything nor wipes the slate clean.
                for _ in range(15):
                    assert (await grant(identity, user)).body["error"] == "mfa_required"
        assert (await grant(identity, user, otp=app.wrong)).status == 400
        blocked = await grant(identity, user, otp=app.code(1))
        assert blocked.status == 429
        await asyncio.sleep(int(blocked.headers["Retry-After"]))
        assert (await grant(identity, user, otp=app.code(1))).status == 200

    async def test_the_right_password_alone_forgives_no_wrong_codes(self, identity: IdentityStack) -> None:
        """Who has a session and the password has not the app: nine guesses, the password, and nine again would be no
        limit at all."""
        user, app = await somebody_with_app(identity)
        token = (await grant(identity, user, otp=app.code(1))).body["access_token"]
        seen = []
        for _ in range(3):
            for _ in range(9):
                seen.append(
                    (await identity.request("DELETE", "/v1/me/totp", token=token, json={"code": app.wrong})).status
                )
            same = {"old_password": PASSWORD, "password": PASSWORD}
            await identity.post("/v1/me/password", same, token)
        assert 429 in seen
        assert seen.count(422) <= 13, "ten, the one that brings the first wait, and one for each second since"

    async def test_guesses_at_the_enrolment_are_slowed_down_as_well(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        token = await identity.token(user)
        answers = await asyncio.gather(
            *(identity.request("DELETE", "/v1/me/totp", token=token, json={"code": app.wrong}) for _ in range(40))
        )
        seen = Counter(answer.status for answer in answers)
        assert seen.keys() == {422, 429}
        assert seen[422] <= 12

    def test_codes_of_the_neighbouring_steps_are_right_and_no_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The secret and times of RFC 6238 appendix B, its codes cut to six digits."""
        secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
        for instant, code in ((1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")):
            for seconds in range(-90, 91, 10):
                monkeypatch.setattr("services.identity.codes.time.time", lambda now=instant + seconds: now)
                right = abs((instant + seconds) // 30 - instant // 30) <= 1
                assert codes.totp_step(secret, code) == (instant // 30 if right else None), (instant, seconds)


class TestAtRest:
    async def test_no_secret_can_be_read_in_the_database(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        kept = "".join(
            [
                *(row["text"] for row in await run_sql(identity, "select t::text as text from totp t")),
                *(row["text"] for row in await run_sql(identity, "select t::text as text from recovery_code t")),
                *(row["text"] for row in await run_sql(identity, "select t::text as text from signing_key t")),
                *(row["text"] for row in await run_sql(identity, "select t::text as text from audit t")),
            ]
        )
        for secret in (app.secret, *app.recovery_codes, *(code.replace("-", "") for code in app.recovery_codes)):
            assert secret not in kept
            assert secret.encode().hex() not in kept
        assert '"d"' not in kept, "private parts of signing keys"
        assert user

    async def test_another_key_takes_over(self, databases: Databases) -> None:
        new = "another key of at least thirty-two characters"
        async with IdentityStack.fresh(databases) as identity:
            user, app = await somebody_with_app(identity)
            old_token = await identity.operator()
            async with IdentityStack.running(
                identity.dsn, identity_secrets_key=SecretStr(f"{new}, {SECRETS_KEY}")
            ) as both:
                assert (await grant(both, user, otp=app.code(1))).status == 200
            async with IdentityStack.running(identity.dsn, identity_secrets_key=SecretStr(new)) as after:
                await time_passes(identity, user)
                assert (await grant(after, user, otp=app.code())).status == 200
                assert (await after.get("/v1/me", old_token)).status == 200

    def test_what_is_sealed_opens_only_for_what_it_was_sealed_for(self) -> None:
        sealer, other = Sealer("k" * 32), Sealer("K" * 32)
        sealed = sealer.seal(b"secret", "totp 1")
        assert sealer.open(sealed, "totp 1") == b"secret"
        assert sealer.seal(b"secret", "totp 1") != sealed
        changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        for attempt, purpose in ((sealed, "totp 2"), (changed, "totp 1"), (b"", "totp 1"), (sealed[:16], "totp 1")):
            with pytest.raises(SealBroken):
                sealer.open(attempt, purpose)
        with pytest.raises(SealBroken):
            other.open(sealed, "totp 1")
        with pytest.raises(SystemExit, match="IDENTITY_SECRETS_KEY"):
            Sealer("short")


class TestRecoveryCodes:
    async def test_ten_each_once(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        assert len(set(app.recovery_codes)) == 10
        for number, code in enumerate(app.recovery_codes[:3]):
            typed = code.upper().replace("-", " ") if number else code
            assert (await grant(identity, user, otp=typed)).status == 200
            assert (await grant(identity, user, otp=code)).status == 400
        status = (await identity.get("/v1/me/mfa", await identity.token(user))).body
        assert status == {"totp": True, "passkeys": 0, "recovery_codes_left": 7}
        assert "recovery_code_used" in await audited(identity)

    async def test_by_many_at_once_it_works_once(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        async with IdentityStack.running(identity.dsn) as other:
            code = app.recovery_codes[0]
            answers = await asyncio.gather(*(grant(one, user, otp=code) for one in (identity, other) for _ in range(3)))
        assert Counter(answer.status for answer in answers)[200] == 1

    async def test_new_ones_end_the_old_ones(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        renewed = await identity.request("POST", "/v1/me/recovery-codes", token=await identity.token(user))
        assert renewed.status == 201
        fresh = renewed.body["recovery_codes"]
        assert len(set(fresh) | set(app.recovery_codes)) == 20
        assert (await grant(identity, user, otp=app.recovery_codes[0])).status == 400
        assert (await grant(identity, user, otp=fresh[0])).status == 200
        alone = await identity.token(await somebody(identity))
        none = await identity.request("POST", "/v1/me/recovery-codes", token=alone)
        assert (none.status, none.body["code"]) == (409, "no_second_factor")


class TestRemoving:
    async def test_takes_a_code(self, identity: IdentityStack) -> None:
        user, app = await somebody_with_app(identity)
        token = await identity.token(user)
        missing = await identity.request("DELETE", "/v1/me/totp", token=token, json={})
        assert (missing.status, missing.body["errors"][0]["field"]) == (422, "code")
        for code in (app.wrong, app.code()):
            assert (await identity.request("DELETE", "/v1/me/totp", token=token, json={"code": code})).status == 422
        gone = await identity.request("DELETE", "/v1/me/totp", token=token, json={"code": app.code(1)})
        assert gone.status == 204
        assert (await grant(identity, user)).status == 200
        assert (
            await run_sql(
                identity, "select from recovery_code r join app_user u on u.id = r.user_id where u.user_name = $1", user
            )
        ) == []
        absent = await identity.request("DELETE", "/v1/me/totp", token=token, json={"code": app.code(1)})
        assert absent.status == 404

    async def test_a_session_that_is_not_fresh_changes_nothing(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        token = await identity.token(user)
        await run_sql(
            identity,
            "update refresh_token set started_at = started_at - interval '16 minutes'"
            " where user_id = (select id from app_user where user_name = $1)",
            user,
        )
        for path in ("/v1/me/totp", "/v1/me/passkeys/options"):
            refused = await identity.request("POST", path, token=token)
            assert (refused.status, refused.body["code"]) == (403, "sign_in_again")
        assert (
            await identity.request("POST", "/v1/me/totp", token=await identity.token(user, fresh=True))
        ).status == 201

    async def test_a_session_without_the_factor_cannot_add_another(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        weak = await identity.token(user)
        await enrol(identity, await identity.token(user, fresh=True))
        for path in ("/v1/me/recovery-codes", "/v1/me/passkeys/options"):
            refused = await identity.request("POST", path, token=weak)
            assert (refused.status, refused.body["code"]) == (403, "sign_in_again")

    async def test_an_ended_session_does_nothing(self, identity: IdentityStack) -> None:
        signed_in = await identity.sign_in(await somebody(identity))
        await identity.form("/v1/revoke", token=signed_in["refresh_token"])
        for path in ("/v1/me/totp", "/v1/me/passkeys/options", "/v1/me/recovery-codes"):
            assert (await identity.request("POST", path, token=signed_in["access_token"])).status == 401


class TestRequiredByTheCompany:
    async def test_who_has_none_gets_a_token_for_the_enrolment_only(self, identity: IdentityStack) -> None:
        user = await somebody(identity, mfa_required=True)
        first = await grant(identity, user)
        assert first.status == 200
        assert first.body.keys() == {"access_token", "token_type", "expires_in", "scope", "company_id"}
        assert (first.body["scope"], first.body["company_id"]) == (MFA_ENROLMENT, None)
        token = first.body["access_token"]
        for path in ("/v1/me", "/v1/users", "/v1/companies", "/v1/me/sessions"):
            assert (await identity.get(path, token)).status == 403
        app = await enrol(identity, token)
        for method, path in (("POST", "/v1/me/totp"), ("GET", "/v1/me/mfa"), ("POST", "/v1/me/passkeys/options")):
            assert (await identity.request(method, path, token=token)).status == 401, "it has served its purpose"
        assert (await grant(identity, user)).body["error"] == "mfa_required"
        full = await grant(identity, user, otp=app.code(1))
        assert full.status == 200
        assert (await identity.get("/v1/me", full.body["access_token"])).status == 200
        assert "mfa_enrolment_begun" in await audited(identity)

    def test_the_enrolment_is_all_that_the_token_admits_to_in_any_service(self) -> None:
        holder = Principal(
            subject=uuid4(),
            client_id="console",
            user_name="u",
            user_type="partner",
            role=MFA_ENROLMENT,
            affiliation="practice",
            company_id=None,
            locations=frozenset(),
            authz_version=1,
            token_id=str(uuid4()),
            expires_at=1 << 40,
        )
        endpoints = [*IDENTITY, *LEDGER, *REPORTING]
        admitted = {f"{one.method} {one.path}" for one in endpoints if one.guard.admits(holder)}
        assert len(endpoints) > 80
        assert admitted == {
            "GET /v1/me/mfa",
            "POST /v1/me/totp",
            "POST /v1/me/totp/confirm",
            "POST /v1/me/passkeys/options",
            "POST /v1/me/passkeys",
        }

    async def test_each_company_decides_for_itself(self, identity: IdentityStack) -> None:
        easy, strict = [(await identity.company(name("C"), mfa_required=required))["id"] for required in (False, True)]
        user = (await identity.user(name(), "provider", [easy, strict], default_company_id=easy))["user_name"]
        signed_in = await identity.sign_in(user)
        switch = await renew(identity, signed_in["refresh_token"], company_id=strict)
        assert (switch.status, switch.body["error"]) == (400, "mfa_required")
        assert (await renew(identity, signed_in["refresh_token"])).status == 200, "the refusal left the token good"
        enrolling = await grant(identity, user, company_id=strict)
        assert enrolling.body["scope"] == MFA_ENROLMENT
        app = await enrol(identity, enrolling.body["access_token"])
        strong = (await grant(identity, user, otp=app.code(1))).body
        assert strong["company_id"] == easy
        assert (await renew(identity, strong["refresh_token"], company_id=strict)).status == 200

    async def test_it_takes_hold_of_open_sessions_at_their_next_refresh(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        signed_in = await identity.sign_in(user)
        company = signed_in["company_id"]
        path, token = f"/v1/companies/{company}", signed_in["access_token"]
        ready = await identity.sign_in((await identity.user(name(), "provider", [company]))["user_name"])
        await enrol(identity, ready["access_token"])
        changed = await identity.patch(path, {"mfa_required": True}, token)
        assert (changed.status, changed.body["mfa_required"]) == (200, True)
        assert (await renew(identity, signed_in["refresh_token"])).body["error"] == "mfa_required"
        assert (await identity.request("POST", "/v1/me/totp", token=token)).body["code"] == "token_stale"
        app = await enrol(identity, (await grant(identity, user)).body["access_token"])
        assert (await grant(identity, user, otp=app.code(1))).status == 200
        assert (await renew(identity, ready["refresh_token"])).status == 200, "that session had proved it before"


class TestAdministrators:
    async def test_help_whoever_has_lost_everything(self, identity: IdentityStack) -> None:
        company = (await identity.company(name("C")))["id"]
        admin = await identity.token((await identity.user(name(), "partner_admin", [company]))["user_name"])
        user = await identity.user(name(), "provider", [company])
        session = await identity.sign_in(user["user_name"])
        await enrol(identity, session["access_token"])
        path = f"/v1/users/{user['id']}/mfa"
        assert (await identity.request("DELETE", path, token=session["access_token"])).status == 403
        assert (await identity.request("DELETE", path, token=admin)).status == 204
        assert (await renew(identity, session["refresh_token"])).status == 400
        assert (await grant(identity, user["user_name"])).status == 200
        assert "mfa_reset" in await audited(identity)

    async def test_not_themselves_and_nobody_above_them(self, identity: IdentityStack) -> None:
        company = (await identity.company(name("C")))["id"]
        admin = await identity.user(name(), "practice_admin", [company])
        above = await identity.user(name(), "partner_admin", [company])
        stranger = await identity.user(name(), "provider", [(await identity.company(name("C")))["id"]])
        token = await identity.token(admin["user_name"])
        for method, tail in (("DELETE", "mfa"), ("DELETE", "sessions"), ("POST", "password-reset")):
            for user, status in ((admin, 403), (above, 403), (stranger, 404)):
                answer = await identity.request(method, f"/v1/users/{user['id']}/{tail}", token=token)
                assert answer.status == status, (tail, answer)
