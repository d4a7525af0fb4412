"""My Payment Activity over random books, against the documents it must agree with (M1-M11, D6, D12, P3)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.ledger_events import Posting
from shared.ids import INTEGRATION_POSTER_ID
from tests.support.databases import Databases
from tests.support.ledger_events import START, Books, books
from tests.support.report_oracle import FIGURES, Asked, activity, mine, of_items, plain, totals
from tests.support.reporting import ALL, REPORTS, ReportingStack

KEYS = {
    "batch": ("batch_number",),
    "check": ("payment_id",),
    "patient": ("patient_id", "unassigned", "provider_level"),
    "cpt": ("procedure_code", "unassigned", "provider_level"),
}
PATH = f"{REPORTS}my-payment-activity"
EVERYBODY = ("practice", "rcm")


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[ReportingStack]:
    async with ReportingStack.fresh(databases) as stack:
        yield stack


def _posters(made: Books) -> list[Any]:
    return [*made.practice, *made.rcm]


@given(
    books(),
    st.integers(0, 4),
    st.sampled_from(tuple(KEYS)),
    st.sampled_from(("posting_date", "deposit_date")),
    st.sampled_from(("", "BCBS", "B-1", "nothing of this name", None)),
    st.sampled_from((1, 2, 500)),
    st.booleans(),
)
async def test_every_level_is_what_the_documents_say(
    stack: ReportingStack, made: Books, who: int, level: str, by: str, batch: str | None, limit: int, ranged: bool
) -> None:
    await stack.load(made)
    poster = _posters(made)[who]
    days = {"from": date(2026, 2, 27), "to": date(2026, 3, 2)} if ranged or batch is None else {"from": (), "to": ()}
    params = {"by": by, "level": level, "limit": limit, "batch_number": () if batch is None else batch, **days}
    report = await stack.activity(made, poster, **params)
    words = {} if batch is None else {"batch_number": (batch or None,)}
    asked = Asked(by=by, affiliations=EVERYBODY, words=words)
    if days["from"]:
        asked = Asked(by=by, affiliations=EVERYBODY, words=words, first=days["from"], last=days["to"])  # type: ignore[arg-type]
    assert of_items(report["items"], *KEYS[level]) == plain(activity(made, poster, asked, level))
    assert report["totals"] == totals(asked, mine(made, poster))
    if batch is not None:
        assert all(item["batch_number"] == (batch or None) for item in report["items"])


@given(books(), st.integers(0, 4))
async def test_each_drill_adds_up_to_the_item_above(stack: ReportingStack, made: Books, who: int) -> None:
    """P3, M7, M8: batch = its checks = its patients = its CPT rows, and so on down."""
    await stack.load(made)
    poster = _posters(made)[who]

    async def below(item: dict[str, Any], level: str, **params: Any) -> None:
        report = await stack.activity(made, poster, level=level, **params)
        for name in FIGURES[1:]:
            assert sum(row[name] for row in report["items"]) == item[name] == report["totals"][name]
        if level != "check" and not {"patient_id"} & params.keys():
            return
        for row in report["items"]:
            if level == "check":
                drill = {"batch_number": params["batch_number"], "payment_id": row["payment_id"]}
                await below(row, "patient", **drill, check_number=row["check_number"] or "")

    for batch in (await stack.activity(made, poster))["items"]:
        number = batch["batch_number"] or ""
        for level in ("check", "patient", "cpt"):
            await below(batch, level, batch_number=number)
        patients = await stack.activity(made, poster, level="patient", batch_number=number)
        for row in patients["items"]:
            if row["patient_id"]:
                await below(row, "cpt", batch_number=number, patient_id=row["patient_id"])


@given(books(), st.integers(0, 4), st.sampled_from(tuple(KEYS)), st.sampled_from(("posting_date", "deposit_date")))
async def test_newest_first_whatever_the_dates(
    stack: ReportingStack, made: Books, who: int, level: str, by: str
) -> None:
    """M9: by the place of the first posting, not by clock or date; a batch's place is its first receipt's."""
    await stack.load(made)
    poster = _posters(made)[who]
    report = await stack.activity(made, poster, level=level, by=by, limit=2)
    places = [item["first_version"] for item in report["items"]]
    assert places == sorted(places, reverse=True)
    if level == "batch":
        for item in report["items"]:
            inside = [r for r in mine(made, poster) if r.words.batch_number == item["batch_number"]]
            first = min(inside, key=lambda receipt: receipt.receipt_version)
            assert item["first_version"] == first.receipt_version
            assert item["first_posted_at"] == min(r.posted_at for r in inside).isoformat().replace("+00:00", "Z")
            assert item["last_posted_at"] == max(r.posted_at for r in inside).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("minutes", [0, -5])
async def test_no_clock_is_trusted_with_order(stack: ReportingStack, minutes: int) -> None:
    """M9: receipts of one instant, or of a clock that was set back, stand as they were posted, on every page."""
    made = Books(random.Random(3))
    poster = made.practice[0]
    for number in range(9):
        words = {"poster_id": poster, "affiliation": "practice", "source": "manual", "batch_number": f"B{number % 3}"}
        made.pay(**words)
        made.now = START + timedelta(minutes=minutes * number)
        made.postings[-1] = _at(made, made.now)
    await stack.load(made)
    batches = await stack.activity(made, poster, limit=1)
    assert [item["batch_number"] for item in batches["items"]] == ["B2", "B1", "B0"]
    checks = await stack.activity(made, poster, level="check", limit=2)
    assert [item["first_version"] for item in checks["items"]] == list(range(made.version, 1, -1))


def _at(made: Books, moment: datetime) -> Posting:
    posting = made.postings[-1]
    receipts = tuple(receipt.model_copy(update={"posted_at": moment}) for receipt in posting.receipts)
    return posting.model_copy(update={"posted_at": moment, "receipts": receipts})


async def test_only_what_the_caller_posted(stack: ReportingStack) -> None:
    """M1: no parameter names another poster, and a token of the integration would get nothing."""
    made = Books(random.Random(7)).act(60)
    await stack.load(made)
    for poster in _posters(made):
        report = await stack.activity(made, poster, level="check")
        expected = {str(receipt.payment_id) for receipt in mine(made, poster)}
        assert {item["payment_id"] for item in report["items"]} == expected
        for name in ("user_id", "poster_id", "user", "variation"):
            token = stack.tokens.token("partner_payment_poster", made.company_id, subject=poster)
            answer = await stack.get(PATH, token, {**ALL, name: str(made.practice[0])})
            assert answer.status == 422
            assert answer.fields == {name}
    assert not (await stack.activity(made, INTEGRATION_POSTER_ID))["items"]


async def test_posting_and_deposit_date_differ(stack: ReportingStack) -> None:
    """M3"""
    made = Books(random.Random(1))
    poster = made.practice[0]
    words = {"poster_id": poster, "affiliation": "practice", "source": "manual"}
    made.pay(**words, posting_date=date(2026, 3, 4), deposit_date=date(2026, 3, 2), batch_number="A")
    await stack.load(made)

    async def batches(by: str, day: date) -> list[Any]:
        report = await stack.activity(made, poster, by=by, **{"from": day, "to": day})
        return [item["batch_number"] for item in report["items"]]

    assert await batches("posting_date", date(2026, 3, 4)) == ["A"]
    assert await batches("posting_date", date(2026, 3, 2)) == []
    assert await batches("deposit_date", date(2026, 3, 2)) == ["A"]
    assert await batches("deposit_date", date(2026, 3, 4)) == []


async def test_one_line_for_a_batch_however_many_days(stack: ReportingStack) -> None:
    """M6, D6: one line per batch number in the range, "(no batch)" included, free text and case as typed."""
    made = Books(random.Random(2))
    poster = made.practice[0]
    for day in (3, 4, 5):
        for batch in ("BCBS", "bcbs", None):
            words = {"poster_id": poster, "affiliation": "practice", "source": "manual", "batch_number": batch}
            made.pay(**words, posting_date=date(2026, 3, day), deposit_date=date(2026, 3, day))
            made.charge()
    await stack.load(made)
    report = await stack.activity(made, poster)
    assert [item["batch_number"] for item in report["items"]] == [None, "bcbs", "BCBS"]
    assert [item["payments"] for item in report["items"]] == [3, 3, 3]


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({}, {"from", "to", "batch_number"}),
        ({"from": "2026-01-01"}, {"to"}),
        ({"to": "2026-01-01"}, {"from"}),
        ({"to": "2026-01-01", "batch_number": "B"}, {"from"}),
        ({"from": "2026-01-02", "to": "2026-01-01"}, {"to"}),
        ({**ALL, "by": "date"}, {"by"}),
        ({**ALL, "level": "group"}, {"level"}),
        ({**ALL, "patient_id": "1"}, {"patient_id"}),
        ({**ALL, "from": ["2026-01-01", "2026-01-02"]}, {"from"}),
        ({**ALL, "batch_number": "a\u202eb"}, {"batch_number"}),
        ({**ALL, "limit": "0"}, {"limit"}),
        ({**ALL, "limit": "501"}, {"limit"}),
        ({**ALL, "limit": "1e2"}, {"limit"}),
        ({**ALL, "cursor": "x"}, {"cursor"}),
        ({**ALL, "as_of": "1700000000"}, {"as_of"}),
        ({**ALL, "as_of": "2026-01-01T00:00:00Z", "as_of_version": "1"}, {"as_of"}),
        ({**ALL, "format": "exe"}, {"format"}),
        ({"first": "2026-01-01", "last": "2026-12-31", "batch_number": "B"}, {"first", "last"}),
    ],
)
async def test_refusals_name_the_field(stack: ReportingStack, params: dict[str, Any], fields: set[str]) -> None:
    """M4, D12"""
    answer = await stack.get(
        PATH, stack.tokens.token("partner_payment_poster", Books(random.Random(1)).company_id), params
    )
    assert answer.status == 422
    assert answer.fields == fields
