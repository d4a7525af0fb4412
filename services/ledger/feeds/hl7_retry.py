"""Lines of HL7 messages that waited for a person, tried again: read from the stored message by what holds now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.ledger.domain.commands import Command
from services.ledger.domain.feed_items import FeedItem, Retry
from services.ledger.feeds import hl7_store
from services.ledger.feeds.agreements import Agreements
from services.ledger.feeds.hl7_intake import examine, text_of
from services.ledger.feeds.hl7_posting import command_of, fault_of, lines_of
from services.ledger.feeds.hl7_store import message_and_line
from services.ledger.feeds.quarantine import Waiting
from services.ledger.service import Ledger
from shared.ids import NO_COMPANY

_REFUSED: Final = "The sender was told what is wrong with it, and sends it again"


async def prepare(
    ledger: Ledger, company_id: UUID, rows: Sequence[Waiting], retry_of: Callable[[Waiting], Retry], correlation_id: str
) -> tuple[list[Command], dict[UUID, tuple[str, dict[str, Any]] | None]]:
    """Commands for what can be tried, and why the rest cannot. What nobody owned is left alone, unless it turns out
    to be this company's."""
    agreed = Agreements(ledger, company_id)
    commands: list[Command] = []
    refused: dict[UUID, tuple[str, dict[str, Any]] | None] = {}
    for row in rows:
        key, number = message_and_line(row.item_key)
        message = await hl7_store.accepted(ledger.pool, row.company_id, key)
        if message is None or not number:
            refused[row.exception_id] = "cannot_retry", {"message": _REFUSED}
            continue
        if row.company_id == NO_COMPANY and not await _owns(agreed, message):
            continue
        _, found, fault = await lines_of(agreed, message)
        asked = next((one for one in found if one.number == number), None)
        if fault or asked is None or asked.act is None:
            refused[row.exception_id] = fault or (fault_of(asked) if asked else ("cannot_retry", {}))
            continue
        item = FeedItem(row.feed_id, row.exception_id, row.item_key, asked.amount_cents)
        commands.append(command_of(company_id, message, asked, asked.act, item, correlation_id, retry_of(row)))
    return commands, refused


async def decoded(pool: asyncpg.Pool, company_id: UUID, exception: Mapping[str, Any]) -> dict[str, Any] | None:
    """The message of an exception as it is understood by what is agreed now, with the line that waits or, of one that
    was refused, with what is wrong; None where it is not kept."""
    key, number = message_and_line(exception["item_key"])
    for row in await hl7_store.of_key(pool, company_id, key):
        examined = await examine(row["raw"], await hl7_store.profile_of(pool, company_id, row["source"]))
        text = "".join(examined.lines[number - 1 : number]) if number else text_of(row["raw"], examined)
        if text == exception["raw"]:
            lines = tuple(one for one in examined.financial.transactions if number in (0, one.sequence))
            return asdict(replace(examined.financial, problems=examined.problems, transactions=lines))
    return None


async def _owns(agreed: Agreements, message: hl7_store.Waiting) -> bool:
    """Whether the sender writes for the company and the clinic is one of its own by name."""
    application, _, facility = message.source.partition("|")
    if agreed.company_id not in await hl7_store.companies_of(agreed.ledger.pool, application, facility):
        return False
    examined, _, _ = await lines_of(agreed, message)
    return await agreed.names(examined.financial.clinic)
