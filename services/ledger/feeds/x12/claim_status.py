"""277: what became of each claim that was sent, and of the batch it was in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Final, Literal

from services.ledger.feeds.x12.envelope import fields, mismatch
from services.ledger.feeds.x12.model import Finding
from services.ledger.feeds.x12.values import cents, day

_CATEGORY: Final = re.compile(r"[A-Z][0-9A-Z]{1,2}")
_REFUSED: Final = frozenset(("A3", "A4", "A6", "A7", "A8", "D0", "DR"))
"""Claim status categories of a claim that went no further; those of system errors begin with E."""
_LEVELS: Final = {"20": "payer", "21": "receiver", "19": "provider", "PT": "claim", "22": "claim", "23": "claim"}
_LINES_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class Status:
    """STC: category, status and entity code of one composite (code lists 507, 508, 98)."""

    category: str
    code: str
    entity: str = ""


@dataclass(slots=True)
class _Open:
    """A TRN or SVC loop while it is being read."""

    level: str
    trace: str = ""
    statuses: list[Status] = field(default_factory=list)
    action: str = ""
    amount_cents: int = 0
    status_date: date | None = None
    references: dict[str, str] = field(default_factory=dict)
    dates: dict[str, str] = field(default_factory=dict)
    totals: dict[str, str] = field(default_factory=dict)
    lines: list[_Open] = field(default_factory=list)

    @property
    def accepted(self) -> bool | None:
        if not self.statuses:
            return None
        refused = any(one.category in _REFUSED or one.category.startswith("E") for one in self.statuses)
        return not refused and self.action != "U"

    @property
    def service(self) -> tuple[date | None, date | None]:
        first, _, last = self.dates.get("472", "").partition("-")
        return day(first), day(last or first)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStatus:
    """One service line that was judged by itself."""

    control_number: str
    """REF*FJ: our own line number."""
    statuses: tuple[Status, ...]
    accepted: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimStatus:
    """One claim of a 277. `claim_id` is what we sent as CLM01."""

    claim_id: str
    trace: str
    """TRN02: of a 277CA the claim id again, of an answer to a status request the number of that request."""
    payer_control_number: str
    """REF*1K, what an 835 will call CLP07."""
    clearinghouse_number: str
    """REF*D9."""
    statuses: tuple[Status, ...]
    accepted: bool | None
    """None where no status could be read."""
    action: str
    """STC03: WQ accepted, U rejected."""
    amount_cents: int
    status_date: date | None
    service_from: date | None
    service_to: date | None
    payer: str
    lines: tuple[LineStatus, ...]

    @property
    def category(self) -> str:
        """Of the first status, which is the one that counts."""
        return self.statuses[0].category if self.statuses else ""

    @property
    def code(self) -> str:
        """Of the first status."""
        return self.statuses[0].code if self.statuses else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """What a 277CA says about a whole batch (`receiver`) or about all claims of a `provider` in it."""

    level: Literal["receiver", "provider"]
    trace: str
    """TRN02 of the receiver: BHT03 of the 837 that is answered."""
    statuses: tuple[Status, ...]
    accepted: bool | None
    amount_cents: int
    accepted_cents: int
    """AMT*YU."""
    rejected_cents: int
    """AMT*YY."""


class ClaimStatuses:
    """A 277: HL loops of payer, receiver, provider and patient; under the last three a TRN with its statuses."""

    def __init__(self, component: str) -> None:
        self._component = component
        self._level = self._payer = ""
        self._open: _Open | None = None

    def take(self, segment: list[str]) -> Iterator[ClaimStatus | BatchStatus | Finding]:
        """The next segment after ST."""
        name, texts = segment[0], [text.strip() for text in fields(segment, 11)]
        if name == "HL":
            yield from self.end()
            self._level = _LEVELS.get(texts[2], "")
        elif name == "NM1" and self._level == "payer":
            self._payer = texts[2]
        elif name == "TRN" and self._level not in ("", "payer"):
            yield from self.end()  # a patient may have several claims, each with a TRN of its own
            self._open = _Open(self._level, trace=texts[1])
        elif self._open is not None:
            if name == "SVC" and len(self._open.lines) < _LINES_KEPT:
                self._open.lines.append(_Open("line"))
            loop = self._open.lines[-1] if self._open.lines else self._open
            if name == "STC":
                yield from self._stc(loop, texts)
            elif name == "REF":
                loop.references.setdefault(texts[0], texts[1])
            elif name == "DTP":
                loop.dates.setdefault(texts[0], texts[2])
            elif name == "AMT":
                loop.totals.setdefault(texts[0], texts[1])

    def end(self) -> Iterator[ClaimStatus | BatchStatus | Finding]:
        """The claim or batch that was open, if any."""
        loop, self._open = self._open, None
        if loop is None:
            return
        if loop.level == "receiver" or loop.level == "provider":
            if loop.statuses:
                yield BatchStatus(
                    level="receiver" if loop.level == "receiver" else "provider",
                    trace=loop.trace,
                    statuses=tuple(loop.statuses),
                    accepted=loop.accepted,
                    amount_cents=loop.amount_cents,
                    accepted_cents=_cents(loop.totals.get("YU", "")),
                    rejected_cents=_cents(loop.totals.get("YY", "")),
                )
            return
        yield self._claim(loop)

    def _claim(self, loop: _Open) -> ClaimStatus:
        first, last = loop.service
        lines = [
            LineStatus(
                control_number=line.references.get("FJ", ""), statuses=tuple(line.statuses), accepted=line.accepted
            )
            for line in loop.lines
        ]
        return ClaimStatus(
            claim_id=loop.references.get("EJ") or loop.trace,
            trace=loop.trace,
            payer_control_number=loop.references.get("1K", ""),
            clearinghouse_number=loop.references.get("D9", ""),
            statuses=tuple(loop.statuses),
            accepted=loop.accepted,
            action=loop.action,
            amount_cents=loop.amount_cents,
            status_date=loop.status_date,
            service_from=first,
            service_to=last,
            payer=self._payer,
            lines=tuple(lines),
        )

    def _stc(self, loop: _Open, texts: list[str]) -> Iterator[ClaimStatus | BatchStatus | Finding]:
        statuses = [
            Status(category, code, entity)
            for text in (texts[0], texts[9], texts[10])
            for category, code, entity, *_ in [(*(part.strip() for part in text.split(self._component)), "", "", "")]
            if _CATEGORY.fullmatch(category)
        ]
        if not statuses:
            yield mismatch("STC01 is not a claim status")
            return
        if not loop.statuses:
            loop.status_date, loop.action, loop.amount_cents = day(texts[1]), texts[2], _cents(texts[3])
        loop.statuses += statuses


def _cents(text: str) -> int:
    """Amounts in a 277 are information: nothing is posted from them."""
    try:
        return cents(text)
    except ValueError:
        return 0
