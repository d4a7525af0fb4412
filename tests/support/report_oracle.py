"""What the balancing reports must say, read off `Books`: receipts as documents, in plain Python, without any SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import UUID

from tests.support.ledger_events import Books
from tests.support.receipts import PartKey, Receipt

FIGURES = (
    "payments",
    "amount_cents",
    "applied_cents",
    "adjusted_cents",
    "provider_level_cents",
    "unapplied_cents",
)
Figures = tuple[int, ...]
Key = tuple[Any, ...]

GROUP_COLUMNS = {
    "poster": "poster_id",
    "location": "location_id",
    "source": "source",
    "method": "method",
    "payer": "payer_id",
    "batch": "batch_number",
    "check": "check_number",
    "deposit_date": "deposit_date",
    "posting_date": "posting_date",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about the books, as the reports take it. Empty filters do not limit."""

    by: str = "posting_date"
    first: date = date(2026, 1, 1)
    last: date = date(2026, 12, 31)
    affiliations: tuple[str, ...] = ("practice", "integration")
    words: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    locations: tuple[UUID | None, ...] | None = None
    patients: tuple[UUID, ...] = ()
    procedures: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None

    def receipts(self, receipts: Iterable[Receipt]) -> list[Receipt]:
        return [receipt for receipt in receipts if self._takes(receipt)]

    def _takes(self, receipt: Receipt) -> bool:
        words = receipt.words
        return (
            self.first <= getattr(words, self.by) <= self.last
            and words.affiliation in self.affiliations
            and (self.locations is None or words.location_id in self.locations)
            and all(not allowed or getattr(words, name) in allowed for name, allowed in self.words.items())
            and (self.least is None or receipt.amount_cents >= self.least)
            and (self.most is None or receipt.amount_cents <= self.most)
        )

    def masked(self, part: PartKey) -> bool:
        if self.locations is None or None in self.locations or part.charge is None:
            return False
        return part.charge.location_id not in self.locations

    def patient(self, part: PartKey) -> UUID | None:
        return None if self.masked(part) else part.patient_id

    def procedure(self, part: PartKey) -> str | None:
        return None if self.masked(part) or part.charge is None else part.charge.procedure_code

    def charge(self, part: PartKey) -> UUID | None:
        return None if self.masked(part) or part.charge is None else part.charge.charge_id

    @property
    def parted(self) -> bool:
        return bool(self.patients or self.procedures)

    def parts(self, receipt: Receipt) -> dict[PartKey, int]:
        return {
            part: cents
            for part, cents in receipt.parts.items()
            if (not self.patients or self.patient(part) in self.patients)
            and (not self.procedures or self.procedure(part) in self.procedures)
        }


def figures(parts: dict[PartKey, int], payments: int) -> Figures:
    sums: Counter[str] = Counter()
    for part, cents in parts.items():
        sums[part.kind] += cents
    amount = sums["applied"] + sums["provider_level"] + sums["unapplied"]
    return (payments, amount, sums["applied"], sums["adjusted"], sums["provider_level"], sums["unapplied"])


def added(one: Figures, other: Figures) -> Figures:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def grouped(
    asked: Asked, receipts: Iterable[Receipt], key: Callable[[Receipt, PartKey | None], Key], *, parted: bool
) -> dict[Key, Figures]:
    """Figures by key. Not parted: the key is of the receipt (its part is None), which counts once."""
    found: dict[Key, Figures] = {}
    for receipt in asked.receipts(receipts):
        parts = asked.parts(receipt)
        shares: dict[Key, dict[PartKey, int]] = {} if parted else {key(receipt, None): parts}
        if parted:
            for part, cents in parts.items():
                shares.setdefault(key(receipt, part), {})[part] = cents
        for place, share in shares.items():
            sums = figures(share, 1)
            if parted and not any(sums[1:]):
                continue
            found[place] = added(found.get(place, (0,) * 6), sums)
    return found


def totals(asked: Asked, receipts: Iterable[Receipt]) -> dict[str, int]:
    found = grouped(asked, receipts, lambda receipt, part: (), parted=asked.parted)
    return dict(zip(FIGURES, found.get((), (0,) * 6), strict=True))


def flags(asked: Asked, part: PartKey, *, by_procedure: bool) -> tuple[bool, bool, bool]:
    """unassigned, provider_level, other_location"""
    unapplied = part.kind == "unapplied" and (by_procedure or part.patient_id is None)
    return unapplied, part.kind == "provider_level", asked.masked(part)


def balancing_groups(asked: Asked, receipts: Iterable[Receipt], groups: Sequence[str]) -> dict[Key, Figures]:
    """Rows of `group_by`: the key is the groups' ids in order, then the flags where there are any."""
    by_part = bool({"patient", "procedure_code"} & set(groups))

    def key(receipt: Receipt, part: PartKey | None) -> Key:
        values: list[Any] = []
        for group in groups:
            if part is not None and group == "patient":
                values.append(asked.patient(part))
            elif part is not None and group == "procedure_code":
                values.append(asked.procedure(part))
            else:
                values.append(getattr(receipt.words, GROUP_COLUMNS[group]))
        if part is not None and by_part:
            values += flags(asked, part, by_procedure="procedure_code" in groups)
        return tuple(values)

    return grouped(asked, receipts, key, parted=by_part or asked.parted)


def balancing_payments(asked: Asked, receipts: Iterable[Receipt]) -> dict[Key, Figures]:
    return grouped(asked, receipts, lambda receipt, _: (receipt.payment_id,), parted=asked.parted)


def balancing_cpt(asked: Asked, receipts: Iterable[Receipt]) -> dict[Key, Figures]:
    def key(receipt: Receipt, part: PartKey | None) -> Key:
        assert part is not None
        charge, patient, procedure = asked.charge(part), asked.patient(part), asked.procedure(part)
        return (receipt.payment_id, patient, charge, procedure, *flags(asked, part, by_procedure=True))

    return grouped(asked, receipts, key, parted=True)


def facet(asked: Asked, receipts: Iterable[Receipt], word: str) -> dict[Any, int]:
    rows = grouped(asked, receipts, lambda receipt, _: (getattr(receipt.words, word),), parted=asked.parted)
    return {key[0]: sums[0] for key, sums in rows.items() if sums[0]}


def activity(books: Books, poster: UUID, asked: Asked, level: str, version: int | None = None) -> dict[Key, Figures]:
    """Rows of My Payment Activity by the level's key."""
    receipts = mine(books, poster, version)
    if level in ("batch", "check"):

        def key(receipt: Receipt, _: PartKey | None) -> Key:
            return (receipt.words.batch_number,) if level == "batch" else (receipt.payment_id,)

        return grouped(asked, receipts, key, parted=asked.parted)

    def part_key(_: Receipt, part: PartKey | None) -> Key:
        assert part is not None
        value = asked.patient(part) if level == "patient" else asked.procedure(part)
        return (value, *flags(asked, part, by_procedure=level == "cpt")[:2])

    return grouped(asked, receipts, part_key, parted=True)


def mine(books: Books, poster: UUID, version: int | None = None) -> list[Receipt]:
    return [
        receipt
        for receipt in books.receipts(version)
        if receipt.words.poster_id == poster and receipt.words.affiliation != "integration"
    ]


def of_items(items: Iterable[dict[str, Any]], *columns: str) -> dict[Key, Figures]:
    """A report's items by their key. Fails when two items have the same."""
    found: dict[Key, Figures] = {}
    for item in items:
        key = tuple(item[column] for column in columns)
        assert key not in found, f"two rows of {columns}"
        found[key] = tuple(item[name] for name in FIGURES)
    return found


def plain(rows: dict[Key, Figures]) -> dict[Key, Figures]:
    """Keys as JSON writes them."""
    return {
        tuple(str(value) if isinstance(value, UUID | date) else value for value in key): sums
        for key, sums in rows.items()
    }
