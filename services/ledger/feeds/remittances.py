"""From an 835 file to postings: survey the whole file, then post each transaction that may be posted.

Everything is keyed by content, so that a file can be processed again from its beginning after any interruption, or
sent again by anybody, without doubling a cent: the receipt and each chunk of claims are commands with keys of their
own, and what was posted answers as it did the first time.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid5

import asyncpg
import orjson

from services.ledger import service
from services.ledger.domain.commands import Act, Command, FeedItem
from services.ledger.domain.feed_acts import (
    ApplyRemittance,
    PostRemittance,
    ProviderLevel,
    RemittanceClaim,
    RemittanceLine,
)
from services.ledger.feeds import intake
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.x12.model import Adjustment, Claim, Header, Line, Transaction
from services.ledger.feeds.x12.remittance import read, survey
from services.ledger.service import Ledger
from shared.money import MAX_CENTS

_LINES_PER_CHUNK: Final = 300
"""Part of what the keys of later pieces mean: with another number an interrupted file could not be finished."""
_BEAT_SECONDS: Final = 10.0
_NO_PAYEE: Final = "wrong_payee"
_NUMBER, _NAME, _CODE = 80, 200, 10
"""Longest numbers, names and codes: the standard has 50, 60 and 5, but an element may be as long as a segment."""

Chunks = Callable[[], Iterable[bytes]]


async def process(
    ledger: Ledger, feed: Feed, chunks: Chunks, correlation_id: str, found: tuple[Transaction, ...]
) -> None:
    """Post a surveyed file. `chunks()` starts reading its raw form from the beginning."""
    npis = await _npis(ledger.pool, feed.company_id)
    accepted: dict[int, Transaction] = {}
    for transaction in found:
        item = _item(feed, transaction)
        if transaction.header is None:
            await intake.record(ledger.pool, feed, item, "ignored", f"transaction_set_{transaction.set_id}")
        elif reason := _refusal(transaction, npis):
            await intake.record(ledger.pool, feed, item, "quarantined", reason, _refusal_detail(transaction, reason))
        else:
            accepted[transaction.ordinal] = transaction
    if accepted:
        await _post_all(ledger, feed, chunks, accepted, correlation_id)
    await intake.close_feed(ledger.pool, feed)


async def examine(chunks: Chunks) -> tuple[Transaction, ...]:
    """Survey a file outside the event loop; raises X12Unreadable."""
    return await asyncio.to_thread(lambda: survey(chunks()))


async def _post_all(
    ledger: Ledger, feed: Feed, chunks: Chunks, accepted: dict[int, Transaction], correlation_id: str
) -> None:
    pieces = _pieces(chunks, accepted)
    locations: set[UUID] = set()
    beat = time.monotonic()
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        if piece.number == 0:
            locations = set()
        if piece.transaction.ordinal not in accepted:
            continue
        command = _command(feed, piece, locations, correlation_id)
        verdict = await ledger.post(command)
        if verdict.problem is not None:
            if command.item is None:
                raise verdict.problem
            # Its receipt is another one's, or none: the rest of its claims must not be applied to that.
            await intake.record_failure(ledger.pool, feed, command.item, verdict.problem)
            del accepted[piece.transaction.ordinal]
            continue
        locations.update(map(UUID, orjson.loads(verdict.response)["locations"]))
        if time.monotonic() - beat > _BEAT_SECONDS:
            await intake.still_working(ledger.pool, feed)
            beat = time.monotonic()


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a transaction's claims; the first comes with the receipt."""

    transaction: Transaction
    number: int
    claims: tuple[RemittanceClaim, ...]
    last: bool


def _pieces(chunks: Chunks, accepted: dict[int, Transaction]) -> Iterator[_Piece]:
    """Every piece of every accepted transaction, in file order."""
    current: Transaction | None = None
    number, lines = 0, 0
    claims: list[RemittanceClaim] = []
    for event in read(chunks()):
        if isinstance(event, Header):
            current, number, lines, claims = accepted.get(event.ordinal), 0, 0, []
        elif current is None:
            continue
        elif isinstance(event, Claim):
            if lines >= _LINES_PER_CHUNK:
                yield _Piece(current, number, tuple(claims), False)
                number, lines, claims = number + 1, 0, []
            claims.append(_claim(event))
            lines += max(1, len(event.lines))
        elif isinstance(event, Transaction):
            yield _Piece(current, number, tuple(claims), True)
            current = None


def _command(feed: Feed, piece: _Piece, locations: set[UUID], correlation_id: str) -> Command:
    """The first piece is the receipt with its first claims; only it counts as the feed's item."""
    transaction, first = piece.transaction, piece.number == 0
    key, item = payment_key(transaction), _item(feed, transaction)
    act: Act
    if first:
        act = _receipt(feed, piece, key, item)
    else:
        act = ApplyRemittance(key, feed.feed_id, item.item_key, piece.claims, piece.last, frozenset(locations))
    return Command(
        company_id=feed.company_id,
        key=f"x12:{key}:{piece.number}",
        route="x12",
        body_hash=_hash(piece),
        actor=service.integration("era"),
        correlation_id=correlation_id,
        act=act,
        item=item if first else None,
    )


def _receipt(feed: Feed, piece: _Piece, key: str, item: FeedItem) -> PostRemittance:
    header = piece.transaction.header
    if header is None or header.deposit_date is None:
        raise ValueError("refused before")
    return PostRemittance(
        payment_key=key,
        content_hash=bytes.fromhex(piece.transaction.content_hash),
        method=header.method,
        amount_cents=header.amount_cents,
        deposit_date=header.deposit_date,
        check_number=header.trace_number,
        payer_name=(header.payer.name or header.originator or "Unnamed payer")[:_NAME],
        payer_ids=tuple(one[:_NUMBER] for one in header.payer_ids),
        feed_id=feed.feed_id,
        item_key=item.item_key,
        provider_level=tuple(
            ProviderLevel(row.reason[:_CODE] or "PLB", row.cents) for row in piece.transaction.provider
        ),
        claims=piece.claims,
        more_claims=not piece.last,
    )


def payment_key(transaction: Transaction) -> str:
    """Who paid what by which trace number, when and to whom (feeds.md 0.6). Payers repeat trace numbers on zero
    pays (RFI 1847), so there the content tells them apart."""
    header = transaction.header
    if header is None:
        raise ValueError("not a remittance")
    parts = [
        next(iter(header.payer_ids), header.payer.name),
        header.trace_number,
        str(header.amount_cents),
        str(header.deposit_date),
        header.payee.identifier or header.payee_tax_id,
    ]
    if header.amount_cents == 0:
        parts.append(transaction.content_hash)
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _refusal(transaction: Transaction, npis: tuple[str, ...]) -> str | None:
    """Why a whole transaction must not post, in the codes of api.md."""
    header = transaction.header
    if transaction.reason or header is None:
        return transaction.reason
    if header.deposit_date is None or abs(header.amount_cents) > MAX_CENTS:
        return "envelope_mismatch"
    if not 0 < len(header.trace_number) <= _NUMBER:
        return "envelope_mismatch"
    if npis and not set(header.payee_npis) & set(npis):
        return _NO_PAYEE
    return None


def _refusal_detail(transaction: Transaction, reason: str) -> dict[str, Any]:
    header = transaction.header
    problems: list[dict[str, Any]] = [
        {"code": p.code, "detail": p.detail, **dict(p.numbers)} for p in transaction.problems
    ]
    if reason == _NO_PAYEE:
        problems.append({"code": reason, "detail": "N1*PE is not one of the company's NPIs"})
    elif not problems:
        problems.append(
            {
                "code": reason,
                "detail": "TRN02 or a payment date (BPR16, DTM*405) is missing or too long, or BPR02 is out of range",
            }
        )
    return {
        "transaction": transaction.ordinal,
        "trace_number": header.trace_number[:_NUMBER] if header else None,
        "bpr02_cents": header.amount_cents if header else None,
        "clp04_sum_cents": transaction.paid_cents,
        "plb_sum_cents": transaction.provider_cents,
        "claims": transaction.claims,
        "problems": problems,
    }


def _item(feed: Feed, transaction: Transaction) -> FeedItem:
    """Named by its place in the file, so that processing the same feed again counts it once."""
    header = transaction.header
    return FeedItem(
        feed_id=feed.feed_id,
        item_id=uuid5(feed.feed_id, str(transaction.ordinal)),
        item_key=f"ST {transaction.ordinal}" + (f" TRN {header.trace_number[:_NUMBER]}" if header else ""),
        amount_cents=header.amount_cents if header else 0,
    )


def _hash(piece: _Piece) -> bytes:
    """The content that a key stands for: all of the transaction for its receipt, the claims for a later piece."""
    if piece.number == 0:
        return bytes.fromhex(piece.transaction.content_hash)
    return hashlib.sha256(repr(piece.claims).encode()).digest()


def _claim(claim: Claim) -> RemittanceClaim:
    finding = min(claim.problems, key=lambda problem: problem.code, default=None)
    numbers: dict[str, Any] = {}
    if finding is not None:
        same = [p for p in claim.problems if p.code == finding.code]
        lines: list[dict[str, Any]] = [{**dict(p.numbers), "line": p.line} for p in same]
        numbers = {"detail": finding.detail, "violations": lines}
    return RemittanceClaim(
        claim_id=claim.account[:_NUMBER],
        payer_control_number=claim.icn[:_NUMBER],
        status=claim.status[:_CODE],
        charge_cents=claim.charge_cents,
        paid_cents=claim.paid_cents,
        date_of_service=claim.service_from,
        lines=tuple(_line(line) for line in claim.lines),
        adjustments=_triplets(claim.adjustments),
        problem=finding.code if finding else None,
        problem_detail=numbers,
    )


def _line(line: Line) -> RemittanceLine:
    procedure, submitted = line.procedure, line.submitted
    coded = submitted or procedure
    return RemittanceLine(
        ordinal=line.ordinal,
        procedure_code=procedure.code if procedure else "",
        submitted_code=submitted.code if submitted else None,
        modifiers=coded.modifiers if coded else (),
        date_of_service=line.service_from,
        charge_cents=line.charge_cents,
        paid_cents=line.paid_cents,
        control_number=line.control_number[:_NUMBER] or None,
        adjustments=_triplets(line.adjustments),
    )


def _triplets(rows: tuple[Adjustment, ...]) -> tuple[tuple[str, str, int], ...]:
    return tuple((row.group[:_CODE], row.reason[:_CODE], row.cents) for row in rows)


async def _npis(pool: asyncpg.Pool, company_id: UUID) -> tuple[str, ...]:
    return tuple(await pool.fetchval("select npis from directory_company where company_id = $1", company_id) or ())
