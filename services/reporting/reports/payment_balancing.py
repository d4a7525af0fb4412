"""Payment Balancing (B1-B10): every payment posted at the practice, by any poster and from any source (D5, D8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from services.reporting.reports.query import FIGURES, FLAGS, Selection, Shape
from services.reporting.reports.reader import Plan
from services.reporting.wire import PaymentBalancingQuery
from shared.errors import Invalid

NAME: Final = "payment-balancing"
TITLE: Final = "Payment Balancing"

GROUPINGS: Final[dict[str, tuple[str, ...]]] = {
    "poster": ("poster_id", "poster_name"),
    "location": ("location_id", "location_name"),
    "source": ("source",),
    "method": ("method",),
    "payer": ("payer_id", "payer_name"),
    "batch": ("batch_number",),
    "check": ("check_number",),
    "deposit_date": ("deposit_date",),
    "posting_date": ("posting_date",),
    "patient": ("patient_id", "patient_name"),
    "procedure_code": ("procedure_code",),
}
"""Columns of each grouping. A grouping is sorted by its name where it has one, then by its id."""

_RECEIPT: Final = (
    "payment_id",
    "posted_at",
    "posting_date",
    "deposit_date",
    "poster_id",
    "poster_name",
    "affiliation",
    "source",
    "method",
    "location_id",
    "location_name",
    "payer_id",
    "payer_name",
    "batch_number",
    "check_number",
    "first_version",
)
_PART: Final = ("patient_id", "patient_name", "charge_id", "procedure_code", *FLAGS)
_WORDS: Final = ("poster_id", "source", "method", "payer_id", "batch_number", "check_number")
_NOT_KEYS: Final = frozenset(("poster_name", "location_name", "payer_name", "patient_name", "first_version"))


def plan(company_id: UUID, query: PaymentBalancingQuery, locations: Sequence[UUID | None] | None) -> Plan:
    """The report asked for. `locations`: those the caller asked for or is limited to, None stands for "no location";
    no sequence: all of the company. Raises Invalid for an unknown grouping or column."""
    groups = _groupings(query.group_by)
    level = query.level or ("group" if groups else "payment")
    shape = _sorted(_shape(level, groups), query.sort)
    words = {name: values for name in _WORDS if (values := _values(getattr(query, name)))}
    # These two limit also when they leave nothing: no location granted is nothing, not everything (R4).
    words["affiliation"] = _affiliations(query)
    if locations is not None:
        words["location_id"] = tuple(locations)
    selection = Selection(
        company_id=company_id,
        by=query.by,
        first=query.first,
        last=query.last,
        words=words,
        patients=_values(query.patient_id),
        procedures=_values(query.procedure_code),
        least_cents=query.min_amount_cents,
        most_cents=query.max_amount_cents,
    )
    return Plan(NAME, _parameters(query, level, groups, locations), selection, shape)


def _shape(level: str, groups: Sequence[str]) -> Shape:
    if level == "group":
        keys = [name for group in groups for name in GROUPINGS[group]]
        flags = _flags(groups)
        columns = (*keys, *flags)
        sorted_by = (*(name for group in groups for name in reversed(GROUPINGS[group])), *flags)
        return Shape(_keys(columns), (*columns, *FIGURES), tuple((name, False) for name in sorted_by))
    newest_first = (("first_version", True), ("payment_id", False))
    if level == "payment":
        return Shape(("receipt_version", *_keys(_RECEIPT)), (*_RECEIPT, *FIGURES), newest_first)
    columns = (*_RECEIPT, *_PART)
    within = ("provider_level", "unassigned", "other_location", "patient_id", "procedure_code", "charge_id")
    order = (*newest_first, *((name, False) for name in within))
    return Shape(("receipt_version", *_keys(columns)), (*columns, *FIGURES), order)


def _flags(groups: Sequence[str]) -> tuple[str, ...]:
    """Under a patient or procedure, money that has none is in rows of its own, one for each reason (D14, D16)."""
    return FLAGS if {"patient", "procedure_code"} & set(groups) else ()


def _keys(columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in columns if name not in _NOT_KEYS)


def _groupings(text: str | None) -> tuple[str, ...]:
    groups = tuple(text.split(",")) if text else ()
    if not set(groups) <= GROUPINGS.keys():
        raise Invalid.field("group_by", "unknown_grouping", f"Known are {', '.join(GROUPINGS)}")
    if len(set(groups)) != len(groups):
        raise Invalid.field("group_by", "repeated", "A grouping is named twice")
    return groups


def _sorted(shape: Shape, text: str | None) -> Shape:
    """The asked columns first, then the level's own order, which never leaves two rows without an order."""
    if text is None:
        return shape
    asked: dict[str, bool] = {}
    for item in text.split(","):
        name, down = item.removeprefix("-"), item.startswith("-")
        columns = tuple(reversed(GROUPINGS.get(name, (name,))))
        if not set(columns) <= set(shape.columns):
            raise Invalid.field("sort", "unknown_column", "Sort by columns of this level, '-' for descending")
        for column in columns:
            asked.setdefault(column, down)
    rest = {name: down for name, down in shape.order if name not in asked}
    return Shape(shape.keys, shape.columns, (*asked.items(), *rest.items()))


def _affiliations(query: PaymentBalancingQuery) -> tuple[str, ...]:
    """B6, D8: base is everything but what RCM staff posted; asking base for `rcm` gives nothing."""
    allowed = ("practice", "integration", "rcm") if query.variation == "full_access" else ("practice", "integration")
    return tuple(name for name in allowed if not query.affiliation or name in query.affiliation)


def _values(given: Sequence[Any]) -> tuple[Any, ...]:
    """Each value once, in a fixed order; the empty text means "has none"."""
    unique = {value if value != "" else None for value in given}
    return tuple(sorted(unique, key=lambda value: (value is not None, str(value))))


def _parameters(
    query: PaymentBalancingQuery, level: str, groups: Sequence[str], locations: Sequence[UUID | None] | None
) -> dict[str, Any]:
    """What the answer reports: the question as it was understood, the caller's own limits included (P6)."""
    parameters: dict[str, Any] = {
        "by": query.by,
        "from": query.first,
        "to": query.last,
        "variation": query.variation,
        "level": level,
    }
    if groups:
        parameters["group_by"] = list(groups)
    if locations is not None:
        parameters["location_id"] = list(locations)
    for name in (*_WORDS, "affiliation", "patient_id", "procedure_code"):
        if values := _values(getattr(query, name)):
            parameters[name] = list(values)
    for name in ("min_amount_cents", "max_amount_cents", "sort", "as_of_version", "as_of"):
        if (value := getattr(query, name)) is not None:
            parameters[name] = value
    return parameters
