"""Interleaved rounds and their verdict: floor, product, floor, product, ...; the score is the median of the ratios."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
_MOST_NOISE = 4.0


@dataclass(frozen=True, slots=True)
class Result:
    """Medians per second of floor and product, the median of the rounds' ratios, and their span."""

    name: str
    floor: float
    product: float
    ratio: float
    rounds: int
    lowest: float
    highest: float

    def row(self) -> dict[str, Any]:
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def measure(name: str, floor: Callable[[], float], product: Callable[[], float], *, rounds: int = _ROUNDS) -> Result:
    """Run the pair in turn. One pair first, uncounted, to warm up. A floor that varies more than fourfold says
    nothing, so there is no score then."""
    return measure_against({name: floor}, product, rounds=rounds)[0]


def measure_against(
    floors: Mapping[str, Callable[[], float]], product: Callable[[], float], *, rounds: int = _ROUNDS
) -> list[Result]:
    """`measure` of one product against several floors by name: every floor and the product in turn."""
    runs = [([floor() for floor in floors.values()], product()) for _ in range(1 + rounds)][1:]
    return [_result(name, [(bases[place], mine) for bases, mine in runs]) for place, name in enumerate(floors)]


def _result(name: str, pairs: list[tuple[float, float]]) -> Result:
    floors = [pair[0] for pair in pairs]
    if max(floors) > _MOST_NOISE * min(floors):
        raise RuntimeError(f"{name}: the floor varied from {min(floors):.0f} to {max(floors):.0f}: no score")
    ratios = [mine / base for base, mine in pairs]
    return Result(
        name=name,
        floor=median(floors),
        product=median(pair[1] for pair in pairs),
        ratio=median(ratios),
        rounds=len(pairs),
        lowest=min(ratios),
        highest=max(ratios),
    )
