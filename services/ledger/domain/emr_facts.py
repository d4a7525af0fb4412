"""What is known of an EMR's payments: what it reports, what stands in the books, what waits in the quarantine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

Cell = tuple[str, UUID, date, str]
"""Source, location, deposit date, payment type."""
Name = tuple[str, str]
"""Source, and the EMR's id of a payment."""


@dataclass(frozen=True, slots=True)
class Figures:
    payments: int = 0
    amount_cents: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(self.payments + other.payments, self.amount_cents + other.amount_cents)

    def __sub__(self, other: Figures) -> Figures:
        return Figures(self.payments - other.payments, self.amount_cents - other.amount_cents)

    def __bool__(self) -> bool:
        return bool(self.payments or self.amount_cents)


@dataclass(frozen=True, slots=True)
class Listed:
    """A payment as the EMR lists it."""

    version: int
    amount_cents: int
    payment_type: str


@dataclass(frozen=True, slots=True)
class Report:
    """The latest word of an EMR about a day of a clinic."""

    source: str
    clinic: str
    location_id: UUID
    day: date
    reported_at: datetime
    totals: Mapping[str, Figures]
    payments: Mapping[str, Listed] | None


@dataclass(frozen=True, slots=True)
class State:
    """The words of a receipt from a moment on."""

    at: datetime
    location_id: UUID | None
    day: date
    payment_type: str
    amount_cents: int
    withdrawn: bool
    corrected: bool = False
    """By a person here; else as the EMR sent it."""


@dataclass(frozen=True, slots=True)
class Document:
    """A payment of the EMR as the ledger knows it; without states it never brought money."""

    source: str
    external_id: str
    version: int
    deleted: bool
    payment_id: UUID | None
    states: tuple[State, ...]
    numbered: bool = True
    """Its version is the sender's number of it, as a list has it; else the time of what brought it."""

    def cell(self) -> tuple[Cell, int] | None:
        """Where its money stands, and how much; None: nowhere."""
        return self._last(self.states)

    def sent(self, at: datetime | None = None) -> tuple[Cell, int] | None:
        """Where the EMR has put it, or had put it at a moment, whatever a person corrected here."""
        return self._last([one for one in self.states if not one.corrected and (at is None or one.at <= at)])

    @property
    def moved(self) -> bool:
        """Whether it stands elsewhere than the EMR has put it."""
        here, sent = self.cell(), self.sent()
        return here is not None and sent is not None and here[0] != sent[0]

    def _last(self, states: Sequence[State]) -> tuple[Cell, int] | None:
        last = states[-1] if states else None
        if last is None or last.withdrawn or last.location_id is None:
            return None
        return (self.source, last.location_id, last.day, last.payment_type), last.amount_cents


@dataclass(frozen=True, slots=True)
class Waits:
    """A payment that waits in the quarantine, as far as it can be read; what cannot is empty or None."""

    exception_id: UUID
    source: str
    """Of its document."""
    external_id: str = ""
    version: int = 1
    deleted: bool = False
    clinics: tuple[str, ...] = ()
    """Everything that its place may be known by, best first."""
    at_only_location: bool = False
    """By the rules of its format it belongs to the company's only location where no clinic is known."""
    day: date | None = None
    payment_type: str = ""
    amount_cents: int | None = None


@dataclass(frozen=True, slots=True)
class Unplaced:
    """A payment that waits and explains nothing, because the fields that are named `unknown` cannot be told."""

    waits: Waits
    source: str
    location_id: UUID | None
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """The newest state of a payment that waits in the quarantine. `cell` is None for a deletion."""

    exception_id: UUID
    version: int
    cell: Cell | None
    amount_cents: int
