"""FHIR resources that waited for a person: shown as they came, and tried again by what holds now."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.ledger.deciding import Verdict
from services.ledger.domain.commands import Command
from services.ledger.domain.document_acts import PayerPayment
from services.ledger.domain.feed_items import FeedItem, Retry
from services.ledger.domain.later_acts import RetryClaim
from services.ledger.feeds import fhir_store
from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.reader import Item, read
from services.ledger.feeds.fhir_acts import Asked, index_of
from services.ledger.feeds.fhir_posting import ask_all, command, post_all, understood
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.quarantine import Waiting
from services.ledger.feeds.spooled import Chunks
from services.ledger.feeds.stored import stored
from services.ledger.service import Ledger
from shared.errors import NotFound, Unavailable

Refusal = tuple[str, dict[str, Any]]
_STALE: Refusal = ("stale_version", {"message": "Another state of the payment has come meanwhile"})


@dataclass(frozen=True, slots=True)
class Tried:
    """What can be tried of some exceptions, and why the rest cannot."""

    company_id: UUID
    refused: dict[UUID, Refusal | None] = field(default_factory=dict)
    whole: list[tuple[Asked, Command]] = field(default_factory=list)
    """Resources that were quarantined."""
    parts: list[tuple[Waiting, RetryClaim]] = field(default_factory=list)
    """Claims of posted receipts; what takes money back comes first."""


async def prepare(
    ledger: Ledger, company_id: UUID, rows: Sequence[Waiting], retry_of: Callable[[Waiting], Retry], correlation_id: str
) -> Tried:
    """Read the exceptions of one feed again, from its stored form."""
    feed = Feed(company_id, rows[0].feed_id, fhir_store.FORMAT, "emr")
    async with stored(ledger.pool, company_id, feed.feed_id) as chunks:
        body = b"".join(chunks)
    found = await understood(ledger, company_id, body)
    wanted = {index_of(row.item_key) for row in rows}
    chosen = [outcome for outcome in found if outcome.index in wanted]
    asked = {one.index: one for one in await ask_all(ledger, feed, chosen, rows[0].client_id)}
    tried = Tried(company_id)
    for row in rows:
        one = asked.get(index_of(row.item_key))
        if one is None or one.act is None:
            refusal = (one.refused or (one.ignored, {})) if one else ("cannot_retry", {})
            tried.refused[row.exception_id] = refusal
        elif row.quarantined:
            item = FeedItem(row.feed_id, row.exception_id, row.item_key, one.amount_cents)
            key = f"retry:{row.exception_id}"
            tried.whole.append((one, command(company_id, one, key, item, correlation_id, retry_of(row))))
        else:
            await _part(ledger, tried, row, one)
    tried.parts.sort(key=lambda part: part[1].claim.paid_cents)
    return tried


async def _part(ledger: Ledger, tried: Tried, row: Waiting, asked: Asked) -> None:
    """A claim of a payer's payment, as long as that stands as it was when the exception arose."""
    act = asked.act
    claims = act.claims if isinstance(act, PayerPayment) else ()
    claim = next((one for one in claims if one.ordinal == row.detail.get("claim")), None)
    if not isinstance(act, PayerPayment) or claim is None or row.payment_id is None:
        tried.refused[row.exception_id] = "cannot_retry", {"message": "The claim is not in the stored input"}
        return
    state = act.state
    known = await fhir_store.content_hash(ledger.pool, tried.company_id, state.source, state.external_id)
    if known != state.content_hash:
        tried.refused[row.exception_id] = _STALE
        return
    tried.parts.append((row, RetryClaim(row.payment_id, row.feed_id, row.item_key, claim, row.detail.get("line"))))


async def post(ledger: Ledger, tried: Tried) -> list[tuple[UUID, Verdict]]:
    """Post the resources. Raises Unavailable when the books are away: what was posted by then is settled."""
    commands = {one.index: made for one, made in tried.whole}
    done = await post_all(ledger, tried.company_id, [one for one, _ in tried.whole], lambda one: commands[one.index])
    if any(isinstance(verdict.problem, Unavailable) for _, verdict in done):
        raise Unavailable("The books are away; try again")
    return [(made.retry.exception_id, verdict) for made, verdict in done if made.retry]


def raw_resource(chunks: Chunks, item_key: str) -> bytes:
    """The resource of an item, its numbers as they were sent; or NotFound."""
    try:
        return _written(_item(chunks, item_key).raw).encode()
    except RecursionError:
        raise NotFound() from None


def decoded_resource(chunks: Chunks, item_key: str) -> dict[str, Any] | None:
    """What the resource of an item says, or what is wrong with it."""
    wanted = index_of(item_key)
    return next((asdict(one) for one in outcomes(b"".join(chunks)) if one.index == wanted), None)


def _item(chunks: Chunks, item_key: str) -> Item:
    wanted = index_of(item_key)
    for item in read(b"".join(chunks)):
        if item.index == wanted:
            return item
    raise NotFound()


def _written(value: Any) -> str:
    """As JSON. A decimal is written digit for digit, which no encoder of the standard library does."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_written(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value)
