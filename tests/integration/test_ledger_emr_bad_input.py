"""EMR events over HTTP that cannot be read or believed.

Decided here where the rules are silent:

* A single event that cannot be read is refused (422); in a batch, data that cannot be read is quarantined, so that it
  does not hold up the others, while an envelope that cannot be read refuses the batch: the event has no name to be
  quarantined under.
* A body over 8 MiB is refused (413): it is many thousand events, and a batch can be cut.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.support.emr import BATCH, HOSTILE, Emr, changed
from tests.support.ledger import (
    LedgerStack,
)


@pytest.fixture
async def emr(stack: LedgerStack) -> Emr:
    return await Emr.of(await stack.company(locations=2))


DATA: list[tuple[str, Any]] = [
    ("payment_id", ""),
    ("payment_id", "x" * 201),
    ("payment_id", "nul\x00"),
    ("payment_version", 0),
    ("payment_version", "1"),
    ("payment_version", True),
    ("payment_version", 2**70),
    ("amount_cents", -1),
    ("amount_cents", 25.0),
    ("amount_cents", "2500"),
    ("amount_cents", 10**12),
    ("method", "barter"),
    ("transaction_date", "2026-02-30"),
    ("transaction_date", 20260105),
    ("payment_type", "gift"),
    ("check_number", "two\nlines"),
    ("patient", None),
    ("patient.account_number", "\u202e"),
    ("patient.last_name", "a\x00b"),
    ("patient.date_of_birth", "yesterday"),
    ("emr_clinic_id", None),
]


@pytest.mark.parametrize(("path", "value"), DATA)
async def test_bad_data_is_refused_alone_and_quarantined_in_a_batch(emr: Emr, path: str, value: Any) -> None:
    bad = changed(emr.payment("bad"), path, value)
    before = await emr.company.stack.rows()
    refused = await emr.send(bad, status=422)
    assert f"data.{path}" in {error["field"] for error in refused["errors"]}, refused
    assert await emr.company.stack.rows() == before
    assert await emr.outcome(emr.payment("good"), bad) == {"posted": 1, "quarantined": 1}
    (row,) = await emr.company.exceptions()
    assert row["reason"] == "invalid"
    assert f"data.{path}" in {error["field"].partition(".")[2] for error in row["detail"]["errors"]}


@pytest.mark.parametrize(("what", "value"), HOSTILE, ids=[what for what, _ in HOSTILE])
async def test_what_a_sender_adds_is_passed_over_or_quarantined_never_fatal(emr: Emr, what: str, value: Any) -> None:
    event = emr.payment("extra")
    event["data"]["extension"] = value
    good = emr.payment("good")
    feed = await emr.send(good, event)
    assert feed["posted"] + feed["quarantined"] == 2
    assert feed["posted"] >= 1
    for row in await emr.company.exceptions():
        assert row["reason"] == "invalid"


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
async def test_an_envelope_that_cannot_be_read_refuses_all(emr: Emr, name: str) -> None:
    for value in (None, "", 7, "\ud800", "a\x00b", "x" * 300):
        bad = {**emr.payment("bad"), name: value}
        before = await emr.company.stack.rows()
        assert (await emr.send(bad, status=422))["errors"]
        many = await emr.send(emr.payment("good"), bad, status=422)
        assert {error["field"] for error in many["errors"]} == {f"1.{name}"}
        assert await emr.company.stack.rows() == before


async def test_bodies_that_are_no_events(emr: Emr) -> None:
    for body, status in (
        (b"", 400),
        (b"{", 400),
        (b"7", 422),
        (b'"x"', 422),
        (b"null", 422),
        (b"[7]", 422),
        (b"{}", 422),
    ):
        answer = await emr.company.upload("emr", body, token=emr.token)
        assert answer.status == status, (body, answer)
    assert (await emr.send())["received"] == 0
    many = await emr.company.upload("emr", orjson.dumps([{}] * 10_001), token=emr.token, **{"Content-Type": BATCH})
    assert (many.status, many.fields) == (422, {"body": "too_many"})
    large = await emr.company.upload("emr", b"[" + b" " * (8 << 20) + b"]", token=emr.token)
    assert large.status == 413


async def test_a_batch_of_some_megabytes_is_one_request(emr: Emr) -> None:
    events = [emr.payment(f"p-{n}", note="is passed over" * 500) for n in range(400)]
    assert len(orjson.dumps(events)) > 2 << 20
    assert await emr.outcome(*events) == {"posted": 400}
    assert (await emr.company.sums())["payments"] == 400


async def test_an_unknown_type_is_quarantined(emr: Emr) -> None:
    event = {**emr.payment(), "type": "emr.payment.merged.v1"}
    assert (await emr.send(event, status=422))["code"] == "unknown_type"
    assert await emr.outcome(event, emr.payment("p-2")) == {"posted": 1, "quarantined": 1}
    assert await emr.company.reasons() == {"unknown_type": 1}


async def test_a_failed_append_is_quarantined_not_lost(emr: Emr, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that the database refuses for a reason nobody foresaw is shown to a person, with its raw form."""
    await emr.company.stack.owner.execute(
        "alter table payment_revision add constraint unforeseen check (amount_cents <> 66600)"
    )
    try:
        events = [emr.payment(f"p-{n}", amount_cents=66_600 if n == 3 else 100) for n in range(6)]
        assert await emr.outcome(*events) == {"posted": 5, "quarantined": 1}
    finally:
        await emr.company.stack.owner.execute("alter table payment_revision drop constraint unforeseen")
    assert await emr.company.reasons() == {"internal_error": 1}
    assert await emr.outcome(events[3]) == {"posted": 1}
