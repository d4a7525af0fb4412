"""Revocation from end to end: identity with its relay, RabbitMQ, the APIs of ledger and reporting (quality.md 3.2)."""

from __future__ import annotations

import asyncio
import base64
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import orjson
import pytest

from services.identity.sealing import Sealer
from services.identity.service.keys import compromise
from tests.support.databases import Databases
from tests.support.identity import PASSWORD
from tests.support.quiet import least
from tests.support.revocation import NUMBERS, ROUTES, STALE, World, built, never


@pytest.fixture
async def world(databases: Databases, amqp_url: str) -> AsyncIterator[World]:
    async with built(databases, amqp_url) as made:
        yield made


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "partner_csr"},
        {"company_ids": 1},
        {"emr_location_ids": 1},
        {"emr_location_ids": 0},
        {"active": False},
        {"password": PASSWORD + " new"},
    ],
    ids=str,
)
async def test_a_change_of_rights_ends_the_tokens_that_do_not_know_it(world: World, fields: dict[str, Any]) -> None:
    user, other = await world.user(), await world.user()
    fields = (
        {name: user[name][:value] if isinstance(user[name], list) else value for name, value in fields.items()}
        if ("password" not in fields)
        else fields
    )
    old, untouched = await world.token(user), await world.token(other)
    for api in world.apis.values():
        assert (await api.ask(old))[0] == 200
    await world.change(user, **fields)
    for api in world.apis.values():
        async with asyncio.timeout(5):
            await world.gone(api, old)
        assert (await api.ask(untouched))[0] == 200
    if "active" not in fields:
        password = fields.get("password", PASSWORD)
        new = (await world.identity.sign_in(user["user_name"], password))["access_token"]
        for api in world.apis.values():
            assert (await api.ask(new))[0] in {200, 403}, "the new token is good at once"
            assert await api.ask(old) == STALE


async def test_what_else_ends_tokens(world: World) -> None:
    """Sessions that are ended, a company that is closed, a client that is removed, a key that is withdrawn."""
    identity, ledger = world.identity, world.apis["ledger"]
    operator = await identity.operator()

    async def ends(token: str, act: Callable[[], Any]) -> None:
        assert (await ledger.ask(token))[0] in {200, 403}
        answer = await act()
        assert answer.status < 300, answer
        async with asyncio.timeout(5):
            await world.gone(ledger, token)

    user = await world.user()
    await ends(
        await world.token(user),
        lambda: identity.request("DELETE", f"/v1/users/{user['id']}/sessions", token=operator),
    )
    session = await identity.sign_in(user["user_name"])
    await ends(session["access_token"], lambda: identity.form("/v1/revoke", token=session["refresh_token"]))
    session = await identity.sign_in(user["user_name"])
    await ends(session["access_token"], lambda: identity.form("/v1/revoke", token=session["access_token"]))

    stolen = await identity.sign_in(user["user_name"])
    refresh = {"grant_type": "refresh_token", "refresh_token": stolen["refresh_token"]}
    new = (await identity.ask_token(**refresh)).body["access_token"]
    assert (await ledger.ask(new))[0] == 200
    assert (await identity.ask_token(**refresh)).status == 400, "used twice"
    async with asyncio.timeout(5):
        await world.gone(ledger, new)

    company = user["company_ids"][0]
    client = await identity.client(f"emr{next(NUMBERS)}", [company], ["//emr"])
    token = await identity.client_token(client["client_id"], client["client_secret"])
    await ends(token, lambda: identity.request("DELETE", f"/v1/clients/{client['id']}", token=operator))

    client = await identity.client(f"emr{next(NUMBERS)}", [company], ["//emr"])
    token = await identity.client_token(client["client_id"], client["client_secret"])
    close = {"active": False}
    of_person = await world.token(user)
    await ends(token, lambda: identity.patch(f"/v1/companies/{company}", close, operator))
    async with asyncio.timeout(5):
        await world.gone(ledger, of_person)


async def test_a_withdrawn_key_is_believed_no_more_at_once(world: World) -> None:
    user, ledger = await world.user(), world.apis["ledger"]
    token = await world.token(user)
    assert (await ledger.ask(token))[0] == 200
    await asyncio.sleep(1.1)  # `not_before` is in whole seconds
    keys = (await world.identity.get("/.well-known/jwks.json")).body["keys"]
    kid = orjson.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]
    assert kid in {key["kid"] for key in keys}
    secret = world.identity.config.required("identity_secrets_key")
    pool = await asyncpg.create_pool(world.dsns["identity"], min_size=1, max_size=1)
    try:
        await compromise(pool, Sealer(secret), kid)
    finally:
        await pool.close()
    async with asyncio.timeout(5):
        while (await ledger.ask(token))[0] != 401:
            await asyncio.sleep(0.02)


async def staleness_of_200_changes(world: World) -> list[float]:
    """Seconds from before each change is asked for, at any moment of the relay's rest, until both services refuse."""
    staleness: list[float] = []

    async def changes(user: dict[str, Any], seed: int) -> None:
        rng = random.Random(seed)
        both, places = user["company_ids"], user["emr_location_ids"]
        kinds: list[dict[str, Any]] = [
            {"role": "partner_csr"},
            {"role": "partner_admin"},
            {"emr_location_ids": places[:1]},
            {"emr_location_ids": places},
            {"company_ids": both[:1]},
            {"company_ids": both, "emr_location_ids": places},
            {"active": False},
        ]
        for number in range(50):
            fields = kinds[number % len(kinds)]
            token = await world.token(user)
            for api in world.apis.values():
                assert (await api.ask(token))[0] in {200, 403}, "a token issued after the change is good at once"
            await asyncio.sleep(rng.random() * 0.7)
            began = time.perf_counter()
            await world.change(user, **fields)
            ends = await asyncio.gather(*(world.gone(api, token) for api in world.apis.values()))
            staleness.append(max(ends) - began)
            if fields == {"active": False}:
                await world.change(user, active=True)

    users = [await world.user() for _ in range(4)]
    await asyncio.gather(*(changes(user, seed) for seed, user in enumerate(users)))
    return staleness


@pytest.mark.measured
async def test_the_time_until_a_stale_token_is_refused(world: World) -> None:
    async def p99() -> float:
        staleness = await staleness_of_200_changes(world)
        assert len(staleness) == 200
        cuts = statistics.quantiles(staleness, n=100)
        print(f"staleness of 200 changes: p50 {cuts[49]:.3f} s, p99 {cuts[98]:.3f} s, max {max(staleness):.3f} s")
        return cuts[98]

    assert await least(1.0, p99) < 1.0


async def test_a_process_that_starts_after_a_change_knows_it(world: World) -> None:
    """The event is gone; only the snapshot can tell."""
    user = await world.user()
    old = await world.token(user)
    await world.change(user, role="partner_csr")
    await world.gone(world.apis["ledger"], old)
    for name in ROUTES:
        async with world.api(name) as late:
            await late.well()
            assert late.revocations.remembered >= 1
            late.revocations._inquiries.good = never  # type: ignore[method-assign]
            assert await late.ask(old) == STALE
            assert (await late.ask(await world.token(user)))[0] in {200, 403}


async def test_readiness_and_the_metric(world: World) -> None:
    for api in world.apis.values():
        async with api.client.get("/metrics") as response:
            text = await response.text()
        line = next(line for line in text.splitlines() if line.startswith("access_silence_seconds "))
        assert 0 <= float(line.split()[1]) < 7
