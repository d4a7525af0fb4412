"""Every caller at every route of identity."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.access.principal import ANYONE_SIGNED_IN, PUBLIC
from shared.web import Endpoint
from tests.access.matrix import failures, misguarded, undeclared, unlocked
from tests.access.mutants import guarded_by
from tests.access.oracle import CALLERS, UNKNOWN
from tests.support.access import World, template
from tests.support.access_identity import ServedIdentity
from tests.support.bad_tokens import bad_tokens
from tests.support.databases import Databases

GUARDED = [row for row in ServedIdentity.rows if row.rule != "public"]

GUARDED_ENDPOINTS = [one for one in ServedIdentity.endpoints if not one.guard.public]


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


def test_every_guard_asks_for_what_the_table_says(served: ServedIdentity) -> None:
    assert not misguarded(served.endpoints, served.rows)


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_route(served: ServedIdentity, stranger: World, caller: str) -> None:
    found = await failures(served, caller, served.rows, stranger)
    assert not found, "\n".join(found)


async def test_without_a_valid_token(served: ServedIdentity, stranger: World) -> None:
    assert stranger.token is not None
    found = await unlocked(served, GUARDED, stranger, bad_tokens(stranger.token, served.key))
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
