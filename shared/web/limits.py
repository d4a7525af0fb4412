"""How much one caller may ask for: calls a second, and what is under way at once (ASVS 5.0 2.4.1, 15.2.2).

Kept in the memory of one process, which serves each caller so much and no more; the numbers are far above what a
practice does, so that only a fault or an attack meets them. A caller is the subject of a verified token, or else an
address.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from shared.errors import TooManyRequests

_MOST_CALLERS = 10_000
UNSAID_BYTES = 64 << 20
"""What an upload counts for that does not say its length."""


class CallLimit:
    """A bucket of `burst` calls for each caller, refilled with `rate` a second (0: no limit).

    The bucket is kept as the time at which it is full again (GCRA, ITU-T I.371): one number a caller. Memory is bounded
    by keeping two generations of callers: whoever has not called while 10,000 others did has a full bucket again."""

    def __init__(self, rate: int, burst: int) -> None:
        self._each = 1 / rate if rate else 0.0
        self._most = burst * self._each
        self._young: dict[Hashable, float] = {}
        self._old: dict[Hashable, float] = {}

    def take(self, caller: Hashable) -> None:
        """Count one call. Raises TooManyRequests, and counts nothing, while the caller's bucket is empty."""
        if not self._each:
            return
        now = time.monotonic()
        full = self._young.get(caller) or self._old.get(caller, now)
        full = max(full, now) + self._each
        if full - now > self._most:
            raise TooManyRequests(retry_after_seconds=math.ceil(full - now - self._most))
        if len(self._young) >= _MOST_CALLERS and caller not in self._young:
            self._old, self._young = self._young, {}
        self._young[caller] = full

    @property
    def callers(self) -> int:
        """How many are remembered."""
        return len(self._young) + len(self._old)


class AtOnce:
    """What one caller may have under way at once, of whatever is counted (0: no limit); a single one may be larger."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[Hashable, int] = {}

    @contextmanager
    def holding(self, caller: Hashable, size: int) -> Iterator[None]:
        """While it is under way. Raises TooManyRequests when others of the caller leave no room for it."""
        held = self._held.get(caller, 0)
        if self._most and held and held + size > self._most:
            raise TooManyRequests("Others of yours are still under way", retry_after_seconds=5)
        self._held[caller] = held + size
        try:
            yield
        finally:
            left = self._held.pop(caller) - size
            if left:
                self._held[caller] = left
