"""Rows of a CSV file as the data of EMR events: the fields of `emr.payment.*` and `emr.charge.*` (api.md).

CsvUnreadable may come at any time until the end, so nothing may be kept of a file that was not read to its end once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from services.ledger.feeds.csvfile.profile import LISTS, REQUIRED, Column, Kind, Profile
from services.ledger.feeds.csvfile.records import CsvUnreadable, Record, records
from services.ledger.feeds.csvfile.values import MAX_VERSION, MESSAGES, Bad, amount, identifier, parsers, whole

_MOST: Final = {"modifiers": 4, "diagnosis_codes": 12}
_PATIENT: Final = ("account_number", "first_name", "last_name", "date_of_birth")
_FORMULA: Final = ("=", "+", "-", "@", "\t")
_SURROGATES: Final = frozenset(map(chr, range(0xDC80, 0xDD00)))


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a row: where it begins, which column, and a rule. Never the value."""

    line: int
    column: str
    """As the profile calls it; empty when it is about the row as a whole."""
    code: str

    @property
    def message(self) -> str:
        """A sentence for a person."""
        return MESSAGES[self.code]


@dataclass(frozen=True, slots=True)
class Row:
    """One payment or charge, or what is wrong with it."""

    line: int
    last_line: int
    """Beyond `line` where a field has line breaks, or a quote that is not closed has swallowed other rows."""
    kind: Kind
    key: str
    """The values of the key columns; empty when they cannot be read."""
    row_hash: str
    """Of the cells that the profile reads: the same row again is no news."""
    cells: tuple[str, ...]
    change: Literal["posted", "deleted"] = "posted"
    data: dict[str, Any] | None = None
    """The data of the event; None when there are problems."""
    said: dict[str, Any] = field(default_factory=dict)
    """The same as far as it can be read, whatever else is wrong."""
    amount_cents: int = 0
    """As far as it can be read; nothing for a deletion."""
    problems: tuple[Problem, ...] = ()

    @property
    def event_type(self) -> str:
        """The type of the EMR event that says the same."""
        return f"emr.{self.kind}.{self.change}.v1"


@dataclass(frozen=True, slots=True)
class Total:
    """The row of totals against what was read before it."""

    line: int
    counted_cents: int
    counted_rows: int
    stated_cents: int | None = None
    stated_rows: int | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether the file is as complete as its sender says."""
        rows = self.stated_rows is None or self.stated_rows == self.counted_rows
        return not self.problems and rows and self.stated_cents == self.counted_cents


def read(chunks: Iterable[bytes], profile: Profile) -> Iterator[Row | Total]:
    """Every row of the file in its order, and the row of totals if the profile has one."""
    stream = records(chunks, profile)
    layout = _Layout(profile, next(stream, None) if profile.header else None)
    cents = rows = 0
    total: Total | None = None
    for record in stream:
        if total is None and (total := layout.total(record, cents, rows)):
            yield total
            continue
        row = layout.row(record, after_total=total is not None)
        rows += 1
        cents += row.amount_cents
        yield row
    if profile.total and total is None:
        yield Total(0, cents, rows, problems=(Problem(0, "", "missing_total"),))


class _Layout:
    """A profile bound to the header of one file."""

    def __init__(self, profile: Profile, header: Record | None) -> None:
        self._profile = profile
        self._width = 0
        names: list[str] = []
        if profile.header:
            if header is None or header.cells is None:
                raise CsvUnreadable("There is no header")
            names = [cell.strip() for cell in header.cells]
            self._width = len(names)
        self._places = {column: _place(column, names) for column in profile.all_columns()}
        self._parsers = parsers(profile)
        self._words: dict[str, dict[str, str]] = {
            name: {word.casefold(): ours for word, ours in words.items()}
            for name, words in profile.translations.items()
        }
        self._required = REQUIRED[profile.kind]
        self._read = sorted(set(self._places.values()))

    def row(self, record: Record, *, after_total: bool) -> Row:
        """A record as a row."""
        line = record.line
        if record.cells is None:
            return Row(line, record.last, self._profile.kind, "", "", (), problems=(Problem(line, "", "malformed"),))
        cells = [cell.strip() for cell in record.cells]
        read = json.dumps([self._at(cells, place) for place in self._read])
        row = Row(line, record.last, self._profile.kind, "", hashlib.sha256(read.encode()).hexdigest(), tuple(cells))
        found = [Problem(line, "", "after_total")] if after_total else []
        if not self._width:  # without a header the first row says how many cells there are
            self._width = max(len(cells), *(place + 1 for place in self._read))
        if len(cells) != self._width:
            found.append(Problem(line, "", "ragged"))
        if any(not _SURROGATES.isdisjoint(cell) for cell in cells if not cell.isascii()):
            found.append(Problem(line, "", "encoding"))
        if found:
            return replace(row, problems=tuple(found))
        key, version, deleted = self._identity(cells, line, found)
        values = self._values(cells, line, [] if deleted else found)
        if deleted and "emr_clinic_id" not in values:
            found.append(Problem(line, str(self._profile.columns.get("emr_clinic_id", "")), "missing"))
        said = self._said(key, version, values, deleted)
        return replace(
            row,
            key=key,
            change="deleted" if deleted else "posted",
            data=None if found else said,
            said=said,
            amount_cents=0 if deleted else values.get("amount", 0),
            problems=tuple(found),
        )

    def total(self, record: Record, cents: int, rows: int) -> Total | None:
        """The record as the row of totals, if it is that one."""
        sought = self._profile.total
        if sought is None or record.cells is None:
            return None
        cells = [cell.strip() for cell in record.cells]
        if self._at(cells, self._places[sought.column]).casefold() != sought.label.casefold():
            return None
        found: list[Problem] = []
        stated = stated_rows = None
        try:
            stated = amount(self._at(cells, self._places[sought.amount]), self._profile)
        except Bad as bad:
            found.append(Problem(record.line, str(sought.amount), bad.code))
        if sought.rows is not None:
            text = self._at(cells, self._places[sought.rows])
            stated_rows = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        return Total(record.line, cents, rows, stated, stated_rows, tuple(found))

    def _identity(self, cells: list[str], line: int, found: list[Problem]) -> tuple[str, int, bool]:
        """Key and version, and whether the row takes back what has them."""
        parts = []
        for column in self._profile.key:
            try:
                parts.append(identifier(self._cell(cells, column)))
            except Bad as bad:
                found.append(Problem(line, str(column), bad.code))
        if len(parts) > 1:  # a part may contain the sign between the parts
            parts = [part.replace("%", "%25").replace("|", "%7C") for part in parts]
        key = "|".join(parts) if len(parts) == len(self._profile.key) else ""
        if len(key) > 200:
            key = ""
            found.append(Problem(line, str(self._profile.key[0]), "invalid_identifier"))
        version = 1
        if self._profile.version is not None:
            try:
                version = whole(self._cell(cells, self._profile.version), MAX_VERSION, "invalid_version")
            except Bad as bad:
                found.append(Problem(line, str(self._profile.version), bad.code))
        marker = self._profile.deleted
        wanted = {value.casefold() for value in marker.values} if marker else set()
        return key, version, bool(marker and self._at(cells, self._places[marker.column]).casefold() in wanted)

    def _values(self, cells: list[str], line: int, found: list[Problem]) -> dict[str, Any]:
        """The value of every field that has one."""
        values: dict[str, Any] = {}
        for name in (*self._profile.columns, *self._profile.constants):
            source = self._profile.columns.get(name, "")
            columns = source if isinstance(source, list) else [source]
            try:
                if name in self._profile.constants:
                    texts = [self._profile.constants[name]]
                else:
                    texts = [text for column in columns if (text := self._text(cells, column, name))]
                if name in LISTS:
                    texts = [one for text in texts for one in text.split(self._profile.list_separator) if one.strip()]
                parsed = [self._parsers[name](self._word(name, text.strip())) for text in texts]
                if not parsed and name in self._required:
                    raise Bad("missing")
                if len(parsed) > _MOST.get(name, 1):
                    raise Bad("too_many")
                if parsed or name in LISTS:
                    values[name] = parsed if name in LISTS else parsed[0]
            except Bad as bad:
                found.append(Problem(line, str(columns[0]) or name, bad.code))
                if bad.value is not None:
                    values[name] = bad.value
        return values

    def _said(self, key: str, version: int, values: dict[str, Any], deleted: bool) -> dict[str, Any]:
        kind = self._profile.kind
        named = {f"{kind}_id": key, f"{kind}_version": version}
        if deleted:
            return {"emr_clinic_id": values.get("emr_clinic_id"), **named}
        rest = {name: value for name, value in values.items() if name not in (*_PATIENT, "amount")}
        if kind == "charge":
            rest.setdefault("diagnosis_codes", [])  # A file without that column says that there are none.
        patient = {name: values[name] for name in _PATIENT if name in values}
        return {**rest, **named, "patient": patient, "amount_cents": values.get("amount")}

    def _text(self, cells: list[str], column: Column, name: str) -> str:
        text = self._at(cells, self._places[column])
        if text.startswith(_FORMULA) and not (name == "amount" and text.startswith("-")):
            raise Bad("formula")
        return text

    def _cell(self, cells: list[str], column: Column) -> str:
        return self._text(cells, column, "")

    def _word(self, name: str, text: str) -> str:
        return self._words.get(name, {}).get(text.casefold(), text)

    @staticmethod
    def _at(cells: list[str], place: int) -> str:
        return cells[place] if place < len(cells) else ""


def _place(column: Column, names: list[str]) -> int:
    """Where a column is, from 0."""
    if isinstance(column, int):
        return column - 1
    if names.count(column) != 1:
        raise CsvUnreadable(f"The header has {'no' if column not in names else 'more than one'} column {column!r}")
    return names.index(column)
