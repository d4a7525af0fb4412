"""Which parts of the books a batch must see, so that one query can load them all."""

from __future__ import annotations

from collections import defaultdict
from typing import Any


class Wants:
    """What to load for one company, by kind: locations, payers, patients, accounts, charges, ..."""

    def __init__(self) -> None:
        self.by_kind: dict[str, set[Any]] = defaultdict(set)

    def add(self, kind: str, *values: Any) -> None:
        self.by_kind[kind].update(value for value in values if value is not None)
