"""Which parts of the books a batch must see, so that one query can load them all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from services.ledger.domain.commands import Command


class Wants:
    """What to load for one company, by kind: locations, payers, patients, accounts, charges, ..."""

    def __init__(self) -> None:
        self.by_kind: dict[str, set[Any]] = defaultdict(set)
        self._contents = False

    def add(self, kind: str, *values: Any) -> None:
        """What must be known: a command decides by what it says."""
        self._contents |= any(value is not None for value in values)
        self.name(kind, *values)

    def name(self, kind: str, *values: Any) -> None:
        """What must exist, and is only referred to."""
        self.by_kind[kind].update(value for value in values if value is not None)

    def only_named(self, locations: Container[Any]) -> bool:
        """Whether nothing must be known but these locations."""
        return not self._contents and all(one in locations for one in self.by_kind["location"])


def wants_of(commands: Iterable[Command], wants: dict[UUID, Wants] | None = None) -> dict[UUID, Wants]:
    """What these commands want to see, by company; added to `wants` where that is given."""
    found = defaultdict(Wants) if wants is None else wants
    for command in commands:
        one = found[command.company_id]
        one.name("key", command.key)
        command.act.wants(one)
    return found
