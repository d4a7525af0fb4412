"""How one sender writes his CSV files: a profile says which column is which field, and how its values are written.

There is no standard and nothing is guessed: what a profile does not allow is a problem of the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Kind = Literal["payment", "charge"]
Name = Literal[
    "emr_clinic_id", "account_number", "first_name", "last_name", "date_of_birth", "amount", "method", "check_number",
    "transaction_date", "date_of_service", "payment_type", "procedure_code", "modifiers", "units", "diagnosis_codes",
]  # fmt: skip
DateFormat = Literal["YYYY-MM-DD", "YYYYMMDD", "MM/DD/YYYY", "DD/MM/YYYY", "DD.MM.YYYY"]

_PATIENT: Final = frozenset(("account_number", "first_name", "last_name", "date_of_birth"))
REQUIRED: Final[Mapping[Kind, frozenset[str]]] = {
    "payment": _PATIENT | {"emr_clinic_id", "amount", "method", "transaction_date", "payment_type"},
    "charge": _PATIENT | {"emr_clinic_id", "amount", "date_of_service", "procedure_code", "units"},
}
OPTIONAL: Final[Mapping[Kind, frozenset[str]]] = {
    "payment": frozenset(("check_number", "date_of_service")),
    "charge": frozenset(("modifiers", "diagnosis_codes")),
}
LISTS: Final = frozenset(("modifiers", "diagnosis_codes"))

# What stands in a file, as it stands there; but NUL, which no database keeps.
_Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Column = _Text | Annotated[int, Field(ge=1, le=1000)]
"""The name in the header, or in a file without a header the place, from 1."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Marker(_Part):
    """Rows whose column has one of these values take back what had the same key."""

    column: Column
    values: Annotated[list[_Text], Field(min_length=1, max_length=20)]


class TotalRow(_Part):
    """The row whose column has this label states the sum of all amounts before it, and perhaps their number."""

    column: Column
    label: _Text
    amount: Column
    rows: Column | None = None


class Profile(_Part):
    """What a sender's files look like."""

    kind: Kind
    delimiter: Literal[",", ";", "\t", "|"] = ","
    quote: Literal['"', "'"] = '"'
    encoding: Literal["utf-8", "windows-1252", "iso-8859-1"] = "utf-8"
    skip_lines: Annotated[int, Field(ge=0, le=100)] = 0
    """Lines before the header: titles, the date of the export."""
    header: bool = True
    constants: dict[Name, _Text] = Field(default_factory=dict)
    """Fields that are the same in every row, and in none of its columns."""
    columns: dict[Name, Column | Annotated[list[Column], Field(min_length=1, max_length=12)]]
    """Where each field is. Only a field of several values can be in several columns."""
    translations: dict[Name, dict[_Text, _Text]] = Field(default_factory=dict)
    """The sender's words for ours: `{"method": {"CC": "credit_card"}}`. What is not among them stays as it is."""
    date_format: DateFormat = "YYYY-MM-DD"
    decimal_sign: Literal[".", ","] = "."
    thousands_sign: Literal[",", ".", " ", "'"] | None = None
    currency_sign: Literal["$", "USD"] | None = None
    list_separator: Literal[" ", ",", ";", "|", ":"] = " "
    """Between the values of a field of several values that is in one column."""
    key: Annotated[list[Column], Field(min_length=1, max_length=6)]
    """What names a row for ever; the same key again is the same payment or charge."""
    version: Column | None = None
    """A number that grows with every change. Without it the first state of a key stands, another is a conflict."""
    deleted: Marker | None = None
    total: TotalRow | None = None

    @field_validator("constants", "columns", "translations")
    @classmethod
    def _known(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind: Kind | None = info.data.get("kind")
        if kind and (unknown := set(value) - REQUIRED[kind] - OPTIONAL[kind]):
            raise PydanticCustomError("unknown_fields", f"No field of a {kind}: {_names(unknown)}")
        return value

    @field_validator("columns")
    @classmethod
    def _complete(cls, columns: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind: Kind | None = info.data.get("kind")
        constants = info.data.get("constants")
        if kind is None or constants is None:
            return columns
        if missing := REQUIRED[kind] - set(columns) - set(constants):
            raise PydanticCustomError("missing_fields", f"No column and no constant for: {_names(missing)}")
        if both := set(columns) & set(constants):
            raise PydanticCustomError("given_twice", f"Both column and constant: {_names(both)}")
        if any(isinstance(source, list) and name not in LISTS for name, source in columns.items()):
            raise PydanticCustomError("several_columns", "Only a field of several values can be in several columns")
        return columns

    @field_validator("columns", "key", "version", "deleted", "total")
    @classmethod
    def _named_or_counted(cls, value: Any, info: ValidationInfo) -> Any:
        header = info.data.get("header")
        if any(isinstance(column, str) != header for column in _columns_of(value)):
            raise PydanticCustomError("wrong_column", "Columns are named where there is a header, else counted")
        return value

    @field_validator("thousands_sign")
    @classmethod
    def _unambiguous(cls, sign: str | None, info: ValidationInfo) -> str | None:
        if sign is not None and sign == info.data.get("decimal_sign"):
            raise PydanticCustomError("ambiguous_signs", "The decimal sign and the thousands sign are the same")
        return sign

    def all_columns(self) -> list[Column]:
        """Every column that the profile speaks of."""
        return list(_columns_of([self.key, self.columns, self.version, self.deleted, self.total]))


def _names(found: Iterable[str]) -> str:
    return ", ".join(sorted(found))


def _columns_of(value: Any) -> Iterator[Column]:
    """The columns in a part of a profile."""
    if isinstance(value, str | int):
        yield value
    elif isinstance(value, Marker):
        yield value.column
    elif isinstance(value, TotalRow):
        yield from _columns_of([value.column, value.amount, value.rows])
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _columns_of(one)
