"""Cuts one HL7 v2 message into segments and fields, by the separators and the character set that its MSH declares.

Repetitions, components and subcomponents are cut when they are asked for: of the hundreds in a message a few matter.
Tolerated, because senders do it: CR, LF or CRLF between segments, blank lines, a BOM, MLLP framing left over in a
file, small letters in a segment's name, an undeclared or misdeclared character set. Refused: what might be a torn
message, because a part of it would be posted.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from services.ledger.feeds.hl7.model import Code, Problem
from services.ledger.feeds.western import WINDOWS, western
from shared.records import record

MAX_MESSAGE = 16 << 20
MAX_SEGMENTS = 20_000
MAX_FIELDS = 1_000
"""The longest segments of the standard have about a hundred."""

PADDING: Final = b"\x0b\x1c\x1a\r\n\t "
"""What may lie around a message: MLLP framing, line breaks, the end mark of DOS."""
_BOM = b"\xef\xbb\xbf"
_MAX_HEADER = 4096
"""MSH-18 lies within this; the longest MSH of the standard is shorter."""
_NULL = '""'
"""The HL7 null: "delete what you have". Here as good as nothing."""
_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")

_8859 = re.compile(r"(?:ISO[ -]?)?8859[/-]([1-9][0-9]?)")
_ASCII: Final = ("", "ASCII", "ISO IR6")
_SEVERAL_BYTES: Final = {
    **dict.fromkeys(("ISO IR14", "ISO IR87", "ISO IR159"), "iso2022_jp_ext"),
    **dict.fromkeys(("GB 18030-2000", "GB 18030", "GB18030"), "gb18030"),
    **dict.fromkeys(("KS X 1001", "EUC-KR"), "euc-kr"),
    **dict.fromkeys(("BIG-5", "BIG5"), "cp950"),
}
"""Sets whose letters hold bytes that look like separators: they are read by their own rules or not at all."""
_CODECS: Final = {
    **dict.fromkeys((*_ASCII, "UNICODE", "UNICODE UTF-8", "UTF-8", "UTF8"), "utf-8"),
    "8859/1": WINDOWS,
    **{f"8859/{part}": f"iso8859-{part}" for part in (*range(2, 12), *range(13, 17))},
    **_SEVERAL_BYTES,
}
"""Table 0211. ASCII is read as UTF-8, which it is a part of; UNICODE cannot be UTF-16, as MSH itself shows."""


class Unreadable(Exception):
    """No message can be made out: nothing of it may be used. `msh` is its header when that much was readable."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        segment: str = "MSH",
        sequence: int = 1,
        field: int | None = None,
        msh: Segment | None = None,
    ) -> None:
        super().__init__(message)
        self.problem = Problem(code, segment, sequence, field, message)
        self.msh = msh


@record
class Syntax:
    """The five separators (MSH-1 and MSH-2) and the codec that the text was read with."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    encoding: str = "utf-8"

    def part(self, raw: str, component: int = 1, subcomponent: int = 1) -> str:
        """One subcomponent of the first repetition, unescaped; empty where there is none."""
        if self.repetition in raw:
            raw = raw.partition(self.repetition)[0]
        if self.component in raw:
            parts = raw.split(self.component, component)
            raw = parts[component - 1] if len(parts) >= component else ""
        elif component > 1:
            return ""
        if self.subcomponent in raw:
            parts = raw.split(self.subcomponent, subcomponent)
            raw = parts[subcomponent - 1] if len(parts) >= subcomponent else ""
        elif subcomponent > 1:
            return ""
        if self.escape in raw:
            raw = self.unescape(raw)
        raw = raw.strip()
        return "" if raw == _NULL else raw

    def unescape(self, raw: str) -> str:
        """Chapter 2.7: separators, hexadecimal data, line breaks. What is not known is kept as it is."""
        known = {
            "F": self.field,
            "S": self.component,
            "T": self.subcomponent,
            "R": self.repetition,
            "E": self.escape,
            ".br": "\n",
        }

        def meaning(match: re.Match[str]) -> str:
            name = match[1]
            found = known.get(name)
            return found if found is not None else self._hexadecimal(name) or match[0]

        return _escapes(self.escape).sub(meaning, raw)

    def escape_text(self, text: str) -> str:
        """The text with every separator escaped, on one line."""
        codes = {
            self.escape: "E",
            self.field: "F",
            self.component: "S",
            self.subcomponent: "T",
            self.repetition: "R",
            "\n": ".br",
            "\r": "X0D",
        }
        return "".join(f"{self.escape}{codes[c]}{self.escape}" if c in codes else c for c in text)

    def _hexadecimal(self, name: str) -> str:
        if name[:1] != "X" or not re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", name):
            return ""
        data = bytes.fromhex(name[1:])
        if b"\0" in data:  # no database keeps it in a text
            return ""
        try:
            return data.decode(self.encoding)
        except UnicodeDecodeError:
            return western(data)[0]


@record
class Segment:
    """One segment. `fields[n]` is field n as sent, `[0]` the name; of MSH, FHS and BHS `[1]` is the separator."""

    name: str
    fields: list[str]
    syntax: Syntax

    def raw(self, field: int) -> str:
        """A field as sent; trailing empty fields may be left out (chapter 2.6), so what is not there is empty."""
        return self.fields[field] if field < len(self.fields) else ""

    def text(self, field: int, component: int = 1, subcomponent: int = 1) -> str:
        """One value of the field's first repetition."""
        if field >= len(self.fields):
            return ""
        raw = self.fields[field]
        if raw.isalnum() and component == subcomponent == 1:  # most values: there is nothing to cut
            return raw
        return self.syntax.part(raw, component, subcomponent) if raw else ""

    def repetitions(self, field: int) -> list[str]:
        """The field's repetitions as sent, for `syntax.part`."""
        raw = self.raw(field)
        return raw.split(self.syntax.repetition) if raw else []


@record
class Message:
    """A message: its segments in order, MSH first."""

    segments: list[Segment]

    @property
    def msh(self) -> Segment:
        return self.segments[0]


def content_of(raw: bytes) -> bytes:
    """What of a message is the same however it travels: a line, a file and HTTP differ in what they put around it and
    between its segments."""
    return b"\r".join(line for line in _body(raw).splitlines() if line.strip())


def _body(raw: bytes) -> bytes:
    return raw.strip(PADDING).removeprefix(_BOM).lstrip(PADDING)


def read(raw: bytes, limit: int = MAX_MESSAGE) -> Message:
    """One message. Raises Unreadable, and nothing else."""
    if len(raw) > limit:
        raise Unreadable("too_long", f"The message is longer than {limit} bytes")
    body = _body(raw)
    if not body.startswith(b"MSH"):
        raise Unreadable("segment_sequence", "The message does not begin with MSH")
    separators, charset = _declared(body)
    text, encoding = _decode(body, charset)
    syntax = _syntax(separators, encoding)
    if "\n" in text:
        text = text.replace("\r\n", "\r").replace("\n", "\r")
    if text.count("\r") > MAX_SEGMENTS:
        raise Unreadable("too_long", f"The message has more than {MAX_SEGMENTS} segments")
    segments: list[Segment] = []
    append = segments.append
    separator = syntax.field
    for line in text.split("\r"):
        fields = line.split(separator, MAX_FIELDS)
        name = fields[0]
        if name == "MSH" and not segments:
            fields.insert(1, separator)
        elif name not in _ORDINARY:
            if not line.strip():
                continue
            name = _name(name, segments)
        if len(fields) > MAX_FIELDS:
            detail = f"A segment has more than {MAX_FIELDS} fields"
            raise Unreadable("too_long", detail, segment=name, msh=segments[0] if segments else None)
        append(Segment(name, fields, syntax))
    return Message(segments)


def header_line(raw: bytes) -> Segment:
    """MSH, FHS or BHS alone, from its first line; raises Unreadable."""
    name = raw[:3].decode("ascii", "replace")
    separators, charset = _declared(raw, name)
    text, encoding = _decode(_first_line(raw), charset)
    fields = text.split(separators[0], MAX_FIELDS)
    fields.insert(1, separators[0])
    return Segment(name, fields, _syntax(separators, encoding))


_ORDINARY = frozenset(("EVN", "PID", "PD1", "PV1", "PV2", "FT1", "DG1", "PR1", "GT1", "IN1", "IN2", "NTE", "OBX"))
"""Names that need no look. MSH is not one of them: a second MSH is a second message."""


def _name(name: str, segments: list[Segment]) -> str:
    """The segment's name in capitals. A line that has none is the rest of a segment that was torn by a line break."""
    name = name.strip().upper()
    if name == "MSH":
        raise Unreadable("segment_sequence", "A second MSH follows inside the message", sequence=2, msh=segments[0])
    if len(name) != 3 or not (name.isascii() and name.isalnum() and name[0].isalpha()):
        after = segments[-1].name
        count = sum(segment.name == after for segment in segments)
        detail = "What follows this segment is not a segment"
        raise Unreadable("segment_sequence", detail, segment=after, sequence=count, msh=segments[0])
    return name


def _first_line(body: bytes) -> bytes:
    return body[:_MAX_HEADER].replace(b"\n", b"\r").split(b"\r", 1)[0]


def _declared(body: bytes, name: str = "MSH") -> tuple[str, str]:
    """MSH-1 and MSH-2 as one text, and MSH-18. Five characters in MSH-2 are right since 2.7 (truncation)."""
    fields = _first_line(body).split(body[3:4] or b"|", 18)
    separators = (body[3:4] + fields[1] if len(fields) > 1 else b"").decode("latin-1")
    if not 5 <= len(separators) <= 6 or len(set(separators)) != len(separators) or set(separators) - _PUNCTUATION:
        raise Unreadable("bad_syntax", f"{name}-2 does not declare four separators", segment=name, field=2)
    sets = fields[17].decode("latin-1").split(separators[2]) if name == "MSH" and len(fields) > 17 else []
    # The first is what the message begins in; where that is ASCII, another one is what its letters are in.
    return separators, next((one for one in sets if one.strip().upper() not in _ASCII), "")


def _decode(body: bytes, charset: str) -> tuple[str, str]:
    """The text and the codec that read it. What is declared wrongly or not at all is UTF-8 where it can be, else
    western; but in a set of several bytes to a letter, and under a name that is not known, bytes that look like
    separators may be parts of letters."""
    if b"\0" in body:
        raise Unreadable("bad_syntax", "There is a NUL byte in the message")
    codec = _codec(charset)
    unknown = Unreadable("unknown_charset", "The character set is not supported, or not that of the message", field=18)
    if codec is None and b"\x1b" in body:  # ISO 2022 shifts into letters whose bytes are all below 80
        raise unknown
    try:
        return body.decode(codec or "utf-8"), codec or "utf-8"
    except UnicodeDecodeError:
        if codec is None or codec in _SEVERAL_BYTES.values():
            raise unknown from None
        return western(body)


@lru_cache(maxsize=64)
def _codec(charset: str) -> str | None:
    name = charset.strip().upper()
    part = _8859.fullmatch(name)
    return _CODECS.get(f"8859/{part[1]}" if part else name)


@lru_cache(maxsize=64)
def _syntax(separators: str, encoding: str) -> Syntax:
    field, component, repetition, escape, subcomponent, *_ = list(separators)
    return Syntax(field, component, repetition, escape, subcomponent, encoding)


@lru_cache(maxsize=64)
def _escapes(escape: str) -> re.Pattern[str]:
    quoted = re.escape(escape)
    return re.compile(f"{quoted}([^{quoted}]*){quoted}")
