"""Cuts a file into messages and checks what the batch protocol says about them (chapter 2.10.3).

    [FHS] { [BHS] { MSH ... } [BTS] } [FTS]

Every envelope is optional, and files of several bare or MLLP-framed messages are common. What lies outside any
message is the rest of a torn one: it is handed out like a message, so that reading it is refused and a person sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from services.ledger.feeds.hl7.model import Problem
from services.ledger.feeds.hl7.reader import PADDING, Segment, Unreadable, header_line

_STARTS = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n\x0b\x1c])[ \t]*(MSH|FHS|BHS|BTS|FTS)(?![A-Za-z0-9])")
_UTF16 = re.compile(rb"\A(?:\xff\xfe|\xfe\xff)|[MFB]\0[SH]\0[HS]")
_FIRST: Final = 64
"""The first segment begins within this."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The messages between BHS and BTS, each to be given to `reader.read`; or those outside any batch."""

    header: Segment | None
    """BHS."""
    messages: tuple[bytes, ...]
    faults: tuple[Problem, ...] = ()
    """Wrong or missing counts, of the batch or of its file: messages may have been lost, so nothing should post."""


def batches(content: bytes) -> list[Batch]:
    """Everything in the file, in its order. Raises Unreadable when there is no message and no batch."""
    if _UTF16.search(content[:_FIRST]):
        raise Unreadable("segment_sequence", "The file is UTF-16; it must be one byte to a character, or UTF-8")
    pieces = list(_pieces(content))
    if not pieces:
        raise Unreadable("segment_sequence", "There is no message in the file")
    file = _File()
    for name, piece in pieces:
        file.take(name, piece)
    # MLLP framing may be left over in a file; then a frame without its end is a message without its end.
    return file.end(torn=content.rfind(b"\x0b") > content.rfind(b"\x1c"))


def _pieces(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Messages (MSH) and lines of the envelope; what belongs to neither comes under no name."""
    starts = [(match[1].decode(), match.start(1)) for match in _STARTS.finditer(content)]
    starts.append(("", len(content)))
    if (before := content[: starts[0][1]].removeprefix(b"\xef\xbb\xbf")).strip(PADDING):
        yield "", before
    for (name, start), (_, end) in pairwise(starts):
        piece = content[start:end].strip(PADDING)
        if name == "MSH":
            yield name, piece
            continue
        line = re.split(rb"[\r\n]", piece, maxsplit=1)
        yield name, line[0]
        if len(line) > 1 and line[1].strip(PADDING):
            yield "", line[1]


@dataclass(slots=True)
class _File:
    """Follows the envelope."""

    done: list[Batch] = field(default_factory=list)
    of_file: int | None = None
    """Index of the first batch of the open file (FHS)."""
    separator: str = "|"
    header: Segment | None = None
    messages: list[bytes] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    in_batch: bool = False

    def take(self, name: str, piece: bytes) -> None:
        if name in ("", "MSH"):
            self.messages.append(piece)
        elif name == "BHS":
            self._close_batch(cut=True)
            self.in_batch = True
            self.separator = piece[3:4].decode("latin-1")
            try:
                self.header = header_line(piece)
            except Unreadable as error:
                self.problems.append(error.problem)
        elif name == "BTS":
            if not self.in_batch:
                self._fault(name, None, "BTS ends a batch that did not begin")
            self._check(name, piece, len(self.messages), "messages")
            self._close_batch()
        elif name == "FHS":
            self._close_batch(cut=True)
            self._close_file()
            self.separator = piece[3:4].decode("latin-1")
            self.of_file = len(self.done)
        else:
            self._close_batch(cut=True)
            self._close_file(trailer=piece)

    def end(self, *, torn: bool) -> list[Batch]:
        if torn:
            self._fault("MSH", None, "The last message is cut short: its frame has no end")
        self._close_batch(cut=True)
        self._close_file()
        return self.done

    def _fault(self, segment: str, number: int | None, message: str) -> None:
        self.problems.append(Problem("batch_mismatch", segment, 1, number, message))

    def _check(self, name: str, piece: bytes, count: int, counted: str) -> None:
        """BTS-1 and FTS-1 count what they end; they may be left out, and then say nothing."""
        stated = (*piece.decode("latin-1").split(self.separator or "|"), "")[1].strip()
        if stated and not (stated.isascii() and stated.isdigit() and len(stated) <= 10 and int(stated) == count):
            self._fault(name, 1, f"{name}-1 does not agree with the {count} {counted} there are")

    def _close_batch(self, *, cut: bool = False) -> None:
        """End the batch, or what lies between batches; `cut`: something else follows where BTS should."""
        if self.in_batch and cut:
            self._fault("BTS", None, "The batch is cut short: BTS is missing")
        if self.messages or self.problems or self.in_batch:
            self.done.append(Batch(self.header, tuple(self.messages), tuple(self.problems)))
        self.header, self.messages, self.problems, self.in_batch = None, [], [], False

    def _close_file(self, trailer: bytes = b"") -> None:
        """End the file, by its FTS or without: what is wrong with it concerns every batch in it."""
        first, self.of_file = self.of_file, None
        if first is None and not trailer:
            return
        if first is None:
            self._fault("FTS", None, "FTS ends a file that did not begin")
        elif not trailer:
            self._fault("FTS", None, "The file is cut short: FTS is missing")
        else:
            self._check("FTS", trailer, len(self.done) - first, "batches")
        faults, self.problems = tuple(self.problems), []
        if faults and len(self.done) == (first or 0):
            self.done.append(Batch(None, ()))
        for index in range(first or 0, len(self.done)):
            self.done[index] = replace(self.done[index], faults=(*self.done[index].faults, *faults))
