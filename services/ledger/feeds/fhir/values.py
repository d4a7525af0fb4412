"""The FHIR data types that carry meaning here: Money, dates, codes, identifiers.

Nothing is rounded and nothing guessed: what cannot be taken as it stands becomes an issue in the list handed in.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from fhir.resources.R4B.codeableconcept import CodeableConcept
from fhir.resources.R4B.identifier import Identifier
from fhir.resources.R4B.meta import Meta
from fhir.resources.R4B.money import Money
from fhir.resources.R4B.quantity import Quantity
from pydantic_core import PydanticCustomError

from services.ledger.feeds.fhir.issues import Issue
from shared.fields import clean_text
from shared.money import MAX_CENTS

When = date | datetime | str | None

MAX_UNITS: Final = 999
MAX_KEY: Final = 200
MAX_MODIFIERS: Final = 4
MAX_DIAGNOSES: Final = 12
_MAX_DIGITS: Final = 40
_MAX_VERSION: Final = 1 << 53
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_KEY: Final = re.compile(r"[!-~]+( [!-~]+)*")
_PROCEDURE: Final = re.compile(r"[A-Z0-9]{5}")
_MODIFIER: Final = re.compile(r"[A-Z0-9]{2}")
_DIAGNOSIS: Final = re.compile(r"[A-Z][0-9][A-Z0-9](\.?[A-Z0-9]{1,4})?")
_PROCEDURE_SYSTEMS: Final = ("ama-assn.org/go/cpt", "hcpcs", "2.16.840.1.113883.6.12", "2.16.840.1.113883.6.285")
_OTHER_SYSTEMS: Final = ("snomed", "loinc", "cvx", "rxnorm", "/sid/", "ndc")
_TIMES: Final = frozenset(("s", "min", "h", "d", "minute", "minutes", "hour", "hours"))
_USES: Final = ("official", "usual", None, "secondary", "temp")
"""Best first. An identifier of use `old` identifies nothing any more."""


def exact_cents(value: Decimal) -> int:
    """Dollars as cents; raises ValueError with the issue code for what is not a number of cents.

    Digits are moved, never calculated with, and an exponent is bounded before it is used.
    """
    if not value:
        return 0
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or value.adjusted() > 12:
        raise ValueError("amount_out_of_range")
    if len(digits) > _MAX_DIGITS or value.adjusted() < -2:
        raise ValueError("three_decimals")
    number = int("".join(map(str, digits)))
    scale: int = 10 ** abs(exponent + 2)
    cents, rest = (number * scale, 0) if exponent >= -2 else divmod(number, scale)
    if rest:
        raise ValueError("three_decimals")
    if cents > MAX_CENTS:
        raise ValueError("amount_out_of_range")
    return -cents if sign else cents


def cents(money: Money | None, at: str, found: list[Issue]) -> int | None:
    """Money as cents of the dollar. No currency is the only one there is here."""
    if money is None or money.value is None:
        found.append(Issue("missing_amount", at))
        return None
    if money.currency not in (None, "USD"):
        found.append(Issue("currency", f"{at}.currency"))
        return None
    try:
        return exact_cents(money.value)
    except ValueError as error:
        found.append(Issue(str(error), f"{at}.value"))
        return None


def charge_cents(money: Money | None, at: str, found: list[Issue]) -> int | None:
    """The same for what may not be negative; zero is a charge that comes to nothing."""
    amount = cents(money, at, found)
    if amount is not None and amount < 0:
        found.append(Issue("negative_amount", at))
    return amount


def day(value: When, at: str, found: list[Issue], *, required: bool = True) -> date | None:
    """The day as written, in whatever zone; a month or a year is no day."""
    if isinstance(value, datetime):
        value = value.date()
    if isinstance(value, date) and 1900 <= value.year < 2200:
        return value
    if value is not None or required:
        found.append(Issue("missing_date" if value is None else "invalid_date", at))
    return None


def text(value: str | None, at: str, found: list[Issue]) -> str:
    """One line of text, or nothing."""
    if not value or not value.strip():
        return ""
    try:
        cleaned = clean_text(value)
    except PydanticCustomError:
        cleaned = ""
    if not cleaned or len(cleaned) > MAX_KEY:
        found.append(Issue("invalid_text", at))
        return ""
    return cleaned


def units(quantity: Quantity | None, at: str, found: list[Issue]) -> int | None:
    """Whole units; one when nothing is said. A time is none: how many units it is, the code decides."""
    if quantity is None or quantity.value is None:
        return 1
    value = quantity.value
    of_time = (quantity.code or quantity.unit or "").lower() in _TIMES
    if not of_time and value.adjusted() < 3 and value == value.to_integral_value() and 1 <= value <= MAX_UNITS:
        return int(value)
    found.append(Issue("invalid_units", at))
    return None


def best(identifiers: Sequence[Identifier] | None) -> Identifier | None:
    """The identifier to be known by; the first one of the best use."""
    usable = [one for one in identifiers or () if one.value and one.use in _USES]
    return min(usable, key=lambda one: _USES.index(one.use), default=None)


def name_of(identifier: Identifier) -> str:
    """System and value, which together are unique."""
    return f"{identifier.system}|{identifier.value}" if identifier.system else str(identifier.value)


def plain_key(kind: str, name: str) -> str:
    """Type and name. A `#` only ever stands before the number of a line, so that no name looks like another's line."""
    return f"{kind}/{name.replace('%', '%25').replace('#', '%23')}"


def key(kind: str, name: str, at: str, found: list[Issue]) -> str:
    """The same, if that can be a key. Room is left for the number of a line."""
    made = plain_key(kind, name)
    if not name:
        found.append(Issue("missing_identifier", at))
    elif len(made) > MAX_KEY - 12 or not _KEY.fullmatch(made):
        found.append(Issue("invalid_identifier", at))
    return made


def version(meta: Meta | None) -> int:
    """A number that grows with each version of a resource; 1 where the sender does not number them."""
    if meta is None:
        return 1
    label = meta.versionId
    if label and label.isascii() and label.isdigit() and len(label) <= 16 and 1 <= int(label) <= _MAX_VERSION:
        return int(label)
    updated = meta.lastUpdated
    if isinstance(updated, datetime):
        since = updated - _EPOCH
        return min(max(1, (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds), _MAX_VERSION)
    return 1


def procedure(
    concepts: Sequence[CodeableConcept | None], at: str, found: list[Issue], aliases: Collection[str] = ()
) -> tuple[str, tuple[str, ...]]:
    """The CPT or HCPCS code of the first concept, and the modifiers of all of them.

    A code of no system, or of a local one, counts if it looks like CPT; one of SNOMED or CVX does not. Without either,
    one of the `aliases` is given as it was sent: the company knows what it means.
    """
    codings = [(c.system or "", c.code) for concept in concepts if concept for c in concept.coding or () if c.code]
    ranked = sorted(codings, key=lambda coding: not _is_procedure_system(coding[0]))
    usable = [code for system, code in ranked if not any(other in system.lower() for other in _OTHER_SYSTEMS)]
    sent = (code for _, code in ranked if code in aliases)
    code = next((code for code in usable if _PROCEDURE.fullmatch(code)), "") or next(sent, "")
    if not code:
        found.append(Issue("invalid_procedure_code", at))
    return code, tuple(dict.fromkeys(code for _, code in codings if _MODIFIER.fullmatch(code)))


def modifiers(concepts: Sequence[CodeableConcept] | None, at: str, found: list[Issue]) -> tuple[str, ...]:
    """The modifiers of a line: one of each concept."""
    codes = []
    for i, concept in enumerate(concepts or ()):
        code = next((coding.code for coding in concept.coding or () if coding.code), None) or concept.text or ""
        if _MODIFIER.fullmatch(code):
            codes.append(code)
        else:
            found.append(Issue("invalid_modifier", f"{at}[{i}]"))
    return tuple(codes)


def diagnoses(concepts: Sequence[CodeableConcept], at: str, found: list[Issue]) -> tuple[str, ...]:
    """ICD-10-CM codes. A charge without one is a charge all the same: what is wrong with them are warnings."""
    codes = []
    for concept in concepts:
        code = next((c.code for c in concept.coding or () if c.code and _DIAGNOSIS.fullmatch(c.code)), None)
        if code:
            codes.append(code)
    unique = tuple(dict.fromkeys(codes))[:MAX_DIAGNOSES]
    if len(codes) < len(concepts) or len(codes) > MAX_DIAGNOSES:
        found.append(Issue("unknown_diagnosis", at))
    if not unique:
        found.append(Issue("missing_diagnosis", at))
    return unique


def _is_procedure_system(system: str) -> bool:
    return any(known in system.lower() for known in _PROCEDURE_SYSTEMS)
