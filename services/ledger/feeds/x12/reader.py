"""Cuts a stream of bytes into X12 segments, whatever separators each interchange declares, in constant memory.

The separators are read from ISA: the element separator follows "ISA", the component separator is ISA16, the
terminator comes after it. ISA is 106 characters by the standard, but mail and web pages collapse its spaces, so
it is split, not measured; whoever counts the envelope reports its widths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from services.ledger.feeds.western import western

MAX_SEGMENT = 64 * 1024
_PIECE = 64 * 1024
_ISA_WINDOW = 512
"""Generous for 106 characters; an ISA06 of 31 has been seen."""

_PUNCTUATION = frozenset(b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") | frozenset(range(0x01, 0x09)) | {*range(0x0E, 0x20)}
_PADDING = b" \t\r\n\x00\x1a\xef\xbb\xbf"
"""What may lie between and after interchanges: white space, the end mark of DOS, the BOM of a concatenated file."""

_Segment = TypeVar("_Segment")
_ISA = re.compile(rb"(?<![A-Za-z0-9])ISA[^A-Za-z0-9\s]")
_UTF16 = re.compile(rb"\A(?:\xff\xfe|\xfe\xff)|I\0S\0A")
_ENVELOPE = re.compile(rb"(?<![A-Za-z0-9])(?:GS([^A-Za-z0-9\s])[A-Z]{2}\1|IEA[^A-Za-z0-9\s][0-9])")


class X12Unreadable(Exception):
    """No remittance can be made out, or the file is cut short: nothing of it may be used (api.md: 422)."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class _Syntax:
    isa: list[str]
    element: str
    terminator: bytes
    noise: bytes
    """Line breaks that are not the terminator: never data, whether after a terminator or wrapping a long line."""
    trailer: re.Pattern[bytes]
    """A complete IEA, the last thing to be read by these separators."""
    end: int


def segments(chunks: Iterable[bytes]) -> Iterator[list[str]]:
    """Every segment as its elements, `[0]` the segment id; ISA comes unstripped, its `[16]` the component separator.

    When it ends without X12Unreadable, the file was a whole number of interchanges, each from ISA to IEA.
    """
    return chain.from_iterable(_blocks(chunks))


def _blocks(chunks: Iterable[bytes]) -> Iterator[list[list[str]]]:
    pieces = _pieces(chunks)
    found = _interchange(b"", pieces)
    while found:
        syntax, buffer = found
        yield [syntax.isa]
        rest = yield from _body(buffer, pieces, syntax, _split)
        found = _interchange(rest, pieces, after=syntax)


def transaction_bytes(chunks: Iterable[bytes], ordinal: int) -> Iterator[bytes]:
    """One transaction of a file that was read before, from ST to SE, byte for byte as it was sent."""
    pieces = _pieces(chunks)
    found = _interchange(b"", pieces)
    count = 0
    while found:
        syntax, buffer = found
        body = _body(buffer, pieces, syntax, _raw)
        rest = b""
        while True:
            try:
                block = next(body)
            except StopIteration as ended:
                rest = ended.value
                break
            for name, raw in block:
                count += name == b"ST"
                if count == ordinal:
                    yield raw.lstrip(b" \t\r\n") if name == b"ST" else raw
                    if name == b"SE":
                        return
        found = _interchange(rest, pieces, after=syntax)


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of one size, so that nothing downstream can depend on where the sender cut them."""
    held = bytearray()
    for chunk in chunks:
        for start in range(0, len(chunk), _PIECE):
            held += chunk[start : start + _PIECE]
            if len(held) >= _PIECE:
                yield bytes(held[:_PIECE])
                del held[:_PIECE]
    if held:
        yield bytes(held)


def _interchange(buffer: bytes, pieces: Iterator[bytes], after: _Syntax | None = None) -> tuple[_Syntax, bytes] | None:
    """The separators of the next interchange and what follows its ISA; None where the file ends.

    Text is tolerated before the first ISA (mail headers, a BOM), not between interchanges: there it is the
    torn end of something.
    """
    padding = _PADDING + after.terminator if after else b""
    buffer = buffer.lstrip(padding) if after else buffer
    while len(buffer) < _PIECE and (piece := next(pieces, b"")):
        buffer = (buffer + piece).lstrip(padding) if after else buffer + piece
    if after and not buffer:
        return None
    if not after and _UTF16.search(buffer):
        raise X12Unreadable("The file is UTF-16; it must be one byte to a character, or UTF-8")
    candidates = [_ISA.match(buffer)] if after else _ISA.finditer(buffer)
    refusal = "There is data after IEA that is no further interchange" if after else "There is no ISA segment"
    for start in (match.start() for match in candidates if match):
        syntax = _syntax(buffer[start : start + _ISA_WINDOW])
        if isinstance(syntax, _Syntax):
            if _ENVELOPE.search(buffer, 0, start):  # an interchange whose ISA is damaged is no introduction to the next
                raise X12Unreadable("There is X12 data before the first readable ISA")
            return syntax, buffer[start + syntax.end :]
        refusal = syntax
    raise X12Unreadable(refusal)


def _syntax(window: bytes) -> _Syntax | str:
    """The separators that an ISA declares, or why it declares none."""
    element = window[3]
    fields = window.split(window[3:4], 16)
    if element not in _PUNCTUATION or len(fields) < 17 or len(fields[16]) < 2:
        return "ISA does not have its sixteen elements"
    component, after = fields[16][0], fields[16][1:]
    newline = len(after) - len(after.lstrip(b"\r\n"))
    following = after[newline : newline + 1]
    if not newline or (following and following[0] in _PUNCTUATION):
        # Some payers break the line before the terminator (`...T*:\n~GS`), then usually before every terminator.
        terminator = following
    else:
        terminator = b"\n" if b"\n" in after[:newline] else b"\r"
    if component not in _PUNCTUATION or not (newline or terminator[0] in _PUNCTUATION):
        return "There is no segment terminator after ISA16"
    if len({element, component, terminator[0]}) < 3:
        return "The separators that ISA declares are not distinct"
    ends = terminator + (b"\r\n" if newline else b"")
    # A line may be wrapped inside "IEA" too.
    iea = rb"(?:\A|%b)[ \t\r\n]*I[\r\n]*E[\r\n]*A[\r\n]*(?:%b[^%b]*)?[%b]"
    trailer = iea % (*map(re.escape, (terminator, bytes([element]), ends, ends)),)
    return _Syntax(
        isa=[_text(field.translate(None, b"\r\n")) for field in fields[:16]] + [chr(component)],
        element=chr(element),
        terminator=terminator,
        noise=bytes(set(b"\r\n") - set(terminator)),
        trailer=re.compile(trailer),
        end=len(window) - len(after) + (newline if terminator in b"\r\n" else newline + 1),
    )


def _body(
    buffer: bytes, pieces: Iterator[bytes], syntax: _Syntax, split: Callable[[bytes, _Syntax], list[_Segment]]
) -> Generator[list[_Segment], None, bytes]:
    """The segments after ISA up to and including IEA, as many at a time as were read; returns the bytes that follow."""
    while True:
        trailer = syntax.trailer.search(buffer)
        cut = trailer.end() - 1 if trailer else buffer.rfind(syntax.terminator)
        if cut >= 0:
            yield split(buffer[:cut], syntax)
            buffer = buffer[cut + 1 :]
        if trailer:
            return buffer
        if len(buffer) > MAX_SEGMENT:
            raise X12Unreadable(f"A segment is longer than {MAX_SEGMENT} bytes")
        piece = next(pieces, b"")
        if not piece:
            raise X12Unreadable(
                "The file ends in the middle of a segment" if buffer.strip() else "The file ends before IEA"
            )
        buffer += piece


def _split(block: bytes, syntax: _Syntax) -> list[list[str]]:
    if b"\x00" in block:
        raise X12Unreadable("There is a NUL byte inside an interchange")
    if len(block) > MAX_SEGMENT and max(map(len, block.split(syntax.terminator))) > MAX_SEGMENT:
        raise X12Unreadable(f"A segment is longer than {MAX_SEGMENT} bytes")
    block = block.translate(None, syntax.noise)
    try:
        texts = block.decode().split(chr(syntax.terminator[0]))
    except UnicodeDecodeError:
        texts = [_text(part) for part in block.split(syntax.terminator)]
    element = syntax.element
    return [stripped.split(element) for text in texts if (stripped := text.lstrip(" \t"))]


def _raw(block: bytes, syntax: _Syntax) -> list[tuple[bytes, bytes]]:
    """Every segment as its name and its bytes, terminator included."""
    element = syntax.element.encode("latin-1")
    segments = [part + syntax.terminator for part in block.split(syntax.terminator)]
    return [(raw[:-1].translate(None, syntax.noise).lstrip(b" \t").split(element, 1)[0], raw) for raw in segments]


def _text(raw: bytes) -> str:
    """UTF-8 where it is, else Windows-1252: payers send names in either and declare neither."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return western(raw)[0]
