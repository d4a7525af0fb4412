"""The rows that a batch writes, by table, and its postings in version order for the company's event."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

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
FEED_WORK = ("exception_settlement", "emr_totals", "parked", "payer_trace", "claim_statement")
"""What `append_feed_work` takes."""


class Journal:
    """Rows by table, in the order in which they must be inserted."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.events: list[dict[str, Any]] = []
        self._places: dict[tuple[str, Any], int] = {}

    @property
    def any_rows(self) -> bool:
        return any(self.rows.values())

    def add(self, table: str, **row: Any) -> None:
        self.rows[table].append(row)

    def keep(self, table: str, key: Any, **row: Any) -> None:
        """A row that is a state. Of several in one batch only the last is written: an upsert may not meet the same
        row twice."""
        rows = self.rows[table]
        place = self._places.setdefault((table, key), len(rows))
        rows[place:] = [row, *rows[place + 1 :]]
