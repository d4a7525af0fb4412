"""The ledger's matrix notices every guard that is weakened, and each fence holds without the other."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

import pytest

from services.ledger.api import ENDPOINTS, charges
from shared.access.policy import Grant
from shared.access.principal import ANYONE_SIGNED_IN, Principal
from shared.web import Endpoint
from tests.access.matrix import failures, outdated
from tests.access.mutants import (
    break_glass_may_write,
    guarded_by,
    newly_open,
    stale_versions_pass,
    without_company_conditions,
    without_company_joins,
    without_policies,
)
from tests.access.oracle import BREAK_GLASS, UNKNOWN
from tests.support.access import Row, World, template
from tests.support.access_ledger import ROWS, ServedLedger
from tests.support.contract import Watch
from tests.support.databases import Databases

ADMIN = "self_service_admin"
READS = [row for row in ROWS if row.method == "GET" or row.path.endswith("/search")]
# Which area these need depends on what is asked, so their handlers ask the matrix again.
ASK_AGAIN = {"POST /v1/charges", "GET /v1/charges", "GET /v1/control-totals"}
# All but these show a company's objects: what FHIR is taken, what an address names, prices (which name nobody), heads
# and totals of the services themselves. A page after a cursor is the list's own statement; the audit may repeat what a
# caller has named.
LEAKING = [
    row
    for row in READS
    if not re.search(r"/metadata|/feed-profiles/|/fee-schedule|/events|/audit|/control-totals|cursor=", row.call)
]


@pytest.fixture(autouse=True)
def as_documented(answers_seen: Watch) -> Iterator[None]:
    """What is answered with a check taken away is in no document."""
    yield
    answers_seen.faults.clear()


@pytest.fixture(scope="module")
async def served(databases: Databases) -> AsyncIterator[ServedLedger]:
    async with ServedLedger.fresh(databases) as running:
        yield running


@pytest.fixture(scope="module")
async def stranger(served: ServedLedger) -> World:
    return await served.world(ADMIN)


@pytest.fixture(scope="module")
async def janitor(served: ServedLedger) -> World:
    return await served.world(UNKNOWN)


def rows_of(endpoint: Endpoint) -> list[Row]:
    return [row for row in ROWS if row.route == template(endpoint.method, endpoint.path)]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: f"{one.method} {one.path}")
async def test_a_weakened_guard_is_noticed(
    served: ServedLedger, stranger: World, janitor: World, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is signed in may call: the route's own rows fail for one whose role nobody knows."""
    rows = rows_of(endpoint)
    with guarded_by(endpoint, ANYONE_SIGNED_IN):
        found = await failures(served, UNKNOWN, rows, stranger, janitor)
        if f"{endpoint.method} {endpoint.path}" in ASK_AGAIN:
            assert not found
            monkeypatch.setattr(Principal, "grant", lambda *_: Grant("edit", "all_locations"))
            found = await failures(served, UNKNOWN, rows, stranger, janitor)
    assert found


async def test_the_question_after_the_guard_is_noticed(
    served: ServedLedger, stranger: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Front Office edits active charges and only views delayed ones: the handlers tell them apart."""

    async def never(_: object) -> None:
        return None

    monkeypatch.setattr(charges, "_may_edit", never)
    for row in ROWS:
        if "{delayed_" in row.call:
            assert await failures(served, "front_office", [row], stranger), row.call


async def test_the_filters_hold_without_the_policies(served: ServedLedger, stranger: World) -> None:
    async with without_policies(served.stack.owner):
        for caller in (ADMIN, "front_office", "emr", "internal"):
            found = await failures(served, caller, ROWS, stranger)
            assert not found, "\n".join(found)


async def test_the_policies_hold_without_the_filters(served: ServedLedger) -> None:
    # The stranger comes last, so that what is his would stand at the top of every list.
    mine, stranger = await served.world(ADMIN), await served.world(ADMIN)
    owner = served.stack.owner
    async with without_company_joins(owner):
        with without_company_conditions():
            found = await failures(served, ADMIN, READS, stranger, mine)
            assert not found, "\n".join(found)
            async with without_policies(owner):
                # With both down every route shows what it should not: so both were really down, each for itself.
                unnoticed = [row.call for row in LEAKING if not await failures(served, ADMIN, [row], stranger, mine)]
                assert not unnoticed


async def test_stale_versions_that_pass_are_noticed(served: ServedLedger) -> None:
    """At every route."""
    mine, stale = await served.stale()
    newest = {"self_service_admin": stale["self_service_admin"]}
    with stale_versions_pass():
        unnoticed = [row.call for row in ROWS if not await outdated(served, [row], mine, newest)]
    assert not unnoticed


async def test_break_glass_that_writes_is_noticed(served: ServedLedger, stranger: World) -> None:
    """At every route that it must not reach."""
    mine, endpoints = await served.world(BREAK_GLASS), newly_open(served.endpoints)
    assert endpoints
    with break_glass_may_write():
        for endpoint in endpoints:
            rows = [row for row in served.rows if row.route == template(endpoint.method, endpoint.path)]
            assert await failures(served, BREAK_GLASS, rows, stranger, mine), endpoint.path
