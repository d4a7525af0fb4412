"""Every caller at every report, over every mixture of locations."""

from __future__ import annotations

import csv
import io
import random
import time
from collections.abc import AsyncIterator
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.access.matrix import failures, heads, misguarded, outdated, unlocked, unserved
from tests.access.oracle import BREAK_GLASS, CALLERS, HEADS, ROLES, admits, grant
from tests.support.access import World
from tests.support.access_reporting import ServedReporting
from tests.support.bad_tokens import bad_tokens, claims_of, signed_again
from tests.support.databases import Databases
from tests.support.ledger_events import Books
from tests.support.reporting import ALL, REPORTS

BALANCING = f"{REPORTS}payment-balancing"
FIGURES = ("amount_cents", "applied_cents", "adjusted_cents", "provider_level_cents", "unapplied_cents")


@pytest.fixture(scope="module")
async def served(databases: Databases) -> AsyncIterator[ServedReporting]:
    async with ServedReporting.fresh(databases) as running:
        yield running


@pytest.fixture(scope="module")
async def stranger(served: ServedReporting) -> World:
    return await served.world("practice_admin")


def test_every_route_is_in_the_table(served: ServedReporting) -> None:
    assert not unserved(served.app, served.endpoints, served.rows)


def test_every_guard_asks_for_what_the_table_says(served: ServedReporting) -> None:
    assert not misguarded(served.endpoints, served.rows)


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_route(served: ServedReporting, stranger: World, caller: str) -> None:
    found = await failures(served, caller, served.rows, stranger)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("caller", HEADS)
async def test_a_head_is_a_get_without_its_body(served: ServedReporting, caller: str) -> None:
    found = await heads(served, caller, served.rows)
    assert not found, "\n".join(found)


async def test_without_a_valid_token(served: ServedReporting, stranger: World) -> None:
    assert stranger.token is not None
    found = await unlocked(served, served.rows, stranger, bad_tokens(stranger.token, served.stack.tokens.key))
    assert not found, "\n".join(found)


async def test_with_a_stale_token(served: ServedReporting) -> None:
    """Whoever it was: with an older version of rights than his newest, he is told to get a new token and no more."""
    mine, stale = await served.stale()
    found = await outdated(served, served.rows, mine, stale)
    assert not found, "\n".join(found)
    assert mine.token is not None
    version = claims_of(mine.token)["authz_ver"] + 1
    new = signed_again(mine.token, served.stack.tokens.key, authz_ver=version)
    assert (await served.send("GET", "/v1/reports", new)).status == 200


async def test_an_emergency_ends(served: ServedReporting) -> None:
    """A token of break-glass is good for its minutes, at every route."""
    mine = await served.world(BREAK_GLASS)
    assert mine.token is not None
    over = {"after its minutes": signed_again(mine.token, served.stack.tokens.key, exp=int(time.time()) - 1)}
    found = await unlocked(served, served.rows, mine, over)
    assert not found, "\n".join(found)


def asked_for(mine: Books, foreign: Books) -> dict[str, list[UUID | str]]:
    """Every mixture: granted, of the same company, of another, of nobody, and "without location"."""
    one, other = mine.locations[:2]
    alone: dict[str, list[UUID | str]] = {
        "granted": [one],
        "other": [other],
        "foreign": [foreign.locations[0]],
        "absent": [uuid4()],
        "without": [""],
    }
    mixed = {f"granted and {name}": [one, *values] for name, values in alone.items() if name != "granted"}
    return {"none": [], **alone, **mixed}


def expected(role: str, case: str, variation: str) -> tuple[int, str]:
    """By the matrix and D10: status and code; what is forbidden is decided before what is absent."""
    if not admits("payment_balancing view", role):
        return 403, "forbidden"
    limited = grant(role, "payment_balancing")[1] != "all_locations"
    if variation == "full_access" and (limited or not admits("payment_balancing_full_access view", role)):
        return 403, "forbidden"
    if limited and case not in ("none", "granted"):
        return 403, "location_forbidden"
    if not limited and ("foreign" in case or "absent" in case):
        return 404, "not_found"
    return 200, ""


@pytest.mark.parametrize("role", [*ROLES, BREAK_GLASS])
async def test_every_mixture_of_locations(served: ServedReporting, role: str) -> None:
    mine = await served.world(role)
    made, foreign = served.books[role], Books(random.Random(f"foreign {role}")).act(20)
    await served.stack.load(foreign)
    assert mine.token is not None
    before = await served.checksums()
    told = {}
    for (case, locations), variation, form in product(
        asked_for(made, foreign).items(), ("base", "full_access"), ("json", "csv")
    ):
        params = {**ALL, "location_id": locations, "variation": variation, "level": "cpt", "format": form}
        reply = await served.stack.get(BALANCING, mine.token, params)
        status, code = expected(role, case, variation)
        assert reply.status == status, (case, variation, reply.raw)
        if status != 200:
            assert reply.body["code"] == code
            told.setdefault((status, code), []).append({**reply.body, "request_id": ""})
            continue
        may = made.locations if grant(role, "payment_balancing")[1] == "all_locations" else made.locations[:1]
        hidden = {*foreign.locations, *(set(made.locations) - set(may))}
        hidden |= {charge.charge_id for charge in made.charges if charge.location_id not in may}
        assert not [one for one in hidden if str(one).encode() in reply.raw], (case, variation)
    assert all(body == bodies[0] for bodies in told.values() for body in bodies)
    assert await served.checksums() == before


@pytest.mark.parametrize("role", [role for role in ROLES if admits("payment_balancing view", role)])
async def test_totals_facets_and_exports_are_of_what_is_shown(served: ServedReporting, role: str) -> None:
    """Whatever sums or counts, sums and counts the rows that the caller sees, and nothing beside them."""
    mine = await served.world(role)
    rows = await _pages(served, mine.token, level="payment")
    assert rows["items"], "there is something to see"
    for name in FIGURES:
        assert rows["totals"][name] == sum(item[name] for item in rows["items"])
    assert rows["totals"]["payments"] == len(rows["items"])
    for word, values in rows["facets"].items():
        column = {"batch": "batch_number"}.get(word, word if word in rows["items"][0] else f"{word}_id")
        counted: dict[Any, int] = {}
        for item in rows["items"]:
            counted[item[column]] = counted.get(item[column], 0) + 1
        assert {value[column]: value["payments"] for value in values} == counted
    export = await served.stack.get(BALANCING, mine.token, {**ALL, "level": "payment", "format": "csv"})
    lines = list(csv.DictReader(io.StringIO(export.raw.decode())))
    assert [line["payment_id"] for line in lines] == [item["payment_id"] for item in rows["items"]]
    made = served.books[role]
    granted = made.locations if served.granted(role) == "*" else served.granted(role)
    may = {str(one) for one in granted} | ({"None"} if served.granted(role) == "*" else set())
    assert {str(item["location_id"]) for item in rows["items"]} <= may


async def _pages(served: ServedReporting, token: str | None, **params: Any) -> Any:
    """All pages of three rows joined."""
    asked = {**ALL, **params, "limit": 3, "facets": "true"}
    whole = (await served.stack.get(BALANCING, token, asked)).body
    following = whole["next"]
    while following:
        page = (await served.stack.get(BALANCING, token, {**asked, "cursor": following})).body
        assert page["totals"] == whole["totals"]
        whole["items"] += page["items"]
        following = page["next"]
    return whole
