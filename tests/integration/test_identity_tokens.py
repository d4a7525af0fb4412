"""Getting, renewing, ending and asking about tokens; what a guesser meets (quality cases 76-80)."""

from __future__ import annotations

import asyncio
import base64
import io
import math
import statistics
import time
from collections import Counter
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from services.identity.app import MIGRATIONS
from services.identity.passwords import Hasher
from services.identity.sealing import Sealer
from services.identity.service import keys
from shared.access.tokens import KeyCache, TokenVerifier
from shared.db import create_pool
from shared.errors import Unavailable
from tests.support.databases import Databases
from tests.support.identity import INTERNAL_SECRET, OPERATOR_PASSWORD, PASSWORD, SECRETS_KEY, Answer, IdentityStack

_numbers = count(1)
CLAIMS = {
    *("iss", "aud", "sub", "client_id", "iat", "nbf", "exp", "jti", "user_name", "user_type", "role"),
    *("affiliation", "company_id", "locations", "authz_ver"),
}


def name(stem: str = "u") -> str:
    return f"{stem}{next(_numbers)}"


async def company(identity: IdentityStack) -> str:
    return str((await identity.company(name("C")))["id"])


def part(token: str, index: int) -> dict[str, Any]:
    text = token.split(".")[index]
    decoded: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return decoded


async def password_grant(identity: IdentityStack, user_name: str, password: str = PASSWORD, **form: str) -> Answer:
    return await identity.ask_token(grant_type="password", username=user_name, password=password, **form)


async def refresh(identity: IdentityStack, token: str, **form: str) -> Answer:
    return await identity.ask_token(grant_type="refresh_token", refresh_token=token, **form)


class TestAccessTokens:
    async def test_exactly_the_claims_of_the_contract(self, identity: IdentityStack) -> None:
        mine = await company(identity)
        user = await identity.user(name(), "provider", [mine])
        answer = await identity.sign_in(user["user_name"])
        assert answer.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "company_id"}
        assert (answer["token_type"], answer["expires_in"], answer["company_id"]) == ("Bearer", 300, mine)
        header, claims = part(answer["access_token"], 0), part(answer["access_token"], 1)
        assert header.keys() == {"alg", "typ", "kid"}
        assert (header["alg"], header["typ"]) == ("ES256", "at+jwt")
        assert claims.keys() == CLAIMS
        assert (claims["iss"], claims["aud"], claims["sub"]) == ("billing-identity", "billing", user["id"])
        assert (claims["user_type"], claims["role"], claims["affiliation"]) == ("customer", "provider", "practice")
        assert (claims["locations"], claims["company_id"]) == ("*", mine)
        assert claims["exp"] - claims["iat"] == 300

    async def test_machines_and_the_operator(self, identity: IdentityStack) -> None:
        operator = part(await identity.operator(), 1)
        assert (operator["role"], operator["company_id"], operator["locations"]) == ("operator", None, "*")
        internal = part(await identity.internal(), 1)
        assert internal.keys() == CLAIMS
        assert (internal["role"], internal["user_type"], internal["company_id"]) == ("internal", "client", None)
        assert (internal["affiliation"], internal["client_id"]) == ("integration", "internal")
        UUID(internal["sub"])
        mine = await company(identity)
        token = await identity.client_token("internal", INTERNAL_SECRET, mine)
        assert part(token, 1)["company_id"] == mine

    async def test_r4_locations_of_the_active_company_only(self, identity: IdentityStack) -> None:
        first, second, third = [await company(identity) for _ in range(3)]
        mine = [(await identity.location(first, code))["id"] for code in ("A", "B")]
        other = (await identity.location(second, "A"))["id"]
        role = "front_office_emr_restricted"
        user = await identity.user(name(), role, [first, second, third], emr_location_ids=[*mine, other])
        for company_id, expected in ((first, mine), (second, [other]), (third, [])):
            token = await identity.token(user["user_name"], company_id)
            assert sorted(part(token, 1)["locations"]) == sorted(expected)

    async def test_another_service_verifies_them(self, identity: IdentityStack) -> None:
        async def fetch() -> Any:
            return (await identity.get("/.well-known/jwks.json")).body

        user = await identity.user(name(), "provider", [await company(identity)])
        verifier = TokenVerifier(KeyCache(fetch), issuer="billing-identity", audience="billing")
        principal = await verifier.verify(await identity.token(user["user_name"]))
        assert (str(principal.subject), principal.user_name) == (user["id"], user["user_name"])

    async def test_rotation_needs_no_pause(self, identity: IdentityStack) -> None:
        user = await identity.user(name(), "provider", [await company(identity)])
        before = (await identity.get("/.well-known/jwks.json")).body["keys"]
        old = await identity.token(user["user_name"])
        async with await create_pool(identity.dsn, name="test", role="identity_app") as pool:
            await keys.rotate(pool, Sealer(SECRETS_KEY), published=timedelta(0))
        new = await identity.token(user["user_name"], fresh=True)
        after = (await identity.get("/.well-known/jwks.json")).body["keys"]
        assert part(new, 0)["kid"] != part(old, 0)["kid"]
        assert part(new, 0)["kid"] in [key["kid"] for key in before]
        assert {key["kid"] for key in before} < {key["kid"] for key in after}
        assert all(key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"} for key in after)
        for token in (old, new):
            assert (await identity.get("/v1/me", token)).status == 200

    async def test_metadata(self, identity: IdentityStack) -> None:
        metadata = (await identity.get("/.well-known/oauth-authorization-server")).body
        assert metadata["issuer"] == "billing-identity"
        assert metadata["jwks_uri"] == f"{identity.url}/.well-known/jwks.json"


class TestCompanies:
    async def test_u5_a_company_not_granted_is_an_unknown_one(self, identity: IdentityStack) -> None:
        mine, foreign = await company(identity), await company(identity)
        user = await identity.user(name(), "provider", [mine])
        signed_in = await identity.sign_in(user["user_name"])
        answers = []
        for wrong in (foreign, str(uuid4()), "nonsense", "0"):
            answers.append(await password_grant(identity, user["user_name"], company_id=wrong))
            answers.append(await refresh(identity, signed_in["refresh_token"], company_id=wrong))
            answers.append(await password_grant(identity, "operator", OPERATOR_PASSWORD, company_id=wrong))
        assert {(answer.status, answer.raw) for answer in answers} == {(400, answers[0].raw)}
        assert answers[0].body["error"] == "invalid_grant"
        assert (await refresh(identity, signed_in["refresh_token"])).status == 200

    async def test_u6_the_default_and_the_switch(self, identity: IdentityStack) -> None:
        first, second = await company(identity), await company(identity)
        user = await identity.user(name(), "provider", [first, second], default_company_id=second)
        signed_in = await identity.sign_in(user["user_name"])
        assert signed_in["company_id"] == second
        switched = (await refresh(identity, signed_in["refresh_token"], company_id=first)).body
        assert (switched["company_id"], part(switched["access_token"], 1)["company_id"]) == (first, first)
        stays = (await refresh(identity, switched["refresh_token"], company_id="")).body
        assert stays["company_id"] == first

    async def test_a_company_that_was_taken_away_ends_there(self, identity: IdentityStack) -> None:
        first, second = await company(identity), await company(identity)
        user = await identity.user(name(), "provider", [first, second])
        signed_in = await identity.sign_in(user["user_name"], company_id=second)
        operator = await identity.operator()
        await identity.patch(f"/v1/users/{user['id']}", {"company_ids": [first]}, operator)
        asked = await refresh(identity, signed_in["refresh_token"])
        assert (asked.status, asked.body["error"]) == (400, "invalid_grant")
        assert (await refresh(identity, signed_in["refresh_token"], company_id=first)).status == 200


class TestErrors:
    @pytest.mark.parametrize(
        ("form", "error"),
        [
            (b"", "invalid_request"),
            (b"grant_type=", "invalid_request"),
            (b"grant_type=password&username=x", "invalid_request"),
            (b"grant_type=password&password=x", "invalid_request"),
            (b"grant_type=refresh_token", "invalid_request"),
            (b"grant_type=magic", "unsupported_grant_type"),
            (b"grant_type=password&grant_type=password", "invalid_request"),
            (b"grant_type=password&username=a&username=b&password=c", "invalid_request"),
            (b"grant_type=password&username=%ff&password=c", "invalid_request"),
            (b"grant_type=password&username=%ED%A0%80&password=c", "invalid_request"),
            (b"\xff\xfe", "invalid_request"),
            (b"nonsense", "invalid_request"),
            (b"&".join(b"a%d=1" % number for number in range(50)), "invalid_request"),
            (b"grant_type=refresh_token&refresh_token=" + b"x" * 10_000, "invalid_grant"),
            (b"grant_type=password&username=%00&password=%00", "invalid_grant"),
            (b"grant_type=password&username=operator&password=" + b"x" * 900_000, "invalid_grant"),
        ],
    )
    async def test_in_the_form_of_rfc_6749(self, identity: IdentityStack, form: bytes, error: str) -> None:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await identity.request("POST", "/v1/token", data=form, headers=headers)
        assert (answer.status, answer.body["error"]) == (400, error), answer
        assert answer.body.keys() == {"error", "error_description"}
        assert answer.headers["Cache-Control"] == "no-store"

    async def test_other_media_types_and_sizes(self, identity: IdentityStack) -> None:
        assert (await identity.post("/v1/token", {"grant_type": "password"})).status == 415
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        big = await identity.request("POST", "/v1/token", data=io.BytesIO(b"x" * 2_000_000), headers=headers)
        assert big.status == 413

    async def test_clients_that_do_not_prove_themselves(self, identity: IdentityStack) -> None:
        asked = [
            await identity.ask_token(grant_type="client_credentials", client_id=client, client_secret=secret)
            for client, secret in (("internal", "wrong"), ("nobody", INTERNAL_SECRET), ("a\0b", "x"))
        ]
        asked.append(await identity.ask_token(grant_type="client_credentials"))
        assert {(answer.status, answer.raw) for answer in asked} == {(401, asked[0].raw)}
        assert asked[0].body["error"] == "invalid_client"
        assert asked[0].headers["WWW-Authenticate"].startswith("Basic")

    async def test_http_basic(self, identity: IdentityStack) -> None:
        form = {"grant_type": "client_credentials"}

        async def ask(credentials: bytes, **more: str) -> Answer:
            headers = {"Authorization": "Basic " + base64.b64encode(credentials).decode()}
            return await identity.request("POST", "/v1/token", data={**form, **more}, headers=headers)

        secret = INTERNAL_SECRET.replace(" ", "+").replace("'", "%27").encode()
        assert (await ask(b"internal:" + secret)).status == 200
        assert (await ask(b"internal:wrong")).status == 401
        assert (await ask(b"internal")).status == 401
        assert (await ask(b"\xff\xfe:x")).status == 401
        assert (await ask(b"internal:" + secret, client_secret="x")).body["error"] == "invalid_request"
        broken = await identity.request("POST", "/v1/token", data=form, headers={"Authorization": "Basic !"})
        assert broken.status == 401


class TestRefreshTokens:
    async def test_case_80_a_replay_ends_the_family(self, identity: IdentityStack) -> None:
        user = await identity.user(name(), "provider", [await company(identity)])
        first = (await identity.sign_in(user["user_name"]))["refresh_token"]
        other_session = (await identity.sign_in(user["user_name"]))["refresh_token"]
        second = (await refresh(identity, first)).body["refresh_token"]
        assert second != first
        for dead in (first, second, first):
            answer = await refresh(identity, dead)
            assert (answer.status, answer.body["error"]) == (400, "invalid_grant")
        assert (await refresh(identity, other_session)).status == 200

    async def test_case_80_of_parallel_uses_at_most_one_wins(self, identity: IdentityStack) -> None:
        user = await identity.user(name(), "provider", [await company(identity)])
        token = (await identity.sign_in(user["user_name"]))["refresh_token"]
        answers = await asyncio.gather(*(refresh(identity, token) for _ in range(20)))
        good = [answer for answer in answers if answer.status == 200]
        assert len(good) == 1
        assert {answer.status for answer in answers} == {200, 400}
        assert (await refresh(identity, good[0].body["refresh_token"])).status == 400

    async def test_only_hashes_are_stored(self, identity: IdentityStack) -> None:
        user = await identity.user(name(), "provider", [await company(identity)])
        token = (await identity.sign_in(user["user_name"]))["refresh_token"]
        connection = await asyncpg.connect(identity.dsn)
        try:
            rows = await connection.fetch("select t::text as text from refresh_token t")
            keys = await connection.fetch("select c::text as text from client c")
        finally:
            await connection.close()
        assert token not in "".join(row["text"] for row in rows)
        assert INTERNAL_SECRET not in "".join(row["text"] for row in keys)

    @pytest.mark.parametrize("change", [{"password": "a new password"}, {"active": False}])
    async def test_a_new_password_and_a_deactivation_end_sessions(
        self, identity: IdentityStack, change: dict[str, Any]
    ) -> None:
        user = await identity.user(name(), "provider", [await company(identity)])
        token = (await identity.sign_in(user["user_name"]))["refresh_token"]
        await identity.patch(f"/v1/users/{user['id']}", change, await identity.operator())
        assert (await refresh(identity, token)).status == 400
        assert (await password_grant(identity, user["user_name"])).status == 400
        if "password" in change:
            assert (await password_grant(identity, user["user_name"], change["password"])).status == 200

    async def test_rights_are_read_again(self, identity: IdentityStack) -> None:
        user = await identity.user(name(), "provider", [await company(identity)])
        before = await identity.sign_in(user["user_name"])
        await identity.patch(f"/v1/users/{user['id']}", {"role": "front_office"}, await identity.operator())
        after = (await refresh(identity, before["refresh_token"])).body
        old, new = part(before["access_token"], 1), part(after["access_token"], 1)
        assert (new["role"], new["authz_ver"]) == ("front_office", old["authz_ver"] + 1)


class TestRevocationAndIntrospection:
    async def inspect(self, identity: IdentityStack, token: str) -> Any:
        return (
            await identity.form("/v1/introspect", token=token, client_id="internal", client_secret=INTERNAL_SECRET)
        ).body

    async def test_revoked_sessions_end(self, identity: IdentityStack) -> None:
        user = await identity.user(name(), "provider", [await company(identity)])
        for kind in ("refresh_token", "access_token"):
            signed_in = await identity.sign_in(user["user_name"])
            assert (await self.inspect(identity, signed_in["access_token"]))["active"] is True
            revoked = await identity.form("/v1/revoke", token=signed_in[kind], token_type_hint=kind)
            assert (revoked.status, revoked.raw) == (200, b"")
            assert (await self.inspect(identity, signed_in["access_token"])) == {"active": False}
            assert (await refresh(identity, signed_in["refresh_token"])).status == 400

    async def test_signing_out_is_in_the_audit_once(self, identity: IdentityStack) -> None:
        user = await identity.user(name(), "provider", [await company(identity)])
        for times, kind in enumerate(("refresh_token", "access_token"), 1):
            token = (await identity.sign_in(user["user_name"]))[kind]
            for _ in range(2):
                assert (await identity.form("/v1/revoke", token=token)).status == 200
            rows = (await identity.get("/v1/audit?action=signed_out", await identity.operator())).body["items"]
            mine = [row for row in rows if row["actor_id"] == user["id"]]
            assert [row["subject_id"] for row in mine] == [user["id"]] * times

    async def test_what_is_no_token_is_no_error(self, identity: IdentityStack) -> None:
        for token in ("x", "a.b.c", "x" * 5_000, (await identity.operator())[:-4] + "AAAA"):
            assert (await identity.form("/v1/revoke", token=token)).status == 200
            assert await self.inspect(identity, token) == {"active": False}
        assert (await identity.form("/v1/revoke")).body["error"] == "invalid_request"
        client = await identity.form("/v1/revoke", token=await identity.internal())
        assert client.body["error"] == "unsupported_token_type"

    async def test_what_introspection_tells(self, identity: IdentityStack) -> None:
        mine = await company(identity)
        user = await identity.user(name(), "provider", [mine])
        token = await identity.token(user["user_name"])
        told = await self.inspect(identity, token)
        claims = part(token, 1)
        shown = {"sub", "client_id", "exp", "jti", "iss", "role", "company_id", "locations", "authz_ver"}
        assert {key: told[key] for key in shown} == {key: claims[key] for key in shown}
        await identity.patch(f"/v1/users/{user['id']}", {"role": "front_office"}, await identity.operator())
        assert await self.inspect(identity, token) == {"active": False}

    async def test_who_may_ask(self, identity: IdentityStack) -> None:
        mine = await company(identity)
        person = await identity.token((await identity.user(name(), "provider", [mine]))["user_name"])
        emr = await identity.client(name("emr"), [mine])
        machine = await identity.client_token(emr["client_id"], emr["client_secret"])
        form = {"token": person}
        assert (await identity.request("POST", "/v1/introspect", data=form)).status == 401
        assert (await identity.request("POST", "/v1/introspect", data=form, token=person)).status == 403
        for asker, expected in ((await identity.internal(), True), (machine, False)):
            answer = await identity.request("POST", "/v1/introspect", data=form, token=asker)
            assert (answer.status, answer.body["active"]) == (200, expected)
        own = await identity.request("POST", "/v1/introspect", data={"token": machine}, token=machine)
        assert own.body["active"] is True


class TestGuessing:
    async def test_case_78_nobody_learns_which_users_exist(self, identity: IdentityStack) -> None:
        mine = await company(identity)
        active = (await identity.user(name(), "provider", [mine]))["user_name"]
        inactive = (await identity.user(name(), "provider", [mine], active=False))["user_name"]
        silent = name("silent")
        body = {"user_name": silent, "first_name": "A", "last_name": "B", "email": "a@b.example"}
        body |= {"user_type": "customer", "role": "provider", "company_ids": [mine]}  # type: ignore[dict-item]
        assert (await identity.post("/v1/users", body, await identity.operator())).status == 201
        answers = [
            await password_grant(identity, active, "wrong password"),
            await password_grant(identity, inactive),
            await password_grant(identity, inactive, "wrong password"),
            await password_grant(identity, silent),
            await password_grant(identity, "nobody"),
            await password_grant(identity, "\u0430dmin"),
        ]
        assert {(answer.status, answer.raw) for answer in answers} == {(400, answers[0].raw)}

    @pytest.mark.measured
    async def test_case_78_and_not_by_the_time_either(self, databases: Databases) -> None:
        async with IdentityStack.fresh(databases, Hasher()) as identity:
            known = (await identity.user(name(), "provider", [await company(identity)]))["user_name"]
            times: dict[str, list[float]] = {known: [], "nobody": []}
            for number in range(20):
                user_name = known if number % 2 else "nobody"
                started = time.perf_counter()
                await password_grant(identity, user_name, "wrong password")
                times[user_name].append(time.perf_counter() - started)
            ratio = statistics.median(times[known]) / statistics.median(times["nobody"])
            assert 0.6 < ratio < 1.7, times

    async def test_case_79_parallel_guesses_meet_the_limit(self, databases: Databases) -> None:
        async with IdentityStack.fresh(databases) as identity:
            mine = await company(identity)
            user, other = [(await identity.user(name(), "provider", [mine]))["user_name"] for _ in range(2)]
            began = time.monotonic()
            answers = await asyncio.gather(*(password_grant(identity, user, f"guess {n}") for n in range(1_000)))
            seen = Counter(answer.status for answer in answers)
            assert seen.keys() == {400, 429}, seen
            # Eleven at once, and one more after each wait of 1, 2, 4... seconds that has gone by meanwhile.
            assert seen[400] <= 11 + int(math.log2(time.monotonic() - began + 1)), seen
            blocked = await password_grant(identity, user)
            assert blocked.status == 429
            assert 1 <= int(blocked.headers["Retry-After"]) <= 300
            assert (await password_grant(identity, other)).status == 200
            unknown = await asyncio.gather(*(password_grant(identity, "nobody", f"guess {n}") for n in range(50)))
            assert Counter(answer.status for answer in unknown)[429] >= 37
            await asyncio.sleep(int(blocked.headers["Retry-After"]))
            assert (await password_grant(identity, user)).status == 200
            assert (await password_grant(identity, user, "wrong")).status == 400

    async def test_an_owner_in_a_hurry_is_no_guesser(self, identity: IdentityStack) -> None:
        user = (await identity.user(name(), "provider", [await company(identity)]))["user_name"]
        answers = await asyncio.gather(*(password_grant(identity, user) for _ in range(60)))
        assert {answer.status for answer in answers} == {200}

    async def test_case_76_what_does_not_fit_in_the_queue_is_refused(self) -> None:
        hasher = Hasher(time_cost=1, memory_cost=8, queue=2)
        outcomes = await asyncio.gather(*(hasher.verify(None, "x") for _ in range(10)), return_exceptions=True)
        assert outcomes[:4] == [False] * 4
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes[4:])
        assert await hasher.verify(await hasher.hash("right"), "right")
        hasher.close()

    async def test_production_hashes_are_as_strong_as_they_should_be(self) -> None:
        hasher = Hasher()
        encoded = await hasher.hash("x")
        hasher.close()
        assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


class TestBootstrap:
    async def test_the_operators_password(self, databases: Databases, capsys: pytest.CaptureFixture[str]) -> None:
        dsn = await databases.create(MIGRATIONS)
        try:
            async with IdentityStack.running(dsn, operator_password=None):
                pass
            printed = capsys.readouterr().out
            line = next(line for line in printed.splitlines() if "operator" in line)
            generated = line.rsplit(" ", 1)[1]
            async with IdentityStack.running(dsn, operator_password=None) as identity:
                first = await identity.sign_in("operator", generated)
                assert first["scope"] == "password_change"
                own = {"old_password": generated, "password": "chosen by the person"}
                assert (await identity.post("/v1/me/password", own, first["access_token"])).status == 204
                session = await identity.sign_in("operator", "chosen by the person")
            assert generated not in capsys.readouterr().out
            async with IdentityStack.running(dsn, operator_password=SecretStr("given by the operator")) as identity:
                assert (await password_grant(identity, "operator", "chosen by the person")).status == 400
                assert (await refresh(identity, session["refresh_token"])).status == 400
                assert await identity.sign_in("operator", "given by the operator")
            async with IdentityStack.running(dsn, internal_client_secret=SecretStr("another secret")) as identity:
                assert await identity.client_token("internal", "another secret")
                old = await identity.ask_token(
                    grant_type="client_credentials", client_id="internal", client_secret=INTERNAL_SECRET
                )
                assert old.status == 401
        finally:
            await databases.drop(dsn)
