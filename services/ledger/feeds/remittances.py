"""From an 835 file to postings: survey the whole file, then post each transaction that may be posted.

Everything is keyed by content, so that a file can be processed again from its beginning after any interruption, or
sent again by anybody, without doubling a cent: the receipt and each chunk of claims are commands with keys of their
own, and what was posted answers as it did the first time.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import orjson

from services.ledger import service
from services.ledger.ahead import LOADED_AHEAD
from services.ledger.domain import outcomes
from services.ledger.domain.commands import Act, Command
from services.ledger.domain.feed_acts import ApplyRemittance, LocateRemittance, RemittanceClaim
from services.ledger.domain.feed_items import Retry
from services.ledger.domain.remittances import shared
from services.ledger.feeds import answers, claim_store, claims, intake, mappings, payees
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.mappings import Mappings
from services.ledger.feeds.payees import Payees
from services.ledger.feeds.remittance_facts import (
    claim_of,
    item_of,
    payment_key,
    receipt_of,
    refusal_detail,
    refusal_of,
)
from services.ledger.feeds.remittance_places import likely_locations
from services.ledger.feeds.stored import Chunks, read_ahead
from services.ledger.feeds.x12.model import Claim, Header, Transaction
from services.ledger.feeds.x12.remittance import Contents, contents, read
from services.ledger.service import Ledger
from shared.errors import Problem, Unavailable

_LINES_PER_CHUNK: Final = 300
"""Part of what the keys of later pieces mean: with another number an interrupted file could not be finished."""
_READ_AHEAD: Final = LOADED_AHEAD + 1
_PIECES_TO_RESTATE: Final = 30
"""A correction restates every applied line in one event; more than about 9,000 of them are no message for a broker."""


async def process(ledger: Ledger, feed: Feed, chunks: Chunks, correlation_id: str, found: Contents) -> None:
    """Post a surveyed file. `chunks()` starts reading its raw form from the beginning."""
    transactions = [one for one in found.transactions if not claims.is_answer(one.set_id)]
    ours = await payees.read(ledger.pool, feed.company_id)
    accepted, refused = _judge(transactions, ours)
    for transaction in transactions:
        item = item_of(feed, transaction)
        if transaction.header is None:
            await intake.record(ledger.pool, feed, item, "ignored", f"transaction_set_{transaction.set_id}")
        elif transaction.ordinal in refused:
            await intake.record(ledger.pool, feed, item, "quarantined", *refused[transaction.ordinal])
    if accepted:
        await _post_all(ledger, feed, chunks, accepted, ours, correlation_id, {})
    await claims.note_answers(ledger.pool, feed, chunks, found)
    if found.asks_reply:
        faulty = {transaction.ordinal for transaction in found.transactions if transaction.faults}
        await answers.answer(ledger.pool, feed, chunks, faulty)
    await intake.close_feed(ledger.pool, feed)


async def process_again(
    ledger: Ledger, feed: Feed, chunks: Chunks, correlation_id: str, retries: Mapping[int, Retry]
) -> dict[int, tuple[str, dict[str, Any]]]:
    """Post what was quarantined of a stored file, by its place there; why it still must not be, with the numbers."""
    wanted = [one for one in (await examine(chunks)).transactions if one.ordinal in retries]
    ours = await payees.read(ledger.pool, feed.company_id)
    accepted, refused = _judge(wanted, ours)
    problems = await _post_all(ledger, feed, chunks, accepted, ours, correlation_id, retries) if accepted else {}
    return refused | {ordinal: outcomes.refusal_of(problem) for ordinal, problem in problems.items()}


def _judge(
    transactions: Iterable[Transaction], ours: Payees
) -> tuple[dict[int, Transaction], dict[int, tuple[str, dict[str, Any]]]]:
    """Which of them may post, and why the others must not, with the numbers; by their places in the file."""
    accepted: dict[int, Transaction] = {}
    refused: dict[int, tuple[str, dict[str, Any]]] = {}
    for transaction in transactions:
        if transaction.header is None:  # An acknowledgement that contradicts itself will do so for ever.
            refused[transaction.ordinal] = "envelope_mismatch", {"set_id": transaction.set_id}
        elif reason := refusal_of(transaction, ours):
            refused[transaction.ordinal] = reason, refusal_detail(transaction, reason)
        else:
            accepted[transaction.ordinal] = transaction
    return accepted, refused


async def examine(chunks: Chunks) -> Contents:
    """Survey a file outside the event loop; raises X12Unreadable."""
    return await asyncio.to_thread(lambda: contents(chunks()))


async def _post_all(
    ledger: Ledger,
    feed: Feed,
    chunks: Chunks,
    accepted: dict[int, Transaction],
    ours: Payees,
    correlation_id: str,
    retries: Mapping[int, Retry],
) -> dict[int, Problem]:
    """Post every piece in file order; the problems of transactions that were refused."""
    known = await mappings.read(ledger.pool, feed.company_id)
    long = [one.ordinal for one in accepted.values() if one.lines + one.claims > _LINES_PER_CHUNK]
    likely = await likely_locations(ledger.pool, feed.company_id, chunks, long)
    refused: dict[int, Problem] = {}
    told: set[int] = set()
    locations: dict[int, set[UUID]] = defaultdict(set)
    booked: dict[int, UUID | None] = {}
    pulse = intake.Pulse(ledger.pool, feed)

    def command_of(piece: _Piece) -> tuple[_Piece, Command]:
        ordinal = piece.transaction.ordinal
        return piece, _command(feed, piece, known, ours, likely.get(ordinal), correlation_id, retries.get(ordinal))

    async with read_ahead(map(command_of, _pieces(chunks, accepted)), _READ_AHEAD) as pieces:

        def following() -> list[Command]:
            return [command for _, command in pieces.peek(LOADED_AHEAD)]

        async for piece, command in pieces:
            ordinal = piece.transaction.ordinal
            if ordinal in refused:
                continue
            if ordinal in told:
                await claim_store.note(ledger.pool, feed.company_id, command.said)
                continue
            verdict = await ledger.post(command, then=following)
            if verdict.problem is not None:
                # Its receipt is another one's, or none: the rest of its claims must not be applied to that.
                refused[ordinal] = verdict.problem
                await _note(ledger, feed, command, verdict.problem)
                continue
            answer = orjson.loads(verdict.response)
            if answer["outcome"] == "duplicate":
                # Its payment was told by FHIR: that receipt stands as it was applied then, and only what is said about
                # the claims is news.
                told.add(ordinal)
                continue
            locations[ordinal].update(map(UUID, answer["locations"]))
            if piece.number == 0:
                booked[ordinal] = UUID(answer["location_id"]) if answer["location_id"] else None
            elif piece.last:
                await _locate(ledger, command, piece, booked[ordinal], locations[ordinal])
            await pulse.beat()
    return refused


async def _locate(ledger: Ledger, last: Command, piece: _Piece, booked: UUID | None, found: set[UUID]) -> None:
    """Correct the location where it could not be told beforehand; of a very long remittance it then stays as it is."""
    location_id = shared(frozenset(found))
    if location_id == booked or (found and piece.number > _PIECES_TO_RESTATE):
        return
    key = payment_key(piece.transaction)
    act = LocateRemittance(key, location_id)
    # Under a key of its own, by content: an interruption before it is made good when the feed is taken up again.
    body_hash = hashlib.sha256(repr(act).encode()).digest()
    command = replace(last, key=f"x12:{key}:location", body_hash=body_hash, act=act, item=None, retry=None, said=None)
    (await ledger.post(command)).unwrap()


async def _note(ledger: Ledger, feed: Feed, command: Command, problem: Problem) -> None:
    """A refusal for good is the item's outcome, but of a retry; what could not be tried is raised, to come again."""
    if command.retry is not None:
        if isinstance(problem, Unavailable):
            raise problem
    elif command.item is None:
        raise problem
    else:
        await intake.record_failure(ledger.pool, feed, command.item, problem)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a transaction's claims; the first comes with the receipt."""

    transaction: Transaction
    number: int
    claims: tuple[RemittanceClaim, ...]
    last: bool


def _pieces(chunks: Chunks, accepted: dict[int, Transaction]) -> Iterator[_Piece]:
    """Every piece of every accepted transaction, in file order. Where reversals come after other claims, they are
    taken out and go first (feeds.md 0.8): what they free is needed by their corrections, wherever those stand."""
    numbers: dict[int, int] = {}
    yield from _read_pieces(chunks, accepted, numbers)
    late = {ordinal: one for ordinal, one in accepted.items() if one.late_reversals}
    if late:
        yield from _read_pieces(chunks, late, numbers, the_rest=True)


def _read_pieces(
    chunks: Chunks, accepted: dict[int, Transaction], numbers: dict[int, int], *, the_rest: bool = False
) -> Iterator[_Piece]:
    """One reading of the file. `the_rest`: what the first one left out, numbered on from `numbers`."""
    current: Transaction | None = None
    number, lines = 0, 0
    held: list[RemittanceClaim] = []
    for event in read(chunks()):
        if isinstance(event, Header):
            current, number, lines, held = accepted.get(event.ordinal), numbers.get(event.ordinal, 0), 0, []
        elif current is None:
            continue
        elif isinstance(event, Claim):
            if current.late_reversals and event.is_reversal == the_rest:
                continue
            if lines >= _LINES_PER_CHUNK:
                yield _Piece(current, number, tuple(held), False)
                number, lines, held = number + 1, 0, []
            held.append(claim_of(event))
            lines += max(1, len(event.lines))
        elif isinstance(event, Transaction):
            yield _Piece(current, number, tuple(held), the_rest or not current.late_reversals)
            numbers[current.ordinal] = number + 1
            current = None


def _command(
    feed: Feed,
    piece: _Piece,
    known: Mappings,
    ours: Payees,
    likely: UUID | None,
    correlation_id: str,
    retry: Retry | None,
) -> Command:
    """The first piece is the receipt with its first claims; only it counts as the feed's item."""
    transaction, first = piece.transaction, piece.number == 0
    key, item = payment_key(transaction), item_of(feed, transaction)
    if transaction.header is None:
        raise ValueError("refused before")
    act: Act
    if first:
        receipt = receipt_of(feed, transaction, known, ours)
        act = replace(receipt, claims=piece.claims, more_claims=not piece.last, location_id=likely)
    else:
        act = ApplyRemittance(key, feed.feed_id, item.item_key, piece.claims)
    return Command(
        company_id=feed.company_id,
        key=f"x12:{key}:{piece.number}",
        route="x12",
        body_hash=_hash(piece),
        actor=service.integration("era"),
        correlation_id=correlation_id,
        act=act,
        item=item if first else None,
        # The item is counted with its receipt; the exception waits until all of its claims have been dealt with.
        retry=retry and replace(retry, closes=piece.last),
        said=claims.said_by_remittance(feed, item.item_key, key, transaction.header, piece.claims),
    )


def _hash(piece: _Piece) -> bytes:
    """The content that a key stands for: all of the transaction for its receipt, the claims for a later piece."""
    if piece.number == 0:
        return bytes.fromhex(piece.transaction.content_hash)
    return hashlib.sha256(orjson.dumps(piece.claims)).digest()
