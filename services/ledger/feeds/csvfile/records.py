"""Cuts a stream of bytes into the records of a CSV file, each with the line where it begins, in constant memory."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from services.ledger.feeds.csvfile.profile import Profile

MAX_RECORD: Final = 64 * 1024
"""Of one record, with the line breaks in its fields: a quote that is never closed must not swallow the file."""


class CsvUnreadable(Exception):
    """The file is not what the profile says, or cut short: nothing of it may be used."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Record:
    """The cells of one record; None where its quotes or line breaks are wrong."""

    line: int
    last: int
    cells: list[str] | None


def records(chunks: Iterable[bytes], profile: Profile) -> Iterator[Record]:
    """Every record that is not blank. Bytes that are not of the encoding come as lone surrogates."""
    lines = _Lines(chunks, profile)
    reader = csv.reader(lines, delimiter=profile.delimiter, quotechar=profile.quote, strict=True)
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            if lines.ended:
                raise CsvUnreadable("The file ends inside a quoted field") from None
            yield Record(lines.first, lines.number, None)
            continue
        if any(map(str.strip, cells)):
            yield Record(lines.first, lines.number, cells)


class _Lines:
    """Decoded lines, as the csv module wants them. It knows where a record began, and stops one that is too long."""

    def __init__(self, chunks: Iterable[bytes], profile: Profile) -> None:
        self.first = self.number = 0
        self.ended = False
        self._size = 0
        self._encoding = profile.encoding
        self._lines = _split(chunks)
        for _ in range(profile.skip_lines):
            self.number += next(self._lines, None) is not None

    def begin(self) -> None:
        """The next line is the first of a record."""
        self.first, self._size = self.number + 1, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = next(self._lines, None)
        if raw is None:
            self.ended = True
            raise StopIteration
        self.number += 1
        self._size += len(raw)
        if self._size > MAX_RECORD:
            raise CsvUnreadable(f"The record at line {self.first} is longer than {MAX_RECORD} bytes")
        return raw.decode(self._encoding, "surrogateescape")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their line feeds, without the mark that some programs put before UTF-8.

    A line feed is the same byte in all encodings of a profile; UTF-16 is refused by its mark.
    """
    held = b""
    fresh = True
    for chunk in chunks:
        held += chunk
        if fresh and len(held) >= 3:
            held, fresh = _unmarked(held), False
        if fresh:
            continue
        *complete, held = held.split(b"\n")
        for raw in complete:
            yield raw + b"\n"
        if len(held) > MAX_RECORD:
            raise CsvUnreadable(f"There is a line of more than {MAX_RECORD} bytes")
    held = _unmarked(held) if fresh else held
    if held:
        yield held


def _unmarked(content: bytes) -> bytes:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CsvUnreadable("The file is UTF-16")
    return content.removeprefix(b"\xef\xbb\xbf")
