"""What in a feed a command came from, and what is written with its posting because of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class FeedItem:
    """The thing in a feed that a command came from: its outcome is written with the posting."""

    feed_id: UUID
    item_id: UUID
    item_key: str
    amount_cents: int = 0
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """The exception that a command tries to settle, and the person who asked for it. Success is written with the
    posting; a refusal leaves the exception and its item as they were."""

    company_id: UUID
    """Of the exception: the nil UUID for an event whose company could not be told when it came."""
    exception_id: UUID
    actor_id: UUID
    closes: bool = True
    """False: more commands follow before the exception is settled."""
    waited: bool = False
    """Nobody asked for it: what it waited for has come."""


@dataclass(frozen=True, slots=True)
class Statements:
    """What a part of a feed says about claims that were sent (migration 0009), kept with its posting."""

    feed_id: UUID
    item_key: str
    said_by: str
    """The transaction set."""
    said_for: str | None
    """The payer."""
    statements: tuple[dict[str, Any], ...]
