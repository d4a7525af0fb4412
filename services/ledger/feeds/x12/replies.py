"""TA1 and 999 for an interchange that came in, where its sender asks for them (ISA14).

Both speak of form alone. A remittance that is well formed and does not balance is accepted here and quarantined
elsewhere: neither answer has a code for it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from services.ledger.feeds.x12.envelope import fields
from services.ledger.feeds.x12.reader import X12Unreadable, segments

_VERSION: Final = "005010X231A1"
_SEPARATORS: Final = "*:^~"
_SPARE_SEPARATORS: Final = "|>!'<;"
"""In place of those that some value, repeated in the answer, contains."""

_WRONG_CONTROL, _WRONG_STRUCTURE, _CUT, _WRONG_CONTENT, _DUPLICATE = "001", "022", "023", "024", "025"
_WRONG_COUNT: Final = "021"
_SET_UNSUPPORTED, _SET_CONTROL, _SET_COUNT, _SEGMENTS = "1", "3", "4", "5"
_GROUP_CONTROL, _GROUP_COUNT = "4", "5"


@dataclass(slots=True)
class InboundSet:
    """One ST of an interchange; `codes` (element 718) is why it is rejected, if it is."""

    ordinal: int
    """Its place among the transactions of the file, as `survey` counts them."""
    set_id: str
    control: str
    implementation: str
    """ST03, which an 835 may leave out."""
    codes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class InboundGroup:
    """One GS; `codes` (element 716) is why it is rejected as a whole."""

    functional_id: str
    sender: str
    receiver: str
    control: str
    version: str
    sets: list[InboundSet] = field(default_factory=list)
    stated: int | None = None
    """GE01."""
    codes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Interchange:
    """The control segments of one interchange that came in."""

    isa: list[str]
    groups: list[InboundGroup] = field(default_factory=list)
    note: str = "000"
    """The TA1 note code (I18): 000 when the envelope is right."""

    @property
    def wants_reply(self) -> bool:
        """ISA14."""
        return self.isa[14].strip() == "1"


def interchanges(chunks: Iterable[bytes]) -> list[Interchange]:
    """The interchanges of a file, the last of which may be cut. Raises X12Unreadable where there is none at all."""
    found: list[Interchange] = []
    scan = _Scan()
    try:
        for segment in segments(chunks):
            if segment[0] != "ISA":
                scan.take(segment)
            elif scan.closed:
                scan.open(segment)
                found.append(scan.interchange)
            else:  # the one before is cut, and this one was split by the separators of that
                scan.blame(_CUT)
                return found
    except X12Unreadable as unreadable:
        if not found:
            raise
        if not scan.closed:
            scan.blame(_CUT if unreadable.detail.startswith("The file ends") else _WRONG_CONTENT)
    return found


def ta1(interchange: Interchange, *, control: int, at: datetime, duplicate: bool = False) -> bytes:
    """The answer to the envelope. `duplicate`: an interchange with this control number was taken before."""
    note = _DUPLICATE if duplicate and interchange.note == "000" else interchange.note
    isa = [element.strip() for element in interchange.isa]
    status = "A" if note == "000" else "R"
    return _interchange(interchange, [["TA1", isa[13][:9], isa[9][:6], isa[10][:4], status, note]], 0, control, at)


def implementation_ack_999(
    interchange: Interchange,
    *,
    control: int,
    at: datetime,
    faulty: Container[int] = (),
    supported: Container[str] = ("835",),
) -> bytes | None:
    """A 999 for every group of the interchange. `faulty`: ordinals of transactions whose content could not be read.

    None when there is none to answer: a 999 is never answered, and of an interchange that its TA1 rejects nothing
    was looked at. `control`, here and in `ta1`, is a new number from 1 to 999,999,999.
    """
    groups = [group for group in interchange.groups if group.functional_id != "FA"]
    if not groups or interchange.note != "000":
        return None
    first = groups[0]
    stamp = f"{at:%Y%m%d}", f"{at:%H%M}"
    body = [["GS", "FA", first.receiver, first.sender, *stamp, str(control), "X", _VERSION]]
    for number, group in enumerate(groups, 1):
        inner = list(_acknowledge(group, faulty, supported))
        body.append(["ST", "999", f"{number:04}", _VERSION])
        body += inner
        body.append(["SE", str(len(inner) + 2), f"{number:04}"])
    body.append(["GE", str(len(groups)), str(control)])
    return _interchange(interchange, body, 1, control, at)


def _acknowledge(group: InboundGroup, faulty: Container[int], supported: Container[str]) -> Iterator[list[str]]:
    """AK1 to AK9 for one group."""
    yield ["AK1", group.functional_id, group.control, group.version]
    taken = 0
    for one in group.sets:
        codes = list(one.codes)
        if one.set_id not in supported:
            codes.insert(0, _SET_UNSUPPORTED)
        elif one.ordinal in faulty:
            codes.append(_SEGMENTS)
        yield ["AK2", one.set_id, one.control, one.implementation]
        yield ["IK5", "R" if codes else "A", *codes[:5]]
        taken += not codes
    received = len(group.sets)
    taken = 0 if group.codes else taken
    status = "A" if taken == received and not group.codes else "P" if taken else "R"
    included = received if group.stated is None else group.stated
    yield ["AK9", status, str(included), str(received), str(taken), *group.codes[:5]]


class _Scan:
    """Follows the control segments of a file. Unlike EnvelopeTracker it never gives up: it is asked what is wrong."""

    def __init__(self) -> None:
        self.closed = True
        self.interchange: Interchange
        self._group: InboundGroup | None = None
        self._set: InboundSet | None = None
        self._segments = self._ordinal = 0

    def open(self, isa: list[str]) -> None:
        """ISA."""
        self.interchange = Interchange(isa)
        self.closed = False
        self._group = self._set = None

    def take(self, segment: list[str]) -> None:
        """Any other segment."""
        self._segments += 1
        match segment[0]:
            case "GS":
                self._expect(self._group is None and self._set is None)
                functional_id, sender, receiver, _, _, control, _, version = self._fields(segment, 8)
                self._group = InboundGroup(functional_id, sender, receiver, control, version)
                self.interchange.groups.append(self._group)
            case "ST":
                self._st(segment)
            case "SE":
                self._se(segment)
            case "GE":
                self._ge(segment)
            case "IEA":
                self._iea(segment)

    def blame(self, note: str) -> None:
        """The first fault of an interchange is the one that is told."""
        if self.interchange.note == "000":
            self.interchange.note = note

    def _st(self, segment: list[str]) -> None:
        self._expect(self._group is not None and self._set is None)
        self._ordinal += 1
        self._segments = 1
        set_id, control, implementation = self._fields(segment, 3)
        self._set = InboundSet(self._ordinal, set_id, control, implementation)
        if self._group is not None:
            self._group.sets.append(self._set)

    def _se(self, segment: list[str]) -> None:
        stated, control = self._fields(segment, 2)
        self._expect(self._set is not None)
        if self._set is not None and control != self._set.control:
            self._set.codes.append(_SET_CONTROL)
        if self._set is not None and _count(stated) != self._segments:
            self._set.codes.append(_SET_COUNT)
        self._set = None

    def _ge(self, segment: list[str]) -> None:
        stated, control = self._fields(segment, 2)
        self._expect(self._group is not None and self._set is None)
        if self._group is not None:
            self._group.stated = _count(stated)
            if control != self._group.control:
                self._group.codes.append(_GROUP_CONTROL)
            if self._group.stated != len(self._group.sets):
                self._group.codes.append(_GROUP_COUNT)
        self._group = self._set = None

    def _iea(self, segment: list[str]) -> None:
        stated, control = self._fields(segment, 2)
        self._expect(self._group is None and self._set is None)
        if control != self.interchange.isa[13].strip():
            self.blame(_WRONG_CONTROL)
        if _count(stated) != len(self.interchange.groups):
            self.blame(_WRONG_COUNT)
        self.closed = True

    def _expect(self, nested: bool) -> None:
        if not nested:
            self.blame(_WRONG_STRUCTURE)

    @staticmethod
    def _fields(segment: list[str], count: int) -> list[str]:
        return [text.strip() for text in fields(segment, count)]


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


def _interchange(answered: Interchange, body: list[list[str]], groups: int, control: int, at: datetime) -> bytes:
    """ISA to IEA, from the receiver of what is answered to its sender."""
    isa = [element.strip() for element in answered.isa]
    body = [[_plain(element) for element in segment] for segment in body]
    ids = [_plain(isa[i]) for i in (7, 8, 5, 6)]
    said = "".join([*ids, *(element for segment in body for element in segment)])
    spare = (mark for mark in _SPARE_SEPARATORS if mark not in said)
    element, component, repetition, terminator = (
        mark if mark not in said else next(spare, mark) for mark in _SEPARATORS
    )
    head = [
        *("ISA", "00", " " * 10, "00", " " * 10),
        *(text[:width].ljust(width) for text, width in zip(ids, (2, 15, 2, 15), strict=True)),
        *(f"{at:%y%m%d}", f"{at:%H%M}", repetition, "00501", f"{control:09}"),
        *("0", "T" if isa[15] == "T" else "P", component),  # an answer is never answered
    ]
    rows = [head, *(_trimmed(segment) for segment in body), ["IEA", str(groups), f"{control:09}"]]
    return "".join(element.join(row) + terminator + "\n" for row in rows).encode("ascii", "replace")


def _trimmed(segment: list[str]) -> list[str]:
    """Without empty elements at the end, as the syntax wants it."""
    while not segment[-1]:
        segment = segment[:-1]
    return segment


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text[:80])
