"""What callers may ask: the query strings of the reports. Unknown and repeated parameters are refused (422)."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from shared.errors import FieldError, Invalid
from shared.fields import Affiliation, Id, IsoDate, Method, ProcedureCode, Query, Source, clean_text

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}\Z")
_INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)


def _integer(value: Any) -> int:
    if type(value) is int:
        return value
    if not isinstance(value, str) or not _INTEGER.match(value):
        raise PydanticCustomError("invalid_integer", "Must be a whole number, digits only")
    return int(value)


def _instant(value: Any) -> datetime:
    if not isinstance(value, str) or not _INSTANT.match(value):
        raise PydanticCustomError("invalid_instant", "Must be an RFC 3339 instant, such as 2026-03-01T17:00:00Z")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("invalid_instant", "There is no such moment") from None


def _or_none(value: str) -> str:
    return clean_text(value) if value else value


# Bounds stand before the validator: after it they would not be in the OpenAPI document.
Version = Annotated[int, Field(ge=0, le=2**62), BeforeValidator(_integer)]
Cents = Annotated[int, Field(ge=-(10**15), le=10**15), BeforeValidator(_integer)]
Limit = Annotated[int, Field(ge=1, le=500), BeforeValidator(_integer)]
Instant = Annotated[datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
Label = Annotated[str, StringConstraints(max_length=200), AfterValidator(_or_none)]
"""A free text of the receipt; empty: receipts that have none."""
IdOrNone = Annotated[
    Id | None,
    BeforeValidator(lambda value: value or None),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "uuid"}, {"const": ""}]}),
]
"""An id of the receipt's words; empty: receipts that have none."""
Names = Annotated[str, StringConstraints(pattern=r"^-?[a-z_]{1,40}(,-?[a-z_]{1,40}){0,29}$")]
"""Comma-separated names of columns or groupings."""
By = Literal["deposit_date", "posting_date"]


class ReportQuery(Query):
    """What every report takes: how to answer, at which version of the books, and which page."""

    format: Literal["json", "csv"] | None = None
    min_version: Version | None = None
    as_of_version: Version | None = None
    as_of: Instant | None = None
    limit: Limit = 50
    cursor: Annotated[str, StringConstraints(max_length=500)] | None = None

    @model_validator(mode="after")
    def _one_moment(self) -> Self:
        if self.as_of is not None and self.as_of_version is not None:
            raise Invalid.field("as_of", "ambiguous", "Give as_of or as_of_version, not both")
        return self


class MyPaymentActivityQuery(ReportQuery):
    """M3, M4, M7, M8, D12. The poster is the caller: there is no parameter for another one (M1)."""

    by: By = "posting_date"
    first: IsoDate | None = Field(default=None, alias="from")
    last: IsoDate | None = Field(default=None, alias="to")
    batch_number: Label | None = None
    level: Literal["batch", "check", "patient", "cpt"] = "batch"
    check_number: Label | None = None
    patient_id: Id | None = None
    payment_id: Id | None = None

    @model_validator(mode="after")
    def _range_or_batch(self) -> Self:
        if self.first is None and self.last is None:
            if self.batch_number is None:
                message = "Give a date range (from and to), a batch_number, or both"
                names = ("from", "to", "batch_number")
                raise Invalid(
                    message, code="range_or_batch", errors=[FieldError(n, "required", message) for n in names]
                )
        elif self.first is None or self.last is None:
            raise _missing("from" if self.first is None else "to")
        else:
            _in_order(self.first, self.last)
        return self


class PaymentBalancingQuery(ReportQuery):
    """B2, B6-B8: the range is required, every filter may be repeated, all filters hold together."""

    by: By = "posting_date"
    first: IsoDate = Field(alias="from")
    last: IsoDate = Field(alias="to")
    variation: Literal["base", "full_access"] = "base"
    location_id: tuple[IdOrNone, ...] = ()
    poster_id: tuple[Id, ...] = ()
    source: tuple[Source, ...] = ()
    method: tuple[Method, ...] = ()
    payer_id: tuple[IdOrNone, ...] = ()
    patient_id: tuple[Id, ...] = ()
    batch_number: tuple[Label, ...] = ()
    check_number: tuple[Label, ...] = ()
    procedure_code: tuple[ProcedureCode, ...] = ()
    affiliation: tuple[Affiliation, ...] = ()
    min_amount_cents: Cents | None = None
    max_amount_cents: Cents | None = None
    group_by: Names | None = None
    level: Literal["group", "payment", "cpt"] | None = None
    sort: Names | None = None
    facets: Literal["true", "false"] = "false"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _in_order(self.first, self.last)
        least, most = self.min_amount_cents, self.max_amount_cents
        if least is not None and most is not None and least > most:
            raise Invalid.field("max_amount_cents", "out_of_order", "Must not be below min_amount_cents")
        if self.level == "group" and self.group_by is None:
            raise Invalid.field("group_by", "required", "Required with level=group")
        if self.level in ("payment", "cpt") and self.group_by is not None:
            raise Invalid.field("group_by", "not_applicable", "Applies to level=group only")
        return self


def _missing(name: str) -> Invalid:
    return Invalid.field(name, "required", "A date range has two ends: give from and to")


def _in_order(first: date, last: date) -> None:
    if first > last:
        raise Invalid.field("to", "out_of_order", "Must not be before from")
