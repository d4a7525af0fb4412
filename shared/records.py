"""Immutable records that are made by the hundred thousand."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True)
def record(cls: type[_Class]) -> type[_Class]:
    """A dataclass that the type checker keeps anybody from changing, and the interpreter does not: one that is frozen
    while the program runs takes more than three times as long to make (1.6 us instead of 0.4 for ten fields). It is
    pickled as its values, in their order: with their names it takes half as much again to write, and twice to read."""
    made = dataclass(slots=True, unsafe_hash=True)(cls)
    names: tuple[str, ...] = made.__match_args__  # type: ignore[attr-defined]
    if len(names) > 1:  # else what is got is no tuple
        values = attrgetter(*names)

        def reduced(self: _Class) -> tuple[type[_Class], Any]:
            return made, values(self)

        made.__reduce__ = reduced  # type: ignore[assignment, method-assign]
    return made
