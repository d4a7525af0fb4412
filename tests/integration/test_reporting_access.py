"""Who sees what: the restricted role (R1-R7, D10, D14, P6), Full Access (B6, D3), companies (D11)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.access.policy import catalogue
from shared.contracts.identity_events import LOCATION_CHANGED, LocationState
from tests.support.databases import Databases
from tests.support.ledger_events import Books, books
from tests.support.report_oracle import Asked, balancing_cpt, of_items, plain, totals
from tests.support.reporting import ALL, REPORTS, ReportingStack

BALANCING, ACTIVITY = f"{REPORTS}payment-balancing", f"{REPORTS}my-payment-activity"
SHAPES: list[dict[str, Any]] = [
    {"level": "payment"},
    {"level": "cpt"},
    {"group_by": "location,poster"},
    {"group_by": "patient,procedure_code", "facets": "true"},
    {"group_by": "batch", "sort": "-amount_cents"},
    {"level": "cpt", "min_amount_cents": 0, "facets": "true"},
    {"level": "payment", "procedure_code": "97110", "facets": "true"},
]


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[ReportingStack]:
    async with ReportingStack.fresh(databases) as stack:
        yield stack


@given(books(), st.sampled_from((1, 2)), st.sampled_from(SHAPES), st.sampled_from(("json", "csv")), st.integers(1, 4))
async def test_restricted_is_the_filtered_report_byte_for_byte(
    stack: ReportingStack, made: Books, many: int, shape: dict[str, Any], form: str, limit: int
) -> None:
    """P6, R3: rows, totals, facets, cursors and exports."""
    await stack.load(made)
    granted = made.locations[:many]
    params = {**ALL, **shape, "format": form, "limit": limit}
    restricted, admin = stack.restricted(made, granted), stack.admin(made)
    while True:
        own = await stack.get(BALANCING, restricted, params)
        filtered = await stack.get(BALANCING, admin, {**params, "location_id": reversed_(granted)})
        assert (own.status, filtered.status) == (200, 200)
        assert own.raw == filtered.raw
        if form == "csv" or not own.body["next"]:
            break
        params["cursor"] = own.body["next"]


@given(books())
async def test_nothing_of_other_locations_shows(stack: ReportingStack, made: Books) -> None:
    """D14: a charge of another location is one masked row; neither its patient nor its code is found by filters."""
    await stack.load(made)
    (granted, *others) = made.locations
    asked = Asked(locations=(granted,))
    token = stack.restricted(made, [granted])
    whole = b""
    for shape in SHAPES:
        whole += (await stack.get(BALANCING, token, {**ALL, **shape, "limit": 500})).raw
    hidden = [charge.charge_id for charge in made.charges if charge.location_id != granted]
    for secret in (*hidden, *others):
        assert str(secret).encode() not in whole
    report = await stack.balancing(made, token, level="cpt")
    keys = ("payment_id", "patient_id", "charge_id", "procedure_code", "unassigned", "provider_level", "other_location")
    assert of_items(report["items"], *keys) == plain(balancing_cpt(asked, made.receipts()))
    for patient in made.patients:
        only = await stack.balancing(made, token, patient_id=patient.patient_id)
        narrowed = Asked(locations=(granted,), patients=(patient.patient_id,))
        assert only["totals"] == totals(narrowed, made.receipts())


@given(books(), st.integers(0, 2))
async def test_receipts_without_location_can_be_asked_for_and_are_not_masked(
    stack: ReportingStack, made: Books, many: int
) -> None:
    """An empty location_id; only an all-locations role may, so there is nothing to hide in their CPT rows."""
    await stack.load(made)
    asked = Asked(locations=(None, *made.locations[:many]))
    report = await stack.balancing(made, level="cpt", location_id=["", *made.locations[:many]])
    keys = ("payment_id", "patient_id", "charge_id", "procedure_code", "unassigned", "provider_level", "other_location")
    assert of_items(report["items"], *keys) == plain(balancing_cpt(asked, made.receipts()))


async def test_locations_not_granted_are_refused_alike(stack: ReportingStack) -> None:
    """R2, D10: existing, foreign or made up, alone or beside a granted one: the same 403 without a name."""
    made, foreign = Books(random.Random(1)).act(20), Books(random.Random(2)).act(20)
    await stack.load(made, foreign)
    token = stack.restricted(made, made.locations[:1])
    bodies = set()
    for bad in (made.locations[1], foreign.locations[0], uuid4(), ""):
        for locations in ([bad], [made.locations[0], bad]):
            answer = await stack.get(BALANCING, token, {**ALL, "location_id": locations})
            assert (answer.status, answer.body["code"]) == (403, "location_forbidden")
            bodies.add(orjson.dumps({**answer.body, "request_id": ""}))
    assert len(bodies) == 1
    allowed = await stack.get(BALANCING, token, {**ALL, "location_id": made.locations[0]})
    assert allowed.status == 200
    full = await stack.get(BALANCING, token, {**ALL, "variation": "full_access"})
    assert (full.status, full.body["code"]) == (403, "forbidden")


@pytest.mark.parametrize("locations", [[], "*"])
async def test_no_location_granted_is_nothing(stack: ReportingStack, locations: Any) -> None:
    """R4, D10: fail closed, also for a token that never should have been given."""
    made = Books(random.Random(3)).act(40)
    await stack.load(made)
    token = stack.restricted(made, locations)
    for shape in SHAPES:
        report = await stack.balancing(made, token, **shape)
        assert report["items"] == []
        assert not any(report["totals"].values())
        assert not any(report.get("facets", {}).values())


async def test_a_cursor_does_not_outlive_the_rights_it_was_given_under(stack: ReportingStack) -> None:
    """R6"""
    made = Books(random.Random(4)).act(60)
    await stack.load(made)
    wide, narrow = stack.restricted(made, made.locations[:2]), stack.restricted(made, made.locations[:1])
    page = await stack.get(BALANCING, wide, {**ALL, "limit": 1})
    answer = await stack.get(BALANCING, narrow, {**ALL, "limit": 1, "cursor": page.body["next"]})
    assert (answer.status, answer.fields) == (422, {"cursor"})


async def test_an_unknown_location_is_asked_for_once_and_then_absent(stack: ReportingStack) -> None:
    made, foreign = Books(random.Random(5)).act(10), Books(random.Random(6)).act(10)
    await stack.deliver(made)
    await stack.load(foreign)
    state = LocationState(
        company_id=made.company_id, location_id=made.locations[0], version=1, code="N", name="New place"
    )
    stack.neighbours.states.append((LOCATION_CHANGED, state))
    answer = await stack.get(BALANCING, stack.admin(made), {**ALL, "location_id": made.locations[0]})
    assert answer.status == 200
    for absent in (uuid4(), foreign.locations[0]):
        answer = await stack.get(BALANCING, stack.admin(made), {**ALL, "location_id": absent})
        assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_every_role_gets_what_the_matrix_grants(stack: ReportingStack) -> None:
    made = Books(random.Random(7)).act(30)
    await stack.load(made)
    for role in catalogue().values():
        locations = made.locations[:1] if role.limited_to_locations else "*"
        token = stack.tokens.token(role.key, made.company_id, locations=locations)
        allowed = {
            ACTIVITY: role.allows("my_payment_activity", "view"),
            BALANCING: role.allows("payment_balancing", "view"),
        }
        for path, yes in allowed.items():
            assert (await stack.get(path, token, ALL)).status == (200 if yes else 403)
        full = await stack.get(BALANCING, token, {**ALL, "variation": "full_access"})
        full_access = role.allows("payment_balancing_full_access", "view")
        assert full.status == (200 if allowed[BALANCING] and full_access else 403)
        listed = (await stack.get("/v1/reports", token)).body["items"]
        assert {item["path"] for item in listed} == {path for path, yes in allowed.items() if yes}
        variations = {v for item in listed for v in item.get("variations", [])}
        assert ("full_access" in variations) == (allowed[BALANCING] and full_access)


@pytest.mark.parametrize("role", ["operator", "emr", "internal", "made_up"])
async def test_callers_outside_the_matrix_get_no_report(stack: ReportingStack, role: str) -> None:
    token = stack.tokens.token(role, None)
    for path in (ACTIVITY, BALANCING):
        assert (await stack.get(path, token, ALL)).status == 403
    assert (await stack.get("/v1/reports", token)).body["items"] == []


async def test_companies_never_mix(stack: ReportingStack) -> None:
    one, other = Books(random.Random(8)).act(40), Books(random.Random(9)).act(40)
    await stack.load(one, other)
    before = await stack.balancing(one, variation="full_access", facets="true")
    other.act(20)
    await stack.deliver(other, after=41)
    assert await stack.balancing(one, variation="full_access", facets="true") == before
    for name, value in (("poster_id", other.practice[0]), ("payer_id", other.payers[0].payer_id)):
        assert not (await stack.balancing(one, **{name: value}))["items"]


async def test_a_company_never_heard_of_is_empty(stack: ReportingStack) -> None:
    token = stack.tokens.token("practice_admin", uuid4())
    answer = (await stack.get(BALANCING, token, ALL)).body
    assert answer["items"] == []
    assert (answer["as_of_version"], answer["as_of_time"], answer["verified_through"]) == (0, None, None)


@pytest.mark.parametrize("token", [None, "x", "a.b.c"])
async def test_no_token_no_report(stack: ReportingStack, token: str | None) -> None:
    answer = await stack.get(BALANCING, token, ALL)
    assert (answer.status, answer.body["code"]) == (401, "unauthenticated")


async def test_a_token_in_the_address_is_refused_as_a_parameter(stack: ReportingStack) -> None:
    made = Books(random.Random(1))
    params = {**ALL, "access_token": stack.admin(made)}
    assert (await stack.get(BALANCING, None, params)).status == 401
    assert (await stack.get(BALANCING, stack.admin(made), params)).status == 422


def reversed_(locations: list[UUID]) -> list[UUID]:
    """The same locations in another order, one twice: neither may matter."""
    return [*reversed(locations), locations[0]]
