"""From an 835 file to postings: survey the whole file, then post each transaction that may be posted.

Everything is keyed by content, so that a file can be processed again from its beginning after any interruption, or
sent again by anybody, without doubling a cent: the receipt and each chunk of claims are commands with keys of their
own, and what was posted answers as it did the first time.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import orjson

from services.ledger import service
from services.ledger.ahead import LOADED_AHEAD
from services.ledger.domain import outcomes
from services.ledger.domain.commands import Act, Command
from services.ledger.domain.feed_acts import ApplyRemittance, LocateRemittance
from services.ledger.domain.feed_items import Retry
from services.ledger.domain.remittances import shared
from services.ledger.feeds import answers, claim_store, claims, intake, mappings, payees, remittance_claims
from services.ledger.feeds.apart import apart, items_apart
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.mappings import Mappings
from services.ledger.feeds.payees import Payees
from services.ledger.feeds.remittance_claims import Piece, pieces_of
from services.ledger.feeds.remittance_facts import (
    item_of,
    payment_key,
    receipt_of,
    refusal_detail,
    refusal_of,
)
from services.ledger.feeds.remittance_places import likely_locations
from services.ledger.feeds.spooled import Chunks
from services.ledger.feeds.stored import read_ahead
from services.ledger.feeds.x12.model import Transaction
from services.ledger.feeds.x12.remittance import Contents, contents
from services.ledger.service import Ledger
from shared.errors import Problem, Unavailable

_READ_AHEAD: Final = LOADED_AHEAD + 1
_PIECES_TO_RESTATE: Final = 30
"""A correction restates every applied line in one event; more than about 9,000 of them are no message for a broker."""


async def process(ledger: Ledger, feed: Feed, chunks: Chunks, correlation_id: str, found: Contents) -> None:
    """Post a surveyed file, whose raw form is read again for it."""
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
    return await apart(contents, chunks)


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
    long = [one.ordinal for one in accepted.values() if one.lines + one.claims > remittance_claims.LINES_A_PIECE]
    likely = await likely_locations(ledger.pool, feed.company_id, chunks, long)
    refused: dict[int, Problem] = {}
    told: set[int] = set()
    locations: dict[int, set[UUID]] = defaultdict(set)
    booked: dict[int, UUID | None] = {}
    pulse = intake.Pulse(ledger.pool, feed)

    def read() -> Iterator[tuple[Piece, Command]]:
        wanted = {one.ordinal: one.late_reversals for one in accepted.values()}
        for piece in items_apart(pieces_of, chunks, wanted):
            place = likely.get(piece.ordinal)
            command = _command(feed, accepted[piece.ordinal], piece, known, ours, place, correlation_id)
            if retry := retries.get(piece.ordinal):
                # The exception waits until all of its claims have been dealt with.
                command = replace(command, retry=replace(retry, closes=piece.last))
            yield piece, command

    async with read_ahead(read(), _READ_AHEAD) as pieces:

        def following() -> list[Command]:
            return [command for _, command in pieces.peek(LOADED_AHEAD)]

        async for piece, command in pieces:
            ordinal = piece.ordinal
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
                await _locate(ledger, command, accepted[ordinal], piece, booked[ordinal], locations[ordinal])
            await pulse.beat()
    return refused


async def _locate(
    ledger: Ledger, last: Command, transaction: Transaction, piece: Piece, booked: UUID | None, found: set[UUID]
) -> None:
    """Correct the location where it could not be told beforehand; of a very long remittance it then stays as it is."""
    location_id = shared(frozenset(found))
    if location_id == booked or (found and piece.number > _PIECES_TO_RESTATE):
        return
    key = payment_key(transaction)
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


def _command(
    feed: Feed,
    transaction: Transaction,
    piece: Piece,
    known: Mappings,
    ours: Payees,
    likely: UUID | None,
    correlation_id: str,
) -> Command:
    """The first piece is the receipt with its first claims; only it counts as the feed's item."""
    first = piece.number == 0
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
        # What the key stands for: all of the transaction for its receipt, the claims for a later piece.
        body_hash=bytes.fromhex(transaction.content_hash) if first else piece.content_hash,
        actor=service.integration("era"),
        correlation_id=correlation_id,
        act=act,
        item=item if first else None,
        said=claims.said_by_remittance(feed, item.item_key, key, transaction.header, piece.claims),
    )
