"""From EMR events to postings, whichever way they came: resolve source and clinic, post, quarantine the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from services.ledger import service
from services.ledger.domain.commands import Command, FeedItem
from services.ledger.feeds import intake
from services.ledger.feeds.cloudevents import EmrEvent
from services.ledger.feeds.intake import Feed
from services.ledger.service import Ledger
from shared.ids import NO_COMPANY, uuid7

_CHUNK = 200


@dataclass(frozen=True, slots=True)
class Route:
    """Where an event belongs, or why it does not (`unknown_source`, `unknown_clinic`)."""

    company_id: UUID
    reason: str | None = None


async def take(ledger: Ledger, feed: Feed, events: Sequence[EmrEvent], correlation_id: str) -> None:
    """Post events of one company, in order; every event gets an outcome. Raises Unavailable when the books are away."""
    commands: list[Command] = []
    for event in events:
        item = _item(feed, event)
        if event.problem is not None:
            reason = event.problem.code if event.problem.code == "unknown_type" else "invalid"
            fields = [{"field": e.field, "code": e.code, "message": e.message} for e in event.problem.errors]
            await intake.record(ledger.pool, feed, item, "quarantined", reason, {"errors": fields})
        elif event.document is not None:
            commands.append(
                Command(
                    company_id=feed.company_id,
                    key=f"ce:{event.source} {event.event_id}",
                    route="emr",
                    body_hash=event.content_hash,
                    actor=service.integration("emr"),
                    correlation_id=correlation_id,
                    act=event.document,
                    item=item,
                )
            )
    for start in range(0, len(commands), _CHUNK):
        chunk = commands[start : start + _CHUNK]
        for command, verdict in zip(chunk, await ledger.post_many(chunk), strict=True):
            if command.item is not None:
                await intake.record_failure(ledger.pool, feed, command.item, verdict.problem)


async def refuse(ledger: Ledger, feed: Feed, event: EmrEvent, reason: str) -> None:
    """Quarantine an event whose source or clinic is not known."""
    detail = {"source": event.source, "emr_clinic_id": event.clinic, "type": event.type}
    await intake.record(ledger.pool, feed, _item(feed, event), "quarantined", reason, detail)


def _item(feed: Feed, event: EmrEvent) -> FeedItem:
    return FeedItem(feed.feed_id, uuid7(), f"{event.source} {event.event_id}", event.amount_cents, event.raw)


async def route_all(
    ledger: Ledger, events: Sequence[EmrEvent], *, company_id: UUID | None = None, client_id: str | None = None
) -> list[Route]:
    """The company of each event, by its source's client and its clinic. What is unknown is asked of identity once.

    `company_id`: the only company there is for this caller; `client_id`: the only client whose sources count."""
    routes = await _route_known(ledger.pool, events, company_id, client_id)
    if any(route.reason for route in routes):
        await ledger.learn({company_id} if company_id else set())
        routes = await _route_known(ledger.pool, events, company_id, client_id)
    return routes


async def _route_known(
    pool: asyncpg.Pool, events: Sequence[EmrEvent], company_id: UUID | None, client_id: str | None
) -> list[Route]:
    sources: dict[str, set[UUID]] = defaultdict(set)
    for row in await pool.fetch(
        "select unnest(sources) as source, company_ids from directory_client"
        " where active and kind = 'emr' and sources && $1::text[] and ($2::text is null or client_id = $2)",
        list({event.source for event in events}),
        client_id,
    ):
        sources[row["source"]].update(row["company_ids"])
    clinics: dict[str, set[UUID]] = defaultdict(set)
    for row in await pool.fetch(
        "select emr_location_id, company_id from directory_location"
        " where active and emr_location_id = any ($1::text[])",
        list({event.clinic for event in events if event.clinic}),
    ):
        clinics[row["emr_location_id"]].add(row["company_id"])
    return [_route(event, sources, clinics, company_id) for event in events]


def _route(
    event: EmrEvent, sources: dict[str, set[UUID]], clinics: dict[str, set[UUID]], company_id: UUID | None
) -> Route:
    allowed = sources.get(event.source, set())
    if company_id is not None:
        allowed = allowed & {company_id}
    if not allowed:
        return Route(company_id or NO_COMPANY, "unknown_source")
    found = clinics.get(event.clinic or "", set()) & allowed
    if len(found) == 1:
        return Route(found.pop())
    only = next(iter(allowed)) if len(allowed) == 1 else NO_COMPANY
    if event.problem is not None and event.clinic is None:
        return Route(only)  # Its own fault is the better reason.
    return Route(only, "unknown_clinic")
