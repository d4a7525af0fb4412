"""From balancing lines to figures: the one place where the SQL of the balancing reports is put together.

A statement is three steps: `line`, the lines of the company, period and words asked for, with what lies outside the
asked locations masked; `chosen`, those that meet the other filters; and their sums, by the keys of the level. Only
names from this file become SQL text, every value is an argument.

Payments are counted in one of two ways. Whole receipts fall into one row each, so counts add up. Under a patient or a
procedure code (`parted`) a receipt is counted once in each row in which some part of it is not zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from uuid import UUID

from shared.ids import INTEGRATION_POSTER_ID, INTEGRATION_POSTER_NAME

FIGURES: Final = (
    "payments",
    "amount_cents",
    "applied_cents",
    "adjusted_cents",
    "provider_level_cents",
    "unapplied_cents",
)
WORDS: Final[Mapping[str, str]] = {
    "payment_id": "uuid",
    "poster_id": "uuid",
    "location_id": "uuid",
    "payer_id": "uuid",
    "affiliation": "text",
    "source": "text",
    "method": "text",
    "batch_number": "text",
    "check_number": "text",
}
"""The words of a receipt by which lines can be filtered, and their types."""
FLAGS: Final = ("unassigned", "provider_level", "other_location")
FACETS: Final = ("location_id", "poster_id", "source", "method", "payer_id", "batch_number", "affiliation")
_ROLLED_UP: Final = frozenset(FACETS)

_CENTS: Final = ("applied_cents", "adjusted_cents", "provider_level_cents", "unapplied_cents")
_SUMS: Final = ", ".join(f"sum({name})::bigint as {name}" for name in _CENTS)
_AMOUNT: Final = "sum(applied_cents) + sum(provider_level_cents) + sum(unapplied_cents)"
_NOT_ZERO: Final = " or ".join(f"sum({name}) <> 0" for name in _CENTS)
_PARTED_KEYS: Final = frozenset(("patient_id", "procedure_code", "charge_id"))


class Arguments(list[Any]):
    """The arguments of a statement; adding one gives its placeholder."""

    def add(self, value: Any, kind: str) -> str:
        self.append(value)
        return f"${len(self)}::{kind}"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL and its arguments."""

    sql: str
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which lines a report reads. All conditions hold together (B2); amounts in cents, days inclusive."""

    company_id: UUID
    by: str
    first: date | None = None
    last: date | None = None
    as_of: int | None = None
    """Only lines up to this version of the books; None: all there are."""
    words: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Allowed values of a receipt's words; None stands for "has none", no values at all for nothing."""
    patients: tuple[UUID, ...] = ()
    procedures: tuple[str, ...] = ()
    least_cents: int | None = None
    most_cents: int | None = None

    @property
    def parted(self) -> bool:
        """True when parts of receipts are selected, not whole receipts."""
        return bool(self.patients or self.procedures)

    @property
    def masks(self) -> tuple[UUID, ...] | None:
        """The only locations of which charges may be shown (R3, D14). An explicit filter masks as a restricted role
        does, so that both give the same rows (P6). Asking for receipts without location is not masked: they have
        charges of several locations, and only an all-locations role can ask."""
        locations = self.words.get("location_id")
        return None if locations is None or None in locations else locations


@dataclass(frozen=True, slots=True)
class Shape:
    """What one row is: the keys it is grouped by, the columns shown, and the order (column, descending)."""

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    order: tuple[tuple[str, bool], ...]
    places: bool = False
    """Whether rows have a place in posted order: `first_version`, `first_posted_at`, `last_posted_at`."""

    @property
    def parted(self) -> bool:
        return not _PARTED_KEYS.isdisjoint(self.keys)


def items(selection: Selection, shape: Shape, *, limit: int | None = None, offset: int = 0) -> Statement:
    """The rows of a level with their names and figures, in order; those of nothing at all are left out."""
    arguments = Arguments()
    lines = _lines(selection, arguments, shape.keys, shape.places)
    parted = selection.parted or shape.parted
    rows = _placed(shape.keys, parted) if shape.places else _summed(shape.keys, parted)
    names, joins = _names(selection, shape, arguments)
    order = ", ".join(f"{name} desc nulls last" if down else f"{name} nulls first" for name, down in shape.order)
    page = "" if limit is None else f" limit {arguments.add(limit, 'bigint')} offset {arguments.add(offset, 'bigint')}"
    sql = f"""
        {lines}, summed as ({rows})
        select {", ".join(names)}
          from summed r {joins}
         order by {order}{page}"""  # noqa: S608
    return Statement(sql, arguments)


def totals(selection: Selection) -> Statement:
    """One row of figures over the whole selection, or no row when there is nothing."""
    arguments = Arguments()
    lines = _lines(selection, arguments, (), False)
    sql = f"{lines}, summed as ({_summed((), selection.parted)}) select {', '.join(FIGURES)} from summed"  # noqa: S608
    return Statement(sql, arguments)


def facets(selection: Selection) -> Statement:
    """Payments per value of each word in FACETS. `grouped` has a 0 bit for the word that a row is about."""
    arguments = Arguments()
    words = ", ".join(FACETS)
    source = "chosen"
    if selection.parted:
        source = f"(select {words} from chosen group by {words}, payment_id having {_NOT_ZERO}) as receipt"  # noqa: S608
    count = "count(*)" if selection.parted else "sum(receipt_count)"
    sql = f"""
        {_lines(selection, arguments, FACETS, False)}
        select grouping({words}) as grouped, {words}, {count}::bigint as payments
          from {source}
         group by grouping sets ({", ".join(f"({word})" for word in FACETS)})
        having {count} <> 0"""  # noqa: S608
    return Statement(sql, arguments)


def rolled_up(selection: Selection, keys: Sequence[str]) -> bool:
    """Whether the sums per day can answer: current figures of whole receipts, by words that the sums are kept by. Not
    without a range: they have no index by batch."""
    return (
        selection.first is not None
        and selection.as_of is None
        and not selection.parted
        and selection.least_cents is None
        and selection.most_cents is None
        and _ROLLED_UP.issuperset(selection.words)
        and (_ROLLED_UP | {selection.by}).issuperset(keys)
    )


def _lines(selection: Selection, arguments: Arguments, keys: Sequence[str], places: bool) -> str:
    """The steps `line` and `chosen`."""
    where = _where(selection, arguments)
    if rolled_up(selection, keys) and not places:
        table = {"posting_date": "balancing_posting_day", "deposit_date": "balancing_deposit_day"}[selection.by]
        return f"with chosen as (select * from {table} where {where})"  # noqa: S608
    masked = "false"
    if selection.masks is not None:
        granted = arguments.add(list(selection.masks), "uuid[]")
        masked = f"part in ('applied', 'adjusted') and coalesce(charge_location_id <> all ({granted}), true)"
    # Unapplied money has no procedure, and no patient only when none is known; each way it is a line of its own.
    unassigned = "part = 'unapplied'" + ("" if "procedure_code" in keys else " and patient_id is null")
    words = ", ".join((*WORDS, "posting_date", "deposit_date", "posted_at", "receipt_version", "receipt_count"))
    shown = ", ".join(f"case when {masked} then null else {name} end as {name}" for name in sorted(_PARTED_KEYS))
    return f"""
        with line as (
            select {words}, {", ".join(_CENTS)}, {shown},
                   {unassigned} as unassigned, part = 'provider_level' as provider_level, {masked} as other_location
              from visible_line
             where {where}
        ), chosen as (
            select * from line {_chosen(selection, arguments)}
        )"""  # noqa: S608


def _where(selection: Selection, arguments: Arguments) -> str:
    conditions = [f"company_id = {arguments.add(selection.company_id, 'uuid')}"]
    if selection.first is not None:
        conditions.append(f"{selection.by} >= {arguments.add(selection.first, 'date')}")
    if selection.last is not None:
        conditions.append(f"{selection.by} <= {arguments.add(selection.last, 'date')}")
    if selection.as_of is not None:
        conditions.append(f"version <= {arguments.add(selection.as_of, 'bigint')}")
    for word, values in selection.words.items():
        given = [value for value in values if value is not None]
        one_of = f"{word} = any ({arguments.add(given, WORDS[word] + '[]')})"
        conditions.append(f"({one_of} or {word} is null)" if None in values else one_of)
    return " and ".join(conditions)


def _chosen(selection: Selection, arguments: Arguments) -> str:
    conditions = []
    if selection.patients:
        conditions.append(f"patient_id = any ({arguments.add(list(selection.patients), 'uuid[]')})")
    if selection.procedures:
        conditions.append(f"procedure_code = any ({arguments.add(list(selection.procedures), 'text[]')})")
    bounds = []
    if selection.least_cents is not None:
        bounds.append(f"{_AMOUNT} >= {arguments.add(selection.least_cents, 'bigint')}")
    if selection.most_cents is not None:
        bounds.append(f"{_AMOUNT} <= {arguments.add(selection.most_cents, 'bigint')}")
    if bounds:
        conditions.append(
            f"payment_id in (select payment_id from line group by payment_id having {' and '.join(bounds)})"  # noqa: S608
        )
    return "where " + " and ".join(conditions) if conditions else ""


def _summed(keys: Sequence[str], parted: bool) -> str:
    """Sums by the keys (none: over everything)."""
    by = ", ".join(keys)
    shown = f"{by}, " if keys else ""
    if not parted:
        return f"""
            select {shown}sum(receipt_count)::bigint as payments, ({_AMOUNT})::bigint as amount_cents, {_SUMS}
              from chosen group by ({by}) having sum(receipt_count) <> 0 or {_NOT_ZERO}"""  # noqa: S608
    return f"""
            select {shown}count(*) as payments, ({_AMOUNT})::bigint as amount_cents, {_SUMS}
              from (select {shown}{_SUMS} from chosen group by {shown}payment_id having {_NOT_ZERO}) as receipt
             group by ({by})"""  # noqa: S608


def _placed(keys: Sequence[str], parted: bool) -> str:
    """Sums by the keys, with the place in posted order of the first and last receipt that is (still) in the row."""
    by = ", ".join(keys)
    exists = _NOT_ZERO if parted else f"sum(receipt_count) <> 0 or {_NOT_ZERO}"
    return f"""
            select {by}, {"count(*)" if parted else "sum(receipt_count)::bigint"} as payments,
                   ({_AMOUNT})::bigint as amount_cents, {_SUMS}, min(posted_at) as first_posted_at,
                   max(posted_at) as last_posted_at, min(receipt_version) as first_version
              from (
                select {by}, min(receipt_version) as receipt_version, min(posted_at) as posted_at,
                       sum(receipt_count) as receipt_count, {_SUMS}
                  from chosen group by {by}, payment_id having {exists}
              ) as receipt
             group by {by}"""  # noqa: S608


def _names(selection: Selection, shape: Shape, arguments: Arguments) -> tuple[list[str], str]:
    """The columns to select from `summed r`, and the joins that the names among them need."""
    columns, joins = [], []
    for name in shape.columns:
        if name == "poster_name":
            integration = arguments.add(INTEGRATION_POSTER_ID, "uuid")
            known = f"case when r.poster_id = {integration} then {arguments.add(INTEGRATION_POSTER_NAME, 'text')}"
            columns.append(f'({known} else poster.display_name end) collate "C" as poster_name')
            joins.append("left join directory_user poster on poster.user_id = r.poster_id")
        elif name in _NAMES:
            expression, join = _NAMES[name]
            columns.append(f'{expression} collate "C" as {name}')
            joins.append(join.format(company=arguments.add(selection.company_id, "uuid")))
        elif name in shape.keys or name in FIGURES or (shape.places and name in _PLACES):
            columns.append(f"r.{name}")
        else:
            columns.append(_OTHERS[name])
    return columns, " ".join(joins)


_PLACES: Final = frozenset(("first_posted_at", "last_posted_at", "first_version"))
_NAMES: Final = {
    "location_name": (
        "place.name",
        "left join directory_location place on place.company_id = {company} and place.location_id = r.location_id",
    ),
    "payer_name": (
        "payer.name",
        "left join payer on payer.company_id = {company} and payer.payer_id = r.payer_id",
    ),
    "patient_name": (
        "(patient.last_name || ', ' || patient.first_name)",
        "left join patient_name patient on patient.company_id = {company} and patient.patient_id = r.patient_id",
    ),
}
_OTHERS: Final = {"first_version": "r.receipt_version as first_version", "batch_number": "null::text as batch_number"}
