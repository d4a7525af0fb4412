"""Random but valid histories of a company's receipts: the events that a ledger would emit, and the books they make.

`Books` is a ledger of a few lines: it keeps receipts as documents (words and net parts), so what a report must say can
be read off the documents without looking at the events. Draw its randomness from a seed or from Hypothesis.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID, uuid4

from hypothesis import strategies as st

from shared.bus import Message
from shared.contracts.envelope import Event, encode
from shared.contracts.ledger_events import (
    POSTING,
    ChargeChange,
    PatientState,
    PayerState,
    Posting,
    PostingEvent,
)
from shared.ids import INTEGRATION_POSTER_ID
from tests.support.receipts import Charge, PartKey, Receipt, Words, change_of, with_change

START = datetime(2026, 2, 26, 15, 0, tzinfo=UTC)
METHODS = ("check", "cash", "credit_card", "eft", "other")
PROCEDURES = ("97110", "97140", "97530", "G0283")
BATCHES = (None, None, "BCBS", "B-1", "=2+2", "Batch Number BCBS")
REASONS = (("CO", "45"), ("PR", "1"), ("OA", "23"))


@dataclass(slots=True)
class Books:
    """One company's ledger. Every act is one posting, with the next version."""

    rng: random.Random
    company_id: UUID = field(default_factory=uuid4)
    """A new company each time, so that examples of one test never meet in a database."""
    postings: list[Posting] = field(default_factory=list)
    history: dict[UUID, list[tuple[int, Receipt]]] = field(default_factory=dict)
    """Of every receipt its states, each with the version at which it came about."""
    now: datetime = START

    def __post_init__(self) -> None:
        self._cuts = self.rng.randrange(1_000)
        self.locations = [self.new_id() for _ in range(3)]
        self.practice = [self.new_id() for _ in range(3)]
        self.rcm = [self.new_id() for _ in range(2)]
        self.patients = [
            PatientState(patient_id=self.new_id(), account_number=f"A{i}", first_name="Pat", last_name=f"Ient {i}")
            for i in range(4)
        ]
        self.payers = [PayerState(payer_id=self.new_id(), code=f"P{i}", name=f"Payer {i}") for i in range(2)]
        self.charges = [
            Charge(self.new_id(), patient.patient_id, location, self.rng.choice(PROCEDURES))
            for patient in self.patients
            for location in self.rng.sample(self.locations, 2)
        ]
        self._post("patient", patients=tuple(self.patients), payers=tuple(self.payers))

    # These are made with `slots=True`, so what `__post_init__` adds is declared here.
    _ids: Iterator[int] = field(default_factory=lambda: count(1))
    _cuts: int = field(init=False)
    _ends: set[int] = field(default_factory=set)
    locations: list[UUID] = field(init=False)
    practice: list[UUID] = field(init=False)
    rcm: list[UUID] = field(init=False)
    patients: list[PatientState] = field(init=False)
    payers: list[PayerState] = field(init=False)
    charges: list[Charge] = field(init=False)

    @property
    def version(self) -> int:
        return len(self.postings)

    def new_id(self) -> UUID:
        # Not drawn from `rng`: Hypothesis likes to draw the same number many times.
        return UUID(int=self.company_id.int ^ next(self._ids) << 48, version=4)

    def act(self, times: int = 1) -> Books:
        """So many random acts; most of them new payments."""
        acts = [self.pay, self.pay, self.pay, self.apply, self.apply, self.correct, self.reverse, self.charge]
        for _ in range(times):
            self.rng.choice(acts)()
        return self

    def pay(self, **words: object) -> Receipt:
        """A new receipt: applied, adjusted, provider-level and unapplied parts, or a zero pay."""
        made = replace(self._words(), **words)  # type: ignore[arg-type]
        parts: Counter[PartKey] = Counter()
        if self.rng.random() < 0.12:  # A zero pay, with adjustments or with nothing at all.
            self._adjust(parts, self.rng.choice((0, 1, 2)))
        else:
            for charge in self.rng.sample(self.charges, self.rng.choice((0, 1, 1, 2, 3))):
                parts[PartKey("applied", charge.patient_id, charge)] += self._cents()
            self._adjust(parts, self.rng.choice((0, 0, 1)))
            if made.source == "era" and self.rng.random() < 0.4:
                reason = self.rng.choice(("WO", "72"))
                parts[PartKey("provider_level", reason_code=reason)] += self.rng.choice((-1, 1)) * self._cents()
            if self.rng.random() < 0.5:
                parts[PartKey("unapplied", made.patient_id)] += self._cents()
        return self._receive("payment", made, parts)

    def apply(self) -> None:
        """Move unapplied money of a receipt to a charge, under the receipt's own words; perhaps write off as well."""
        receipt = self._any(lambda receipt: any(k.kind == "unapplied" for k in receipt.parts))
        if receipt is None:
            return
        source = self.rng.choice([key for key in receipt.parts if key.kind == "unapplied"])
        charge = self.rng.choice(self.charges)
        cents = receipt.parts[source] if self.rng.random() < 0.5 else receipt.parts[source] // 2
        change: Counter[PartKey] = Counter()
        change[source] -= cents
        change[PartKey("applied", charge.patient_id, charge)] += cents
        self._adjust(change, self.rng.choice((0, 1)))
        version = self._post("application", receipts=(change_of(receipt, 0, change),))
        self._remember(version, replace(receipt, parts=with_change(receipt.parts, change)))

    def correct(self) -> None:
        """Correct words that may be corrected: out under the old ones, in under the new ones, one posting."""
        receipt = self._any(lambda _: True)
        if receipt is None:
            return
        words = receipt.words
        words = self.rng.choice(
            (
                replace(words, batch_number=self.rng.choice(BATCHES)),
                replace(words, check_number=f"CK{self.rng.randrange(30)}"),
                replace(words, deposit_date=words.deposit_date + timedelta(days=self.rng.randrange(-3, 4))),
                replace(words, location_id=self.rng.choice([*self.locations, None])),
            )
        )
        corrected = replace(receipt, words=words)
        out = {key: -cents for key, cents in receipt.parts.items()}
        changes = (change_of(receipt, -1, out), change_of(corrected, 1, receipt.parts))
        self._remember(self._post("correction", receipts=changes), corrected)

    def reverse(self) -> None:
        """A new receipt with the signs turned round, under today's posting date."""
        receipt = self._any(lambda receipt: bool(receipt.parts))
        if receipt is None:
            return
        words = replace(receipt.words, posting_date=self._tick().date())
        if words.source == "manual":
            words = replace(words, poster_id=self.rng.choice(self.practice), affiliation="practice")
        self._receive("reversal", words, Counter({key: -cents for key, cents in receipt.parts.items()}))

    def charge(self) -> None:
        """Something that concerns no receipt, so that versions go on all the same."""
        charge = self.rng.choice(self.charges)
        change = ChargeChange(
            charge_id=charge.charge_id,
            patient_id=charge.patient_id,
            location_id=charge.location_id,
            date_of_service=self.now.date(),
            procedure_code=charge.procedure_code,
            charged_cents=self._cents(),
        )
        self._post("charge", charges=(change,))

    def receipts(self, version: int | None = None) -> list[Receipt]:
        """Every receipt as it stood at a version (None: now)."""
        at = self.version if version is None else version
        states = [[receipt for since, receipt in states if since <= at] for states in self.history.values()]
        return [known[-1] for known in states if known]

    def events(self, *, after: int = 0, longest: int = 4) -> list[Event[PostingEvent]]:
        """The postings after a version as events of one or more versions each. What was given once stays one event,
        whatever is posted later, as in a ledger."""
        self._ends.add(self.version)
        cuts = random.Random(self._cuts)
        ends, end = set(self._ends), 0
        while end < self.version:
            end += cuts.randint(1, longest)
            ends.add(end)
        events, start = [], after
        for end in sorted(ends):
            if start < end <= self.version:
                events.append(event_of(self.company_id, self.postings[start:end]))
                start = end
        return events

    def _words(self) -> Words:
        kind = self.rng.choice(("practice", "practice", "practice", "rcm", "emr", "era"))
        patient, payer = self.rng.choice(self.patients).patient_id, self.rng.choice(self.payers).payer_id
        by_payer = kind == "era" or self.rng.random() < 0.5
        method = self.rng.choice(METHODS)
        feed = kind in ("emr", "era")
        day = self._tick().date()
        return Words(
            poster_id=INTEGRATION_POSTER_ID if feed else self.rng.choice(self.rcm if kind == "rcm" else self.practice),
            affiliation="integration" if feed else kind,
            source=kind if feed else "manual",
            method=method,
            posting_date=day,
            deposit_date=day + timedelta(days=self.rng.choice((-3, -1, 0, 0, 1))),
            location_id=self.rng.choice([*self.locations, *self.locations, None]),
            payer_id=payer if by_payer else None,
            patient_id=None if by_payer and self.rng.random() < 0.7 else patient,
            batch_number=self.rng.choice(BATCHES),
            check_number=f"CK{self.rng.randrange(30)}" if method == "check" else None,
        )

    def _adjust(self, parts: Counter[PartKey], times: int) -> None:
        for _ in range(times):
            charge, (group, reason) = self.rng.choice(self.charges), self.rng.choice(REASONS)
            parts[PartKey("adjusted", charge.patient_id, charge, group, reason)] += self._cents()

    def _cents(self) -> int:
        return self.rng.choice((100, 100, 2_500, self.rng.randrange(1, 20_000)))

    def _tick(self) -> datetime:
        # Equal instants happen: order is by version, never by clock.
        self.now += timedelta(minutes=self.rng.choice((0, 0, 7, 300, 900)))
        return self.now

    def _any(self, fits: object) -> Receipt | None:
        found = [receipt for receipt in self.receipts() if fits(receipt)]  # type: ignore[operator]
        return self.rng.choice(found) if found else None

    def _receive(self, kind: str, words: Words, parts: Counter[PartKey]) -> Receipt:
        receipt = Receipt(self.new_id(), self.version + 1, self.now, words, {})
        version = self._post(kind, receipts=(change_of(receipt, 1, parts),))
        self._remember(version, replace(receipt, parts=with_change({}, parts)))
        return self.history[receipt.payment_id][-1][1]

    def _remember(self, version: int, receipt: Receipt) -> None:
        self.history.setdefault(receipt.payment_id, []).append((version, receipt))

    def _post(self, kind: str, **content: object) -> int:
        self.postings.append(
            Posting.model_validate(
                {
                    "version": self.version + 1,
                    "posting_id": self.new_id(),
                    "kind": kind,
                    "posted_at": self.now,
                    **content,
                }
            )
        )
        return self.version


def event_of(company_id: UUID, postings: Sequence[Posting]) -> Event[PostingEvent]:
    """The event of consecutive postings. Its id follows from its content: made twice, it is the same event."""
    data = PostingEvent(
        company_id=company_id, first_version=postings[0].version, version=postings[-1].version, postings=tuple(postings)
    )
    return Event[PostingEvent](
        id=UUID(int=company_id.int ^ postings[0].version << 64 ^ len(postings)),
        source="/ledger",
        type=POSTING,
        time=postings[-1].posted_at,
        subject=str(company_id),
        data=data,
    )


def message_of(event: Event[PostingEvent]) -> Message:
    """The event as the relay publishes it."""
    return Message(message_id=str(event.id), type=event.type, routing_key=event.type, body=encode(event).encode())


def delivered(events: Sequence[Event[PostingEvent]], rng: random.Random) -> Iterator[list[Message]]:
    """Batches as a bad network delivers them: each event one to three times, in any order, in batches of any size."""
    messages = [message_of(event) for event in events for _ in range(rng.choice((1, 1, 2, 3)))]
    rng.shuffle(messages)
    while messages:
        size = rng.randint(1, len(messages))
        yield messages[:size]
        messages = messages[size:]


@st.composite
def books(draw: st.DrawFn, *, most: int = 40) -> Books:
    """A company with up to `most` random acts; Hypothesis shrinks the acts."""
    return Books(draw(st.randoms(use_true_random=False))).act(draw(st.integers(1, most)))
