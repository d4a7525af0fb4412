"""Field types of request bodies and queries: what a careful caller may send, and nothing else.

Bodies are strict JSON. Text is NFC-normalised and stripped; control characters, lone surrogates and
invisible direction marks are refused, because they break keys, exports and logs (quality.md cases 11-14).
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from shared.money import MAX_CENTS

_INVISIBLE = frozenset("\u200b\u2060\ufeff\u200e\u200f\u061c") | {
    chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_FIRST_DAY, _LAST_DAY = date(1900, 1, 1), date(2199, 12, 31)


class Body(BaseModel):
    """Base of every request body: strict types, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, str_max_length=10_000)


class Query(BaseModel):
    """Base of every query string: text is converted, unknown and repeated parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def clean_text(value: str) -> str:
    """NFC and stripped, or refused."""
    for character in value:
        if character in _INVISIBLE or unicodedata.category(character) in ("Cc", "Cs", "Cn"):
            raise PydanticCustomError("invalid_text", "Control and invisible characters are not allowed")
    text = unicodedata.normalize("NFC", value).strip()
    if not text:
        raise PydanticCustomError("blank_text", "Text must not be empty")
    return text


def _iso_date(value: Any) -> date:
    if type(value) is date:
        return value
    if not isinstance(value, str) or not _ISO_DATE.match(value):
        raise PydanticCustomError("invalid_date", "Must be a date as YYYY-MM-DD")
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise PydanticCustomError("invalid_date", "There is no such day in the calendar") from None
    if not _FIRST_DAY <= day <= _LAST_DAY:
        raise PydanticCustomError("date_out_of_range", "Must be between 1900-01-01 and 2199-12-31")
    return day


def _uuid(value: Any) -> UUID:
    if isinstance(value, UUID):
        return value
    if isinstance(value, str) and len(value) == 36:
        try:
            return UUID(value)
        except ValueError:
            pass
    raise PydanticCustomError("invalid_id", "Must be an id (a UUID with hyphens)")


IsoDate = Annotated[date, BeforeValidator(_iso_date), WithJsonSchema({"type": "string", "format": "date"})]
Id = Annotated[UUID, BeforeValidator(_uuid), WithJsonSchema({"type": "string", "format": "uuid"})]

PositiveCents = Annotated[int, Strict(), Field(ge=1, le=MAX_CENTS)]
NonNegativeCents = Annotated[int, Strict(), Field(ge=0, le=MAX_CENTS)]

Line = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(clean_text)]
"""One line of free text: names, numbers on checks, batch numbers."""
Memo = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(clean_text)]
Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,30}$")]
"""A short code of the practice: company, location, payer."""
ProcedureCode = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{5}$")]
"""CPT or HCPCS, five characters."""
Modifier = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{2}$")]
DiagnosisCode = Annotated[str, StringConstraints(pattern=r"^[A-Z][0-9][A-Z0-9](\.?[A-Z0-9]{1,4})?$")]
"""ICD-10-CM, with or without its point."""
ReasonCode = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,5}$")]
"""A CARC, or a local adjustment code of the same shape."""
Method = Literal["check", "cash", "credit_card", "eft", "other"]
Source = Literal["manual", "emr", "era"]
"""Of a receipt or charge: a person, an EMR, or a payer's remittance."""
Affiliation = Literal["practice", "rcm", "integration"]
"""Of who posts (D8)."""
Npi = Annotated[str, StringConstraints(pattern=r"^[0-9]{10}$")]
