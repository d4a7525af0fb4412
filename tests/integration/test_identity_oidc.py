"""Signing in with an external OpenID provider: who is believed, and what is refused (OpenID Connect Core 3.1.3.7)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey
from pydantic import SecretStr

from tests.support.databases import Databases
from tests.support.identity import Answer, IdentityStack
from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET, FakeProvider
from tests.support.second_factor import audited, enrol, renew, run_sql

_numbers = count(1)


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider.running() as running:
        yield running


@pytest.fixture
async def identity(databases: Databases, provider: FakeProvider) -> AsyncIterator[IdentityStack]:
    settings = {
        "oidc_issuer": provider.url,
        "oidc_client_id": CLIENT_ID,
        "oidc_client_secret": SecretStr(CLIENT_SECRET),
        "public_url": "https://billing.example",
    }
    async with IdentityStack.fresh(databases, **settings) as stack:
        yield stack


async def somebody(identity: IdentityStack, role: str = "provider", **constants: Any) -> dict[str, Any]:
    company = (await identity.company(f"C{next(_numbers)}", **constants))["id"]
    return await identity.user(f"u{next(_numbers)}", role, [company])


async def start(identity: IdentityStack) -> dict[str, str]:
    answer = await identity.request("POST", "/v1/oidc/start")
    assert answer.status == 201, answer
    begun: dict[str, str] = answer.body
    return begun


async def finish(identity: IdentityStack, begun: dict[str, str], brought: dict[str, str], **more: str) -> Answer:
    return await identity.post("/v1/oidc/token", {"handle": begun["handle"], **brought, **more})


async def sign_in(identity: IdentityStack, provider: FakeProvider, **more: str) -> Answer:
    begun = await start(identity)
    return await finish(identity, begun, provider.sign_in(begun["authorization_url"]), **more)


def refused(answer: Answer) -> None:
    assert (answer.status, answer.body["error"]) == (400, "invalid_grant"), answer


async def counts(identity: IdentityStack) -> list[int]:
    tables = ("app_user", "user_company", "user_location", "refresh_token", "external_login", "event", "outbox")
    return [(await run_sql(identity, f"select count(*) from {table}"))[0][0] for table in tables]


def verified(user: dict[str, Any]) -> dict[str, Any]:
    return {"email": user["email"].upper(), "email_verified": True, "sub": f"subject of {user['id']}"}


class TestWhoIsSignedIn:
    async def test_the_user_with_the_verified_address_and_from_then_on_by_subject(
        self, identity: IdentityStack, provider: FakeProvider
    ) -> None:
        user = await somebody(identity)
        provider.claims = verified(user)
        answer = await sign_in(identity, provider)
        assert answer.status == 200, answer
        me = (await identity.get("/v1/me", answer.body["access_token"])).body
        assert (me["id"], me["role"], me["company_id"]) == (user["id"], "provider", user["company_ids"][0])
        assert (await renew(identity, answer.body["refresh_token"])).status == 200
        assert {"external_login_linked", "sign_in"} <= set(await audited(identity))
        # The address has served its purpose: the provider's subject is who it is.
        other = await somebody(identity)
        provider.claims |= {"email": other["email"]}
        again = await sign_in(identity, provider)
        assert (await identity.get("/v1/me", again.body["access_token"])).body["id"] == user["id"]
        provider.claims = verified(user) | {"sub": "somebody else at the provider"}
        refused(await sign_in(identity, provider))

    async def test_nobody_else_and_nobody_is_made(self, identity: IdentityStack, provider: FakeProvider) -> None:
        user = await somebody(identity)
        twin = await somebody(identity)
        operator = await identity.operator()
        await identity.patch(f"/v1/users/{twin['id']}", {"email": "twin@practice.example"}, operator)
        await identity.user("twin", "provider", twin["company_ids"], email="Twin@Practice.example")
        gone = await somebody(identity)
        await identity.patch(f"/v1/users/{gone['id']}", {"active": False}, operator)
        before = await counts(identity)
        for claims in (
            {"email": "stranger@practice.example", "email_verified": True},
            {"email": user["email"]},
            {"email": user["email"], "email_verified": False},
            {"email": user["email"], "email_verified": "true"},
            {"email": "twin@practice.example", "email_verified": True},
            {"email": gone["email"], "email_verified": True},
            {"email": "", "email_verified": True},
            {"email": None, "email_verified": True},
            {"email": [user["email"]], "email_verified": True},
            {"email": "a\0b", "email_verified": True},
            {"role": "operator", "preferred_username": user["user_name"], "groups": ["admins"]},
        ):
            provider.claims = claims
            refused(await sign_in(identity, provider))
        assert await counts(identity) == before

    @pytest.mark.parametrize("beside", [{}, {"password": "a horse and its battery"}])
    async def test_another_address_is_another_holder(
        self, identity: IdentityStack, provider: FakeProvider, beside: dict[str, str]
    ) -> None:
        """Where an address was wrong, the one whom it belongs to was linked. Correcting it shuts him out at once."""
        user = await somebody(identity)
        path, operator = f"/v1/users/{user['id']}", await identity.operator()
        provider.claims = verified(user)
        wrong_one = (await sign_in(identity, provider)).body
        for same in ({"first_name": "Other"}, {"email": user["email"].upper()}):
            assert (await identity.patch(path, same, operator)).status == 200
            assert (await sign_in(identity, provider)).status == 200
        assert (await identity.get("/v1/me", wrong_one["access_token"])).status == 200
        assert (await identity.patch(path, {"email": "right@practice.example", **beside}, operator)).status == 200
        refused(await sign_in(identity, provider))
        assert (await identity.get("/v1/me", wrong_one["access_token"])).body["code"] == "token_stale"
        assert (await renew(identity, wrong_one["refresh_token"])).status == 400
        assert "external_login_unlinked" in await audited(identity)
        provider.claims = {"email": "right@practice.example", "email_verified": True, "sub": "the right one"}
        assert (await sign_in(identity, provider)).status == 200

    async def test_another_address_signs_nobody_out_who_was_not_linked(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        session = await identity.sign_in(user["user_name"])
        path, operator = f"/v1/users/{user['id']}", await identity.operator()
        assert (await identity.patch(path, {"email": "new@practice.example"}, operator)).status == 200
        assert (await identity.get("/v1/me", session["access_token"])).status == 200
        assert "external_login_unlinked" not in await audited(identity)

    async def test_deactivated_is_out_although_linked(self, identity: IdentityStack, provider: FakeProvider) -> None:
        user = await somebody(identity)
        provider.claims = verified(user)
        assert (await sign_in(identity, provider)).status == 200
        await identity.patch(f"/v1/users/{user['id']}", {"active": False}, await identity.operator())
        refused(await sign_in(identity, provider))

    async def test_companies_are_those_granted_here(self, identity: IdentityStack, provider: FakeProvider) -> None:
        user = await somebody(identity)
        foreign = (await identity.company("FOREIGN"))["id"]
        provider.claims = verified(user) | {"company_id": foreign}
        refused(await sign_in(identity, provider, company_id=foreign))
        assert (await sign_in(identity, provider)).body["company_id"] == user["company_ids"][0]

    async def test_a_second_factor_is_due_here_as_anywhere(
        self, identity: IdentityStack, provider: FakeProvider
    ) -> None:
        strict = await somebody(identity, mfa_required=True)
        provider.claims = verified(strict)
        assert (await sign_in(identity, provider)).body["error"] == "mfa_required"
        provider.claims |= {"amr": ["pwd", "mfa"]}
        assert (await sign_in(identity, provider)).status == 200
        careful = await somebody(identity)
        await enrol(identity, await identity.token(careful["user_name"]))
        provider.claims = verified(careful)
        assert (await sign_in(identity, provider)).body["error"] == "mfa_required"


class TestTheExchange:
    async def test_state_nonce_and_verifier_are_never_the_same_and_go_where_they_belong(
        self, identity: IdentityStack, provider: FakeProvider
    ) -> None:
        first, second = await start(identity), await start(identity)
        assert first["authorization_url"] != second["authorization_url"]
        assert first["handle"] != second["handle"]
        assert "redirect_uri=https%3A%2F%2Fbilling.example%2F&" in first["authorization_url"]
        assert CLIENT_SECRET not in first["authorization_url"]
        assert first["handle"] not in first["authorization_url"]
        assert provider.asked["discovery"] == 1, "metadata are read once"

    async def test_an_answer_counts_once(self, identity: IdentityStack, provider: FakeProvider) -> None:
        provider.claims = verified(await somebody(identity))
        begun = await start(identity)
        brought = provider.sign_in(begun["authorization_url"])
        assert (await finish(identity, begun, brought)).status == 200
        refused(await finish(identity, begun, brought))
        refused(await finish(identity, begun, provider.sign_in(begun["authorization_url"])))
        assert provider.asked["token"] == 1

    async def test_only_the_browser_that_began_may_finish(
        self, identity: IdentityStack, provider: FakeProvider
    ) -> None:
        """Login CSRF: an attacker's own answer, brought by a victim who began himself."""
        provider.claims = verified(await somebody(identity))
        attackers, victims = await start(identity), await start(identity)
        brought = provider.sign_in(attackers["authorization_url"])
        refused(await finish(identity, victims, brought))
        refused(await finish(identity, victims, {**brought, "state": "x"}))
        refused(await finish(identity, {"handle": "A" * 300}, brought))
        refused(await finish(identity, {"handle": attackers["handle"][:-4] + "AAAA"}, brought))
        assert (await finish(identity, attackers, brought)).status == 200

    async def test_a_code_of_another_exchange_is_refused(self, identity: IdentityStack, provider: FakeProvider) -> None:
        """Code injection: PKCE makes the provider refuse it."""
        provider.claims = verified(await somebody(identity))
        mine, stolen = await start(identity), await start(identity)
        code = provider.sign_in(stolen["authorization_url"])["code"]
        brought = provider.sign_in(mine["authorization_url"])
        refused(await finish(identity, mine, {**brought, "code": code}))

    async def test_the_handle_ends_after_ten_minutes(
        self, identity: IdentityStack, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider.claims = verified(await somebody(identity))
        begun = await start(identity)
        from services.identity import sealing

        now = time.time
        monkeypatch.setattr(sealing.time, "time", lambda: now() + 601)
        refused(await finish(identity, begun, provider.sign_in(begun["authorization_url"])))

    async def test_the_issuer_of_the_answer_is_compared(self, identity: IdentityStack, provider: FakeProvider) -> None:
        provider.claims = verified(await somebody(identity))
        refused(await sign_in(identity, provider, iss="https://another.example"))
        assert (await sign_in(identity, provider, iss=provider.url)).status == 200

    async def test_a_provider_that_is_away_is_503(self, identity: IdentityStack, provider: FakeProvider) -> None:
        provider.away = True
        assert (await identity.request("POST", "/v1/oidc/start")).status == 503
        provider.away = False
        begun = await start(identity)
        provider.away = True
        answer = await finish(identity, begun, provider.sign_in(begun["authorization_url"]))
        assert answer.status == 503

    @pytest.mark.parametrize(
        "metadata",
        [
            {"issuer": "https://another.example"},
            {"token_endpoint": "ftp://x/token"},
            {"jwks_uri": None},
            {"authorization_endpoint": "javascript:alert(1)"},
        ],
        ids=lambda metadata: next(iter(metadata)),
    )
    async def test_metadata_of_another_issuer_are_not_used(
        self, identity: IdentityStack, provider: FakeProvider, metadata: dict[str, Any]
    ) -> None:
        provider.metadata = metadata
        refused(await identity.request("POST", "/v1/oidc/start"))

    async def test_without_a_provider_there_is_no_such_thing(self, databases: Databases) -> None:
        async with IdentityStack.fresh(databases) as plain:
            assert (await plain.request("POST", "/v1/oidc/start")).status == 404
            body = {"handle": "x", "state": "x", "code": "x"}
            assert (await plain.post("/v1/oidc/token", body)).status == 404


NOW = int(time.time())
CLAIMS: dict[str, dict[str, Any]] = {
    "issuer of another": {"iss": "https://another.example"},
    "issuer with a slash more": {"iss": "SELF/"},
    "audience of another": {"aud": "another client"},
    "audience a list without us": {"aud": ["a", "b"]},
    "audience missing": {"aud": None},
    "several audiences, no authorised party": {"aud": [CLIENT_ID, "another"]},
    "several audiences, another authorised party": {"aud": [CLIENT_ID, "another"], "azp": "another"},
    "another authorised party": {"azp": "another"},
    "nonce of another": {"nonce": "another"},
    "nonce missing": {"nonce": None},
    "nonce a list": {"nonce": ["x"]},
    "expired": {"exp": NOW - 120},
    "expiry missing": {"exp": None},
    "expiry a text": {"exp": str(NOW + 86_400)},
    "issued long ago": {"iat": NOW - 1_000},
    "issued in the future": {"iat": NOW + 86_400},
    "not yet": {"nbf": NOW + 86_400},
    "proved too long ago": {"auth_time": NOW - 900 - 61},
    "proved in the future": {"auth_time": NOW + 86_400},
    "not said when proved": {"auth_time": None},
    "when proved a text": {"auth_time": str(NOW)},
    "when proved no number": {"auth_time": float("nan")},
    "when proved a truth": {"auth_time": True},
    "subject missing": {"sub": None},
    "subject empty": {"sub": ""},
    "subject a number": {"sub": 7},
    "subject too long": {"sub": "x" * 256},
    "subject with NUL": {"sub": "a\0b"},
}
HEADERS: dict[str, dict[str, Any]] = {
    "alg none": {"alg": "none"},
    "alg HS256": {"alg": "HS256"},
    "alg RS512": {"alg": "RS512"},
    "alg missing": {"alg": None},
    "kid unknown": {"kid": "made up"},
    "kid missing": {"kid": None},
}


@pytest.mark.parametrize("why", [*CLAIMS, *HEADERS])
async def test_id_tokens_that_prove_nothing(identity: IdentityStack, provider: FakeProvider, why: str) -> None:
    user = await somebody(identity)
    right = verified(user)
    # Linked already, so that the ID token is all that stands between a forger and the account.
    provider.claims = right
    assert (await sign_in(identity, provider)).status == 200
    wrong = CLAIMS.get(why, {})
    provider.claims = right | {
        key: value.replace("SELF", provider.url) if isinstance(value, str) else value for key, value in wrong.items()
    }
    provider.header = HEADERS.get(why, {})
    refused(await sign_in(identity, provider))
    provider.claims, provider.header = right, {}
    assert (await sign_in(identity, provider)).status == 200


async def test_the_session_counts_from_when_the_provider_asked_the_person(
    identity: IdentityStack, provider: FakeProvider
) -> None:
    """A sign-in that the provider waves through is no fresh one, and does not make the twelve hours longer."""
    user = await somebody(identity)
    provider.claims = verified(user) | {"auth_time": int(time.time()) - 890}
    signed_in = (await sign_in(identity, provider)).body
    (session,) = (await identity.get("/v1/me/sessions", signed_in["access_token"])).body["items"]
    began, ends = (datetime.fromisoformat(session[name]) for name in ("started_at", "ends_at"))
    assert 885 <= (datetime.now(UTC) - began).total_seconds() <= 960
    assert ends - began == timedelta(hours=12)
    assert (await identity.request("POST", "/v1/me/totp", token=signed_in["access_token"])).status == 201
    provider.claims |= {"auth_time": int(time.time()) - 930}
    late = (await sign_in(identity, provider)).body["access_token"]
    refusal = await identity.request("POST", "/v1/me/totp", token=late)
    assert (refusal.status, refusal.body["code"]) == (403, "sign_in_again")


async def test_a_sign_in_ends_the_session_before_if_it_says_so(identity: IdentityStack, provider: FakeProvider) -> None:
    provider.claims = verified(await somebody(identity))
    old = (await sign_in(identity, provider)).body
    new = await sign_in(identity, provider, refresh_token=old["refresh_token"])
    assert new.status == 200
    assert (await renew(identity, old["refresh_token"])).status == 400
    assert (await identity.get("/v1/me/sessions", new.body["access_token"])).status == 200


async def test_the_signature_must_be_the_providers(identity: IdentityStack, provider: FakeProvider) -> None:
    provider.claims = verified(await somebody(identity))
    kid = provider.published.as_dict(private=False)["kid"]
    for stranger in (RSAKey.generate_key(2048, {"kid": kid}), ECKey.generate_key("P-256", {"kid": kid})):
        provider.key = stranger
        provider.header = {"alg": "ES256" if isinstance(stranger, ECKey) else "RS256"}
        refused(await sign_in(identity, provider))


async def test_several_audiences_with_us_as_the_authorised_party(
    identity: IdentityStack, provider: FakeProvider
) -> None:
    provider.claims = verified(await somebody(identity)) | {"aud": [CLIENT_ID, "another"], "azp": CLIENT_ID}
    assert (await sign_in(identity, provider)).status == 200


async def test_the_provider_may_turn_its_keys(
    identity: IdentityStack, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.claims = verified(await somebody(identity))
    assert (await sign_in(identity, provider)).status == 200
    provider.published = ECKey.generate_key("P-256", {"kid": "the next one", "alg": "ES256"})
    provider.header = {"alg": "ES256"}
    monkeypatch.setattr("shared.access.tokens._REFETCH_SECONDS", 0)
    assert (await sign_in(identity, provider)).status == 200
    assert provider.asked["keys"] == 2
