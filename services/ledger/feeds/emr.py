"""From EMR events to postings, whichever way they came: resolve source and clinic, post, quarantine the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger import service
from services.ledger.domain.commands import Command
from services.ledger.domain.feed_items import FeedItem, Retry
from services.ledger.feeds import intake, mappings
from services.ledger.feeds.attempts import Past
from services.ledger.feeds.cloudevents import EmrEvent
from services.ledger.feeds.intake import Feed
from services.ledger.service import Ledger
from shared.errors import told
from shared.ids import NO_COMPANY, uuid7

_CHUNK = 200
_CLINICS = """
select emr_location_id as clinic, company_id, false as mapped from directory_location
where active and emr_location_id = any ($1::text[])
union all
select m.alias, m.company_id, true from feed_mapping_now m
join directory_location l on l.company_id = m.company_id and l.location_id = m.target::uuid and l.active
where m.kind = 'clinic' and m.alias = any ($1::text[])
"""


@dataclass(frozen=True, slots=True)
class Route:
    """Where an event belongs, or why it does not (`unknown_source`, `unknown_clinic`)."""

    company_id: UUID
    reason: str | None = None


async def take(ledger: Ledger, feed: Feed, events: Sequence[EmrEvent], correlation_id: str) -> None:
    """Post events of one company, in order; every event gets an outcome. Raises Unavailable when the books are away."""
    await take_items(ledger, feed, [(event, _item(feed, event)) for event in events], correlation_id)


async def take_items(
    ledger: Ledger, feed: Feed, items: Sequence[tuple[EmrEvent, FeedItem]], correlation_id: str
) -> None:
    """The same, of events that are counted under names of their own: taken again, they are not counted again."""
    known = await mappings.read(ledger.pool, feed.company_id)
    commands: list[Command] = []
    for sent, item in items:
        event = known.event(sent)
        command = command_of(feed.company_id, event, item, correlation_id)
        if command is not None:
            commands.append(command)
        elif fault := fault_of(event):
            await intake.record(ledger.pool, feed, item, "quarantined", *fault)
    for start in range(0, len(commands), _CHUNK):
        chunk = commands[start : start + _CHUNK]
        for command, verdict in zip(chunk, await ledger.post_many(chunk), strict=True):
            if command.item is not None:
                await intake.record_failure(ledger.pool, feed, command.item, verdict.problem)


def command_of(
    company_id: UUID, event: EmrEvent, item: FeedItem, correlation_id: str, retry: Retry | None = None
) -> Command | None:
    """What an event asks of the books; None for one whose data is wrong. The event's name is the key."""
    if event.document is None:
        return None
    return Command(
        company_id=company_id,
        key=f"ce:{event.source} {event.event_id}",
        route="emr",
        body_hash=event.content_hash,
        actor=service.integration("emr"),
        correlation_id=correlation_id,
        act=event.document,
        item=item,
        retry=retry,
    )


def fault_of(event: EmrEvent) -> tuple[str, dict[str, Any]] | None:
    """What is wrong with the data of an event, and in which fields."""
    if event.problem is None:
        return None
    reason = event.problem.code if event.problem.code == "unknown_type" else "invalid"
    return reason, {"errors": told(event.problem.errors)}


async def refuse(ledger: Ledger, feed: Feed, event: EmrEvent, reason: str) -> None:
    """Quarantine an event whose source or clinic is not known."""
    await intake.record(ledger.pool, feed, _item(feed, event), "quarantined", reason, origin_of(event))


async def put_aside(ledger: Ledger, feed: Feed, event: EmrEvent, past: Past) -> None:
    """Quarantine an event that breaks whoever handles it."""
    detail = {"attempts": past.attempts, "last_error_type": past.last_error_type, "first_seen": past.first_seen}
    await intake.record(ledger.pool, feed, _item(feed, event), "quarantined", "poison", {**origin_of(event), **detail})


def origin_of(event: EmrEvent) -> dict[str, Any]:
    """What an event was routed by."""
    return {"source": event.source, "emr_clinic_id": event.clinic, "type": event.type}


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
    aliases: dict[str, set[UUID]] = defaultdict(set)
    for row in await pool.fetch(_CLINICS, list({event.clinic for event in events if event.clinic})):
        (aliases if row["mapped"] else clinics)[row["clinic"]].add(row["company_id"])
    return [_route(event, sources, (clinics, aliases), company_id) for event in events]


def _route(
    event: EmrEvent,
    sources: dict[str, set[UUID]],
    clinics: Sequence[dict[str, set[UUID]]],
    company_id: UUID | None,
) -> Route:
    allowed = sources.get(event.source, set())
    if company_id is not None:
        allowed = allowed & {company_id}
    if not allowed:
        return Route(company_id or NO_COMPANY, "unknown_source")
    # A mapping counts only where no company has the clinic: nobody can draw another's events to himself.
    found = next((known for one in clinics if (known := one.get(event.clinic or "", set()) & allowed)), set())
    if len(found) == 1:
        return Route(found.pop())
    only = next(iter(allowed)) if len(allowed) == 1 else NO_COMPANY
    if event.problem is not None and event.clinic is None:
        return Route(only)  # Its own fault is the better reason.
    return Route(only, "unknown_clinic")
