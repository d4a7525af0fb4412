"""My Payment Activity (M1-M11): what the caller posted, batch by batch, in the order of posting."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from services.reporting.reports.query import FIGURES, Selection, Shape
from services.reporting.reports.reader import Plan
from services.reporting.wire import MyPaymentActivityQuery

NAME: Final = "my-payment-activity"
TITLE: Final = "My Payment Activity"

_PLACES: Final = ("first_posted_at", "last_posted_at", "first_version")
_FLAGS: Final = ("unassigned", "provider_level")
_LEVELS: Final[dict[str, tuple[str, ...]]] = {
    "batch": ("batch_number",),
    "check": ("batch_number", "payment_id", "check_number"),
    "patient": ("patient_id", *_FLAGS),
    "cpt": ("procedure_code", *_FLAGS),
}
"""What a row of each level is one of."""
_COLUMNS: Final = (
    "batch_number",
    "payment_id",
    "check_number",
    "patient_id",
    "patient_name",
    "procedure_code",
    *_FLAGS,
)


def plan(company_id: UUID, poster_id: UUID, query: MyPaymentActivityQuery) -> Plan:
    """The report asked for. The caller is the poster, always (M1); what came by a feed is nobody's (D8)."""
    words: dict[str, tuple[Any, ...]] = {"poster_id": (poster_id,), "affiliation": ("practice", "rcm")}
    if query.batch_number is not None:
        words["batch_number"] = (query.batch_number or None,)
    if query.check_number is not None:
        words["check_number"] = (query.check_number or None,)
    if query.payment_id is not None:
        words["payment_id"] = (query.payment_id,)
    selection = Selection(
        company_id=company_id,
        by=query.by,
        first=query.first,
        last=query.last,
        words=words,
        patients=() if query.patient_id is None else (query.patient_id,),
    )
    return Plan(NAME, _parameters(query), selection, _shape(query))


def _shape(query: MyPaymentActivityQuery) -> Shape:
    # What the drill came through stands on each row; it has one value, so it splits nothing.
    drilled = [name for name in ("batch_number", "check_number", "patient_id", "payment_id") if _given(query, name)]
    keys = tuple(dict.fromkeys((*_LEVELS[query.level], *drilled)))
    shown = {"batch_number", *keys} | ({"patient_name"} if "patient_id" in keys else set())
    columns = tuple(name for name in _COLUMNS if name in shown)
    # M9: by first posting, newest first; the keys settle what was posted as one.
    order = (("first_version", True), *((name, False) for name in keys))
    return Shape(keys, (*columns, *_PLACES, *FIGURES), order, places=True)


def _given(query: MyPaymentActivityQuery, name: str) -> bool:
    return getattr(query, name) is not None


def _parameters(query: MyPaymentActivityQuery) -> dict[str, Any]:
    parameters: dict[str, Any] = {"by": query.by, "from": query.first, "to": query.last, "level": query.level}
    for name in ("batch_number", "check_number", "patient_id", "payment_id", "as_of_version", "as_of"):
        if _given(query, name):
            parameters[name] = getattr(query, name)
    return {name: value for name, value in parameters.items() if value is not None}
