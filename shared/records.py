"""Immutable records that are made by the hundred thousand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True)
def record(cls: type[_Class]) -> type[_Class]:
    """A dataclass that the type checker keeps anybody from changing, and the interpreter does not: one that is frozen
    while the program runs takes more than three times as long to make (1.6 us instead of 0.4 for ten fields)."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
