"""Passkeys (WebAuthn Level 3 sections 7.1 and 7.2): what is accepted once, and everything that is not."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.identity.passkeys import BadCredential, RelyingParty, challenge_of, credential_id_of
from services.identity.service.upkeep import forget
from shared.db import create_pool
from tests.support.authenticator import Authenticator, b64, unb64
from tests.support.identity import Answer, IdentityStack
from tests.support.second_factor import App, audited, enrol, grant, renew, run_sql

_numbers = count(1)


def name(stem: str = "u") -> str:
    return f"{stem}{next(_numbers)}"


async def somebody(identity: IdentityStack, **constants: Any) -> dict[str, Any]:
    company = (await identity.company(name("C"), **constants))["id"]
    return await identity.user(name(), "provider", [company])


async def register(identity: IdentityStack, token: str, key: Authenticator, challenge: str | None = None) -> Answer:
    options = await identity.request("POST", "/v1/me/passkeys/options", token=token)
    assert options.status == 200, options
    body = {"name": "A phone", "credential": key.create(options.body, challenge)}
    return await identity.post("/v1/me/passkeys", body, token)


async def with_passkey(
    identity: IdentityStack, key: Authenticator | None = None
) -> tuple[dict[str, Any], Authenticator]:
    """Somebody who has registered this authenticator."""
    user, key = await somebody(identity), key or Authenticator()
    answer = await register(identity, await identity.token(user["user_name"]), key)
    assert answer.status == 201, answer
    return user, key


async def ask(identity: IdentityStack) -> dict[str, Any]:
    options: dict[str, Any] = (await identity.request("POST", "/v1/passkeys/options")).body
    return options


async def sign_in(identity: IdentityStack, key: Authenticator, challenge: str | None = None, **more: str) -> Answer:
    credential = key.get(await ask(identity), challenge)
    return await identity.post("/v1/passkeys/token", {"credential": credential, **more})


def refused(answer: Answer) -> None:
    assert (answer.status, answer.body["error"]) == (400, "invalid_grant"), answer


class TestTheCeremonies:
    async def test_registering_and_signing_in(self, identity: IdentityStack) -> None:
        user, key = await with_passkey(identity)
        listed = (await identity.get("/v1/me/passkeys", await identity.token(user["user_name"]))).body["items"]
        assert [(item["name"], item["used_at"]) for item in listed] == [("A phone", None)]
        answer = await sign_in(identity, key)
        assert answer.status == 200, answer
        assert answer.body.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "company_id"}
        me = (await identity.get("/v1/me", answer.body["access_token"])).body
        assert me["id"] == user["id"]
        assert (await renew(identity, answer.body["refresh_token"])).status == 200
        listed = (await identity.get("/v1/me/passkeys", answer.body["access_token"])).body["items"]
        assert listed[0]["used_at"] is not None
        assert {"passkey_added", "sign_in"} <= set(await audited(identity))

    async def test_the_options_are_those_of_a_passkey(self, identity: IdentityStack) -> None:
        user, key = await with_passkey(identity)
        token = await identity.token(user["user_name"])
        options = (await identity.request("POST", "/v1/me/passkeys/options", token=token)).body
        assert options["rp"]["id"] == "localhost"
        assert unb64(options["user"]["id"]).hex() == user["id"].replace("-", ""), "no name, no address"
        assert options["authenticatorSelection"]["userVerification"] == "required"
        assert options["authenticatorSelection"]["residentKey"] == "required"
        assert [entry["id"] for entry in options["excludeCredentials"]] == [b64(key.credential_id)]
        first, second = await ask(identity), await ask(identity)
        assert (first["rpId"], first["userVerification"]) == ("localhost", "required")
        assert first["challenge"] != second["challenge"]
        assert len(unb64(first["challenge"])) >= 16

    async def test_it_counts_as_two_factors(self, identity: IdentityStack) -> None:
        user = await somebody(identity, mfa_required=True)
        enrolling = await grant(identity, user["user_name"])
        key = Authenticator()
        assert (await register(identity, enrolling.body["access_token"], key)).status == 201
        assert (await grant(identity, user["user_name"])).body["error"] == "mfa_required"
        answer = await sign_in(identity, key)
        assert answer.status == 200
        codes = await identity.request("POST", "/v1/me/recovery-codes", token=answer.body["access_token"])
        assert (await grant(identity, user["user_name"], otp=codes.body["recovery_codes"][0])).status == 200

    async def test_company_and_rights_are_the_users(self, identity: IdentityStack) -> None:
        user, key = await with_passkey(identity)
        refused(await sign_in(identity, key, company_id=(await identity.company(name("C")))["id"]))
        await identity.patch(f"/v1/users/{user['id']}", {"active": False}, await identity.operator())
        refused(await sign_in(identity, key))

    async def test_removed_is_removed(self, identity: IdentityStack) -> None:
        user, key = await with_passkey(identity)
        token = await identity.token(user["user_name"])
        other = await identity.token((await somebody(identity))["user_name"])
        path = f"/v1/me/passkeys/{(await identity.get('/v1/me/passkeys', token)).body['items'][0]['id']}"
        assert (await identity.request("DELETE", path, token=other)).status == 404
        assert (await identity.request("DELETE", path, token=token)).status == 204
        refused(await sign_in(identity, key))
        assert (await grant(identity, user["user_name"])).status == 200

    async def test_ten_are_enough(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        token = await identity.token(user["user_name"])
        seen = [(await register(identity, token, Authenticator())).status for _ in range(11)]
        assert seen == [201] * 10 + [409]

    async def test_a_credential_belongs_to_one_user(self, identity: IdentityStack) -> None:
        _, key = await with_passkey(identity)
        other = await somebody(identity)
        copied = Authenticator(credential_id=key.credential_id)
        answer = await register(identity, await identity.token(other["user_name"]), copied)
        assert answer.status == 422
        assert (await sign_in(identity, key)).status == 200


@pytest.mark.parametrize(
    ("public_url", "origin"),
    [
        ("https://Billing.example:443/app/", "https://billing.example"),
        ("http://localhost:80", "http://localhost"),
        ("https://billing.example:8443", "https://billing.example:8443"),
        ("http://localhost:443", "http://localhost:443"),
    ],
)
def test_the_origin_is_written_as_browsers_write_it(public_url: str, origin: str) -> None:
    """Without the port that the scheme has by itself (RFC 6454 section 6.1)."""
    party = RelyingParty(public_url)
    key = Authenticator(origin=origin, rp_id=party.id)
    options = party.registration_options(uuid4(), "u", "U", [], b"c" * 32)
    assert party.verify_registration(key.create(options), b"c" * 32).credential_id == key.credential_id


class TestChallenges:
    async def test_each_counts_once(self, identity: IdentityStack) -> None:
        _, key = await with_passkey(identity, Authenticator(steps=0))
        options = await ask(identity)
        first, second = key.get(options), key.get(options)
        assert (await identity.post("/v1/passkeys/token", {"credential": first})).status == 200
        for again in (first, second):
            refused(await identity.post("/v1/passkeys/token", {"credential": again}))

    async def test_also_when_many_come_at_once(self, identity: IdentityStack) -> None:
        _, key = await with_passkey(identity, Authenticator(steps=0))
        body = {"credential": key.get(await ask(identity))}
        async with IdentityStack.running(identity.dsn) as other:
            answers = await asyncio.gather(
                *(one.post("/v1/passkeys/token", body) for one in (identity, other) for _ in range(10))
            )
        assert Counter(answer.status for answer in answers) == {200: 1, 400: 19}

    async def test_also_when_it_failed(self, identity: IdentityStack) -> None:
        _, key = await with_passkey(identity)
        options = await ask(identity)
        key.verified = False
        refused(await identity.post("/v1/passkeys/token", {"credential": key.get(options)}))
        key.verified = True
        refused(await identity.post("/v1/passkeys/token", {"credential": key.get(options)}))

    async def test_they_end_after_five_minutes(self, identity: IdentityStack, monkeypatch: pytest.MonkeyPatch) -> None:
        _, key = await with_passkey(identity)
        options = await ask(identity)
        credential = key.get(options)
        from services.identity import sealing

        now = sealing.time.time
        monkeypatch.setattr(sealing.time, "time", lambda: now() + 301)
        refused(await identity.post("/v1/passkeys/token", {"credential": credential}))

    async def test_used_ones_are_remembered_while_a_slower_clock_takes_them(self, identity: IdentityStack) -> None:
        """The database forgets by its own clock, and a process judges by its own."""
        _, key = await with_passkey(identity, Authenticator(steps=0))
        body = {"credential": key.get(await ask(identity))}
        assert (await identity.post("/v1/passkeys/token", body)).status == 200
        ahead = "update used_ticket set expires_at = now() - make_interval(secs => $1)"
        async with await create_pool(identity.dsn, name="test", role="identity_app") as pool:
            await run_sql(identity, ahead, 240.0)
            await forget(pool)
            refused(await identity.post("/v1/passkeys/token", body))
            await run_sql(identity, ahead, 301.0)
            await forget(pool)
        assert await run_sql(identity, "select from used_ticket") == []

    async def test_only_ours_for_this_and_for_him(self, identity: IdentityStack) -> None:
        user, key = await with_passkey(identity)
        token = await identity.token(user["user_name"])
        for_another = await identity.request(
            "POST", "/v1/me/passkeys/options", token=await identity.token((await somebody(identity))["user_name"])
        )
        registration = (await identity.request("POST", "/v1/me/passkeys/options", token=token)).body["challenge"]
        authentication = (await ask(identity))["challenge"]
        for challenge in (b64(b"x" * 64), b64(b""), registration, authentication[:-8] + "AAAAAAAA"):
            refused(await sign_in(identity, key, challenge))
        for challenge in (b64(b"x" * 64), authentication, for_another.body["challenge"]):
            assert (await register(identity, token, Authenticator(), challenge)).status == 422


class TestWhatAnAuthenticatorMustNotSay:
    @pytest.mark.parametrize(
        "change",
        [
            {"origin": "http://localhost:8081"},
            {"origin": "https://localhost:8080"},
            {"origin": "http://localhost.evil.example"},
            {"rp_id": "evil.example"},
            {"verified": False},
            {"cross_origin": True},
            {"key": ec.generate_private_key(ec.SECP256R1())},
            {"user_handle": b"x" * 16},
            {"user_handle": b""},
            {"credential_id": b"x" * 32},
        ],
        ids=lambda change: "-".join(f"{key}" for key in change),
    )
    async def test_at_sign_in(self, identity: IdentityStack, change: dict[str, Any]) -> None:
        _, key = await with_passkey(identity)
        right = {field: getattr(key, field) for field in change}
        for field, value in change.items():
            setattr(key, field, value)
        refused(await sign_in(identity, key))
        for field, value in right.items():
            setattr(key, field, value)
        assert (await sign_in(identity, key)).status == 200

    @pytest.mark.parametrize(
        "change",
        [{"origin": "https://evil.example"}, {"rp_id": "evil.example"}, {"verified": False}, {"cross_origin": True}],
        ids=str,
    )
    async def test_at_registration(self, identity: IdentityStack, change: dict[str, Any]) -> None:
        token = await identity.token((await somebody(identity))["user_name"])
        answer = await register(identity, token, Authenticator(**change))
        assert (answer.status, answer.body["errors"][0]["field"]) == (422, "credential")
        assert (await identity.get("/v1/me/passkeys", token)).body["items"] == []

    async def test_a_counter_that_does_not_rise_is_a_copy(self, identity: IdentityStack) -> None:
        _, key = await with_passkey(identity)
        assert (await sign_in(identity, key)).status == 200
        copied = copy.copy(key)
        assert (await sign_in(identity, key)).status == 200
        refused(await sign_in(identity, copied))
        entries = (await identity.get("/v1/audit?action=sign_in_failed", await identity.operator())).body["items"]
        assert entries[0]["details"] == {"methods": ["pop", "user", "mfa"]}
        assert (await sign_in(identity, key)).status == 200

    async def test_two_answers_with_one_count_cannot_both_win(self, identity: IdentityStack) -> None:
        _, key = await with_passkey(identity)
        copied = copy.copy(key)
        credentials = [one.get(await ask(identity)) for one in (key, copied)]
        async with IdentityStack.running(identity.dsn) as other:
            answers = await asyncio.gather(
                *(
                    one.post("/v1/passkeys/token", {"credential": credential})
                    for one, credential in zip((identity, other), credentials, strict=True)
                )
            )
        assert sorted(answer.status for answer in answers) == [200, 400]

    async def test_some_have_no_counter(self, identity: IdentityStack) -> None:
        _, key = await with_passkey(identity, Authenticator(steps=0))
        for _ in range(3):
            assert (await sign_in(identity, key)).status == 200

    async def test_nothing_is_kept_of_what_was_refused(self, identity: IdentityStack) -> None:
        before = await run_sql(identity, "select count(*) from passkey")
        token = await identity.token((await somebody(identity))["user_name"])
        for body in (
            {},
            {"name": "x"},
            {"name": "x", "credential": {}},
            {"name": "x", "credential": {"response": 1}},
            {"name": "", "credential": {}},
            {"name": "x", "credential": [1]},
        ):
            assert (await identity.post("/v1/me/passkeys", body, token)).status == 422
        assert await run_sql(identity, "select count(*) from passkey") == before


_PARTY = RelyingParty("http://localhost:8080")
_OPTIONS = {"user": {"id": b64(b"u" * 16)}, "challenge": b64(b"c" * 32)}
_JUNK = (
    st.none() | st.integers() | st.text(max_size=20) | st.binary(max_size=60).map(b64) | st.lists(st.text(max_size=3))
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.differing_executors])
@given(st.sampled_from(["create", "get"]), st.data())
def test_whatever_a_stranger_sends_is_refused_and_breaks_nothing(ceremony: str, data: st.DataObject) -> None:
    """One part of a good answer replaced, cut or with one byte changed: never accepted, never an unexpected error."""
    key = Authenticator(user_handle=b"u" * 16)
    credential = key.create(_OPTIONS) if ceremony == "create" else key.get(_OPTIONS)
    public = _PARTY.verify_registration(Authenticator(key=key.key).create(_OPTIONS), b"c" * 32).public_key
    inside = data.draw(st.booleans())
    target = credential["response"] if inside else credential
    # What says nothing about who it is may be anything.
    free = {"transports", "clientExtensionResults", "authenticatorAttachment"}
    part = data.draw(st.sampled_from(sorted(target.keys() - free)))
    if isinstance(target[part], str) and data.draw(st.booleans()):
        raw = bytearray(unb64(target[part]) if part != "type" else target[part].encode())
        place = data.draw(st.integers(0, 1_000)) % len(raw)
        raw[place] ^= data.draw(st.integers(1, 255))
        changed: Any = b64(bytes(raw)) if part != "type" else raw.decode("latin-1")
    else:
        changed = data.draw(_JUNK)
    if changed == target[part]:
        return
    target[part] = changed
    try:
        challenge = challenge_of(credential)
        credential_id_of(credential)
        if ceremony == "create":
            found = _PARTY.verify_registration(credential, b"c" * 32)
            # Without attestation the key itself is whatever the browser says it is.
            assert part == "attestationObject"
            assert len(found.credential_id) <= 1023
        else:
            _PARTY.verify_sign_in(credential, challenge, public, 0, UUID(bytes=b"u" * 16))
            raise AssertionError(part)
    except BadCredential:
        pass


async def test_an_app_beside_a_passkey(identity: IdentityStack) -> None:
    """Removing one factor leaves the other, and its recovery codes."""
    user, key = await with_passkey(identity)
    token = (await sign_in(identity, key)).body["access_token"]
    app: App = await enrol(identity, token)
    gone = await identity.request("DELETE", "/v1/me/totp", token=token, json={"code": app.code(1)})
    assert gone.status == 204
    assert (await identity.get("/v1/me/mfa", token)).body == {"totp": False, "passkeys": 1, "recovery_codes_left": 10}
    assert (await grant(identity, user["user_name"])).body["error"] == "mfa_required"
    assert (await sign_in(identity, key)).status == 200
