"""What feeds may ask of the books after the fact: what waited in an exception, and what an EMR says it sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from services.ledger.domain.feed_acts import RemittanceClaim, wants_claims
from services.ledger.domain.wants import Wants


@dataclass(frozen=True, slots=True)
class RetryClaim:
    """A claim of a posted remittance, or one line of it, that could not be applied when it came."""

    payment_id: UUID
    feed_id: UUID
    item_key: str
    claim: RemittanceClaim
    line: int | None = None

    def wants(self, wants: Wants) -> None:
        wants.add("payment", self.payment_id)
        wants_claims(wants, (self.claim,))


@dataclass(frozen=True, slots=True)
class RetryAdjustment:
    """An adjustment of a line whose payment was applied, but which itself could not be posted."""

    payment_id: UUID
    charge_id: UUID
    group_code: str
    reason_code: str
    amount_cents: int

    def wants(self, wants: Wants) -> None:
        wants.add("payment", self.payment_id)
        wants.add("charge", self.charge_id)


@dataclass(frozen=True, slots=True)
class EmrTotals:
    """What an EMR says it sent for a day of a clinic, and perhaps of which payments that consists."""

    source: str
    clinic: str
    day: date
    totals: tuple[dict[str, Any], ...]
    payments: tuple[dict[str, Any], ...] | None = None
    reported_at: datetime | None = None
    """None: when it arrived."""
    location_id: UUID | None = None
    """The clinic's location, where a mapping of the company names it."""

    def wants(self, wants: Wants) -> None:
        wants.add("clinic", None if self.location_id else self.clinic)
        wants.add("location", self.location_id)
