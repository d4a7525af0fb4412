"""What is remembered of companies' books from one batch to the next, so that most postings need to load nothing.

Remembered are a company's locations and its count of writes; no money, no document, no key. A batch of new receipts and
charges is decided on that alone, and its append proves it: foreign keys prove the patients and payers it refers to, the
index of keys that none was used before, and the count of writes that nobody else wrote, be it to the books or to the
directory. So remembered books may accept, but never refuse: what they would refuse is decided again on loaded ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from services.ledger.domain.books import Books
from services.ledger.domain.wants import Wants

_SECONDS: Final = 10.0
_COLD_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Kept:
    books: Books
    loaded_at: float
    """On the monotonic clock: `books.now` is the database's at that moment."""


class WarmBooks:
    """The remembered books of companies that were written to a moment ago."""

    def __init__(self) -> None:
        self._kept: dict[UUID, _Kept] = {}
        self._cold_until = 0.0

    def of(self, wants: Mapping[UUID, Wants]) -> dict[UUID, Books]:
        """Books, as of now, of those companies whose remembered ones will do."""
        found, now = {}, time.monotonic()
        for company_id, wanted in wants.items() if now >= self._cold_until else ():
            kept = self._kept.get(company_id)
            if kept is None or now - kept.loaded_at > _SECONDS or not wanted.only_named(kept.books.locations):
                continue
            if kept.books.waits and wanted.by_kind["charged_patient"]:
                continue  # Perhaps for one of these charges.
            # The database's clock, as it went on since: all that is posted in a company is dated by one clock.
            moment = kept.books.now + timedelta(seconds=now - kept.loaded_at)
            if moment < kept.books.day_ends:
                found[company_id] = _remembered(kept.books, moment, kept.books.writes)
        return found

    def keep(self, appended: Iterable[Books]) -> None:
        """Remember books as an append has just left them; nobody else wrote to them before it."""
        for books in appended:
            kept = self._kept.get(books.company_id) if books.remembered else None
            now, loaded_at = (kept.books.now, kept.loaded_at) if kept else (books.now, time.monotonic())
            self._kept[books.company_id] = _Kept(_remembered(books, now, books.writes + 1), loaded_at)

    def forget(self, companies: Iterable[UUID]) -> None:
        """Remember nothing of these, and use nothing for a moment: who does not write alone had better load."""
        for company_id in companies:
            self._kept.pop(company_id, None)
        self._cold_until = time.monotonic() + _COLD_SECONDS


def _remembered(books: Books, now: datetime, writes: int) -> Books:
    return Books(
        books.company_id,
        books.version,
        now,
        books.today,
        books.day_ends,
        writes=writes,
        npis=books.npis,
        locations=books.locations,
        waits=books.waits,
        remembered=True,
    )
