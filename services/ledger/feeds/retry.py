"""Trying again what waited for a person: read from its raw form with today's directory and mappings, posted by its key.

The keys are those of the first time, so whatever was posted meanwhile, by another delivery or another retry, is not
posted again. What became of an item is committed together with its posting; a failure leaves everything as it was, and
is noted with its reason and numbers.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from services.ledger import service
from services.ledger.deciding import Verdict
from services.ledger.domain import outcomes
from services.ledger.domain.commands import Act, Command
from services.ledger.domain.denials import DENIED_LINE
from services.ledger.domain.feed_items import FeedItem, Retry
from services.ledger.domain.later_acts import EmrTotals, RetryAdjustment, RetryClaim
from services.ledger.feeds import csv_retry, emr, fhir_retry, hl7_retry, mappings, quarantine, remittances
from services.ledger.feeds.apart import apart
from services.ledger.feeds.cloudevents import EmrEvent
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.quarantine import Waiting
from services.ledger.feeds.remittance_claims import claim_of
from services.ledger.feeds.remittance_facts import ordinal_of
from services.ledger.feeds.stored import stored
from services.ledger.feeds.x12.model import Claim
from services.ledger.feeds.x12.reader import X12Unreadable
from services.ledger.feeds.x12.remittance import find_claims
from services.ledger.service import Ledger
from shared.errors import Unavailable

Refusal = tuple[str, dict[str, Any]]
Results = dict[UUID, Refusal | None]
"""By exception: None when it was settled, else why not."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who wants it tried again, and in whose books."""

    company_id: UUID
    user_id: UUID
    correlation_id: str

    def retry(self, row: Waiting) -> Retry:
        return Retry(row.company_id, row.exception_id, self.user_id)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one exception."""

    id: UUID
    state: str
    reason: str | None = None
    detail: dict[str, Any] | None = None


async def retry(ledger: Ledger, asker: Asker, rows: Sequence[Waiting]) -> list[Attempt]:
    """Try each of them; what is closed stays as it is. Raises Unavailable when the books are away: what was posted by
    then is settled, and the rest can be tried again."""
    feeds: dict[tuple[UUID, UUID], list[Waiting]] = defaultdict(list)
    for row in rows:
        if row.state == "open":
            feeds[row.company_id, row.feed_id].append(row)
    results: Results = {}
    for members in feeds.values():
        results |= await _BY_FORMAT.get(members[0].format, _cannot)(ledger, asker, members)
    failed = {
        row.exception_id: (row.company_id, *refusal)
        for row in rows
        if (refusal := results.get(row.exception_id)) is not None
    }
    still_open = await quarantine.note_failures(ledger.pool, asker.user_id, failed) if failed else set()
    return [_attempt(row, results, still_open) for row in rows if row.exception_id in results or row.state != "open"]


def _attempt(row: Waiting, results: Mapping[UUID, Refusal | None], still_open: set[UUID]) -> Attempt:
    if row.state != "open":
        return Attempt(row.exception_id, row.state)
    refusal = results[row.exception_id]
    if refusal is None:
        return Attempt(row.exception_id, "retried")
    return Attempt(row.exception_id, "open" if row.exception_id in still_open else "closed", *refusal)


async def _cannot(_: Ledger, __: Asker, rows: Sequence[Waiting]) -> Results:
    return {row.exception_id: ("cannot_retry", {"format": row.format}) for row in rows}


async def _events(ledger: Ledger, asker: Asker, rows: Sequence[Waiting]) -> Results:
    """EMR events of one feed, routed anew. One that nobody owned is let alone unless it turns out to be the asker's."""
    results: Results = {}
    events = [(row, mappings.reread(row.raw)) for row in rows if row.raw is not None]
    bound = asker.company_id if rows[0].company_id == asker.company_id else None
    routes = await emr.route_all(ledger, [event for _, event in events], company_id=bound, client_id=rows[0].client_id)
    known = await mappings.read(ledger.pool, asker.company_id)
    commands: list[Command] = []
    for (row, event), route in zip(events, routes, strict=True):
        if route.company_id != asker.company_id:
            continue
        if route.reason is not None:
            results[row.exception_id] = route.reason, emr.origin_of(event)
            continue
        event = _as_old(known.event(event), row)
        item = FeedItem(row.feed_id, row.exception_id, row.item_key, event.amount_cents)
        command = emr.command_of(asker.company_id, event, item, asker.correlation_id, asker.retry(row))
        if command is not None:
            commands.append(command)
        else:
            results[row.exception_id] = emr.fault_of(event)
    return results | await _post(ledger, commands)


def _as_old(event: EmrEvent, row: Waiting) -> EmrEvent:
    """A report of totals that says no time is of when it came: a later one may have corrected it while it waited."""
    if not isinstance(event.document, EmrTotals) or event.document.reported_at is not None:
        return event
    return replace(event, document=replace(event.document, reported_at=row.created_at))


async def _messages(ledger: Ledger, asker: Asker, rows: Sequence[Waiting]) -> Results:
    """Lines of HL7 messages that had been accepted."""
    company_id, correlation_id = asker.company_id, asker.correlation_id
    commands, refused = await hl7_retry.prepare(ledger, company_id, rows, asker.retry, correlation_id)
    return refused | await _post(ledger, commands)


async def _rows(ledger: Ledger, asker: Asker, rows: Sequence[Waiting]) -> Results:
    """Rows of a CSV file."""
    commands, refused = await csv_retry.prepare(ledger, asker.company_id, rows, asker.retry, asker.correlation_id)
    return refused | await _post(ledger, commands)


async def _resources(ledger: Ledger, asker: Asker, rows: Sequence[Waiting]) -> Results:
    """Resources of one FHIR input, and claims of payers' payments that were posted."""
    tried = await fhir_retry.prepare(ledger, asker.company_id, rows, asker.retry, asker.correlation_id)
    results = tried.refused | {one: _refusal(verdict) for one, verdict in await fhir_retry.post(ledger, tried)}
    return results | await _post(ledger, [_command(asker, row, act) for row, act in tried.parts])


async def _remittances(ledger: Ledger, asker: Asker, rows: Sequence[Waiting]) -> Results:
    """Transactions that were quarantined, and claims and lines of posted ones, of one stored file."""
    await ledger.learn({asker.company_id})  # The payee is checked against the NPIs that identity has now.
    whole = {ordinal_of(row.item_key): row for row in rows if row.quarantined}
    parts = [row for row in rows if not row.quarantined]
    feed = Feed(asker.company_id, rows[0].feed_id, "x12", "era")
    try:
        async with stored(ledger.pool, feed.company_id, feed.feed_id) as chunks:
            retries = {ordinal: asker.retry(row) for ordinal, row in whole.items()}
            refused = (
                await remittances.process_again(ledger, feed, chunks, asker.correlation_id, retries) if whole else {}
            )
            places = {_place(row) for row in parts}
            claims = await apart(find_claims, chunks, places) if parts else {}
    except X12Unreadable as error:
        return {row.exception_id: ("x12_unreadable", {"message": error.detail}) for row in rows}
    results: Results = {row.exception_id: refused.get(ordinal) for ordinal, row in whole.items()}
    commands: list[tuple[int, Command]] = []
    for row in parts:
        # What may be applied was, or a reason was posted that nobody knows: the rest is for a person to decide.
        if row.reason == DENIED_LINE or row.detail.get("posted"):
            results[row.exception_id] = row.reason, row.detail
            continue
        claim = claims.get(_place(row))
        act = _part(row, claim)
        if act is None or claim is None:
            results[row.exception_id] = "cannot_retry", {"message": "The claim is not in the stored file"}
        else:
            commands.append((claim.paid_cents, _command(asker, row, act)))
    # What is taken back comes first: it may free the money that the others need.
    return results | await _post(ledger, [command for _, command in sorted(commands, key=lambda pair: pair[0])])


def _place(row: Waiting) -> tuple[int, int]:
    return ordinal_of(row.item_key), row.detail.get("claim", 0)


def _part(row: Waiting, claim: Claim | None) -> Act | None:
    """What of a claim waits: one adjustment, a line, or all of it."""
    detail = row.detail
    if row.payment_id is None or claim is None:
        return None
    if "group_code" in detail:
        codes = detail["group_code"], detail["reason_code"]
        return RetryAdjustment(row.payment_id, UUID(detail["charge_id"]), *codes, detail["adjustment_cents"])
    return RetryClaim(row.payment_id, row.feed_id, row.item_key, claim_of(claim), detail.get("line"))


def _command(asker: Asker, row: Waiting, act: Act) -> Command:
    key = f"retry:{row.exception_id}"
    return Command(
        company_id=asker.company_id,
        key=key,
        route="retry",
        body_hash=hashlib.sha256(key.encode()).digest(),
        actor=service.integration("era"),
        correlation_id=asker.correlation_id,
        act=act,
        retry=asker.retry(row),
    )


async def _post(ledger: Ledger, commands: Sequence[Command]) -> Results:
    verdicts = await ledger.post_many(commands) if commands else []
    if any(isinstance(verdict.problem, Unavailable) for verdict in verdicts):
        raise Unavailable("The books are away; try again")
    return {c.retry.exception_id: _refusal(v) for c, v in zip(commands, verdicts, strict=True) if c.retry}


def _refusal(verdict: Verdict) -> Refusal | None:
    return None if verdict.problem is None else outcomes.refusal_of(verdict.problem)


_BY_FORMAT: Final[dict[str, Callable[[Ledger, Asker, Sequence[Waiting]], Awaitable[Results]]]] = {
    "emr": _events,
    "x12": _remittances,
    "hl7v2": _messages,
    "csv": _rows,
    "fhir": _resources,
}
