"""The reports' edges: refusals, versions and moments, formats, what the service says of itself."""

from __future__ import annotations

import asyncio
import csv
import io
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from services.reporting import formats
from services.reporting.api import EXPORTERS, EXPORTS, MOST_EXPORTS
from shared.bus import Outcome
from shared.contracts.identity_events import USER_CHANGED, UserState
from tests.support.databases import Databases
from tests.support.ledger_events import Books, message_of
from tests.support.reporting import ALL, REPORTS, ReportingStack

PATH = f"{REPORTS}payment-balancing"


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[ReportingStack]:
    async with ReportingStack.fresh(databases) as stack:
        yield stack


@pytest.fixture(scope="module")
async def made(stack: ReportingStack) -> Books:
    made = Books(random.Random(11)).act(80)
    await stack.load(made)
    return made


@pytest.mark.parametrize(
    ("params", "fields"),
    [
        ({"from": (), "to": ()}, {"from", "to"}),
        ({"to": ()}, {"to"}),
        ({"from": "2026-02-30"}, {"from"}),
        ({"from": "0001-01-01"}, {"from"}),
        ({"from": "1767225600"}, {"from"}),
        ({"from": "2026-12-31", "to": "2026-01-01"}, {"to"}),
        ({"by": "service_date"}, {"by"}),
        ({"variation": "all"}, {"variation"}),
        ({"location_id": "x"}, {"location_id.0"}),
        ({"poster_id": ["x", "y"]}, {"poster_id.0", "poster_id.1"}),
        ({"poster_id": ""}, {"poster_id.0"}),
        ({"source": "paper"}, {"source.0"}),
        ({"method": "gold"}, {"method.0"}),
        ({"affiliation": "owner"}, {"affiliation.0"}),
        ({"procedure_code": "'; drop table payer"}, {"procedure_code.0"}),
        ({"batch_number": "x" * 201}, {"batch_number.0"}),
        ({"batch_number": "a\x00b"}, {"batch_number.0"}),
        ({"min_amount_cents": "1.5"}, {"min_amount_cents"}),
        ({"min_amount_cents": "1_000"}, {"min_amount_cents"}),
        ({"min_amount_cents": "9" * 17}, {"min_amount_cents"}),
        ({"min_amount_cents": "5", "max_amount_cents": "4"}, {"max_amount_cents"}),
        ({"group_by": "poster,"}, {"group_by"}),
        ({"group_by": "poster,colour"}, {"group_by"}),
        ({"group_by": "poster,poster"}, {"group_by"}),
        ({"level": "group"}, {"group_by"}),
        ({"level": "cpt", "group_by": "poster"}, {"group_by"}),
        ({"sort": "colour"}, {"sort"}),
        ({"sort": "procedure_code"}, {"sort"}),
        ({"sort": "payments;drop"}, {"sort"}),
        ({"group_by": "poster", "sort": "location"}, {"sort"}),
        ({"facets": "yes"}, {"facets"}),
        ({"min_version": "-1"}, {"min_version"}),
        ({"as_of_version": "1.0"}, {"as_of_version"}),
        ({"as_of": "2026-01-01"}, {"as_of"}),
        ({"as_of": "2026-13-01T00:00:00Z"}, {"as_of"}),
        ({"cursor": "W10"}, {"cursor"}),
        ({"cursor": "W251bGwsMSwiIl0"}, {"cursor"}),
        ({"format": "pdf"}, {"format"}),
        ({"colour": "red"}, {"colour"}),
    ],
)
async def test_refusals_name_the_field(
    stack: ReportingStack, made: Books, params: dict[str, Any], fields: set[str]
) -> None:
    answer = await stack.get(PATH, stack.admin(made), {**ALL, **params})
    assert answer.status == 422
    assert answer.fields == fields


async def test_min_version_waits_for_the_posting(stack: ReportingStack) -> None:
    made = Books(random.Random(1)).act(5)
    await stack.deliver(made)
    known = made.version
    made.pay()
    made.pay()

    async def later() -> None:
        await asyncio.sleep(0.2)
        await stack.deliver(made, after=known)

    delivery = asyncio.ensure_future(later())
    answer = await stack.get(PATH, stack.admin(made), {**ALL, "min_version": made.version})
    await delivery
    assert answer.status == 200
    assert answer.body["as_of_version"] == made.version


async def test_min_version_gives_up_after_two_seconds(stack: ReportingStack, made: Books) -> None:
    started = time.monotonic()
    answer = await stack.get(PATH, stack.admin(made), {**ALL, "min_version": made.version + 1})
    assert (answer.status, answer.body["code"], answer.fields) == (409, "version_not_reached", {"min_version"})
    assert answer.body["detail"] == f"Reporting has reached version {made.version} of the books"
    assert 1.9 < time.monotonic() - started < 4


async def test_as_of_a_version_or_a_moment(stack: ReportingStack, made: Books) -> None:
    token = stack.admin(made)
    beyond = await stack.get(PATH, token, {**ALL, "as_of_version": made.version + 1})
    assert (beyond.status, beyond.body["code"], beyond.fields) == (409, "version_not_reached", {"as_of_version"})
    events = made.events()
    for event in (events[0], events[len(events) // 2], events[-1]):
        last = max(e.data.version for e in events if e.time <= event.time)
        by_moment = (await stack.get(PATH, token, {**ALL, "as_of": event.time.isoformat()})).body
        by_version = (await stack.get(PATH, token, {**ALL, "as_of_version": last})).body
        assert by_moment["as_of_version"] == last
        for name in ("items", "totals", "as_of_version", "as_of_time"):
            assert by_moment[name] == by_version[name]
        assert by_moment["as_of_time"] == event.time.isoformat().replace("+00:00", "Z")
    before = (await stack.get(PATH, token, {**ALL, "as_of": (events[0].time - timedelta(days=1)).isoformat()})).body
    assert (before["as_of_version"], before["items"], before["as_of_time"]) == (0, [], None)
    current = (await stack.get(PATH, token, ALL)).body
    assert (current["as_of_version"], current["verified_through"]) == (made.version, None)


@pytest.mark.parametrize("form", ["json", "csv"])
async def test_a_moment_that_has_not_been_is_refused(stack: ReportingStack, made: Books, form: str) -> None:
    """Two calls about it, before and after the next posting, would not agree; two about a version do."""
    token, soon = stack.admin(made), datetime.now(UTC) + timedelta(minutes=1)
    refused = await stack.get(PATH, token, {**ALL, "as_of": soon.isoformat(), "format": form})
    assert (refused.status, refused.body["code"], refused.fields) == (422, "in_future", {"as_of"})
    just_now = await stack.get(PATH, token, {**ALL, "as_of": datetime.now(UTC).isoformat(), "format": form})
    assert just_now.status == 200


async def test_the_last_posting_is_past_whatever_our_clock_says(stack: ReportingStack) -> None:
    """Its moment is the ledger's: a clock that is late here refuses none that a report has shown."""
    books = Books(random.Random(13)).act(3)
    (*_, last) = books.events()
    ahead = last.model_copy(update={"time": datetime.now(UTC) + timedelta(minutes=1)})
    for event in (*books.events()[:-1], ahead):
        assert await stack.inbox.handle([message_of(event)]) == [Outcome.DONE]
    answer = await stack.get(PATH, stack.admin(books), {**ALL, "as_of": ahead.time.isoformat()})
    assert (answer.status, answer.body["as_of_version"]) == (200, books.version)


async def test_a_name_that_is_missing_is_asked_for(stack: ReportingStack) -> None:
    made = Books(random.Random(12)).act(20)
    await stack.deliver(made)
    poster = made.pay(poster_id=uuid4(), affiliation="practice", source="manual", location_id=None).words.poster_id
    await stack.deliver(made, after=made.version - 1)
    stack.neighbours.away = True
    items = (await stack.balancing(made, poster_id=poster))["items"]
    assert [item["poster_name"] for item in items] == [None]
    stack.neighbours.away = False
    person = UserState(user_id=poster, version=1, user_name="zed", display_name="Zed", affiliation="practice")
    stack.neighbours.states.append((USER_CHANGED, person))
    items = (await stack.balancing(made, poster_id=poster))["items"]
    assert [item["poster_name"] for item in items] == ["Zed"]


@pytest.mark.parametrize(
    ("accept", "given", "media_type"),
    [
        ("", None, "application/json"),
        ("*/*", None, "application/json"),
        ("text/csv", None, "text/csv"),
        ("text/*;q=0.9, application/json;q=0.2", None, "text/csv"),
        ("text/csv;q=0.5, application/json", None, "application/json"),
        ("text/html, */*;q=0.1", None, "application/json"),
        ("application/json", "csv", "text/csv"),
        ("image/png", "json", "application/json"),
    ],
)
async def test_the_format_is_negotiated(
    stack: ReportingStack, made: Books, accept: str, given: str | None, media_type: str
) -> None:
    params = ALL if given is None else {**ALL, "format": given}
    answer = await stack.get(PATH, stack.admin(made), params, Accept=accept)
    assert answer.status == 200
    assert answer.headers["Content-Type"].partition(";")[0] == media_type


@pytest.mark.parametrize("accept", ["image/png", "text/html", "text/csv;q=0, application/json;q=0"])
async def test_a_format_nobody_can_give_is_406(stack: ReportingStack, made: Books, accept: str) -> None:
    answer = await stack.get(PATH, stack.admin(made), ALL, Accept=accept)
    assert (answer.status, answer.body["code"]) == (406, "not_acceptable")


async def test_exports_are_complete_and_carry_the_usual_headers(stack: ReportingStack, made: Books) -> None:
    answer = await stack.get(PATH, stack.admin(made), {**ALL, "format": "csv", "limit": 1})
    rows = list(csv.reader(io.StringIO(answer.raw.decode(), newline="")))
    report = await stack.balancing(made)
    assert rows[0] == list(report["items"][0])
    assert len(rows) == 1 + len(report["items"])
    assert answer.headers["X-As-Of-Version"] == str(made.version)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Request-Id"]
    assert 'filename="payment-balancing.csv"' in answer.headers["Content-Disposition"]
    empty = await stack.get(PATH, stack.admin(made), {"from": "2020-01-01", "to": "2020-01-01", "format": "csv"})
    assert empty.raw.decode() == answer.raw.decode().splitlines()[0] + "\r\n"


async def test_half_an_export_is_not_taken_for_a_whole_one(
    stack: ReportingStack, made: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(value: Any) -> Any:
        raise asyncpg.PostgresConnectionError("gone")

    monkeypatch.setattr(formats, "cell", failing)
    early = await stack.get(PATH, stack.admin(made), {**ALL, "format": "csv"})
    assert early.status == 503
    cells = iter(range(100))
    monkeypatch.setattr(formats, "cell", lambda value: next(cells))
    monkeypatch.setattr(formats, "_FLUSH_BYTES", 1)
    with pytest.raises(Exception, match=r"(?i)payload|disconnect|closed|reset"):
        await stack.get(PATH, stack.admin(made), {**ALL, "format": "csv"})


async def test_slow_readers_of_exports_leave_connections_to_others(stack: ReportingStack, made: Books) -> None:
    exports = stack.client.app[EXPORTS]
    for _ in range(MOST_EXPORTS):
        await exports.acquire()
    try:
        answer = await stack.get(PATH, stack.admin(made), {**ALL, "format": "csv"})
        assert (answer.status, answer.body["code"]) == (429, "too_many_requests")
        assert (await stack.get(PATH, stack.admin(made), ALL)).status == 200
    finally:
        for _ in range(MOST_EXPORTS):
            exports.release()


async def test_one_caller_may_not_have_all_the_exports(stack: ReportingStack, made: Books) -> None:
    token = stack.admin(made)
    caller = (await stack.tokens.verifier.verify(token)).subject
    held = stack.client.app[EXPORTERS].holding
    with held(caller, 1), held(caller, 1):
        answer = await stack.get(PATH, token, {**ALL, "format": "csv"})
        assert (answer.status, answer.body["code"]) == (429, "too_many_requests")
        assert (await stack.get(PATH, token, ALL)).status == 200
        other = stack.admin(made)
        assert (await stack.tokens.verifier.verify(other)).subject != caller
        assert (await stack.get(PATH, other, {**ALL, "format": "csv"})).status == 200
    assert (await stack.get(PATH, token, {**ALL, "format": "csv"})).status == 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("a=1", "a=1"),
        (-5, -5),
        (None, ""),
    ],
)
def test_formulas_are_defused_and_numbers_are_not(value: Any, expected: Any) -> None:
    assert formats.cell(value) == expected


async def test_the_service_says_what_it_is(stack: ReportingStack) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/docs"):
        assert (await stack.get(path, None)).status == 200
    document = (await stack.get("/openapi.json", None)).body
    assert set(document["paths"]) == {"/v1/audit", "/v1/reports", f"{REPORTS}my-payment-activity", PATH}
    parameters = {one["name"]: one["schema"] for one in document["paths"][PATH]["get"]["parameters"]}
    assert {"from", "to", "by", "group_by", "location_id", "min_version", "as_of"} <= parameters.keys()
    assert (parameters["limit"]["minimum"], parameters["limit"]["maximum"]) == (1, 500)
    assert parameters["as_of_version"]["anyOf"][0]["minimum"] == 0


async def test_answers_are_as_the_document_says(stack: ReportingStack, made: Books) -> None:
    document = (await stack.get("/openapi.json", None)).body
    said = document["paths"][PATH]["get"]["responses"]
    schema = {**said["200"]["content"]["application/json"]["schema"], "components": document["components"]}
    for more in ({}, {"facets": "true", "group_by": "patient"}, {"level": "cpt", "limit": 1}, {"as_of_version": 0}):
        answer = await stack.get(PATH, stack.admin(made), {**ALL, **more})
        Draft202012Validator(schema, format_checker=FormatChecker()).validate(answer.body)
        assert all(item.keys() >= answer.body["totals"].keys() for item in answer.body["items"])
    for status, more in (
        (404, {"location_id": uuid4()}),
        (406, {"Accept": "text/html"}),
        (409, {"as_of_version": made.version + 1}),
        (422, {"limit": 0}),
    ):
        accept = more.pop("Accept", "*/*")
        assert (await stack.get(PATH, stack.admin(made), {**ALL, **more}, Accept=accept)).status == status
        assert str(status) in said


async def test_group_columns_have_ids_and_names_and_sort_by_name(stack: ReportingStack, made: Books) -> None:
    report = await stack.balancing(made, group_by="location,payer", variation="full_access")
    columns = ["location_id", "location_name", "payer_id", "payer_name"]
    assert list(report["items"][0])[:4] == columns
    keys = [(item["location_name"] or "", item["payer_name"] or "") for item in report["items"]]
    assert keys == sorted(keys)
