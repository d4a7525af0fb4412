"""Payment Balancing over random books, against the documents it must agree with (B1-B10, P3-P5, P11)."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import AsyncIterator
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reporting.reports import query
from tests.support.databases import Databases
from tests.support.ledger_events import METHODS, PROCEDURES, Books, books
from tests.support.report_oracle import (
    FIGURES,
    GROUP_COLUMNS,
    Asked,
    balancing_cpt,
    balancing_groups,
    balancing_payments,
    facet,
    of_items,
    plain,
    totals,
)
from tests.support.reporting import REPORTS, ReportingStack

FULL = ("practice", "rcm", "integration")
DAYS = st.dates(date(2026, 2, 24), date(2026, 3, 8))
FACETS = {"location": "location_id", "poster": "poster_id", "payer": "payer_id", "batch": "batch_number"}


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[ReportingStack]:
    async with ReportingStack.fresh(databases) as stack:
        yield stack


@st.composite
def questions(draw: st.DrawFn) -> tuple[Books, Asked, dict[str, Any]]:
    """Books, a question about them for the oracle, and the same question as parameters."""
    made = draw(books())
    first, last = sorted((draw(DAYS), draw(DAYS)))
    full = draw(st.booleans())
    words: dict[str, tuple[Any, ...]] = {}
    params: dict[str, Any] = {
        "by": draw(st.sampled_from(("posting_date", "deposit_date"))),
        "from": first,
        "to": last,
        "variation": "full_access" if full else "base",
    }

    def some(values: Any) -> tuple[Any, ...]:
        return tuple(draw(st.lists(st.sampled_from(list(values)), max_size=2, unique=True)))

    choices = {
        "poster_id": [*made.practice, *made.rcm],
        "source": ["manual", "emr", "era"],
        "method": METHODS,
        "payer_id": [*(payer.payer_id for payer in made.payers), None],
        "batch_number": ["BCBS", "B-1", "=2+2", None],
        "check_number": ["CK1", "CK2", "CK3", None],
    }
    name = draw(st.sampled_from([None, *choices]))  # One at a time, or hardly anything is left.
    if name is not None and (values := some(choices[name])):
        words[name] = params[name] = values
    locations = some([*made.locations, None]) if draw(st.booleans()) else ()
    patients = some(patient.patient_id for patient in made.patients) if draw(st.booleans()) else ()
    procedures = some(PROCEDURES) if draw(st.booleans()) else ()
    bounds = draw(st.sampled_from(((None, None), (None, None), (0, None), (-500, 2_500), (None, 100))))
    params |= {"location_id": locations, "patient_id": patients, "procedure_code": procedures}
    params |= {
        name: value
        for name, value in zip(("min_amount_cents", "max_amount_cents"), bounds, strict=True)
        if value is not None
    }
    asked = Asked(
        by=params["by"],
        first=first,
        last=last,
        affiliations=FULL if full else ("practice", "integration"),
        words=words,
        locations=locations or None,
        patients=patients,
        procedures=procedures,
        least=bounds[0],
        most=bounds[1],
    )
    return made, asked, params


@given(questions(), st.permutations(list(GROUP_COLUMNS)), st.integers(0, 3), st.sampled_from((1, 3, 500)))
async def test_groups_are_what_the_documents_say(
    stack: ReportingStack, question: Any, groups: list[str], many: int, limit: int
) -> None:
    made, asked, params = question
    groups = [*groups[:many], *random.Random(many).sample(["patient", "procedure_code"], 1 if many < 2 else many % 3)]
    await stack.load(made)
    report = await stack.balancing(made, **params, group_by=",".join(groups), limit=limit, facets="true")
    columns = [{"patient": "patient_id", "procedure_code": "procedure_code", **GROUP_COLUMNS}[name] for name in groups]
    if {"patient", "procedure_code"} & set(groups):
        columns += ["unassigned", "provider_level", "other_location"]
    assert of_items(report["items"], *columns) == plain(balancing_groups(asked, made.receipts(), groups))
    assert report["totals"] == totals(asked, made.receipts())
    for name, values in report["facets"].items():
        word = FACETS.get(name, name)
        expected = {key and str(key): count for key, count in facet(asked, made.receipts(), word).items()}
        assert {value[word]: value["payments"] for value in values} == expected


@given(questions(), st.sampled_from((2, 500)))
async def test_drilling_down_adds_up(stack: ReportingStack, question: Any, limit: int) -> None:
    """P3: payments are their CPT rows, unassigned and provider level included; amounts are the sum of their parts."""
    made, asked, params = question
    await stack.load(made)
    payments = await stack.balancing(made, **params, limit=limit)
    lines = await stack.balancing(made, **params, level="cpt", limit=limit)
    columns = (
        "payment_id",
        "patient_id",
        "charge_id",
        "procedure_code",
        "unassigned",
        "provider_level",
        "other_location",
    )
    assert of_items(payments["items"], "payment_id") == plain(balancing_payments(asked, made.receipts()))
    assert of_items(lines["items"], *columns) == plain(balancing_cpt(asked, made.receipts()))
    assert payments["totals"] == lines["totals"] == totals(asked, made.receipts())
    for name in FIGURES[1:]:
        sums: dict[str, int] = {}
        for line in lines["items"]:
            sums[line["payment_id"]] = sums.get(line["payment_id"], 0) + line[name]
        assert all(item[name] == sums.get(item["payment_id"], 0) for item in payments["items"])
    for item in (*payments["items"], *lines["items"], payments["totals"]):
        parts = item["applied_cents"] + item["provider_level_cents"] + item["unapplied_cents"]
        assert item["amount_cents"] == parts


@given(questions())
async def test_newest_first_and_names_stand_with_ids(stack: ReportingStack, question: Any) -> None:
    made, _, params = question
    await stack.load(made)
    items = (await stack.balancing(made, **params))["items"]
    places = [item["first_version"] for item in items]
    assert places == sorted(places, reverse=True)
    for item in items:
        assert (item["location_name"] is None) == (item["location_id"] is None)
        assert (item["payer_name"] is None) == (item["payer_id"] is None)
        assert item["poster_name"] == (
            "Integration Import, Not mapped to a user"
            if item["affiliation"] == "integration"
            else f"User {UUID(item['poster_id']).hex[12:20]}"
        )


@given(books(), st.sampled_from(("posting_date", "deposit_date")))
async def test_the_variations_and_posters_make_one_whole(stack: ReportingStack, made: Books, by: str) -> None:
    """P4: base = full - RCM, and everybody's own activity + integration = full; B1, B5, B6."""
    await stack.load(made)
    full = await stack.balancing(made, by=by, variation="full_access")
    base = await stack.balancing(made, by=by)
    rcm = await stack.balancing(made, by=by, variation="full_access", affiliation="rcm")
    integration = await stack.balancing(made, by=by, affiliation="integration")
    nothing = await stack.balancing(made, by=by, affiliation="rcm")
    own = [(await stack.activity(made, poster, by=by))["totals"] for poster in (*made.practice, *made.rcm)]
    assert not nothing["items"]
    assert not any(nothing["totals"].values())
    without_rcm = [item for item in full["items"] if item["affiliation"] != "rcm"]
    assert base["items"] == without_rcm
    for name in FIGURES:
        assert full["totals"][name] == base["totals"][name] + rcm["totals"][name]
        assert full["totals"][name] == sum(one[name] for one in own) + integration["totals"][name]


@given(
    books(),
    st.lists(
        st.sampled_from((*FIGURES, "poster", "deposit_date", "location", "batch_number")),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    st.booleans(),
)
async def test_sorting_and_paging_change_nothing_but_order(
    stack: ReportingStack, made: Books, columns: list[str], down: bool
) -> None:
    """P5, B7, B8"""
    await stack.load(made)
    sort = ",".join(f"-{name}" if down else name for name in columns)
    plainly = await stack.balancing(made)
    report = await stack.balancing(made, sort=sort, limit=3)
    assert report["totals"] == plainly["totals"]
    by_id = {item["payment_id"]: item for item in plainly["items"]}
    assert {item["payment_id"]: item for item in report["items"]} == by_id
    names = {"poster": "poster_name", "location": "location_name"}
    keys = [[item[names.get(name, name)] for name in columns] for item in report["items"]]
    ranks = [[(value is not None, value if value is not None else "") for value in key] for key in keys]
    assert ranks == sorted(ranks, reverse=down)
    again = await stack.balancing(made, sort=sort, limit=500)
    assert again["items"] == report["items"]


@given(questions(), st.sampled_from(("group", "payment", "cpt")))
async def test_csv_has_the_same_rows(stack: ReportingStack, question: Any, level: str) -> None:
    made, _, params = question
    await stack.load(made)
    params = params | ({"group_by": "batch,poster"} if level == "group" else {"level": level})
    report = await stack.balancing(made, **params)
    exported = await stack.get(
        f"{REPORTS}payment-balancing", stack.admin(made), {**params, "format": "csv", "limit": 1}
    )
    rows = list(csv.DictReader(io.StringIO(exported.raw.decode(), newline="")))
    expected = [{name: _cell(value) for name, value in item.items()} for item in report["items"]]
    assert rows == expected


def _cell(value: Any) -> str:
    text = (
        {None: "", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, int) or isinstance(value, bool)
        else str(value)
    )
    return f"'{text}" if isinstance(value, str) and value.startswith("=") else text


@given(questions(), st.data())
async def test_as_of_is_what_was_known_then(stack: ReportingStack, question: Any, data: st.DataObject) -> None:
    """P11: whatever comes later, the report as of a version stays what it was."""
    made, asked, params = question
    version = data.draw(st.integers(0, made.version))
    await stack.load(made)
    report = await stack.balancing(made, **params, as_of_version=version, limit=2)
    assert of_items(report["items"], "payment_id") == plain(balancing_payments(asked, made.receipts(version)))
    assert report["totals"] == totals(asked, made.receipts(version))
    assert report["as_of_version"] == version


@given(books(), st.sampled_from(("posting_date", "deposit_date")))
async def test_sums_per_day_equal_sums_of_lines(stack: ReportingStack, made: Books, by: str) -> None:
    await stack.load(made)
    groups = f"location,poster,source,method,payer,batch,{by}"
    answers = []
    for use in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not use:
                patch.setattr(query, "rolled_up", lambda *_: False)
            answers.append(await stack.balancing(made, by=by, variation="full_access", group_by=groups, facets="true"))
    assert answers[0] == answers[1]


async def test_pages_stay_on_the_version_of_the_first_one(stack: ReportingStack) -> None:
    made = Books(random.Random(5)).act(30)
    await stack.load(made)
    before = await stack.balancing(made)
    token, path = stack.admin(made), f"{REPORTS}payment-balancing"
    params = {"from": "2026-01-01", "to": "2026-12-31", "limit": 2}
    page = (await stack.get(path, token, params)).body
    items = page["items"]
    while page["next"]:
        known = made.version
        made.pay()
        made.correct()
        await stack.deliver(made, after=known)
        page = (await stack.get(path, token, {**params, "cursor": page["next"]})).body
        items += page["items"]
        assert (page["totals"], page["as_of_version"]) == (before["totals"], before["as_of_version"])
    assert items == before["items"]
