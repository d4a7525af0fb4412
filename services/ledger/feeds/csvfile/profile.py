"""How one sender writes his CSV files: a profile says which column is which field, and how its values are written.

There is no standard and nothing is guessed: what a profile does not allow is a problem of the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
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
    "charge": _PATIENT | {"emr_clinic_id", "amount", "date_of_service", "procedure_code", "units", "diagnosis_codes"},
}
OPTIONAL: Final[Mapping[Kind, frozenset[str]]] = {
    "payment": frozenset(("check_number", "date_of_service")),
    "charge": frozenset(("modifiers",)),
}
LISTS: Final = frozenset(("modifiers", "diagnosis_codes"))

_Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
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
    columns: dict[Name, Column | Annotated[list[Column], Field(min_length=1, max_length=12)]]
    """Where each field is. Only a field of several values can be in several columns."""
    constants: dict[Name, _Text] = Field(default_factory=dict)
    """Fields that are the same in every row, and in none of its columns."""
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

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        given = set(self.columns) | set(self.constants)
        known = REQUIRED[self.kind] | OPTIONAL[self.kind]
        if missing := REQUIRED[self.kind] - given:
            raise PydanticCustomError("missing_fields", "No column and no constant for: " + ", ".join(sorted(missing)))
        if unknown := (given | set(self.translations)) - known:
            raise PydanticCustomError("unknown_fields", f"No field of a {self.kind}: " + ", ".join(sorted(unknown)))
        if both := set(self.columns) & set(self.constants):
            raise PydanticCustomError("given_twice", "Both column and constant: " + ", ".join(sorted(both)))
        if any(isinstance(source, list) and name not in LISTS for name, source in self.columns.items()):
            raise PydanticCustomError("several_columns", "Only a field of several values can be in several columns")
        if any(isinstance(column, str) != self.header for column in self.all_columns()):
            raise PydanticCustomError("wrong_column", "Columns are named where there is a header, else counted")
        if self.decimal_sign == self.thousands_sign:
            raise PydanticCustomError("ambiguous_signs", "The decimal sign and the thousands sign are the same")
        return self

    def all_columns(self) -> list[Column]:
        """Every column that the profile speaks of."""
        found: list[Column] = [*self.key]
        for source in self.columns.values():
            found += source if isinstance(source, list) else [source]
        if self.version is not None:
            found.append(self.version)
        if self.deleted:
            found.append(self.deleted.column)
        if self.total:
            found += [self.total.column, self.total.amount]
            found += [] if self.total.rows is None else [self.total.rows]
        return found
