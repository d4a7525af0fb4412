"""What became of a feed's item, written with the posting that it caused; or why a person must look at it."""

from __future__ import annotations

from typing import Any, Final

from services.ledger.domain.commands import Command
from services.ledger.domain.feed_items import FeedItem, Retry
from services.ledger.domain.journal import Journal
from services.ledger.domain.waiting import awaits, parked
from shared.errors import Problem, Unavailable
from shared.ids import uuid7

SAME_PAYMENT: Final = "same_payment"
"""Why an item is not posted: its money is in the books under another name."""


class NotApplied(Problem):
    """What still keeps a part of a remittance from being applied, with its numbers."""

    status, title = 422, "It still cannot be applied"

    def __init__(self, reason: str, numbers: dict[str, Any]) -> None:
        super().__init__(code=reason)
        self.numbers = numbers


def record(journal: Journal, command: Command, outcome: str, reason: str | None, document: dict[str, Any]) -> None:
    """The outcome of a command's item, and what it says about claims. An item that waited in an exception is already
    counted, and is counted anew."""
    if (outcome == "posted" or reason == SAME_PAYMENT) and (said := command.said) is not None:
        journal.add(
            "claim_statement",
            company_id=command.company_id,
            feed_id=said.feed_id,
            item_key=said.item_key,
            said_by=said.said_by,
            said_for=said.said_for,
            statements=said.statements,
        )
    if command.retry is not None:
        _settle(journal, command.retry, command.item, outcome, reason, document)
    elif command.item is not None:
        journal.add(
            "feed_item",
            company_id=command.company_id,
            feed_id=command.item.feed_id,
            item_id=command.item.item_id,
            item_key=command.item.item_key,
            reason=reason,
            **_counted(command.item, outcome, document),
        )


def _settle(
    journal: Journal, retry: Retry, item: FeedItem | None, outcome: str, reason: str | None, document: dict[str, Any]
) -> None:
    journal.add(
        "exception_settlement",
        company_id=retry.company_id,
        exception_id=retry.exception_id,
        actor_id=retry.actor_id,
        closes=retry.closes or reason == SAME_PAYMENT,
        waited=retry.waited,
        reason=reason,
        **_counted(item, outcome, document),
    )


def _counted(item: FeedItem | None, outcome: str, document: dict[str, Any]) -> dict[str, Any]:
    amount_cents = item.amount_cents if item else 0
    return {
        "outcome": outcome,
        "amount_cents": amount_cents,
        "posted_cents": amount_cents if outcome == "posted" else 0,
        "payment_id": document.get("document_id"),
    }


def refusal_of(problem: Problem) -> tuple[str, dict[str, Any]]:
    """A refusal as the reason of an exception, and its numbers or fields."""
    if isinstance(problem, NotApplied):
        return problem.code, problem.numbers
    if problem.code == "idempotency_mismatch":  # its words are about a header that no feed sends
        return "conflict", {"message": "It was posted before with other content", "errors": []}
    errors = [{"field": e.field, "code": e.code} for e in problem.errors]
    return problem.code, {"message": problem.detail, "errors": errors}


def quarantine(journal: Journal, command: Command, problem: Problem) -> None:
    """A refused item waits for a person, or for its charge; one that is being retried goes on waiting under the
    exception it has. What could not be tried now was not refused."""
    if command.item is None or isinstance(problem, Unavailable):
        return
    reason, detail = refusal_of(problem)
    if command.retry is not None:
        _wait(journal, command, problem, command.retry, reason, detail)
        return
    exception_id = uuid7()
    record(journal, command, "quarantined", reason, {})
    journal.add(
        "feed_exception",
        company_id=command.company_id,
        exception_id=exception_id,
        feed_id=command.item.feed_id,
        item_key=command.item.item_key,
        reason=reason,
        quarantined=True,
        detail=detail,
        raw=command.item.raw,
        payment_id=None,
        source=command.actor.source,
    )
    if awaits(command, problem):
        journal.add("parked", **parked(command, exception_id))


def _wait(
    journal: Journal, command: Command, problem: Problem, retry: Retry, reason: str, detail: dict[str, Any]
) -> None:
    """What a person retries may still need its charge only; and of what tries itself, it is noted why it cannot."""
    if retry.company_id == command.company_id and (retry.waited or awaits(command, problem)):
        note = {"actor_id": retry.actor_id, "reason": reason, "detail": detail} if retry.waited else {}
        journal.add("parked", **parked(command, retry.exception_id), **note)
