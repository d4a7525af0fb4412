"""What a batch writes: rows for the tables, and the postings that leave as an event.

`Draft.move` is the one place where money moves. It records the transfer, changes the balances in memory, and derives
from the transfer's two accounts what the balancing tables must add: they cannot disagree with the books.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from services.ledger.domain.books import (
    PATIENT,
    PAYER,
    RECEIVABLES,
    Books,
    Charge,
    LineKey,
    Patient,
    Payer,
    Payment,
    Physician,
    Words,
)
from shared.ids import uuid7

TABLES = (
    "posting",
    "payer",
    "patient",
    "referring_physician",
    "charge",
    "charge_revision",
    "payment",
    "payment_revision",
    "transfer",
    "batch",
    "idempotency",
    "feed_document",
    "remittance",
    "remittance_line",
    "feed_item",
    "feed_exception",
)


class Journal:
    """Rows by table, in the order in which they must be inserted."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
        self.events: list[dict[str, Any]] = []
        """Postings in version order, for the company's event."""

    @property
    def any_rows(self) -> bool:
        return any(self.rows.values())

    def add(self, table: str, **row: Any) -> None:
        self.rows[table].append(row)


@dataclass(slots=True)
class _Receipt:
    """Changes of one receipt under one set of words, gathered for the event."""

    payment: Payment
    words: Words
    count: int = 0
    parts: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def add(self, key: tuple[Any, ...], cents: int) -> None:
        self.parts[key] = self.parts.get(key, 0) + cents


class Draft:
    """One posting: one company version. Opened by a command that was accepted, closed into the journal."""

    def __init__(self, books: Books, journal: Journal, kind: str, actor_id: UUID, correlation_id: str) -> None:
        books.version += 1
        self.books, self.journal, self.kind = books, journal, kind
        self.version = books.version
        self.posting_id = uuid7()
        self._ordinal = 0
        self._receipts: list[_Receipt] = []
        self._charges: dict[tuple[Any, ...], dict[str, int]] = {}
        self._patients: list[Patient] = []
        self._payers: list[Payer] = []
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

    # -- documents ---------------------------------------------------------------------------------------------

    def patient(self, patient: Patient) -> None:
        self.books.patients[patient.patient_id] = patient
        self._patients.append(patient)
        self.journal.add("patient", company_id=self.books.company_id, **_row(patient))

    def payer(self, payer: Payer) -> None:
        self.books.payers[payer.payer_id] = payer
        self._payers.append(payer)
        self.journal.add("payer", company_id=self.books.company_id, **_row(payer))

    def physician(self, physician: Physician) -> None:
        self.books.physicians[physician.referring_physician_id] = physician
        self.journal.add("referring_physician", company_id=self.books.company_id, **_row(physician))

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
        figures = self._charges.setdefault(_charge_words(charge), {})
        charged = charge.balance_cents + charge.applied_cents + charge.adjusted_cents
        for name, cents in (
            ("charged_cents", charged),
            ("applied_cents", charge.applied_cents),
            ("adjusted_cents", charge.adjusted_cents),
            ("payer_balance_cents", charge.due[PAYER]),
            ("patient_balance_cents", charge.due[PATIENT]),
        ):
            _add(figures, name, sign * cents)

    def revise_charge(self, charge: Charge) -> None:
        """Keep the charge's words as they are now."""
        charge.touched_version = self.version
        row = {name: getattr(charge, name) for name in _CHARGE_REVISION}
        key = {"company_id": self.books.company_id, "charge_id": charge.charge_id, "version": self.version}
        self.journal.add("charge_revision", **key, **row)

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
        self._receipt(payment).count += 1
        self._cash(payment, payment.words.amount_cents)

    def correct(self, payment: Payment, words: Words) -> None:
        """New words for a receipt. What balances under the old words is taken out and put back under the new; a
        changed amount moves cash, a withdrawn receipt is no longer counted."""
        old, parts = payment.words, self._parts(payment)
        if _told(old) != _told(words) or old.withdrawn != words.withdrawn:
            leaving = self._receipt(payment)
            leaving.count -= 0 if old.withdrawn else 1
            for key, cents in parts.items():
                leaving.add(key, -cents)
            payment.words = replace(words, amount_cents=old.amount_cents)
            arriving = self._receipt(payment)
            arriving.count += 0 if words.withdrawn else 1
            for key, cents in self._parts(payment).items():
                arriving.add(key, cents)
        payment.words = words
        self._revise_payment(payment)
        self._cash(payment, words.amount_cents - old.amount_cents)

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
        self.journal.add(
            "transfer",
            company_id=self.books.company_id,
            version=self.version,
            ordinal=self._ordinal,
            debit=debit,
            credit=credit,
            detail=detail,
            charge_id=charge.charge_id if charge else None,
            payment_id=payment.payment_id if payment else None,
            amount_cents=cents,
        )
        if charge:
            self._charge_moved(charge, debit, credit, cents)
        if payment:
            self._payment_moved(
                payment, LineKey(debit, credit, detail, charge.charge_id if charge else None), cents, charge
            )

    def _charge_moved(self, charge: Charge, debit: str, credit: str, cents: int) -> None:
        charge.touched_version = self.version
        figures = self._charges.setdefault(_charge_words(charge), {})
        for account, signed in ((debit, cents), (credit, -cents)):
            if account in RECEIVABLES:
                charge.due[account] += signed
                _add(figures, f"{account.removeprefix('receivable_')}_balance_cents", signed)
            elif account == "unapplied":
                charge.applied_cents += signed
                _add(figures, "applied_cents", signed)
            elif account == "adjustment":
                charge.adjusted_cents += signed
                _add(figures, "adjusted_cents", signed)
            elif account == "revenue":
                _add(figures, "charged_cents", -signed)

    def _payment_moved(self, payment: Payment, key: LineKey, cents: int, charge: Charge | None) -> None:
        payment.touched_version = self.version
        payment.lines.add(key, cents)
        receipt = self._receipt(payment)
        for part, signed in _parts_of(key, cents, charge, payment.words):
            receipt.add(part, signed)

    def _cash(self, payment: Payment, cents: int) -> None:
        self.move("cash", "unapplied", cents, detail=payment.words.method, payment=payment)

    def _parts(self, payment: Payment) -> dict[tuple[Any, ...], int]:
        """The receipt's parts as they stand: what its net transfers add up to."""
        parts: dict[tuple[Any, ...], int] = {}
        for key, cents in payment.lines.net.items():
            charge = self.books.charges[key.charge_id] if key.charge_id else None
            for part, signed in _parts_of(key, cents, charge, payment.words):
                parts[part] = parts.get(part, 0) + signed
        return parts

    def _revise_payment(self, payment: Payment) -> None:
        payment.touched_version = self.version
        key = {"company_id": self.books.company_id, "payment_id": payment.payment_id, "version": self.version}
        self.journal.add("payment_revision", **key, **_row(payment.words))

    def _receipt(self, payment: Payment) -> _Receipt:
        for receipt in reversed(self._receipts):
            if receipt.payment is payment:
                if _told(receipt.words) == _told(payment.words):
                    return receipt
                break
        self._receipts.append(_Receipt(payment, payment.words))
        return self._receipts[-1]

    # -- event -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Hand the posting, as `shared.contracts.ledger_events.Posting`, to the company's next event."""
        self.journal.events.append(self._event())

    def _event(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "posting_id": self.posting_id,
            "kind": self.kind,
            "posted_at": self.books.now,
            "receipts": [_receipt_change(receipt) for receipt in self._receipts],
            "charges": [
                dict(zip(_CHARGE_WORDS, words, strict=True)) | figures
                for words, figures in self._charges.items()
                if any(figures.values())
            ],
            "patients": [
                {name: getattr(p, name) for name in ("patient_id", "account_number", "first_name", "last_name")}
                for p in self._patients
            ],
            "payers": [
                {name: getattr(p, name) for name in ("payer_id", "code", "name", "payer_class")} for p in self._payers
            ],
        }


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
_CHARGE_WORDS = ("charge_id", "patient_id", "location_id", "payer_id", "date_of_service", "procedure_code")
_PART_FIELDS = ("kind", "patient_id", "charge_id", "charge_location_id", "procedure_code", "group_code", "reason_code")


def _charge_words(charge: Charge) -> tuple[Any, ...]:
    return tuple(getattr(charge, name) for name in _CHARGE_WORDS)


def _parts_of(key: LineKey, cents: int, charge: Charge | None, words: Words) -> list[tuple[tuple[Any, ...], int]]:
    """What one transfer of a receipt adds to its parts (keys in the order of `_PART_FIELDS`)."""
    unapplied = ("unapplied", words.patient_id, None, None, None, None, None)
    found: list[tuple[tuple[Any, ...], int]] = []
    for account, other, signed in ((key.debit, key.credit, cents), (key.credit, key.debit, -cents)):
        if account == "unapplied":
            found.append((unapplied, -signed))
            if other in RECEIVABLES and charge:
                found.append((("applied", *_under(charge), None, None), signed))
            elif other == "provider_level":
                found.append((("provider_level", None, None, None, None, None, key.detail), signed))
        elif account == "adjustment" and charge:
            group, _, reason = key.detail.partition(":")
            found.append((("adjusted", *_under(charge), group, reason), signed))
    return found


def _under(charge: Charge) -> tuple[UUID, UUID, UUID, str]:
    return charge.patient_id, charge.charge_id, charge.location_id, charge.procedure_code


def _told(words: Words) -> tuple[Any, ...]:
    """The words that travel with a receipt's figures."""
    return tuple(getattr(words, name) for name in _TOLD)


_TOLD = ("deposit_date", "method", "location_id", "payer_id", "patient_id", "batch_number", "check_number")


def _receipt_change(receipt: _Receipt) -> dict[str, Any]:
    payment = receipt.payment
    return {
        "payment_id": payment.payment_id,
        "receipt_version": payment.version,
        "posted_at": payment.posted_at,
        "posting_date": payment.posting_date,
        "poster_id": payment.poster_id,
        "affiliation": payment.affiliation,
        "source": payment.source,
        **{name: getattr(receipt.words, name) for name in _TOLD},
        "count": receipt.count,
        "parts": [
            {**dict(zip(_PART_FIELDS, part, strict=True)), "amount_cents": cents}
            for part, cents in receipt.parts.items()
            if cents
        ],
    }


def _add(figures: dict[str, int], name: str, cents: int) -> None:
    figures[name] = figures.get(name, 0) + cents


def _row(value: Any) -> dict[str, Any]:
    """A frozen dataclass as a row: its fields are the table's columns."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
