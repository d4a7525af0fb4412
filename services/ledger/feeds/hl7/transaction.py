"""One FT1 (chapter 6.5.1) as a transaction, by the profile of its sender."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Final, cast

from services.ledger.feeds.hl7.model import PAYMENTS, Code, Insurance, Kind, Problem, Profile, Transaction
from services.ledger.feeds.hl7.reader import Segment
from services.ledger.feeds.hl7.values import cents, day, number

MAX_KEY: Final = 200
"""Values that become keys: longer ones would not fit an index (HL7 itself allows 199 for MSH-10, 427 for FT1-2)."""
MAX_UNITS: Final = 999
"""As of a charge by the API."""

_KINDS: Final = frozenset(("CG", "CD", "PY", "AJ", "CO"))
_ONE: Final = Decimal(1)


def check_key(problems: list[Problem], value: str, segment: str, sequence: int, position: int) -> str:
    """The value, with a problem if it is too long for a key."""
    if len(value) > MAX_KEY:
        detail = f"The value is longer than {MAX_KEY} characters"
        problem = Problem("too_long", segment, sequence, position, detail)
        if problem not in problems:  # one field may be asked for twice
            problems.append(problem)
    return value


def coded(segment: Segment, raw: str) -> str:
    """The code of a CE or CWE, or its alternate code: local tables may come first or second (chapter 2A)."""
    return segment.syntax.part(raw) or segment.syntax.part(raw, 4) if raw else ""


def all_coded(segment: Segment, position: int) -> tuple[str, ...]:
    """The codes of a repeating field."""
    return tuple([code for raw in segment.repetitions(position) if (code := coded(segment, raw))])


@dataclass(slots=True)
class Transactions:
    """Reads the transactions of one message, collecting what is wrong with them."""

    profile: Profile
    sender: tuple[str, str]
    visit: str
    """PV1-19, PID-18, or the patient's account number: part of a line's key when it has no FT1-2."""
    problems: list[Problem]
    stated_cents: int = 0
    unread: int = 0
    """Those that could not be read, but for charges and what is done to them."""
    _seen: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def read(
        self, place: int, ft1: Segment, diagnoses: Sequence[str], insurance: tuple[Insurance, ...]
    ) -> Transaction | None:
        """The FT1 at this place in the message; None with problems."""
        text = ft1.text
        kind = dict(self.profile.kinds).get(text(6), text(6).upper())
        if kind not in _KINDS:
            detail = "The transaction type is neither in table 0017 nor agreed with this sender"
            self._problem("unknown_kind", place, 6, detail)
            self.unread += 1
            return None
        faultless = len(self.problems)
        transaction_id = check_key(self.problems, text(2), "FT1", place, 2)
        code = check_key(self.problems, coded(ft1, ft1.raw(7)), "FT1", place, 7)
        procedure = coded(ft1, ft1.raw(25)) or (code if kind in ("CG", "CD") else "")
        if kind == "CG" and not procedure:
            self._problem("missing_field", place, 7, "The charge has no code")
        served = self._day(ft1, place, 4)
        if not text(4):
            self._problem("missing_field", place, 4, "The transaction has no date")
        posted = self._day(ft1, place, 5)
        quantity = self._quantity(text(10), kind, place)
        amount = self._amount(ft1, place, quantity)
        void = self._void(kind, quantity < 0 or (amount or 0) < 0, transaction_id, place)
        if amount is None and not void and len(self.problems) == faultless:
            self._priced(kind, place)
        if len(self.problems) > faultless or served is None:
            self.unread += kind in PAYMENTS
            return None
        modifiers = all_coded(ft1, 26)
        own = text(4)[:8], code or procedure, "~".join(modifiers), text(1) or str(place)
        key = self._own_key(transaction_id, own, void, place)
        amount = self._signed(kind, void, amount, quantity)
        if kind in PAYMENTS:
            self.stated_cents += amount or 0
        return Transaction(
            sequence=place,
            set_id=text(1),
            transaction_id=transaction_id,
            key=key,
            batch=text(3),
            kind=cast("Kind", kind),
            void=void,
            service_date=served,
            posting_date=posted,
            code=code,
            procedure=procedure,
            modifiers=modifiers,
            units=abs(int(quantity)) or 1,
            amount_cents=amount,
            diagnoses=all_coded(ft1, 19) or tuple(diagnoses),
            payment_reference=text(30),
            transaction_reference=check_key(self.problems, text(31), "FT1", place, 31),
            insurance=insurance,
            description=text(8) or text(7, 2),
            reference_key=self._key(text(31)) if text(31) else "",
        )

    def _problem(self, code: Code, place: int, position: int, message: str) -> None:
        self.problems.append(Problem(code, "FT1", place, position, message))

    def _day(self, ft1: Segment, place: int, position: int) -> date | None:
        """FT1-4 is a date, a time, or a range of them (2.7): then its first day."""
        value = ft1.text(position)
        if not value:
            return None
        try:
            return day(value)
        except ValueError:
            self._problem("bad_date", place, position, "The value is not a date in the form YYYYMMDD")
            return None

    def _quantity(self, value: str, kind: str, place: int) -> Decimal:
        """FT1-10, one when absent. A payment of no units is still one payment."""
        if not value:
            return _ONE
        try:
            quantity = number(value)
        except ValueError:
            self._problem("bad_quantity", place, 10, "The quantity is not a number")
            return _ONE
        if kind in ("CG", "CD") and not (quantity == int(quantity) and 1 <= abs(quantity) <= MAX_UNITS):
            self._problem("bad_quantity", place, 10, f"The units of a charge are 1 to {MAX_UNITS}, without a fraction")
        return quantity or _ONE

    def _amount(self, ft1: Segment, place: int, quantity: Decimal) -> int | None:
        """FT1-11, the extended amount; else FT1-12, the amount of one unit, times the quantity.

        CP is amount, currency, then the type of price, whose codes have two letters (table 0205): three letters there
        are a currency in the wrong place. What is not in dollars must not be booked as dollars.
        """
        for position, factor in ((11, _ONE), (12, quantity)):
            value = ft1.text(position)
            if not value:
                continue
            currency, kind = ft1.text(position, 1, 2) or "USD", ft1.text(position, 2)
            if currency.upper() != "USD" or (len(kind) == 3 and kind.upper() != "USD"):
                self._problem("bad_currency", place, position, "The amount is not in US dollars")
                return None
            try:
                return cents(number(value) * factor)
            except ValueError:
                self._problem("bad_amount", place, position, "The value is not an amount of dollars and whole cents")
                return None
        return None

    def _void(self, kind: str, negative: bool, transaction_id: str, place: int) -> bool:
        """Whether this takes back a charge. A way that is not agreed is refused: read as anything else, it would be
        wrong by twice its amount."""
        agreed = self.profile.voids
        if kind == "CD":
            if "cd_same_id" not in agreed:
                self._problem("void_not_agreed", place, 6, "Credits (CD) are not agreed with this sender")
            elif not transaction_id:
                self._problem("missing_field", place, 2, "The credit does not name the transaction it takes back")
            return True
        if kind == "CG" and negative and "negative_quantity" not in agreed:
            self._problem("void_not_agreed", place, 10, "Negative charges are not agreed with this sender")
        return kind == "CG" and negative

    def _priced(self, kind: str, place: int) -> None:
        if kind != "CG" or self.profile.missing_amount == "refuse":
            self._problem("missing_amount", place, 11, "The transaction has no amount")

    def _signed(self, kind: str, void: bool, amount: int | None, quantity: Decimal) -> int | None:
        """A negative quantity takes back whatever FT1-11 says, which senders leave positive beside it."""
        if amount is None or void:
            return amount and abs(amount)
        if kind == "AJ" and self.profile.adjustments == "negative_reduces":
            return -amount
        return -abs(amount) if quantity < 0 else amount

    def _key(self, transaction_id: str, *own: str) -> str:
        """The line's name among all of its sender's; a name too long for an index is replaced by its digest."""
        parts = (*self.sender, transaction_id) if transaction_id else (*self.sender, self.visit, *own)
        key = "|".join([part.replace("\\", "\\E\\").replace("|", "\\F\\") for part in parts])
        return key if len(key) <= MAX_KEY else f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"

    def _own_key(self, transaction_id: str, own: tuple[str, ...], void: bool, place: int) -> str:
        """The key of a line, where a transaction id comes once in a message. Without one, equal lines are as many as
        there are: the second of them is the second whenever the message is sent."""
        key = self._key(transaction_id, *own)
        self._seen[key, void] += 1
        occurrence = self._seen[key, void]
        if occurrence > 1 and transaction_id:
            self._problem("duplicate_key", place, 2, "The message holds the same transaction twice")
        return key if occurrence == 1 or transaction_id else self._key("", *own, str(occurrence))
