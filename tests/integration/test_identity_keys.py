"""Signing keys: states and dates, rotation without one failed request, the compromise of one, and caches of them that
neither fall with identity nor hammer it (quality 3.2)."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from services.identity import relay
from services.identity.app import MIGRATIONS
from services.identity.sealing import Sealer
from services.identity.service import keys
from services.identity.tokens import Claims, Issuer, SigningKey, new_signing_key, public_keys
from shared.access import tokens as access_tokens
from shared.access.tokens import KeyCache, TokenVerifier
from shared.db import create_pool
from shared.errors import Unauthenticated, Unavailable
from shared.identity_client import ServiceClient, key_fetcher
from shared.ids import uuid7
from shared.loopback import LoopbackBus
from shared.migrate import migrate
from tests.support.databases import Databases
from tests.support.identity import OPERATOR_PASSWORD, SECRETS_KEY, IdentityStack
from tests.support.second_factor import audited, grant, renew, run_sql

SEALER = Sealer(SECRETS_KEY)
LONG_AGO = "created_at = created_at - interval '1 year', active_at = active_at - interval '1 year'"


@pytest.fixture
async def identity(databases: Databases) -> AsyncIterator[IdentityStack]:
    async with IdentityStack.fresh(databases) as stack:
        yield stack


@pytest.fixture
async def pool(identity: IdentityStack) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(identity.dsn, name="test", role="identity_app") as made:
        yield made


async def states(identity: IdentityStack) -> dict[str, str]:
    return {row["kid"]: row["state"] for row in await run_sql(identity, "select kid, state from signing_key")}


async def of_state(identity: IdentityStack, state: str) -> str:
    return next(kid for kid, known in (await states(identity)).items() if known == state)


async def published(identity: IdentityStack) -> list[str]:
    return [key["kid"] for key in (await identity.get("/.well-known/jwks.json")).body["keys"]]


def kid_of(token: str) -> str:
    head = token.split(".")[0]
    return str(orjson.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])


class TestRotation:
    async def test_states_and_dates(self, identity: IdentityStack, pool: asyncpg.Pool) -> None:
        first, second = await of_state(identity, "active"), await of_state(identity, "next")
        await keys.rotate(pool, SEALER, published=timedelta(0))
        assert (await states(identity))[first] == "retired"
        assert await of_state(identity, "active") == second
        rows = {row["kid"]: row for row in await run_sql(identity, "select * from signing_key")}
        assert rows[first]["created_at"] <= rows[first]["active_at"] < rows[first]["retired_at"]
        assert rows[first]["private_jwk"] == "", "a retired key cannot be stolen"
        assert rows[second]["created_at"] < rows[second]["active_at"]
        assert rows[second]["retired_at"] is None
        third = await of_state(identity, "next")
        assert set(await published(identity)) == {first, second, third}
        await run_sql(identity, "update signing_key set retired_at = retired_at - interval '61 minutes'")
        assert set(await published(identity)) == {second, third}, "its tokens have long ended"
        assert "keys_rotated" in await audited(identity)

    async def test_a_key_is_public_for_a_while_before_it_signs(
        self, identity: IdentityStack, pool: asyncpg.Pool
    ) -> None:
        with pytest.raises(keys.TooSoon):
            await keys.rotate(pool, SEALER)
        assert len(await states(identity)) == 2, "nothing has changed"
        await run_sql(identity, "update signing_key set created_at = created_at - interval '2 minutes'")
        await keys.rotate(pool, SEALER)
        with pytest.raises(keys.TooSoon):
            await keys.rotate(pool, SEALER)
        assert keys.PUBLISHED.total_seconds() > 2 * access_tokens._FRESH_SECONDS + access_tokens._REFETCH_SECONDS

    async def test_by_schedule_once_whoever_does_it(self, identity: IdentityStack, pool: asyncpg.Pool) -> None:
        ninety = timedelta(days=90)
        assert not await keys.rotate_when_due(pool, SEALER, ninety)
        await run_sql(identity, "update signing_key set active_at = active_at - interval '91 days'")
        assert not await keys.rotate_when_due(pool, SEALER, ninety), "the next key was made a moment ago"
        await run_sql(identity, f"update signing_key set {LONG_AGO}")
        done = await asyncio.gather(*(keys.rotate_when_due(pool, SEALER, ninety) for _ in range(8)))
        assert sorted(done) == [False] * 7 + [True]
        assert sorted((await states(identity)).values()) == ["active", "next", "retired"]

    async def test_the_background_process_does_it(self, identity: IdentityStack) -> None:
        await run_sql(identity, f"update signing_key set {LONG_AGO}")
        old, stop = await of_state(identity, "active"), asyncio.Event()
        job = asyncio.create_task(relay.run(identity.config, stop, LoopbackBus()))
        try:
            async with asyncio.timeout(10):
                while await of_state(identity, "active") == old:
                    await asyncio.sleep(0.02)
        finally:
            stop.set()
            await job

    async def test_costs_not_one_request(
        self, identity: IdentityStack, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another service verifies every token while keys turn six times, each as soon as it may."""
        monkeypatch.setattr(access_tokens, "_REFETCH_SECONDS", 0.05)
        client = ServiceClient(identity.url)
        cache = KeyCache(key_fetcher(client), fresh_seconds=0.2)
        verifier = TokenVerifier(cache, issuer="billing-identity", audience="billing")
        company = (await identity.company("C1"))["id"]
        user = (await identity.user("u1", "provider", [company]))["user_name"]
        stop, verified, signers = asyncio.Event(), 0, set()
        tokens: list[str] = []

        async def traffic() -> None:
            nonlocal verified
            while not stop.is_set():
                tokens.append((await identity.sign_in(user))["access_token"])
                for token in (tokens[0], tokens[len(tokens) // 2], tokens[-1]):
                    signers.add(kid_of(token))
                    await verifier.verify(token)
                    assert (await identity.get("/v1/me", token)).status == 200
                    verified += 1

        jobs = [asyncio.create_task(traffic()) for _ in range(3)]
        for _ in range(6):
            await asyncio.sleep(0.6)
            # In proportion as in production: public for longer than two reads of the set.
            await keys.rotate(pool, SEALER, published=timedelta(seconds=0.5))
        stop.set()
        await asyncio.gather(*jobs)
        await client.close()
        assert len(signers) >= 6
        assert verified > 50


class TestCompromise:
    async def test_its_tokens_are_refused_at_once_and_sessions_go_on(
        self, identity: IdentityStack, pool: asyncpg.Pool
    ) -> None:
        company = (await identity.company("C1"))["id"]
        user = (await identity.user("u1", "provider", [company]))["user_name"]
        session = await identity.sign_in(user)
        stolen = await self.stolen_key(identity)
        forged = self.forged(stolen)
        client = ServiceClient(identity.url)
        cache = KeyCache(key_fetcher(client), fresh_seconds=0.1)
        elsewhere = TokenVerifier(cache, issuer="billing-identity", audience="billing")
        for token in (session["access_token"], forged):
            await elsewhere.verify(token)  # And remembers it.
        await keys.compromise(pool, SEALER, stolen.kid)
        await asyncio.sleep(0.15)
        access_tokens_refetch = access_tokens._REFETCH_SECONDS
        access_tokens._REFETCH_SECONDS = 0
        try:
            for token in (session["access_token"], forged, self.forged(stolen)):
                with pytest.raises(Unauthenticated):
                    await elsewhere.verify(token)
            assert stolen.kid not in await published(identity)
            again = await renew(identity, session["refresh_token"])
            assert again.status == 200
            assert kid_of(again.body["access_token"]) != stolen.kid
            await elsewhere.verify(again.body["access_token"])
        finally:
            access_tokens._REFETCH_SECONDS = access_tokens_refetch
            await client.close()

    async def stolen_key(self, identity: IdentityStack) -> SigningKey:
        async with await create_pool(identity.dsn, name="thief") as pool, pool.acquire() as connection:
            return await keys.active_key(connection, SEALER)

    def forged(self, key: SigningKey) -> str:
        """What the thief of a key would sign, a moment from now too."""
        claims = Claims(
            subject=uuid7(),
            client_id="console",
            user_name="thief",
            user_type="partner",
            role="partner_admin",
            affiliation="practice",
            company_id=uuid7(),
            locations="*",
            authz_version=1,
        )
        return Issuer("billing-identity", "billing", 300).sign(key, claims)

    @pytest.mark.parametrize("state", ["active", "next", "retired"])
    async def test_whatever_its_state(self, identity: IdentityStack, pool: asyncpg.Pool, state: str) -> None:
        await keys.rotate(pool, SEALER, published=timedelta(0))
        kid = await of_state(identity, state)
        before = (await identity.get("/.well-known/jwks.json")).body
        assert "not_before" not in before
        await keys.compromise(pool, SEALER, kid)
        after = (await identity.get("/.well-known/jwks.json")).body
        assert kid not in [key["kid"] for key in after["keys"]]
        assert abs(after["not_before"] - time.time()) < 5
        assert sorted(set((await states(identity)).values())) == ["active", "next", "retired"]
        row = (await run_sql(identity, "select * from signing_key where kid = $1", kid))[0]
        assert (row["private_jwk"], row["state"]) == ("", "retired")
        with pytest.raises(keys.UnknownKey):
            await keys.compromise(pool, SEALER, kid)
        with pytest.raises(keys.UnknownKey):
            await keys.compromise(pool, SEALER, "no key")
        assert "key_compromised" in await audited(identity)
        assert (await grant(identity, "operator", OPERATOR_PASSWORD)).status == 200


async def test_keys_of_the_first_release_are_taken_over(databases: Databases) -> None:
    """Stored in the clear, without dates: sealed at the first start, and they go on verifying."""
    dsn = await databases.create()
    try:
        await migrate(dsn, MIGRATIONS)
        old, coming, gone = (new_signing_key() for _ in range(3))
        connection = await asyncpg.connect(dsn)
        for key, state in ((old, "active"), (coming, "next"), (gone, "retired")):
            await connection.execute(
                "insert into signing_key (kid, private_jwk, state, active_at, retired_at)"
                " values ($1, $2, $3, now(), case when $3 = 'retired' then now() end)",
                key.kid,
                key.private_jwk,
                state,
            )
        await connection.close()
        async with IdentityStack.running(dsn) as identity:
            assert kid_of(await identity.operator()) == old.kid
            assert set(await published(identity)) == {old.kid, coming.kid, gone.kid}
            rows = await run_sql(identity, "select private_jwk from signing_key")
            assert not any('"d"' in row["private_jwk"] for row in rows)
    finally:
        await databases.drop(dsn)


async def test_without_the_sealing_key_identity_does_not_start(databases: Databases) -> None:
    dsn = await databases.create(MIGRATIONS)
    try:
        with pytest.raises(SystemExit, match="IDENTITY_SECRETS_KEY"):
            async with IdentityStack.running(dsn, identity_secrets_key=None):
                pass
        with pytest.raises(SystemExit, match="IDENTITY_SECRETS_KEY"):
            async with IdentityStack.running(dsn, identity_secrets_key=SecretStr("short")):
                pass
    finally:
        await databases.drop(dsn)


class Clock:
    """The monotonic clock of `shared.access.tokens`, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.monotonic
        monkeypatch.setattr(access_tokens.time, "monotonic", lambda: real() + self.ahead)


class Source:
    """Serves keys, counts the questions, and can be away or silent."""

    def __init__(self) -> None:
        self.keys = [new_signing_key(), new_signing_key()]
        self.asked = 0
        self.away = False
        self.silent_for = 0.0

    async def fetch(self) -> Mapping[str, Any]:
        self.asked += 1
        await asyncio.sleep(self.silent_for)
        if self.away:
            raise Unavailable()
        return public_keys(self.keys)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class TestKeyCache:
    async def test_survives_identity_being_away_for_days(self, clock: Clock) -> None:
        source = Source()
        cache = KeyCache(source.fetch)
        assert await cache.get(source.keys[0].kid)
        source.away = True
        for _ in range(48):
            clock.ahead += 3_600
            for _ in range(100):
                assert await cache.get(source.keys[0].kid) is not None
        assert source.asked == 1 + 48, "one question an hour for a hundred requests"
        source.away = False
        source.keys = source.keys[1:]
        clock.ahead += 3_600
        assert await cache.get(source.keys[0].kid)
        assert source.asked == 50

    @pytest.mark.measured
    async def test_a_silent_identity_costs_a_moment_and_not_every_request_its_own(self, clock: Clock) -> None:
        source = Source()
        cache = KeyCache(source.fetch)
        await cache.get(source.keys[0].kid)
        source.silent_for = 60
        clock.ahead += 31
        started = time.perf_counter()
        found = await asyncio.gather(*(cache.get(source.keys[0].kid) for _ in range(200)))
        for _ in range(200):
            found.append(await cache.get(source.keys[0].kid))
        assert all(found)
        assert time.perf_counter() - started < 1.5
        assert source.asked == 2
        assert cache._trying is not None
        cache._trying.cancel()

    async def test_cannot_be_hammered_by_made_up_key_ids(self, clock: Clock) -> None:
        source = Source()
        cache = KeyCache(source.fetch)
        await cache.get(source.keys[0].kid)
        for second in range(60):
            clock.ahead += 1
            found = await asyncio.gather(*(cache.get(f"made up {second} {number}") for number in range(50)))
            assert set(found) == {None}
        assert source.asked <= 1 + 60 // access_tokens._REFETCH_SECONDS, "3,000 made-up ids"

    async def test_nor_while_identity_is_away(self, clock: Clock) -> None:
        source = Source()
        cache = KeyCache(source.fetch)
        await cache.get(source.keys[0].kid)
        source.away = True
        for second in range(60):
            clock.ahead += 1
            await asyncio.gather(*(cache.get(f"made up {second} {number}") for number in range(50)))
        assert source.asked <= 1 + 60 // access_tokens._REFETCH_SECONDS

    async def test_many_at_the_start_ask_once(self) -> None:
        source = Source()
        source.silent_for = 0.05
        cache = KeyCache(source.fetch)
        assert all(await asyncio.gather(*(cache.get(source.keys[0].kid) for _ in range(100))))
        assert source.asked == 1
        source.away = True
        empty = KeyCache(source.fetch)
        outcomes = await asyncio.gather(*(empty.get("x") for _ in range(100)), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert source.asked == 2
        source.away = False
        assert await empty.get(source.keys[0].kid)

    async def test_a_withdrawn_key_is_refused_within_half_a_minute_although_its_token_is_remembered(
        self, clock: Clock
    ) -> None:
        source = Source()
        verifier = TokenVerifier(KeyCache(source.fetch), issuer="billing-identity", audience="billing")
        token = TestCompromise().forged(source.keys[0])
        await verifier.verify(token)
        source.keys = source.keys[1:]
        clock.ahead += 29
        await verifier.verify(token)
        assert source.asked == 1
        clock.ahead += 2
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)

    async def test_what_was_issued_before_the_instant_is_refused_whoever_signed_it(self, clock: Clock) -> None:
        source, instant = Source(), 0

        async def fetch() -> Mapping[str, Any]:
            return {**await source.fetch(), "not_before": instant}

        verifier = TokenVerifier(KeyCache(fetch), issuer="billing-identity", audience="billing")
        old = TestCompromise().forged(source.keys[0])
        await verifier.verify(old)
        instant = int(time.time()) + 1
        clock.ahead += 31
        with pytest.raises(Unauthenticated):
            await verifier.verify(old)
        await asyncio.sleep(instant - time.time() + 0.01)
        assert (await verifier.verify(TestCompromise().forged(source.keys[0]))).user_name == "thief"

    async def test_nonsense_from_identity_is_no_answer(self, clock: Clock) -> None:
        source = Source()
        cache = KeyCache(source.fetch)
        await cache.get(source.keys[0].kid)
        for nonsense in ({}, {"keys": 1}, {"keys": [{"alg": "ES256"}]}, {"keys": [{"alg": "ES256", "kid": "x"}]}, []):

            async def fetch(answer: Any = nonsense) -> Any:
                return answer

            cache._fetch = fetch
            clock.ahead += 31
            assert await cache.get(source.keys[0].kid) is not None
