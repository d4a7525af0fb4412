"""Posting FHIR resources: every one of an input is posted, ignored or quarantined, and counted once.

It may be done again from the beginning after any interruption: items have names of their feed and place, documents
have names and versions of their sender.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID, uuid5

from services.ledger import service
from services.ledger.deciding import Verdict
from services.ledger.domain.commands import Command
from services.ledger.domain.document_acts import EmrDocuments, PayerPayment
from services.ledger.domain.emr_documents import DocumentMoved
from services.ledger.domain.feed_items import FeedItem, Retry
from services.ledger.domain.senders import OWN
from services.ledger.feeds import fhir_store, intake, mappings
from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.model import Outcome
from services.ledger.feeds.fhir_acts import SOURCE, Asked, Known, ask
from services.ledger.feeds.fhir_store import NOTHING, Name, Record
from services.ledger.feeds.intake import Feed
from services.ledger.service import Ledger
from shared.crash import point

_CHUNK: Final = 200
_TRIES: Final = 5
_PERHAPS_NEWS: Final = ("unknown_source", "unknown_clinic")


async def understood(ledger: Ledger, company_id: UUID, body: bytes) -> list[Outcome]:
    """What an input says, read outside the event loop."""
    aliases = (await mappings.read(ledger.pool, company_id)).procedures
    return await asyncio.to_thread(lambda: list(outcomes(body, aliases)))


async def ask_all(ledger: Ledger, feed: Feed, found: Sequence[Outcome], client_id: str | None) -> list[Asked]:
    """What every resource asks of the books. What is unknown is asked of identity once.

    `client_id`: the EMR client that sent them; None for a person."""
    known = await _known(ledger, feed.company_id, client_id)
    asked = await asyncio.to_thread(_ask, feed, found, known)
    if any(one.refused and one.refused[0] in _PERHAPS_NEWS for one in asked):
        await ledger.learn({feed.company_id})
        known = await _known(ledger, feed.company_id, client_id)
        asked = await asyncio.to_thread(_ask, feed, found, known)
    return asked


def _ask(feed: Feed, found: Sequence[Outcome], known: Known) -> list[Asked]:
    return [ask(outcome, known, feed.feed_id) for outcome in found]


async def _known(ledger: Ledger, company_id: UUID, client_id: str | None) -> Known:
    clients = await fhir_store.clients(ledger.pool, company_id)
    places = await fhir_store.places(ledger.pool, company_id)
    if client_id is not None:
        clients = {client_id: clients.get(client_id, [])}
    # A person sends for the company's EMR, if there is only one that he can mean.
    own = next(iter(clients)) if len(clients) == 1 else None
    return Known(
        mappings=await mappings.read(ledger.pool, company_id),
        clinics={clinic: location_id for location_id, clinic in places.items() if clinic},
        only_location=next(iter(places)) if len(places) == 1 else None,
        sources=frozenset(source for sources in clients.values() for source in sources),
        own_source=f"{SOURCE}{OWN}{own}" if own else None,
    )


async def post_feed(ledger: Ledger, feed: Feed, asked: Sequence[Asked], correlation_id: str) -> None:
    """Post all resources of a feed that have no outcome from before an interruption: one that waits by now is not
    posted behind its count. Raises Unavailable when the books are away: what was posted by then answers as it did."""
    counted = await intake.counted(ledger.pool, feed, [_item_id(feed, one) for one in asked])
    asked = [one for one in asked if _item_id(feed, one) not in counted]
    await fhir_store.record(ledger.pool, feed, [_record(feed, one) for one in asked if one.act is None])

    def command_of(one: Asked) -> Command:
        item = FeedItem(feed.feed_id, _item_id(feed, one), one.item_key, one.amount_cents)
        key = f"fhir:{feed.feed_id}:{one.index}"
        return command(feed.company_id, one, key, item, correlation_id)

    pulse = intake.Pulse(ledger.pool, feed)
    for one, verdict in await post_all(ledger, feed.company_id, asked, command_of, pulse):
        if one.item is not None:
            await intake.record_failure(ledger.pool, feed, one.item, verdict.problem)


async def post_all(
    ledger: Ledger,
    company_id: UUID,
    asked: Sequence[Asked],
    command_of: Callable[[Asked], Command],
    pulse: intake.Pulse | None = None,
) -> list[tuple[Command, Verdict]]:
    """Post what asks for something, in an order in which the one finds the other: what takes payments back, charges,
    payers' payments, and last the notices that only say that a payment was made."""
    waiting = sorted((one for one in asked if one.act is not None), key=lambda one: (_rank(one), one.index))
    done: list[tuple[Command, Verdict]] = []
    for chunk in _chunks(waiting):
        done += await _post(ledger, company_id, [command_of(one) for one in chunk])
        point("fhir.after_chunk")
        if pulse is not None:
            await pulse.beat()
    return done


def command(
    company_id: UUID, asked: Asked, key: str, item: FeedItem, correlation_id: str, retry: Retry | None = None
) -> Command:
    """What one resource asks of the books. Documents have names and versions, so the command is named by its place."""
    if asked.act is None:
        raise ValueError("nothing is asked")
    return Command(
        company_id=company_id,
        key=key,
        route="fhir",
        body_hash=b"",
        actor=service.integration("era" if asked.is_remittance else "emr"),
        correlation_id=correlation_id,
        act=asked.act,
        item=item,
        retry=retry,
    )


async def _post(ledger: Ledger, company_id: UUID, commands: Sequence[Command]) -> list[tuple[Command, Verdict]]:
    """Post a chunk; what somebody else has changed meanwhile is looked at again."""
    done: list[tuple[Command, Verdict]] = []
    for left in reversed(range(_TRIES)):
        filled = await _with_held(ledger, company_id, commands)
        verdicts = list(zip(filled, await ledger.post_many(filled), strict=True))
        done += [pair for pair in verdicts if not left or not isinstance(pair[1].problem, DocumentMoved)]
        commands = [one for one, verdict in verdicts if left and isinstance(verdict.problem, DocumentMoved)]
        if not commands:
            break
    return done


async def _with_held(ledger: Ledger, company_id: UUID, commands: Sequence[Command]) -> list[Command]:
    """The commands with what the books hold now of their documents."""
    found = await fhir_store.held(ledger.pool, company_id, {name for one in commands for name in _lined(one.act)})
    filled = []
    for one in commands:
        if isinstance(one.act, EmrDocuments):
            wholes = []
            for whole in one.act.wholes:
                held = found.get((whole.state.source, whole.state.external_id), NOTHING) if whole.lined else NOTHING
                wholes.append(replace(whole, held=held.lines, held_at=held.at))
            filled.append(replace(one, act=replace(one.act, wholes=tuple(wholes))))
        else:
            filled.append(one)
    return filled


def _lined(act: object) -> set[Name]:
    wholes = act.wholes if isinstance(act, EmrDocuments) else ()
    return {(whole.state.source, whole.state.external_id) for whole in wholes if whole.lined}


def _chunks(waiting: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Some hundreds of documents at a time. No chunk has two states of one document with lines: the later is decided
    by what the books hold after the earlier."""
    chunk: list[Asked] = []
    names: set[Name] = set()
    size = 0
    for one in waiting:
        mine = _lined(one.act)
        if size >= _CHUNK or names & mine:
            yield chunk
            chunk, names, size = [], set(), 0
        chunk.append(one)
        names |= mine
        size += _size(one.act)
    if chunk:
        yield chunk


def _size(act: object) -> int:
    if isinstance(act, EmrDocuments):
        return sum(1 + len(whole.lines) for whole in act.wholes)
    return 1 + (len(act.claims) if isinstance(act, PayerPayment) else 0)


def _rank(asked: Asked) -> int:
    if isinstance(asked.act, EmrDocuments):
        state = asked.act.wholes[0].state
        if state.kind == "charge":
            return 1
        return 0 if state.deleted else 3
    return 0 if asked.act is not None and asked.act.state.deleted else 2


def _record(feed: Feed, asked: Asked) -> Record:
    reason, detail = asked.refused or (asked.ignored, {})
    outcome = "quarantined" if asked.refused else "ignored"
    source = "era" if asked.is_remittance else feed.source
    return Record(_item_id(feed, asked), asked.item_key, outcome, reason, asked.amount_cents, detail, source)


def _item_id(feed: Feed, asked: Asked) -> UUID:
    """Named by its place, so that processing the same feed again counts it once."""
    return uuid5(feed.feed_id, str(asked.index))
