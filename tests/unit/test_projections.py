"""Events to lines, without a database."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given

from services.reporting.projections import Line, Malformed, check, posting_lines, project
from shared.contracts.ledger_events import Part, Posting, PostingEvent, ReceiptChange
from tests.support.ledger_events import Books, books

COMPANY = UUID(int=7)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def _receipt(count: int, *parts: Part, **words: Any) -> ReceiptChange:
    fields = {
        "payment_id": UUID(int=1),
        "receipt_version": 1,
        "posted_at": NOW,
        "posting_date": date(2026, 3, 1),
        "deposit_date": date(2026, 2, 28),
        "poster_id": UUID(int=2),
        "affiliation": "practice",
        "source": "manual",
        "method": "check",
        "patient_id": UUID(int=3),
        **words,
    }
    return ReceiptChange(count=count, parts=parts, **fields)


def _posting(version: int, *receipts: ReceiptChange) -> Posting:
    return Posting(version=version, posting_id=UUID(int=version), kind="payment", posted_at=NOW, receipts=receipts)


def _event(first: int, last: int, *postings: Posting) -> PostingEvent:
    return PostingEvent(company_id=COMPANY, first_version=first, version=last, postings=postings)


def test_each_part_is_a_line_and_the_receipt_is_counted_once() -> None:
    parts = (
        Part(kind="applied", amount_cents=500),
        Part(kind="adjusted", amount_cents=70),
        Part(kind="unapplied", amount_cents=30),
    )
    lines = list(posting_lines(COMPANY, _posting(4, _receipt(1, *parts))))
    assert [line.receipt_count for line in lines] == [1, 0, 0]
    assert [line.ordinal for line in lines] == [0, 1, 2]
    assert [line.part for line in lines] == ["applied", "adjusted", "unapplied"]
    figures = [(x.applied_cents, x.adjusted_cents, x.provider_level_cents, x.unapplied_cents) for x in lines]
    assert figures == [(500, 0, 0, 0), (0, 70, 0, 0), (0, 0, 0, 30)]


def test_a_zero_pay_without_parts_is_one_line_under_its_patient() -> None:
    (line,) = posting_lines(COMPANY, _posting(4, _receipt(1)))
    assert (line.receipt_count, line.part, line.patient_id) == (1, "unapplied", UUID(int=3))
    assert not any((line.applied_cents, line.adjusted_cents, line.provider_level_cents, line.unapplied_cents))


def test_a_change_of_nothing_is_no_line() -> None:
    assert list(posting_lines(COMPANY, _posting(4, _receipt(0)))) == []


def test_a_correction_goes_out_under_the_old_words_and_in_under_the_new() -> None:
    out = _receipt(-1, Part(kind="unapplied", amount_cents=-30), batch_number="old")
    into = _receipt(1, Part(kind="unapplied", amount_cents=30), batch_number="new")
    lines = list(posting_lines(COMPANY, _posting(4, out, into)))
    assert [(x.ordinal, x.batch_number, x.receipt_count, x.unapplied_cents) for x in lines] == [
        (0, "old", -1, -30),
        (1, "new", 1, 30),
    ]


def test_a_line_has_the_words_of_its_receipt_and_part() -> None:
    part = Part(
        kind="adjusted",
        amount_cents=5,
        patient_id=UUID(int=11),
        charge_id=UUID(int=12),
        charge_location_id=UUID(int=13),
        procedure_code="97110",
        group_code="CO",
        reason_code="45",
    )
    words = {
        "location_id": UUID(int=4),
        "payer_id": UUID(int=5),
        "batch_number": "B",
        "check_number": "C",
    }
    receipt = _receipt(1, part, **words)
    (line,) = posting_lines(COMPANY, _posting(9, receipt))
    for name in Line._fields:
        if hasattr(receipt, name) and name != "patient_id":
            assert getattr(line, name) == getattr(receipt, name), name
        elif hasattr(part, name):
            assert getattr(line, name) == getattr(part, name), name
    assert (line.company_id, line.version, line.part) == (COMPANY, 9, "adjusted")


@given(books())
def test_lines_add_up_to_the_documents(made: Books) -> None:
    lines = project(event.data for event in made.events()).lines
    counts: Counter[UUID] = Counter()
    sums: Counter[tuple[UUID, str]] = Counter()
    for line in lines:
        counts[line.payment_id] += line.receipt_count
        for name in ("applied", "adjusted", "provider_level", "unapplied"):
            sums[line.payment_id, name] += getattr(line, f"{name}_cents")
    for receipt in made.receipts():
        assert counts[receipt.payment_id] == 1
        for name in ("applied", "adjusted", "provider_level", "unapplied"):
            expected = sum(cents for part, cents in receipt.parts.items() if part.kind == name)
            assert sums[receipt.payment_id, name] == expected


@given(books())
def test_the_cut_into_events_and_batches_does_not_matter(made: Books) -> None:
    whole = project(event.data for event in made.events(longest=50))
    singly = [project([event.data]) for event in made.events(longest=1)]
    assert [line for one in singly for line in one.lines] == whole.lines
    assert len(set(whole.lines)) == len({(line.version, line.ordinal) for line in whole.lines}) == len(whole.lines)


def test_the_newest_name_wins() -> None:
    made = Books(random.Random(1))
    old = made.patients[0]
    new = old.model_copy(update={"last_name": "Renamed"})
    made._post("patient", patients=(new,))
    for longest in (1, 50):
        events = [event.data for event in made.events(longest=longest)]
        (name,) = [name for name in project(events).patients if name.patient_id == old.patient_id]
        assert (name.last_name, name.version) == ("Renamed", 2)


@pytest.mark.parametrize(
    "event",
    [
        _event(1, 2, _posting(1)),
        _event(1, 2, _posting(1), _posting(3)),
        _event(1, 2, _posting(2), _posting(1)),
        _event(2, 1),
        _event(0, 0, _posting(0)),
        _event(1, 1, _posting(1, _receipt(2))),
        _event(1, 1, _posting(1, _receipt(1, Part(kind="applied", amount_cents=10**16)))),
    ],
)
def test_what_cannot_be_folded_is_refused(event: PostingEvent) -> None:
    with pytest.raises(Malformed):
        check(event)
