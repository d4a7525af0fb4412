"""Every caller at every route of the ledger."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.access.matrix import failures, heads, misguarded, outdated, unlocked, unserved
from tests.access.oracle import BREAK_GLASS, CALLERS, HEADS, UNKNOWN
from tests.support.access import World
from tests.support.access_ledger import ServedLedger
from tests.support.bad_tokens import bad_tokens, claims_of, signed_again
from tests.support.databases import Databases


@pytest.fixture(scope="module")
async def served(databases: Databases) -> AsyncIterator[ServedLedger]:
    async with ServedLedger.fresh(databases) as running:
        yield running


@pytest.fixture(scope="module")
async def stranger(served: ServedLedger) -> World:
    return await served.world("self_service_admin")


def test_every_guard_asks_for_what_the_table_says(served: ServedLedger) -> None:
    assert not misguarded(served.endpoints, served.rows)


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_route(served: ServedLedger, stranger: World, caller: str) -> None:
    found = await failures(served, caller, served.rows, stranger)
    assert not found, "\n".join(found)


def test_every_route_is_in_the_table(served: ServedLedger) -> None:
    assert not unserved(served.app, served.endpoints, served.rows)


@pytest.mark.parametrize("caller", HEADS)
async def test_a_head_is_a_get_without_its_body(served: ServedLedger, caller: str) -> None:
    found = await heads(served, caller, served.rows)
    assert not found, "\n".join(found)


async def test_without_a_valid_token(served: ServedLedger, stranger: World) -> None:
    assert stranger.token is not None
    found = await unlocked(served, served.rows, stranger, bad_tokens(stranger.token, served.stack.tokens.key))
    assert not found, "\n".join(found)


async def test_with_a_stale_token(served: ServedLedger) -> None:
    """Whoever it was: with an older version of rights than his newest, he is told to get a new token and no more."""
    mine, stale = await served.stale()
    found = await outdated(served, served.rows, mine, stale)
    assert not found, "\n".join(found)
    assert mine.token is not None
    version = claims_of(mine.token)["authz_ver"] + 1
    new = signed_again(mine.token, served.stack.tokens.key, authz_ver=version)
    assert (await served.send("GET", "/v1/patients", new)).status == 200


async def test_an_emergency_ends(served: ServedLedger) -> None:
    """A token of break-glass is good for its minutes, at every route."""
    mine = await served.world(BREAK_GLASS)
    assert mine.token is not None
    over = {"after its minutes": signed_again(mine.token, served.stack.tokens.key, exp=int(time.time()) - 1)}
    found = await unlocked(served, served.rows, mine, over)
    assert not found, "\n".join(found)


async def test_a_role_is_refused_before_its_body_is_read(served: ServedLedger, stranger: World) -> None:
    """403 comes before 404, 415 and 422: who may not call learns nothing of what is there or what would be wrong."""
    mine = await served.world(UNKNOWN)
    for row in served.rows:
        for content_type, body in (("application/json", b"{"), ("x/y", b"x")) if row.method != "GET" else ():
            headers = {"Content-Type": content_type, "Idempotency-Key": "k"}
            reply = await served.send(row.method, row.url(mine.nobody()), mine.token, headers=headers, data=body)
            assert reply.status == 403, (row.call, reply)


async def test_lists_page_through_what_is_the_callers_and_sums_are_of_it(served: ServedLedger) -> None:
    """Pages of one, joined, are the whole list; totals are the sum of the payments that the caller can list."""
    mine = await served.world("self_service_admin")
    whole = {}
    for path in ("patients", "payers", "referring-physicians", "charges", "payments", "batches", "feeds", "exceptions"):
        path = f"/v1/{path}"
        whole[path] = await _items(served, mine, path, 500)
        assert whole[path], path
        assert await _items(served, mine, path, 1) == whole[path]
    totals = (await served.send("GET", "/v1/control-totals", mine.token)).body["items"]
    payments = whole["/v1/payments"]
    assert sum(row["payments"] for row in totals) == len(payments)
    assert sum(row["amount_cents"] for row in totals) == sum(row["amount_cents"] for row in payments)
    in_batches = [row["amount_cents"] for row in payments if row["batch_number"]]
    assert sum(row["posted_cents"] for row in whole["/v1/batches"]) == sum(in_batches)


async def _items(served: ServedLedger, mine: World, path: str, limit: int) -> list[Any]:
    found: list[Any] = []
    cursor = ""
    while True:
        page = (await served.send("GET", f"{path}?limit={limit}{cursor}", mine.token)).body
        found += page["items"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"
