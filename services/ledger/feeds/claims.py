"""What became of the claims that were sent: TA1, 997, 999 and 277 that came in, and the claims of remittances.

Claims never move money. Every statement has a key made of its content, so that a file may be worked off again from its
beginning, or delivered again by anybody, without adding anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from uuid import uuid5

import asyncpg

from services.ledger.domain.feed_acts import RemittanceClaim
from services.ledger.domain.feed_items import FeedItem, Statements
from services.ledger.feeds import claim_store, intake
from services.ledger.feeds.apart import apart, items_apart
from services.ledger.feeds.claim_store import State
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.remittance_claims import CODE, NAME, NUMBER
from services.ledger.feeds.spooled import Chunks
from services.ledger.feeds.stored import read_ahead
from services.ledger.feeds.x12.acknowledgements import SETS, Acknowledgement, Complete, Source, read_sources
from services.ledger.feeds.x12.claim_status import BatchStatus, ClaimStatus, Status
from services.ledger.feeds.x12.model import Finding, Header
from services.ledger.feeds.x12.remittance import Contents
from shared.ids import uuid7

_OF_CLP02: Final[Mapping[str, State]] = {
    "4": "denied",
    "19": "forwarded",
    "20": "forwarded",
    "21": "forwarded",
    "22": "reversed",
    "23": "forwarded",
    "25": "predetermined",
}
"""23 is not our payer's claim and was sent on; 19 to 21 were paid here, and sent on (RFI 2025)."""
_OF_CATEGORY: Final[Mapping[str, State]] = {
    "A0": "forwarded",
    "F1": "paid",
    "F2": "denied",
    "F": "finalized",
    "P": "pending",
}
"""Claim status categories (code list 507) or their letter; what is not here was accepted."""
_BY_SUBMISSION, _BY_RECEIVER, _BY_REVERSAL, _BY_PAYER = range(4)
"""`claim_state.standing`: whose word counts when two are of one day."""
_ROWS: Final = 300
_SHOWN: Final = 20


def said_by_remittance(
    feed: Feed, item_key: str, payment_key: str, header: Header, claims: Sequence[RemittanceClaim]
) -> Statements | None:
    """What a part of a remittance says about its claims; what it said before, in whatever file, is not kept again."""
    rows: list[dict[str, Any]] = []
    for claim in claims:
        if not claim.claim_id.strip():
            continue
        state = _OF_CLP02.get(claim.status) or ("paid" if claim.paid_cents else "zero_paid")
        rows.append(
            _row(
                len(rows),
                claim.claim_id,
                f"{payment_key}:{claim.ordinal}",
                state,
                _BY_REVERSAL if state == "reversed" else _BY_PAYER,
                header.deposit_date,
                codes=[claim.status] if claim.status else [],
                payer_control_number=claim.payer_control_number,
                charge_cents=claim.charge_cents,
                paid_cents=claim.paid_cents,
            )
        )
    return Statements(feed.feed_id, item_key, "835", header.payer.name[:NAME] or None, tuple(rows)) if rows else None


def is_answer(set_id: str) -> bool:
    """Whether a transaction set is one that is noted here."""
    return set_id in SETS


async def note_answers(pool: asyncpg.Pool, feed: Feed, chunks: Chunks, found: Contents) -> None:
    """Take every TA1, 997, 999 and 277 of a surveyed file: each is an item of the feed."""
    blamed = {one.ordinal: one.problems for one in found.transactions if is_answer(one.set_id)}
    if not blamed and not found.acknowledgements:
        return
    wanted: dict[Source, str] = {}
    for source, judged in (await apart(_judge, chunks)).items():
        item = _item(feed, source)
        problems = [*judged.problems, *(() if source.standard == "TA1" else blamed[source.ordinal])]
        if problems:
            await intake.record(pool, feed, item, "quarantined", "envelope_mismatch", refusal_detail(source, problems))
        elif await claim_store.is_first(pool, feed, item, source, judged.key):
            wanted[source] = judged.key
        else:
            await intake.record(pool, feed, item, "duplicate", "same_key")
    async with read_ahead(items_apart(_pieces, chunks, wanted)) as pieces:
        async for piece in pieces:
            await _keep(pool, feed, piece)
            if piece.last:  # Counted once all of it is kept: until then the feed is not done, and is taken up again.
                await intake.record(pool, feed, _item(feed, piece.source), "posted", "noted")


def refusal_detail(source: Source, problems: Sequence[Finding]) -> dict[str, Any]:
    """What a person needs to see of an acknowledgement that contradicts itself."""
    shown = [{"code": one.code, "detail": one.detail} for one in problems[:_SHOWN]]
    return {"transaction": source.ordinal, "set_id": source.standard, "problems": shown}


def _item(feed: Feed, source: Source) -> FeedItem:
    name = f"TA1 {source.ordinal}" if source.standard == "TA1" else str(source.ordinal)
    key = name if source.standard == "TA1" else f"ST {name}"
    return FeedItem(feed_id=feed.feed_id, item_id=uuid5(feed.feed_id, name), item_key=key)


@dataclass(slots=True)
class _Judged:
    key: str = ""
    problems: list[Finding] = field(default_factory=list)


def _judge(chunks: Chunks) -> dict[Source, _Judged]:
    """The key of every source and what is wrong with it, which is known only at its end."""
    judged: dict[Source, _Judged] = {}
    for source, event in read_sources(chunks):
        if source is None:
            continue
        one = judged.setdefault(source, _Judged())
        if isinstance(event, Complete):
            one.key = event.content_hash
        elif isinstance(event, Finding) and len(one.problems) < _SHOWN:
            one.problems.append(event)
    return judged


@dataclass(slots=True)
class _Piece:
    """Part of what a source says, ready to be kept."""

    source: Source
    key: str
    statements: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[tuple[Any, ...]] = field(default_factory=list)
    references: set[str] = field(default_factory=set)
    payer: str = ""
    last: bool = False


def _pieces(chunks: Chunks, wanted: Mapping[Source, str]) -> Iterator[_Piece]:
    """What the wanted sources say, in their order. A piece is about the claims of one payer."""
    piece: _Piece | None = None
    number, reference = 0, ""
    for source, event in read_sources(chunks):
        if source is None or source not in wanted:
            continue
        if piece is None or piece.source != source:
            piece, number, reference = _Piece(source, wanted[source]), 0, ""
        payer = event.payer if isinstance(event, ClaimStatus) else piece.payer
        if payer != piece.payer or len(piece.statements) + len(piece.verdicts) >= _ROWS:
            yield piece
            piece = _Piece(source, wanted[source], payer=payer)
        number += 1
        if isinstance(event, Complete):
            piece.last = True
            yield piece
            piece = None
        elif isinstance(event, ClaimStatus):
            if row := _said(event, source, f"{piece.key}:{number}", number, reference):
                piece.statements.append(row)
                piece.references.add(reference)
        elif isinstance(event, Acknowledgement):
            piece.verdicts.append((number, *_verdict(event)))
        elif isinstance(event, BatchStatus):
            if event.level == "receiver":
                reference = event.trace[:NUMBER]
            piece.verdicts.append((number, *_batch(event)))


def _said(claim: ClaimStatus, source: Source, key: str, place: int, reference: str) -> dict[str, Any] | None:
    """A row for a claim; None where it has no number that it could be known by."""
    if not claim.claim_id.strip():
        return None
    return _row(
        place,
        claim.claim_id,
        key,
        _state(claim),
        _BY_RECEIVER,
        claim.status_date or source.made_on,
        codes=_codes(claim.statuses or tuple(one for line in claim.lines for one in line.statuses)),
        payer_control_number=claim.payer_control_number,
        clearinghouse_number=claim.clearinghouse_number,
        batch_reference=reference,
        charge_cents=claim.amount_cents,
    )


def _state(claim: ClaimStatus) -> State:
    """Of the claim where it was judged itself, else of its lines."""
    verdicts = [claim.accepted] if claim.accepted is not None else [line.accepted for line in claim.lines]
    if False in verdicts:
        return "rejected"
    known = _OF_CATEGORY.get(claim.category) or _OF_CATEGORY.get(claim.category[:1])
    return known or ("accepted" if True in verdicts else "pending")


def _codes(statuses: Collection[Status]) -> list[str]:
    """Category, status and entity, as the standard joins them."""
    return [":".join((one.category, one.code, one.entity)).rstrip(":")[:NUMBER] for one in statuses][:_SHOWN]


def _row(
    place: int,
    claim_number: str,
    key: str,
    state: State,
    standing: int,
    on: date | None,
    *,
    codes: list[str],
    charge_cents: int,
    payer_control_number: str = "",
    clearinghouse_number: str = "",
    batch_reference: str = "",
    paid_cents: int | None = None,
) -> dict[str, Any]:
    return {
        "place": place,
        "claim_id": uuid7(),
        "claim_number": claim_number.strip()[:NUMBER],
        "statement_key": key,
        "state": state,
        "standing": standing,
        "effective_date": on,
        "codes": codes,
        "payer_control_number": payer_control_number[:NUMBER] or None,
        "clearinghouse_number": clearinghouse_number[:NUMBER] or None,
        "batch_reference": batch_reference or None,
        "charge_cents": charge_cents,
        "paid_cents": paid_cents,
    }


def _verdict(one: Acknowledgement) -> tuple[Any, ...]:
    codes = [code[:CODE] for code in one.codes][:_SHOWN]
    controls = (one.interchange_control, one.group_control, one.set_id, one.transaction_control)
    return (one.kind, one.accepted, one.status[:CODE], codes, *(text[:NUMBER] or None for text in controls))


def _batch(one: BatchStatus) -> tuple[Any, ...]:
    status = "A" if one.accepted else "R"
    return ("batch", bool(one.accepted), status, _codes(one.statuses), None, None, None, one.trace[:NUMBER] or None)


async def _keep(pool: asyncpg.Pool, feed: Feed, piece: _Piece) -> None:
    source = piece.source
    item_key, payer = _item(feed, source).item_key, piece.payer[:NAME] or None
    said = Statements(feed.feed_id, item_key, source.standard, payer, tuple(piece.statements))
    await claim_store.note(pool, feed.company_id, said)
    await claim_store.keep_verdicts(pool, feed, piece.key, piece.verdicts, piece.references)
