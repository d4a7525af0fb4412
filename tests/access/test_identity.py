"""Every caller at every route of identity."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from shared.access.principal import ANYONE_SIGNED_IN, PUBLIC
from shared.web import Endpoint
from tests.access.matrix import failures, heads, misguarded, outdated, undeclared, unlocked
from tests.access.mutants import break_glass_may_write, guarded_by, newly_open, stale_versions_pass
from tests.access.oracle import BREAK_GLASS, CALLERS, HEADS, UNKNOWN
from tests.support.access import World, template
from tests.support.access_identity import ServedIdentity
from tests.support.bad_tokens import bad_tokens, claims_of, signed_again
from tests.support.databases import Databases

GUARDED = [row for row in ServedIdentity.rows if row.rule != "public"]


@pytest.fixture(scope="module")
async def served(databases: Databases) -> AsyncIterator[ServedIdentity]:
    async with ServedIdentity.fresh(databases) as running:
        yield running


@pytest.fixture(scope="module")
async def stranger(served: ServedIdentity) -> World:
    return await served.world("partner_admin")


@pytest.fixture(scope="module")
async def janitor(served: ServedIdentity) -> World:
    return await served.world(UNKNOWN)


async def test_every_route_is_in_the_table(served: ServedIdentity) -> None:
    document = (await served.send("GET", "/openapi.json", None)).body
    paths = {template(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert paths == {template(one.method, one.path) for one in served.endpoints}
    assert not undeclared(served.endpoints, served.rows)
    for path in ("/livez", "/readyz", "/metrics", "/docs"):
        assert (await served.send("GET", path, None)).status == 200


def test_every_guard_asks_for_what_the_table_says(served: ServedIdentity) -> None:
    assert not misguarded(served.endpoints, served.rows)


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_route(served: ServedIdentity, stranger: World, caller: str) -> None:
    found = await failures(served, caller, served.rows, stranger)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("caller", HEADS)
async def test_a_head_is_a_get_without_its_body(served: ServedIdentity, caller: str) -> None:
    found = await heads(served, caller, served.rows)
    assert not found, "\n".join(found)


async def test_without_a_valid_token(served: ServedIdentity, stranger: World) -> None:
    assert stranger.token is not None
    found = await unlocked(served, GUARDED, stranger, bad_tokens(stranger.token, served.key))
    assert not found, "\n".join(found)


async def test_with_a_stale_token(served: ServedIdentity) -> None:
    """Whoever it was: with an older version of rights than his newest, he is told to get a new token and no more."""
    mine, stale = await served.stale()
    found = await outdated(served, GUARDED, mine, stale)
    assert not found, "\n".join(found)
    assert mine.token is not None
    version = claims_of(mine.token)["authz_ver"] + 1
    new = signed_again(mine.token, served.key, authz_ver=version)
    assert (await served.send("GET", "/v1/me", new)).status == 200


async def test_an_emergency_ends(served: ServedIdentity) -> None:
    """A token of break-glass is good for its minutes, at every route."""
    mine = await served.world(BREAK_GLASS)
    assert mine.token is not None
    over = {"after its minutes": signed_again(mine.token, served.key, exp=int(time.time()) - 1)}
    found = await unlocked(served, GUARDED, mine, over)
    assert not found, "\n".join(found)


async def test_an_emergency_that_was_ended_is_over_at_once(databases: Databases) -> None:
    """By the company's administrator: the operator's own tokens are stale with it, as they are of the same person."""
    async with ServedIdentity.fresh(databases) as served:
        mine = await served.world("partner_admin")
        operator, token = await served.stack.operator(), await served.emergency(mine.ids["company"])
        (grant,) = (await served.send("GET", "/v1/break-glass", mine.token)).body["items"]
        ended = await served.send("DELETE", f"/v1/break-glass/{grant['id']}", mine.token)
        assert ended.status == 204
        found = await outdated(served, GUARDED, mine, {"operator": operator, BREAK_GLASS: token})
        assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "endpoint",
    [one for one in ServedIdentity.endpoints if not one.guard.public],
    ids=lambda one: f"{one.method} {one.path}",
)
async def test_a_weakened_guard_is_noticed(
    served: ServedIdentity, stranger: World, janitor: World, endpoint: Endpoint
) -> None:
    rows = [row for row in GUARDED if row.route == template(endpoint.method, endpoint.path)]
    if endpoint.guard == ANYONE_SIGNED_IN:
        with guarded_by(endpoint, PUBLIC):
            assert await unlocked(served, rows, janitor, {})
        return
    with guarded_by(endpoint, ANYONE_SIGNED_IN):
        assert await failures(served, UNKNOWN, rows, stranger, janitor)


async def test_stale_versions_that_pass_are_noticed(served: ServedIdentity) -> None:
    """At every route."""
    mine, stale = await served.stale()
    newest = {"partner_admin": stale["partner_admin"]}
    with stale_versions_pass():
        unnoticed = [row.call for row in GUARDED if not await outdated(served, [row], mine, newest)]
    assert not unnoticed


async def test_break_glass_that_writes_is_noticed(served: ServedIdentity, stranger: World) -> None:
    """At every route that it must not reach."""
    mine, endpoints = await served.world(BREAK_GLASS), newly_open(served.endpoints)
    assert endpoints
    with break_glass_may_write():
        for endpoint in endpoints:
            rows = [row for row in served.rows if row.route == template(endpoint.method, endpoint.path)]
            assert await failures(served, BREAK_GLASS, rows, stranger, mine), endpoint.path
