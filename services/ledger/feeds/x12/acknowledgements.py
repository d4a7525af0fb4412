"""What became of the claims that were sent: TA1 (the envelope), 999 or 997 (the syntax), 277CA (each claim).

Each answers a smaller question than the next: a TA1 that accepts says nothing about the claims inside. A 277 that
answers a status request (005010X212) is read as well, as far as it is alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final, Literal

from services.ledger.feeds.x12.claim_status import BatchStatus, ClaimStatus, ClaimStatuses
from services.ledger.feeds.x12.envelope import EnvelopeTracker, fields, mismatch, trailer_findings
from services.ledger.feeds.x12.model import Finding
from services.ledger.feeds.x12.reader import X12Unreadable, segments
from services.ledger.feeds.x12.values import day

SETS: Final = frozenset(("277", "997", "999"))
_CONTROL: Final = frozenset(("ISA", "GS", "ST", "SE", "GE", "IEA"))
_ERRORS_KEPT: Final = 1000


@dataclass(frozen=True, slots=True)
class SegmentError:
    """IK3 or AK3, with the elements of its IK4 or AK4. What was wrong with them in words is not kept."""

    segment: str
    position: str
    loop: str
    codes: tuple[str, ...]
    elements: tuple[tuple[str, str], ...] = ()
    """Place in the segment and code, for each element at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """One verdict of a TA1, 997 or 999 on an interchange, group or transaction that we sent."""

    kind: Literal["interchange", "group", "transaction"]
    standard: Literal["TA1", "997", "999"]
    status: str
    """A accepted, E accepted with errors, P group accepted in part, R (M, W, X) rejected."""
    codes: tuple[str, ...] = ()
    interchange_control: str = ""
    functional_id: str = ""
    group_control: str = ""
    set_id: str = ""
    transaction_control: str = ""
    version: str = ""
    included: int = 0
    received: int = 0
    taken: int = 0
    """AK904: how many transactions of the group were accepted."""
    errors: tuple[SegmentError, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether all of it went on. Of a group accepted in part its transactions say which."""
        return self.status in ("A", "E")


@dataclass(frozen=True, slots=True)
class Source:
    """The ST, or the TA1, that says something."""

    ordinal: int
    """Its place among the transactions of the file, of a TA1 among its TA1s, from 1."""
    standard: str
    """TA1, 997, 999 or 277."""
    sender: str
    interchange: tuple[str, ...]
    """ISA09, ISA10 and ISA13 of its own envelope: small control numbers begin anew every day."""
    control: str
    made_on: date | None


@dataclass(frozen=True, slots=True)
class Complete:
    """The end of a source: everything that it says has come."""

    content_hash: str
    """The same when it is delivered again, whatever else is in the file."""


Event = Acknowledgement | BatchStatus | ClaimStatus | Finding


def read(chunks: Iterable[bytes]) -> Iterator[Event]:
    """Every verdict in the file, in its order; a Finding where counts, control numbers or content are at fault."""
    for _, event in read_sources(chunks):
        if not isinstance(event, Complete):
            yield event


def read_sources(chunks: Iterable[bytes]) -> Iterator[tuple[Source | None, Event | Complete]]:
    """The same, each with what says it, and each source's end. Faults of GE and IEA come without a source: which
    transactions they concern, `survey` says."""
    envelope = EnvelopeTracker()
    found = False
    isa: list[str] = []
    open_set: _OpenSet | None = None
    for segment in segments(chunks):
        name = segment[0]
        if name == "TA1":
            envelope.stray(name)
            found = True
            source = _source(isa, envelope.acknowledgements, name, "")
            yield source, _ta1(segment)
            yield source, Complete(_OpenSet(source, None, isa[16]).hashed(segment).hexdigest())
        elif name not in _CONTROL:
            if open_set is not None:
                yield from open_set.take(segment)
            else:
                envelope.stray(name)
        elif name == "ISA":
            envelope.isa(segment)
            isa = segment
        elif name == "GS":
            envelope.gs(segment)
        elif name == "ST":
            set_id, control, _ = (text.strip() for text in fields(segment, 3))
            problems = envelope.st(set_id)[1]
            open_set = None
            if reader := _reader(set_id, isa[16]):
                found = True
                open_set = _OpenSet(_source(isa, envelope.ordinal, set_id, control), reader, isa[16])
                yield from ((open_set.source, problem) for problem in problems)
            else:
                yield from ((None, problem) for problem in problems)
        elif name == "SE":
            if envelope.se() and open_set is not None:
                yield from open_set.end(segment)
            open_set = None
        elif fault := envelope.ge(segment) if name == "GE" else envelope.iea(segment):
            yield from ((None, problem) for problem in fault.problems)
    if not found:
        raise X12Unreadable("There is no acknowledgement in the file")


def _source(isa: list[str], ordinal: int, standard: str, control: str) -> Source:
    texts = [text.strip() for text in isa]
    return Source(ordinal, standard, texts[6], (texts[9], texts[10], texts[13]), control, day(f"20{texts[9]}"))


@dataclass(slots=True)
class _OpenSet:
    """A transaction while it is being read, or a TA1."""

    source: Source
    reader: _Syntax | ClaimStatuses | None
    component: str
    segments: int = 1
    digest: Any = field(init=False)

    def __post_init__(self) -> None:
        one = self.source
        self.digest = hashlib.sha256("\r".join((one.standard, one.sender, *one.interchange, one.control)).encode())

    def hashed(self, segment: list[str]) -> Any:
        """The digest, with one more segment; which separators were used does not matter."""
        text = "\r".join(segment).rstrip("\r").replace(self.component, "\0")
        self.digest.update(f"\n{text}".encode("utf-8", "surrogatepass"))
        return self.digest

    def take(self, segment: list[str]) -> Iterator[tuple[Source, Event]]:
        """The next segment after ST."""
        self.segments += 1
        self.hashed(segment)
        if self.reader is not None:
            yield from ((self.source, event) for event in self.reader.take(segment))

    def end(self, se: list[str]) -> Iterator[tuple[Source, Event | Complete]]:
        """SE."""
        if self.reader is not None:
            yield from ((self.source, event) for event in self.reader.end())
        found = trailer_findings(se, "segments", self.segments + 1, "ST02", self.source.control)
        yield from ((self.source, finding) for finding in found)
        yield self.source, Complete(self.digest.hexdigest())


def _reader(set_id: str, component: str) -> _Syntax | ClaimStatuses | None:
    if set_id == "277":
        return ClaimStatuses(component)
    return _Syntax(set_id) if set_id in ("997", "999") else None


def _ta1(segment: list[str]) -> Acknowledgement:
    control, _, _, status, note = (text.strip() for text in fields(segment, 5))
    return Acknowledgement(
        kind="interchange", standard="TA1", status=status, codes=(note,) if note else (), interchange_control=control
    )


class _Syntax:
    """A 999 or 997: AK1, then AK2 to IK5 for each transaction that is named, then AK9."""

    def __init__(self, set_id: str) -> None:
        self._standard: Literal["997", "999"] = "997" if set_id == "997" else "999"
        self._group: Acknowledgement | None = None
        self._transaction: Acknowledgement | None = None
        self._errors: list[SegmentError] = []

    def take(self, segment: list[str]) -> Iterator[Event]:
        """The next segment after ST."""
        name, texts = segment[0], [text.strip() for text in fields(segment, 9)]
        if name == "AK1":
            self._group = Acknowledgement(
                kind="group",
                standard=self._standard,
                status="",
                functional_id=texts[0],
                group_control=texts[1],
                version=texts[2],
            )
        elif self._group is None:
            return
        elif name == "AK2":
            yield from self._unjudged()
            self._transaction = replace(
                self._group,
                kind="transaction",
                set_id=texts[0],
                transaction_control=texts[1],
                version=texts[2] or self._group.version,
            )
        elif name in ("IK3", "AK3"):
            codes = tuple(code for code in texts[3:] if code)
            if len(self._errors) < _ERRORS_KEPT:
                self._errors.append(SegmentError(texts[0], texts[1], texts[2], codes))
        elif name in ("IK4", "AK4") and self._errors:
            last = self._errors[-1]
            self._errors[-1] = replace(last, elements=(*last.elements, (texts[0], texts[2])))
        elif name in ("IK5", "AK5") and self._transaction:
            codes = tuple(code for code in texts[1:6] if code)
            yield replace(self._transaction, status=texts[0], codes=codes, errors=tuple(self._errors))
            self._transaction, self._errors = None, []
        elif name == "AK9":
            yield from self._unjudged()
            included, received, taken = (int(text) if _is_count(text) else 0 for text in texts[1:4])
            codes = tuple(code for code in texts[4:9] if code)
            yield replace(self._group, status=texts[0], codes=codes, included=included, received=received, taken=taken)
            self._group = None

    def end(self) -> Iterator[Event]:
        """SE."""
        yield from self._unjudged()
        if self._group is not None:
            yield mismatch("A group is named in AK1, but AK9 says nothing about it")

    def _unjudged(self) -> Iterator[Event]:
        if self._transaction is not None:
            yield mismatch("A transaction is named in AK2, but nothing is said about it")
        self._transaction, self._errors = None, []


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9
