"""One posting while it is being made: one company version, its documents and its transfers.

`Draft.move` is the one place where money moves. It records the transfer, changes the balances in memory, and derives
from the transfer's two accounts what the balancing tables must add: they cannot disagree with the books.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from services.ledger.domain.books import (
    PATIENT,
    PAYER,
    RECEIVABLES,
    Books,
    Charge,
    LineKey,
    Lines,
    Patient,
    Payer,
    Payment,
    Physician,
    Words,
)
from services.ledger.domain.changes import Changes, PartKey, parts_of
from services.ledger.domain.journal import Journal
from shared.ids import uuid7


class Draft:
    """Opened by a command that was accepted, closed into the journal."""

    def __init__(self, books: Books, journal: Journal, kind: str, actor_id: UUID, correlation_id: str) -> None:
        books.version += 1
        self.books, self.journal, self.kind = books, journal, kind
        self.version = books.version
        self.posting_id = uuid7()
        self.correlation_id = correlation_id
        self._ordinal = 0
        self._changes = Changes()
        journal.add(
            "posting",
            company_id=books.company_id,
            version=self.version,
            posting_id=self.posting_id,
            kind=kind,
            actor_id=actor_id,
            correlation_id=correlation_id,
            posted_at=books.now,
            posting_date=books.today,
        )

    def close(self) -> None:
        """Hand the posting, as `shared.contracts.ledger_events.Posting`, to the company's next event."""
        named = {"version": self.version, "posting_id": self.posting_id, "kind": self.kind}
        named["correlation_id"] = self.correlation_id
        self.journal.events.append({**named, "posted_at": self.books.now, **self._changes.told()})

    # -- documents ---------------------------------------------------------------------------------------------

    def patient(self, patient: Patient) -> None:
        self.books.patients[patient.patient_id] = patient
        self._changes.patients.append(patient)
        self.journal.keep("patient", patient.patient_id, company_id=self.books.company_id, **_row(patient))

    def payer(self, payer: Payer) -> None:
        self.books.payers[payer.payer_id] = payer
        self._changes.payers.append(payer)
        self.journal.keep("payer", payer.payer_id, company_id=self.books.company_id, **_row(payer))

    def physician(self, physician: Physician) -> None:
        self.books.physicians[physician.referring_physician_id] = physician
        key = physician.referring_physician_id
        self.journal.keep("referring_physician", key, company_id=self.books.company_id, **_row(physician))

    def open_charge(self, charge: Charge) -> None:
        self.books.charges[charge.charge_id] = charge
        self.journal.add(
            "charge",
            company_id=self.books.company_id,
            charge_id=charge.charge_id,
            version=self.version,
            posted_at=charge.posted_at,
            source=charge.source,
            external_id=charge.external_id,
            poster_id=charge.poster_id,
        )
        self.revise_charge(charge)

    def correct_charge(self, charge: Charge, **changes: Any) -> None:
        """New words for a charge: what stands under the old words is taken out and put back under the new."""
        self._restate(charge, -1)
        for name, value in changes.items():
            setattr(charge, name, value)
        self._restate(charge, 1)
        self.revise_charge(charge)

    def _restate(self, charge: Charge, sign: int) -> None:
        figures = {
            "charged_cents": sign * (charge.balance_cents + charge.applied_cents + charge.adjusted_cents),
            "applied_cents": sign * charge.applied_cents,
            "adjusted_cents": sign * charge.adjusted_cents,
            "payer_balance_cents": sign * charge.due[PAYER],
            "patient_balance_cents": sign * charge.due[PATIENT],
        }
        self._changes.charge(charge, figures)

    def revise_charge(self, charge: Charge) -> None:
        """Keep the charge's words as they are now."""
        charge.touched_version = self.version
        row = {name: getattr(charge, name) for name in _CHARGE_REVISION}
        ids = {"company_id": self.books.company_id, "charge_id": charge.charge_id, "version": self.version}
        self.journal.keep("charge_revision", (charge.charge_id, self.version), **ids, **row)

    def open_payment(self, payment: Payment) -> None:
        """A receipt appears: it is counted under its words, and its cash is unapplied."""
        self.books.payments[payment.payment_id] = payment
        self.journal.add(
            "payment",
            company_id=self.books.company_id,
            payment_id=payment.payment_id,
            version=self.version,
            posted_at=payment.posted_at,
            posting_date=payment.posting_date,
            poster_id=payment.poster_id,
            affiliation=payment.affiliation,
            source=payment.source,
            external_id=payment.external_id,
            reverses_id=payment.reverses_id,
            refunds_id=payment.refunds_id,
        )
        self._revise_payment(payment)
        self._changes.receipt(payment).count += 1
        self._cash(payment, payment.words.amount_cents)

    def correct(self, payment: Payment, words: Words) -> None:
        """New words for a receipt. What balances under the old words is taken out and put back under the new; a
        changed amount moves cash, a changed method moves all of it, a withdrawn receipt is no longer counted."""
        old = payment.words
        stays = old.amount_cents if old.method == words.method else 0
        self._cash(payment, stays - old.amount_cents)
        leaving = self._changes.receipt(payment)
        leaving.count -= not old.withdrawn
        leaving.add(self._parts(payment).items(), -1)
        payment.words = words
        self._revise_payment(payment)
        arriving = self._changes.receipt(payment)
        arriving.count += not words.withdrawn
        arriving.add(self._parts(payment).items())
        self._cash(payment, words.amount_cents - stays)

    def _parts(self, payment: Payment) -> dict[PartKey, int]:
        """The receipt's parts as they stand: what its net transfers add up to."""
        parts: dict[PartKey, int] = {}
        for key, cents in payment.lines.net.items():
            charge = self.books.charges[key.charge_id] if key.charge_id else None
            for part, signed in parts_of(key, cents, charge, payment.words):
                parts[part] = parts.get(part, 0) + signed
        return parts

    def _revise_payment(self, payment: Payment) -> None:
        payment.touched_version = self.version
        ids = {"company_id": self.books.company_id, "payment_id": payment.payment_id, "version": self.version}
        self.journal.keep("payment_revision", (payment.payment_id, self.version), **ids, **_row(payment.words))

    # -- money -------------------------------------------------------------------------------------------------

    def move(
        self,
        debit: str,
        credit: str,
        cents: int,
        *,
        detail: str = "",
        charge: Charge | None = None,
        payment: Payment | None = None,
    ) -> None:
        """One transfer of `cents`; a negative amount is the same transfer with its sides swapped, zero is none."""
        if cents < 0:
            debit, credit, cents = credit, debit, -cents
        if cents == 0:
            return
        self._ordinal += 1
        charge_id = charge.charge_id if charge else None
        self.journal.rows["transfer"].append(
            {
                "company_id": self.books.company_id,
                "version": self.version,
                "ordinal": self._ordinal,
                "debit": debit,
                "credit": credit,
                "detail": detail,
                "charge_id": charge_id,
                "payment_id": payment.payment_id if payment else None,
                "amount_cents": cents,
            }
        )
        if charge:
            self._charge_moved(charge, debit, credit, cents)
        if payment:
            key = LineKey(debit, credit, detail, charge_id)
            if charge_id in self.books.settled:
                self.books.settled[charge_id].setdefault(payment.words.payer_id, Lines()).add(key, cents)
            payment.touched_version = self.version
            payment.lines.add(key, cents)
            self._changes.receipt(payment).add(parts_of(key, cents, charge, payment.words))

    def _charge_moved(self, charge: Charge, debit: str, credit: str, cents: int) -> None:
        charge.touched_version = self.version
        figures: dict[str, int] = {}
        for account, signed in ((debit, cents), (credit, -cents)):
            if account in RECEIVABLES:
                charge.due[account] += signed
                figures[_BALANCES[account]] = signed
            elif account == "unapplied":
                charge.applied_cents += signed
                figures["applied_cents"] = signed
            elif account == "adjustment":
                charge.adjusted_cents += signed
                figures["adjusted_cents"] = signed
            elif account == "revenue":
                figures["charged_cents"] = -signed
        self._changes.charge(charge, figures)

    def _cash(self, payment: Payment, cents: int) -> None:
        self.move("cash", "unapplied", cents, detail=payment.words.method, payment=payment)


_BALANCES = {PAYER: "payer_balance_cents", PATIENT: "patient_balance_cents"}
_CHARGE_REVISION = (
    "state",
    "patient_id",
    "location_id",
    "payer_id",
    "date_of_service",
    "procedure_code",
    "modifiers",
    "units",
    "diagnosis_codes",
    "amount_cents",
)


def _row(value: Any) -> dict[str, Any]:
    """A frozen dataclass as a row: its fields are the table's columns."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
