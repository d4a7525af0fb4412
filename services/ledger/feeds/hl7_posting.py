"""Posting the messages that were accepted: every FT1 is posted or quarantined, and counted once.

It may be done again from the beginning after any interruption: commands have keys, items have names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import structlog

from services.ledger import service
from services.ledger.domain.commands import Command
from services.ledger.domain.feed_acts import EmrAdjustment, EmrDocument
from services.ledger.domain.feed_items import FeedItem, Retry
from services.ledger.feeds import hl7_store, intake
from services.ledger.feeds.agreements import Agreements
from services.ledger.feeds.hl7.acts import Asked, Place, ask, version_of
from services.ledger.feeds.hl7.model import Financial
from services.ledger.feeds.hl7_intake import Examined, amounts_of, examine, refusal
from services.ledger.feeds.hl7_store import Waiting, item_id, item_key
from services.ledger.service import Ledger
from shared.db import BUSY_OR_AWAY
from shared.errors import Unavailable, told
from shared.web.bodies import field_errors

_CHUNK: Final = 200
_AMOUNTS: Final = {
    "missing_amount": "Neither the message nor the fee schedule has an amount for this charge",
    "negative_payment": "A payment cannot be negative: what it takes back is reversed or refunded by hand",
    "negative_adjustment": "An adjustment cannot raise a balance: what it takes back is reversed by hand",
}
"""What is wrong with an amount, for a person; its sign is as agreed with the sender."""
log = structlog.get_logger("hl7")


async def post_feed(ledger: Ledger, feed: intake.Feed, correlation_id: str) -> None:
    """Post all that waits in one feed."""
    while messages := await hl7_store.waiting(ledger.pool, feed):
        await post(ledger, messages, correlation_id)


async def post(ledger: Ledger, messages: Sequence[Waiting], correlation_id: str) -> None:
    """Post messages in their order. Raises Unavailable when the books are away: then they still wait."""
    for company_id, group in groupby(messages, key=lambda one: one.feed.company_id):
        same_company, agreed = list(group), Agreements(ledger, company_id)
        commands = [
            (message, command)
            for message in same_company
            for command in await _commands_or_none(agreed, message, correlation_id)
        ]
        for start in range(0, len(commands), _CHUNK):
            chunk = commands[start : start + _CHUNK]
            verdicts = await ledger.post_many([command for _, command in chunk])
            for (message, command), verdict in zip(chunk, verdicts, strict=True):
                if command.item is not None:
                    await intake.record_failure(ledger.pool, message.feed, command.item, verdict.problem)
        await hl7_store.done(ledger.pool, same_company)


async def _commands_or_none(agreed: Agreements, message: Waiting, correlation_id: str) -> list[Command]:
    """A message that no check foresaw must not hold up those behind it."""
    try:
        return await _commands(agreed, message, correlation_id)
    except (Unavailable, TimeoutError, *BUSY_OR_AWAY):
        raise
    except Exception as error:
        log.error("hl7_message_failed", error=type(error).__name__, item_id=str(item_id(message, 0)))
        item = FeedItem(message.feed.feed_id, item_id(message, 0), message.key)
        await intake.record(
            agreed.ledger.pool, message.feed, item, "quarantined", "internal_error", {"message": "See the log"}
        )
        return []


async def _commands(agreed: Agreements, message: Waiting, correlation_id: str) -> list[Command]:
    """What a message asks of the books; what it cannot ask is recorded at once."""
    examined, found, fault = await lines_of(agreed, message)
    commands = []
    for asked in found:
        item = _item(message, examined, asked)
        if asked.act is not None and not fault:
            commands.append(command_of(agreed.company_id, message, asked, asked.act, item, correlation_id))
        elif asked.ignored:
            await intake.record(agreed.ledger.pool, message.feed, item, "ignored", asked.ignored)
        else:
            await intake.record(agreed.ledger.pool, message.feed, item, "quarantined", *(fault or fault_of(asked)))
    return commands


async def lines_of(
    agreed: Agreements, message: Waiting
) -> tuple[Examined, list[Asked], tuple[str, dict[str, Any]] | None]:
    """Every FT1 of an accepted message, and what keeps all of them from being posted."""
    profile = await agreed.profile(message.source)
    examined = await examine(message.raw, profile)
    financial = examined.financial
    place = await _place(agreed, message, financial)
    if place and not examined.problems:
        return examined, list(ask(financial, profile, place)), None
    amounts = amounts_of(financial)
    counted = [Asked(number, cents) for number, cents in enumerate(amounts, 1)]
    if examined.problems:  # Something else was agreed after it had been accepted.
        return examined, counted, ("hl7_refused", refusal(examined.problems))
    return examined, counted, ("unknown_clinic", {"source": message.source, "clinic": financial.clinic})


def fault_of(asked: Asked) -> tuple[str, dict[str, Any]]:
    """Why a line cannot be posted, and which of its values are wrong."""
    if message := _AMOUNTS.get(asked.refused):
        return asked.refused, {
            "message": message,
            "errors": [{"field": f"FT1[{asked.number}]-11", "code": asked.refused}],
        }
    return asked.refused, {"errors": told(field_errors(asked.fields) if asked.fields else ())}


async def _place(agreed: Agreements, message: Waiting, financial: Financial) -> Place | None:
    """Where the message is booked: at its clinic, else at the company's only location."""
    location_id = await agreed.location(financial.clinic)
    if location_id is None:
        return None
    procedures = (await agreed.mappings()).procedures
    place = Place(location_id, version_of(financial.header.time, message.received_at), {}, procedures)
    unpriced = [one for one in financial.transactions if one.amount_cents is None and not one.void]
    if not unpriced:
        return place
    codes = {place.procedure(one.procedure) for one in unpriced}
    return replace(place, prices=await hl7_store.prices_of(agreed.ledger.pool, agreed.company_id, codes))


def command_of(
    company_id: UUID,
    message: Waiting,
    asked: Asked,
    act: EmrDocument | EmrAdjustment,
    item: FeedItem,
    correlation_id: str,
    retry: Retry | None = None,
) -> Command:
    """An adjustment is the sender's, by its own name: sent again in another message it is still the same one.
    Documents have names and versions of their own, so their commands are named by the message."""
    content = message.body_hash + str(asked.number).encode()
    name = f"hl7:{hashlib.sha256(message.key.encode() + content).hexdigest()}"
    if isinstance(act, EmrAdjustment):
        content = repr(act).encode()
        name = f"hl7aj:{hashlib.sha256(f'{message.source} {asked.key}'.encode()).hexdigest()}"
    return Command(
        company_id=company_id,
        key=name,
        route="hl7v2",
        body_hash=hashlib.sha256(content).digest(),
        actor=service.integration("emr"),
        correlation_id=correlation_id,
        act=act,
        item=item,
        retry=retry,
    )


def _item(message: Waiting, examined: Examined, asked: Asked) -> FeedItem:
    raw = examined.lines[asked.number - 1] if asked.number <= len(examined.lines) else None
    key = item_key(message.key, asked.number)
    return FeedItem(message.feed.feed_id, item_id(message, asked.number), key, asked.amount_cents, raw)
