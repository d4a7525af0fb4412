"""What a restricted role sees of a report (R1-R7, D14, P6), and companies (D11). Who may ask what: tests/access."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

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


async def test_the_list_holds_what_the_caller_may_run(stack: ReportingStack) -> None:
    """M2, B10; tests/access asks the reports themselves."""
    for role in catalogue().values():
        listed = (await stack.get("/v1/reports", stack.tokens.token(role.key, uuid4()))).body["items"]
        areas = {ACTIVITY: "my_payment_activity", BALANCING: "payment_balancing"}
        assert {item["path"] for item in listed} == {path for path, area in areas.items() if role.allows(area, "view")}
        variations = {v for item in listed for v in item.get("variations", [])}
        full = role.allows("payment_balancing", "view") and role.allows("payment_balancing_full_access", "view")
        assert ("full_access" in variations) == full


async def test_that_list_is_paged_as_every_list(stack: ReportingStack) -> None:
    token = stack.tokens.token("partner_admin", uuid4())
    whole = (await stack.get("/v1/reports?limit=500", token)).body
    first = (await stack.get("/v1/reports?limit=1", token)).body
    second = (await stack.get(f"/v1/reports?limit=1&cursor={first['next']}", token)).body
    assert [*first["items"], *second["items"]] == whole["items"]
    assert (whole["next"], second["next"]) == (None, None)
    assert (await stack.get("/v1/reports?cursor=aging", token)).status == 422


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


async def test_a_token_in_the_address_is_refused_as_a_parameter(stack: ReportingStack) -> None:
    made = Books(random.Random(1))
    params = {**ALL, "access_token": stack.admin(made)}
    assert (await stack.get(BALANCING, None, params)).status == 401
    assert (await stack.get(BALANCING, stack.admin(made), params)).status == 422


def reversed_(locations: list[UUID]) -> list[UUID]:
    """The same locations in another order, one twice: neither may matter."""
    return [*reversed(locations), locations[0]]
