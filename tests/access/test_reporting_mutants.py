"""Reporting's matrix notices every guard and filter that is taken away, and each fence holds without the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from services.reporting import api
from services.reporting.api import ENDPOINTS
from services.reporting.reports import query
from services.reporting.reports.query import Arguments, Selection
from services.reporting.reports.reader import Reach
from shared.access.principal import ANYONE_SIGNED_IN, PUBLIC, Principal
from shared.web import Endpoint
from tests.access.matrix import failures, outdated, unlocked
from tests.access.mutants import (
    break_glass_may_write,
    guarded_by,
    newly_open,
    stale_versions_pass,
    without_company_conditions,
    without_policies,
)
from tests.access.oracle import BREAK_GLASS, UNKNOWN
from tests.support.access import World, ask, template
from tests.support.access_reporting import ROWS, ServedReporting
from tests.support.databases import Databases

RESTRICTED, POSTER, ADMIN = "front_office_emr_restricted", "partner_payment_poster", "practice_admin"
WHERE = query._where


@pytest.fixture(scope="module")
async def served(databases: Databases) -> AsyncIterator[ServedReporting]:
    async with ServedReporting.fresh(databases) as running:
        yield running


@pytest.fixture(scope="module")
async def stranger(served: ServedReporting) -> World:
    return await served.world("self_service_admin")


@pytest.fixture(scope="module")
async def worlds(served: ServedReporting) -> dict[str, World]:
    return {caller: await served.world(caller) for caller in (RESTRICTED, POSTER, ADMIN)}


def hidden(served: ServedReporting, caller: str, path: str) -> set[str]:
    """What of his own company the caller's scope keeps from him: other posters' receipts in his own activity, and of
    a restricted role the receipts and the charges of other locations."""
    made = served.books[caller]
    if "my-payment-activity" in path:
        poster = made.practice[0]
        return {str(one.payment_id) for one in made.receipts() if one.words.poster_id != poster}
    if caller != RESTRICTED:
        return set()
    granted: list[UUID] = made.locations[:1]
    receipts = {str(one.payment_id) for one in made.receipts() if one.words.location_id not in granted}
    charges = {str(one.charge_id) for one in made.charges if one.location_id not in granted}
    return receipts | charges | {str(one) for one in made.locations[1:]}


async def leaks(served: ServedReporting, worlds: dict[str, World], stranger: World) -> set[str]:
    """`caller: path` of every row that shows something of another company, or of its own beyond its scope."""
    found = set()
    for caller, mine in worlds.items():
        for row in ROWS:
            reply = await ask(served, row, mine.token, {})
            secrets = {one.encode() for one in hidden(served, caller, row.path)} | stranger.secrets
            if any(secret in reply.raw for secret in secrets):
                found.add(f"{caller}: {row.path}")
    return found


# One filter each; `words` are those of the receipt by which lines are chosen.


def _without(*words: str) -> Callable[[Selection, Arguments], str]:
    def where(selection: Selection, arguments: Arguments) -> str:
        kept = {word: values for word, values in selection.words.items() if word not in words}
        return WHERE(replace(selection, words=kept), arguments)

    return where


@contextmanager
def without_locations() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query, "_where", _without("location_id"))
        yield


@contextmanager
def without_poster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(query, "_where", _without("poster_id"))
        yield


@contextmanager
def without_masks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Selection, "masks", None)
        yield


@contextmanager
def without_rights() -> Iterator[None]:
    """The handler forgets that a role is limited, and reads what is asked, or everything."""

    async def whatever(_: Any, asked: Any) -> Any:
        return [value for value in asked.location_id if value] or None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "_locations", whatever)
        yield


FILTERS = {
    # The restricted role asks for its own locations, which no other company has.
    "company": (without_company_conditions, {f"{caller}: /v1/reports/payment-balancing" for caller in (POSTER, ADMIN)}),
    "location": (without_locations, {f"{RESTRICTED}: /v1/reports/payment-balancing"}),
    "poster": (without_poster, {f"{c}: /v1/reports/my-payment-activity" for c in (RESTRICTED, POSTER, ADMIN)}),
    "mask": (without_masks, {f"{RESTRICTED}: /v1/reports/payment-balancing"}),
    "rights": (without_rights, {f"{RESTRICTED}: /v1/reports/payment-balancing"}),
}


@pytest.mark.parametrize("name", FILTERS)
async def test_the_policies_hold_without_a_filter(
    served: ServedReporting, worlds: dict[str, World], stranger: World, name: str
) -> None:
    """With the filter gone the policies show no more; with both gone each route of it shows what it must not."""
    remove, routes = FILTERS[name]
    with remove():
        assert not await leaks(served, worlds, stranger)
        async with without_policies(served.stack.owner), unmasked(served.stack.owner):
            assert await leaks(served, worlds, stranger) >= routes


async def test_the_filters_hold_without_the_policies(
    served: ServedReporting, worlds: dict[str, World], stranger: World
) -> None:
    async with without_policies(served.stack.owner), unmasked(served.stack.owner):
        assert not await leaks(served, worlds, stranger)
        for caller, mine in worlds.items():
            found = await failures(served, caller, ROWS, stranger, mine)
            assert not found, "\n".join(found)


class unmasked:
    """The view of lines without its mask, which is part of the second fence."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    async def __aenter__(self) -> None:
        self._kept = await self._owner.fetchval("select pg_get_viewdef('visible_line'::regclass)")
        names = [row["attname"] for row in await self._owner.fetch(
            "select attname from pg_attribute where attrelid = 'visible_line'::regclass and attnum > 0 order by attnum"
        )]  # fmt: skip
        await self._define(f"select {', '.join(names)} from balancing_line")

    async def __aexit__(self, *_: object) -> None:
        await self._define(self._kept)

    async def _define(self, text: str) -> None:
        await self._owner.execute(f"create or replace view visible_line with (security_invoker = true) as {text}")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: one.path)
async def test_a_weakened_guard_is_noticed(served: ServedReporting, stranger: World, endpoint: Endpoint) -> None:
    rows = [row for row in ROWS if row.route == template(endpoint.method, endpoint.path)]
    if endpoint.guard == ANYONE_SIGNED_IN:
        with guarded_by(endpoint, PUBLIC):
            assert await unlocked(served, rows, stranger, {})
        return
    with guarded_by(endpoint, ANYONE_SIGNED_IN):
        assert await failures(served, UNKNOWN, rows, stranger)


async def test_the_question_after_the_guard_is_noticed(
    served: ServedReporting, stranger: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full Access is asked of the matrix by the handler (B6)."""
    monkeypatch.setattr(Principal, "require", lambda *_: None)
    full = [row for row in ROWS if "full_access" in row.call]
    assert await failures(served, "partner_csr", full, stranger)


async def test_a_reach_without_the_scope_is_noticed(
    served: ServedReporting, worlds: dict[str, World], stranger: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second fence is only as good as what it is told: were everybody's reach the company, the location filter
    alone would stand between."""
    monkeypatch.setattr(api, "_reach", lambda caller, _: Reach(caller.company))
    assert not await leaks(served, worlds, stranger)
    with without_locations():
        assert await leaks(served, worlds, stranger)


async def test_stale_versions_that_pass_are_noticed(served: ServedReporting) -> None:
    """At every route."""
    mine, stale = await served.stale()
    newest = {"practice_admin": stale["practice_admin"]}
    with stale_versions_pass():
        unnoticed = [row.call for row in ROWS if not await outdated(served, [row], mine, newest)]
    assert not unnoticed


async def test_break_glass_that_writes_is_noticed(served: ServedReporting, stranger: World) -> None:
    """At every route that it must not reach."""
    mine, endpoints = await served.world(BREAK_GLASS), newly_open(served.endpoints)
    assert endpoints
    with break_glass_may_write():
        for endpoint in endpoints:
            rows = [row for row in served.rows if row.route == template(endpoint.method, endpoint.path)]
            assert await failures(served, BREAK_GLASS, rows, stranger, mine), endpoint.path
