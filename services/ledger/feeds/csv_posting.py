"""From a CSV file to postings: each row becomes the EMR event that says the same, and is posted as one.

The file is read twice: to its end, with its row of totals, before anything is posted; then row by row. A row is named
by its place in the feed, so that a feed can be posted again from its beginning and counts each row once; its event is
named by what it says, so that the same row in any file is the same event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict

from services.ledger.domain.feed_items import FeedItem
from services.ledger.feeds import csv_store, emr, intake
from services.ledger.feeds.agreements import Agreements
from services.ledger.feeds.apart import apart, items_apart
from services.ledger.feeds.cloudevents import EmrEvent, Envelope, understand
from services.ledger.feeds.csvfile.profile import Profile
from services.ledger.feeds.csvfile.reader import Problem, Row, Total, read
from services.ledger.feeds.csvfile.records import CsvUnreadable
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.spooled import Chunks
from services.ledger.feeds.stored import read_ahead
from services.ledger.service import Ledger
from shared.crash import point
from shared.errors import Invalid

_PART: Final = 200

Refusal = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A row, and the event that it is; none when there is something wrong with it."""

    row: Row
    event: EmrEvent | None


class CsvFile(BaseModel):
    """What a file is read by: a company's profile, as it is at this moment. Kept with the feed."""

    model_config = ConfigDict(frozen=True)

    name: str
    profile: Profile

    @property
    def source(self) -> str:
        """Of its events. No client is asked for: a file comes from a caller of the company, whose profile it names."""
        return f"csv:{self.name}"

    async def examine(self, chunks: Chunks) -> Posting:
        """Read it to its end, outside the event loop; raises Invalid `csv_unreadable`."""
        try:
            return Posting(self, chunks, await apart(self._refusal, chunks))
        except CsvUnreadable as error:
            raise Invalid.field("body", "csv_unreadable", error.detail) from None

    def _refusal(self, chunks: Chunks) -> Refusal | None:
        """Why none of its rows may be posted, of a file that can be read."""
        refusal: Refusal | None = None
        for one in read(chunks, self.profile):
            if isinstance(one, Total) and not one.agrees:
                refusal = "total_mismatch", _numbers(one)
        return refusal

    def entries(self, chunks: Chunks) -> Iterator[Entry]:
        """Its rows in their order."""
        for one in read(chunks, self.profile):
            if isinstance(one, Row):
                yield Entry(one, None if one.data is None else understand(_envelope(self.source, one)))

    def parts(self, chunks: Chunks) -> Iterator[list[Entry]]:
        """The same, so many at a time."""
        entries = self.entries(chunks)
        while part := list(islice(entries, _PART)):
            yield part


@dataclass(frozen=True, slots=True)
class Posting:
    """A file that was read to its end."""

    file: CsvFile
    chunks: Chunks
    refusal: Refusal | None
    """What keeps all of its rows out of the books."""

    async def __call__(self, ledger: Ledger, feed: Feed, correlation_id: str) -> None:
        """Post every row or quarantine it, and close the feed. Raises Unavailable when the books are away."""
        clinics, pulse = Clinics(ledger, feed.company_id), intake.Pulse(ledger.pool, feed)
        async with read_ahead(items_apart(self.file.parts, self.chunks)) as parts:
            async for part in parts:
                await self._take(ledger, feed, part, clinics, correlation_id)
                point("csv.after_chunk")
                await pulse.beat()
        await intake.close_feed(ledger.pool, feed)

    async def _take(
        self, ledger: Ledger, feed: Feed, part: Sequence[Entry], clinics: Clinics, correlation_id: str
    ) -> None:
        counted = await intake.counted(ledger.pool, feed, [_item_id(feed, entry.row) for entry in part])
        posted: list[tuple[EmrEvent, FeedItem]] = []
        aside: list[tuple[FeedItem, str, dict[str, Any]]] = []
        for entry in part:
            if _item_id(feed, entry.row) in counted:
                continue
            if entry.event is None or self.refusal is not None:
                # Its raw form is in the file, where a retry reads it again.
                reason, detail = refusal_of(entry, self.refusal)
                aside.append((_row_item(feed, self.file.source, entry), reason, {**detail, **_lines(entry.row)}))
            elif not await clinics.know(entry.event):
                aside.append((_event_item(feed, entry.row, entry.event), *unknown_clinic(entry.event)))
            else:
                posted.append((entry.event, _event_item(feed, entry.row, entry.event)))
        await csv_store.set_aside(ledger.pool, feed, aside)
        await emr.take_items(ledger, feed, posted, correlation_id)


class Clinics:
    """Whether events name a clinic of the company. Identity is asked once about those that are not known."""

    def __init__(self, ledger: Ledger, company_id: UUID) -> None:
        self._agreed, self._asked = Agreements(ledger, company_id), False

    async def know(self, event: EmrEvent) -> bool:
        if event.clinic is None:
            return True  # Its own fault is the better reason.
        if not await self._agreed.names(event.clinic) and not self._asked:
            self._asked = True
            await self._agreed.ledger.learn({self._agreed.company_id})
            self._agreed = Agreements(self._agreed.ledger, self._agreed.company_id)
        return await self._agreed.names(event.clinic)


def refusal_of(entry: Entry, of_file: Refusal | None) -> Refusal:
    """What is wrong with a row, and in which columns, never a value; else what is wrong with its file."""
    if of_file is None or entry.row.problems:
        return "invalid", {"errors": _errors(entry.row.problems)}
    return of_file


def unknown_clinic(event: EmrEvent) -> Refusal:
    return "unknown_clinic", emr.origin_of(event)


def line_of(item_key: str) -> int | None:
    """The line of a row that waits as it stands in the file; None of one that waits as an event."""
    _, found, number = item_key.rpartition(" line ")
    return int(number) if found and number.isdecimal() else None


def _item_id(feed: Feed, row: Row) -> UUID:
    return uuid5(feed.feed_id, str(row.line))


def _row_item(feed: Feed, source: str, entry: Entry) -> FeedItem:
    # A charge is no money received, whether it can be read or not.
    cents = entry.row.amount_cents if entry.row.kind == "payment" else 0
    if entry.event is not None:
        cents = entry.event.amount_cents
    return FeedItem(feed.feed_id, _item_id(feed, entry.row), f"{source} line {entry.row.line}", cents)


def _event_item(feed: Feed, row: Row, event: EmrEvent) -> FeedItem:
    return FeedItem(
        feed.feed_id, _item_id(feed, row), f"{event.source} {event.event_id}", event.amount_cents, event.raw
    )


def _lines(row: Row) -> dict[str, int]:
    return {"line": row.line, "last_line": row.last_line}


def _errors(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"field": one.column, "code": one.code, "message": one.message} for one in problems]


def _envelope(source: str, row: Row) -> Envelope:
    content = json.dumps([row.event_type, row.data], sort_keys=True)
    event_id = hashlib.sha256(content.encode()).hexdigest()
    return Envelope(specversion="1.0", id=event_id, source=source, type=row.event_type, data=row.data)


def _numbers(total: Total) -> dict[str, Any]:
    """The rule and its numbers."""
    numbers: dict[str, Any] = {
        "counted_cents": total.counted_cents,
        "stated_cents": total.stated_cents,
        "counted_rows": total.counted_rows,
        "stated_rows": total.stated_rows,
    }
    if total.problems:
        numbers["errors"] = _errors(total.problems)
    return {"message": "The rows do not come to the total that the file states", "total_line": total.line, **numbers}
