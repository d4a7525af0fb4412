"""Rows of CSV files that waited for a person, tried again: as the event that they were, or, where they could not be
read or their file did not add up, from the stored file, by the profile that holds now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any
from uuid import UUID

from services.ledger.domain.commands import Command
from services.ledger.domain.feed_items import FeedItem, Retry
from services.ledger.feeds import csv_store, emr, intake, mappings
from services.ledger.feeds.apart import apart
from services.ledger.feeds.cloudevents import EmrEvent
from services.ledger.feeds.csv_posting import Clinics, CsvFile, Entry, Refusal, line_of, refusal_of, unknown_clinic
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.quarantine import Waiting
from services.ledger.feeds.spooled import Chunks
from services.ledger.feeds.stored import stored
from services.ledger.service import Ledger
from shared.errors import Invalid


async def prepare(
    ledger: Ledger, company_id: UUID, rows: Sequence[Waiting], retry_of: Callable[[Waiting], Retry], correlation_id: str
) -> tuple[list[Command], dict[UUID, Refusal | None]]:
    """Commands for the rows of one feed that may be posted now, in their order, and why the others may not."""
    known, clinics = await mappings.read(ledger.pool, company_id), Clinics(ledger, company_id)
    found = await _read_again(ledger, Feed(company_id, rows[0].feed_id, csv_store.FORMAT, "emr"), rows)
    commands: list[Command] = []
    refused: dict[UUID, Refusal | None] = {}
    for row in rows:
        again = found[row.exception_id]
        if not isinstance(again, EmrEvent):
            refused[row.exception_id] = again
            continue
        if not await clinics.know(again):
            refused[row.exception_id] = unknown_clinic(again)
            continue
        event = known.event(again)
        item = FeedItem(row.feed_id, row.exception_id, row.item_key, event.amount_cents)
        command = emr.command_of(company_id, event, item, correlation_id, retry_of(row))
        if command is None:
            refused[row.exception_id] = emr.fault_of(event)
        else:
            commands.append(command)
    return commands, refused


async def _read_again(ledger: Ledger, feed: Feed, rows: Sequence[Waiting]) -> dict[UUID, EmrEvent | Refusal]:
    """The event of each row, or why there still is none, by exception."""
    found: dict[UUID, EmrEvent | Refusal] = {
        row.exception_id: mappings.reread(row.raw) for row in rows if row.raw is not None
    }
    lines = {row.exception_id: line_of(row.item_key) or 0 for row in rows if row.raw is None}
    if not lines:
        return found
    file = await current(ledger, feed)
    async with stored(ledger.pool, feed.company_id, feed.feed_id) as chunks:
        try:
            posting = await file.examine(chunks)
        except Invalid as problem:
            return found | dict.fromkeys(lines, (problem.code, {"message": problem.detail}))
        entries = {entry.row.line: entry for entry in await apart(_at, chunks, file, set(lines.values()))}
    return found | {one: _event_or_refusal(entries.get(line), posting.refusal) for one, line in lines.items()}


async def current(ledger: Ledger, feed: Feed) -> CsvFile:
    """What the feed's file is read by now; as it was, where that profile is no more."""
    row = await intake.opened(ledger.pool, feed.company_id, feed.feed_id)
    file = CsvFile.model_validate_json(row["reading"] if row else "")
    profile = await csv_store.profile_of(ledger.pool, feed.company_id, file.name)
    return file if profile is None else CsvFile(name=file.name, profile=profile)


def _at(chunks: Chunks, file: CsvFile, lines: Set[int]) -> list[Entry]:
    return [entry for entry in file.entries(chunks) if entry.row.line in lines]


def _event_or_refusal(entry: Entry | None, of_file: Refusal | None) -> EmrEvent | Refusal:
    if entry is None:
        return "cannot_retry", {"message": "By the profile of now no row begins at this line"}
    if entry.event is None or of_file is not None:
        return refusal_of(entry, of_file)
    return entry.event


def raw_lines(chunks: Chunks, first: int, last: int) -> Iterator[bytes]:
    """These lines of a file, as they were received."""
    held = b""
    number = 1
    for chunk in chunks:
        *complete, held = (held + chunk).split(b"\n")
        for line in complete:
            if first <= number <= last:
                yield line + b"\n"
            number += 1
        if number > last:
            return
    if first <= number <= last and held:
        yield held


def place_of(detail: dict[str, Any]) -> tuple[int, int]:
    """The lines of a row that waits as it stands in the file."""
    return detail["line"], detail["last_line"]
