"""Random commands to a ledger, most of them sensible: what people, EMRs and payers may do in any order.

A `Clerk` knows what was accepted so far and makes up the next command; it can work against books in memory or against
a database. It draws everything from one `random.Random`, so Hypothesis can shrink a history.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from services.ledger.domain import commands as acts
from services.ledger.domain import feed_acts
from services.ledger.domain.books import Books, Location
from services.ledger.domain.decide import decide
from services.ledger.domain.journal import Journal
from shared.errors import Problem
from shared.ids import INTEGRATION_POSTER_ID

NOW = datetime(2026, 3, 2, 15, 0, tzinfo=UTC)
TODAY = NOW.date()
FEED = UUID(int=1)
SOURCE = "emr-of-tests"
CODES = ("97110", "97140")
SERVICE_DAYS = (date(2026, 1, 5), date(2026, 1, 6))


@dataclass(slots=True)
class Clerk:
    """Makes up commands. `learn` tells it what an accepted one answered."""

    rng: random.Random
    company_id: UUID
    locations: Sequence[UUID]
    today: date = TODAY
    feed_id: UUID = FEED
    patients: list[Any] = field(default_factory=list)
    payers: list[Any] = field(default_factory=list)
    charges: dict[Any, Any] = field(default_factory=dict)
    payments: dict[Any, Any] = field(default_factory=dict)
    remittances: list[feed_acts.PostRemittance] = field(default_factory=list)
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    posters: list[UUID] = field(default_factory=list)
    only: tuple[str, ...] = ()
    """Names of the only acts to make up, once there is something to act on."""
    made: int = 0

    def command(self) -> acts.Command:
        """The next one. What is needed first (a patient, a charge) is made first."""
        if len(self.patients) < 2:
            return self.wrap(self.patient())
        if len(self.payers) < 2:
            return self.wrap(acts.NewPayer(f"P{self.made}", f"Payer {self.made}"))
        if len(self.charges) < 2:
            return self.wrap(self.charge())
        kinds: list[tuple[Callable[[], acts.Act], int]] = [
            (self.patient, 1),
            (self.charge, 3),
            (self.change_charge, 2),
            (self.charge_state, 1),
            (self.adjust_charge, 1),
            (self.transfer, 2),
            (self.payment, 6),
            (self.apply, 3),
            (self.correct, 2),
            (self.reverse, 2),
            (self.refund, 2),
            (self.emr_payment, 4),
            (self.emr_charge, 2),
            (self.remittance, 3),
            (self.more_claims, 1),
        ]
        if self.only:
            kinds = [(kind, weight) for kind, weight in kinds if kind.__name__ in self.only]
        (make,) = self.rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
        return self.wrap(make())

    def wrap(self, act: acts.Act, key: str = "") -> acts.Command:
        """The act as a command of a person, or of the integration for what comes by a feed."""
        self.made += 1
        actor = acts.Actor(self._poster(), self.rng.choice(("practice", "practice", "rcm")))
        if isinstance(act, feed_acts.EmrDocument):
            actor = acts.Actor(INTEGRATION_POSTER_ID, "integration", "emr")
        elif isinstance(act, feed_acts.PostRemittance | feed_acts.ApplyRemittance | feed_acts.LocateRemittance):
            actor = acts.Actor(INTEGRATION_POSTER_ID, "integration", "era")
        return acts.Command(
            company_id=self.company_id,
            key=key or f"test:{self.made}",
            route="test",
            body_hash=hashlib.sha256(repr(act).encode()).digest(),
            actor=actor,
            correlation_id=f"correlation-{self.made}",
            act=act,
        )

    def learn(self, command: acts.Command, document: Mapping[str, Any]) -> None:
        """Remember what an accepted command made or changed."""
        act = command.act
        if isinstance(act, acts.NewPatient):
            self.patients.append(document)
        elif isinstance(act, acts.NewPayer):
            self.payers.append(document)
        elif isinstance(act, feed_acts.EmrDocument):
            if document["document_id"]:
                known = self.payments if act.kind == "payment" else self.charges
                known.setdefault(document["document_id"], None)
        elif isinstance(act, feed_acts.PostRemittance):
            self.remittances.append(act)
            self.payments.setdefault(document["document_id"], None)
        elif "procedure_code" in document:
            self.charges[document["id"]] = document
        elif "deposit_date" in document:
            self.payments[document["id"]] = document

    # -- people ------------------------------------------------------------------------------------------------

    def patient(self) -> acts.Act:
        payer = self.rng.choice([None, *(self._id(p["id"]) for p in self.payers)])
        return acts.NewPatient(f"A{self.made}", "Pat", f"Ient {self.made}", date(1980, 2, 29), payer)

    def charge(self) -> acts.Act:
        return acts.PostCharge(
            patient_id=self._id(self.rng.choice(self.patients)["id"]),
            location_id=self.rng.choice(self.locations),
            date_of_service=self.rng.choice(SERVICE_DAYS),
            procedure_code=self.rng.choice(CODES),
            units=1,
            amount_cents=self._cents(),
            diagnosis_codes=("M54.5",),
            payer_id=self.rng.choice([None, *(self._id(p["id"]) for p in self.payers)]),
            delayed=self.rng.random() < 0.2,
        )

    def change_charge(self) -> acts.Act:
        changes: dict[str, Any] = {}
        if self.rng.random() < 0.7:
            changes["amount_cents"] = self._cents()
        if self.rng.random() < 0.4:
            changes["payer_id"] = self.rng.choice([None, *(self._id(p["id"]) for p in self.payers)])
        return acts.ChangeCharge(self._charge(), changes or {"units": self.rng.randrange(1, 5)})

    def charge_state(self) -> acts.Act:
        return acts.SetChargeState(self._charge(), self.rng.choice(("active", "void")))

    def adjust_charge(self) -> acts.Act:
        return acts.AdjustCharge(self._adjustment(self._charge()))

    def transfer(self) -> acts.Act:
        return acts.TransferCharge(self._charge(), self.rng.choice(("payer", "patient")), self._cents())

    def payment(self) -> acts.Act:
        charges = self.rng.sample(list(self.charges), self.rng.choice((0, 1, 1, 2)))
        by_payer = self.rng.random() < 0.5
        applications, adjustments = self._settlement(charges)
        zero = bool(adjustments) and self.rng.random() < 0.2
        return acts.PostPayment(
            method=self.rng.choice(("check", "cash", "eft")),
            amount_cents=0 if zero else sum(row.amount_cents for row in applications) + self._cents(),
            deposit_date=self.today + timedelta(days=self.rng.choice((-3, 0, 0, 1))),
            location_id=self.rng.choice([*self.locations, None]),
            check_number=self.rng.choice((None, "1001")),
            payer_id=self._id(self.rng.choice(self.payers)["id"]) if by_payer else None,
            patient_id=None if by_payer else self._id(self.rng.choice(self.patients)["id"]),
            batch_number=self.rng.choice((None, "BCBS")),
            applications=() if zero else applications,
            adjustments=adjustments,
        )

    def apply(self) -> acts.Act:
        applications, adjustments = self._settlement(self.rng.sample(list(self.charges), 1))
        return acts.ApplyPayment(self._payment(), applications, adjustments)

    def correct(self) -> acts.Act:
        name = self.rng.choice(("batch_number", "check_number", "deposit_date", "location_id", "memo"))
        value = {
            "deposit_date": self.today - timedelta(days=self.rng.randrange(3)),
            "location_id": self.rng.choice([*self.locations, None]),
        }
        return acts.CorrectPayment(self._payment(), {name: value.get(name, self.rng.choice((None, "B-2")))})

    def reverse(self) -> acts.Act:
        return acts.ReversePayment(self._payment(), self.rng.choice((None, self.today)))

    def refund(self) -> acts.Act:
        return acts.RefundPayment(self._payment(), self._cents(), self.rng.choice((None, "check")))

    # -- feeds -------------------------------------------------------------------------------------------------

    def emr_payment(self) -> acts.Act:
        words = {
            "amount_cents": self._cents(),
            "method": self.rng.choice(("cash", "credit_card")),
            "check_number": None,
            "deposit_date": self.today - timedelta(days=self.rng.randrange(3)),
            "payment_type": "copay",
        }
        return self._emr("payment", words)

    def emr_charge(self) -> acts.Act:
        words = {
            "date_of_service": self.rng.choice(SERVICE_DAYS),
            "procedure_code": self.rng.choice(CODES),
            "modifiers": (),
            "units": 1,
            "amount_cents": self._cents(),
            "diagnosis_codes": ("M54.5",),
        }
        return self._emr("charge", words)

    def remittance(self) -> acts.Act:
        claims = self._claims()
        provider = tuple(
            feed_acts.ProviderLevel(reason, self.rng.choice((-1, 1)) * self._cents())
            for reason in self.rng.sample(("WO", "FB", "L6"), self.rng.choice((0, 0, 1)))
        )
        return feed_acts.PostRemittance(
            payment_key=f"remittance {self.made}",
            content_hash=b"hash",
            method="eft",
            amount_cents=sum(c.paid_cents for c in claims) - sum(row.amount_cents for row in provider),
            deposit_date=self.today,
            check_number=f"EFT{self.made}",
            payer_name="Example Health Plan",
            payer_ids=("12345",),
            feed_id=self.feed_id,
            item_key="ST 1",
            provider_level=provider,
            claims=claims,
            more_claims=self.rng.random() < 0.3,
            location_id=self.rng.choice([None, *self.locations]),
        )

    def more_claims(self) -> acts.Act:
        first = self.rng.choice([*self.remittances, None])
        if first is None:
            return self.remittance()
        if self.rng.random() < 0.3:
            return feed_acts.LocateRemittance(first.payment_key, self.rng.choice([None, *self.locations]))
        return feed_acts.ApplyRemittance(first.payment_key, self.feed_id, "ST 1", self._claims())

    # -- pieces ------------------------------------------------------------------------------------------------

    def _poster(self) -> UUID:
        if not self.posters:
            self.posters = [UUID(int=self.rng.getrandbits(128), version=4) for _ in range(2)]
        return self.rng.choice(self.posters)

    def _emr(self, kind: str, words: dict[str, Any]) -> feed_acts.EmrDocument:
        external_id = self.rng.choice(("one", "two"))
        version = max(1, self.versions.get((kind, external_id), 0) + self.rng.choice((-1, 0, 1, 1)))
        self.versions[kind, external_id] = max(version, self.versions.get((kind, external_id), 0))
        deleted, withheld = self.rng.choice(((False, None),) * 5 + ((True, None), (False, "zero_amount")))
        gone = deleted or withheld
        account = self.rng.choice(["EMR-1", *(patient["account_number"] for patient in self.patients)])
        act = feed_acts.EmrDocument(
            source=SOURCE,
            kind=kind,
            external_id=external_id,
            external_version=version,
            clinic=f"clinic-{self.rng.choice(self.locations)}",
            content_hash=b"",
            deleted=deleted,
            withheld=withheld,
            person=None if gone else feed_acts.EmrPerson(account, "Pat", "Doe", date(1980, 2, 29)),
            words=None if gone else words,
        )
        return replace(act, content_hash=hashlib.sha256(repr(act).encode()).digest())

    def _claims(self) -> tuple[feed_acts.RemittanceClaim, ...]:
        claims = []
        for number in range(self.rng.choice((1, 1, 2))):
            known = [c for c in self.charges.values() if c is not None and c["amount_cents"] > 0]
            if not known:
                break
            charge = self.rng.choice(known)
            (account,) = [p["account_number"] for p in self.patients if p["id"] == charge["patient_id"]] or ("nobody",)
            line = self._line(charge)
            sign = self.rng.choice((1, 1, 1, -1))
            status = self.rng.choice(("1", "1", "2", "4", "25")) if sign == 1 else "22"
            claims.append(
                feed_acts.RemittanceClaim(
                    claim_id=account,
                    payer_control_number=self.rng.choice((f"ICN{self.made}-{number}", "ICN", "")),
                    status=status,
                    charge_cents=sign * line.charge_cents,
                    paid_cents=sign * line.paid_cents,
                    date_of_service=line.date_of_service,
                    lines=(
                        replace(
                            line,
                            charge_cents=sign * line.charge_cents,
                            paid_cents=sign * line.paid_cents,
                            adjustments=tuple((g, r, sign * cents) for g, r, cents in line.adjustments),
                        ),
                    ),
                )
            )
        return tuple(claims)

    def _line(self, charge: Mapping[str, Any]) -> feed_acts.RemittanceLine:
        rest = charge["amount_cents"]
        paid = self.rng.choice((0, rest // 2, rest))
        rest -= paid
        adjustments = []
        for group, reason in self.rng.sample((("CO", "45"), ("PR", "2"), ("OA", "23"), ("CO", "97"), ("CR", "9")), 2):
            cents = rest // 2 if self.rng.random() < 0.5 else rest
            rest -= cents
            if cents:
                adjustments.append((group, reason, cents))
        day = charge["date_of_service"]
        return feed_acts.RemittanceLine(
            ordinal=1,
            procedure_code=charge["procedure_code"],
            submitted_code=None,
            modifiers=(),
            date_of_service=day if isinstance(day, date) else date.fromisoformat(day),
            charge_cents=charge["amount_cents"],
            paid_cents=paid,
            control_number=None,
            adjustments=tuple(adjustments),
        )

    def _settlement(self, charges: Sequence[Any]) -> tuple[tuple[acts.Application, ...], tuple[acts.Adjustment, ...]]:
        ids = [self._id(one) for one in charges]
        adjusted = [one for one in ids if self.rng.random() < 0.4]
        return (
            tuple(acts.Application(one, self._cents()) for one in ids),
            tuple(self._adjustment(one) for one in adjusted),
        )

    def _adjustment(self, charge_id: UUID) -> acts.Adjustment:
        group, reason = self.rng.choice((("CO", "45"), ("PR", "1"), ("OA", "18"), ("PI", "B")))
        return acts.Adjustment(charge_id, group, reason, self._cents())

    def _charge(self) -> UUID:
        return self._id(self.rng.choice(list(self.charges)))

    def _payment(self) -> UUID:
        known = list(self.payments)
        return self._id(self.rng.choice(known)) if known else UUID(int=7)

    def _cents(self) -> int:
        return self.rng.choice((1, 1_000, 2_500, 5_000, 10_000, self.rng.randrange(1, 12_000)))

    @staticmethod
    def _id(value: Any) -> UUID:
        return value if isinstance(value, UUID) else UUID(value)


@dataclass(slots=True)
class Memory:
    """Books in memory: what the write path does, without a database."""

    books: Books
    journal: Journal = field(default_factory=Journal)
    refused: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, clerk: Clerk) -> Memory:
        """Empty books of the clerk's company."""
        locations = {one: Location(one, f"clinic-{one}", True) for one in clerk.locations}
        return cls(Books(clerk.company_id, 0, NOW, clerk.today, NOW + timedelta(days=1), locations=locations))

    def post(self, command: acts.Command) -> dict[str, Any] | Problem:
        """The document, or the problem."""
        try:
            return decide(self.books, self.journal, command)
        except Problem as problem:
            self.refused.append(problem.code)
            return problem

    def work(self, clerk: Clerk, times: int, check: Callable[[], None] | None = None) -> None:
        """Post so many commands of the clerk's."""
        for _ in range(times):
            command = clerk.command()
            answer = self.post(command)
            if not isinstance(answer, Problem):
                clerk.learn(command, answer)
            if check:
                check()
