"""Revocation without news: a broker that dies, one that is frozen, identity that is away (quality.md 3.2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from typing import Final

import pytest

from deploy.rabbitmq import PrivateRabbit
from shared.errors import Problem
from tests.support.databases import Databases
from tests.support.revocation import NUMBERS, STALE, Api, built, never, until

# A broker dies with the thread that started it, so this one is kept.
KEEPER: Final = ThreadPoolExecutor(max_workers=1)


@pytest.fixture
def vhost(rabbit: PrivateRabbit) -> str:
    """A virtual host of the broker that is killed here."""
    return rabbit.make_vhost(f"revocation-{next(NUMBERS)}")


async def in_keeper(call: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(KEEPER, call)


async def refusals(api: Api, token: str, trials: int) -> int:
    """How often a token was believed in so many trials, by HTTP and past it."""
    passed = 0
    for number in range(trials):
        if number % 50 == 0:
            passed += (await api.ask(token))[0] not in {401, 503}
        else:
            with suppress(Problem):
                await api.verifier.verify(token)
                passed += 1
    return passed


@pytest.mark.fault
async def test_a_broker_that_dies_and_comes_back(databases: Databases, rabbit: PrivateRabbit, vhost: str) -> None:
    """With short bounds. Longer than the pause between heartbeats, so that only silence leads to questions."""
    bound = 6.5 + 0.5
    async with built(databases, vhost, silence_seconds=6.5, believed_seconds=0.5) as world:
        users = [await world.user() for _ in range(3)]
        olds = [await world.token(user) for user in users]
        for api in world.apis.values():
            for token in olds:
                assert (await api.ask(token))[0] == 200
        rabbit.settle()
        await in_keeper(rabbit.kill)
        began = time.monotonic()
        await world.change(users[0], role="partner_csr")
        for api in world.apis.values():
            await world.gone(api, olds[0])
            assert time.monotonic() - began < bound + 1
            assert (await api.ask(olds[1]))[0] == 200, "identity says that it is good"
            async with api.client.get("/readyz") as response:
                assert response.status == 200
        await world.change(users[1], emr_location_ids=[])
        await asyncio.sleep(0.6)
        for api in world.apis.values():
            assert await api.ask(olds[1]) == STALE
            assert await refusals(api, olds[0], 2_000) == 0
        await in_keeper(rabbit.start)
        for api in world.apis.values():
            await api.well()
            assert await api.ask(olds[0]) == STALE
        # Normal again: a change is heard, and nobody is asked.
        await asyncio.sleep(0.6)
        for api in world.apis.values():
            api.revocations._inquiries.good = never  # type: ignore[method-assign]
            assert (await api.ask(olds[2]))[0] == 200
        await until(lambda: all(api.revocations.silent_seconds() < 5 for api in world.apis.values()), "no heartbeat")
        began = time.monotonic()
        await world.change(users[2], role="partner_csr")
        for api in world.apis.values():
            await world.gone(api, olds[2])
        assert time.monotonic() - began < 3


@pytest.mark.fault
async def test_the_hard_bound_with_the_constants_of_production(
    databases: Databases, rabbit: PrivateRabbit, vhost: str
) -> None:
    """Broker frozen, which no connection notices: 35 seconds, then ten thousand refusals; identity away: refusal."""
    async with AsyncExitStack() as around:
        world = await around.enter_async_context(built(databases, vhost))
        user, other = await world.user(), await world.user()
        old, good = await world.token(user), await world.token(other)
        ledger = world.apis["ledger"]
        assert [(await ledger.ask(token))[0] for token in (old, good)] == [200, 200]
        rabbit.pause()
        began = time.monotonic()
        await world.change(user, role="partner_csr")
        for api in world.apis.values():
            while await api.ask(old) != STALE:
                assert time.monotonic() - began < 35
                await asyncio.sleep(0.2)
        print(f"refused {time.monotonic() - began:.1f} s after the change, the broker frozen")
        await asyncio.sleep(max(0.0, 35 - (time.monotonic() - began)))
        assert await refusals(ledger, old, 10_000) == 0
        assert (await ledger.ask(good))[0] == 200

        url = world.identity.url
        world.identity.url = "http://127.0.0.1:9"
        for api in world.apis.values():
            api.revocations._inquiries._identity._base_url = "http://127.0.0.1:9"  # type: ignore[attr-defined]
        await asyncio.sleep(2.1)
        for api in world.apis.values():
            for token in (old, good):
                assert (await api.ask(token)) in {(503, "unavailable"), STALE}
                assert await refusals(api, token, 500) == 0
            assert (await api.ask(good)) == (503, "unavailable")
            for path in ("/livez", "/readyz"):
                async with api.client.get(path) as response:
                    assert response.status == 200
            api.revocations._inquiries._identity._base_url = url  # type: ignore[attr-defined]
        world.identity.url = url
        rabbit.resume()
        for api in world.apis.values():
            await api.well()
            assert await api.ask(old) == STALE
            assert (await api.ask(good))[0] == 200
