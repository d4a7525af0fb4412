"""What a posting changes for whoever keeps balancing tables: receipts and charges, each under its words.

Derived from transfers, so the events cannot disagree with the books (`shared.contracts.ledger_events`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from services.ledger.domain.books import RECEIVABLES, Charge, LineKey, Patient, Payer, Payment, Words

_TOLD = ("deposit_date", "method", "location_id", "payer_id", "patient_id", "batch_number", "check_number")
_PART_FIELDS = (
    "kind",
    "patient_id",
    "charge_id",
    "charge_location_id",
    "procedure_code",
    "group_code",
    "reason_code",
    "amount_cents",
)
_CHARGE_WORDS = ("charge_id", "patient_id", "location_id", "payer_id", "date_of_service", "procedure_code")

_words_of = attrgetter(*_CHARGE_WORDS)
_placed = attrgetter("patient_id", "charge_id", "location_id", "procedure_code")

PartKey = tuple[Any, ...]
"""Values of `_PART_FIELDS`, but for the amount."""


@dataclass(slots=True)
class ReceiptChange:
    """Changes of one receipt under one set of words."""

    payment: Payment
    words: Words
    count: int = 0
    parts: dict[PartKey, int] = field(default_factory=dict)

    def add(self, parts: Iterable[tuple[PartKey, int]], sign: int = 1) -> None:
        for key, cents in parts:
            self.parts[key] = self.parts.get(key, 0) + sign * cents

    def told(self) -> dict[str, Any]:
        payment = self.payment
        return {
            "payment_id": payment.payment_id,
            "receipt_version": payment.version,
            "posted_at": payment.posted_at,
            "posting_date": payment.posting_date,
            "poster_id": payment.poster_id,
            "affiliation": payment.affiliation,
            "source": payment.source,
            **{name: getattr(self.words, name) for name in _TOLD},
            "count": self.count,
            "parts": [
                dict(zip(_PART_FIELDS, (*part, cents), strict=True)) for part, cents in self.parts.items() if cents
            ],
        }


class Changes:
    """Everything that one posting tells."""

    def __init__(self) -> None:
        self._receipts: list[ReceiptChange] = []
        self._charges: dict[tuple[Any, ...], dict[str, int]] = {}
        self.patients: list[Patient] = []
        self.payers: list[Payer] = []

    def receipt(self, payment: Payment) -> ReceiptChange:
        """The change of a receipt under the words it has now."""
        for change in self._receipts:
            if change.payment is payment and _same_told(change.words, payment.words):
                return change
        self._receipts.append(ReceiptChange(payment, payment.words))
        return self._receipts[-1]

    def charge(self, charge: Charge, figures: dict[str, int]) -> None:
        """Add to the figures of a charge under the words it has now."""
        words = _words_of(charge)
        known = self._charges.get(words)
        if known is None:
            self._charges[words] = figures
            return
        for name, cents in figures.items():
            known[name] = known.get(name, 0) + cents

    def told(self) -> dict[str, Any]:
        """The four lists of `shared.contracts.ledger_events.Posting`."""
        return {
            "receipts": [told for change in self._receipts if (told := change.told())["count"] or told["parts"]],
            "charges": [
                dict(zip(_CHARGE_WORDS, words, strict=True)) | figures
                for words, figures in self._charges.items()
                if any(figures.values())
            ],
            "patients": [
                {name: getattr(p, name) for name in ("patient_id", "account_number", "first_name", "last_name")}
                for p in self.patients
            ],
            "payers": [
                {name: getattr(p, name) for name in ("payer_id", "code", "name", "payer_class")} for p in self.payers
            ],
        }


def _same_told(one: Words, other: Words) -> bool:
    return one is other or all(getattr(one, name) == getattr(other, name) for name in _TOLD)


def parts_of(key: LineKey, cents: int, charge: Charge | None, words: Words) -> list[tuple[PartKey, int]]:
    """What one transfer of a receipt adds to its parts."""
    found: list[tuple[PartKey, int]] = []
    for account, other, signed in ((key.debit, key.credit, cents), (key.credit, key.debit, -cents)):
        if account == "unapplied":
            found.append((("unapplied", words.patient_id, None, None, None, None, None), -signed))
            if other in RECEIVABLES and charge:
                found.append((("applied", *_placed(charge), None, None), signed))
            elif other == "provider_level":
                found.append((("provider_level", None, None, None, None, None, key.detail), signed))
        elif account == "adjustment" and charge:
            group, _, reason = key.detail.partition(":")
            found.append((("adjusted", *_placed(charge), group, reason), signed))
    return found
