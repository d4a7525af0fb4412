"""The values of cells: text that is a date, an amount or a code, or a reason why it is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Final, get_args

from pydantic_core import PydanticCustomError

from services.ledger.feeds.csvfile.profile import DateFormat, Profile
from shared.fields import Method, clean_text
from shared.money import MAX_CENTS

MESSAGES: Final = {
    "after_total": "The row comes after the row of totals",
    "amount_out_of_range": "The amount is too large",
    "encoding": "The row has bytes that are not of the encoding of the profile",
    "formula": "The cell would be run by a spreadsheet",
    "invalid_amount": "Must be an amount with at most two decimals, written as the profile says",
    "invalid_choice": "Is none of the values that are known",
    "invalid_code": "Is not a code of the right form",
    "invalid_date": "Must be a day in the calendar, written as the profile says, between 1900 and 2199",
    "invalid_identifier": "Must be 1 to 200 visible ASCII characters, with single spaces at most",
    "invalid_text": "Must be at most 200 characters, none of them a control character",
    "invalid_units": "Must be a whole number between 1 and 999",
    "invalid_version": "Must be a whole number from 1",
    "malformed": "The quotes or line breaks of the row are wrong",
    "missing": "Must not be empty",
    "missing_total": "There is no row of totals",
    "negative_amount": "Must not be negative",
    "ragged": "The row does not have as many cells as the header",
    "too_many": "There are more values than are allowed",
}
PAYMENT_TYPES: Final = (
    "copay", "coinsurance", "deductible", "wellness", "supplies", "payment_on_account", "other", "internal",
)  # fmt: skip
MAX_VERSION: Final = 1 << 53

_AMOUNT: Final = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,2}))?")
_IDENTIFIER: Final = re.compile(r"[!-~]+( [!-~]+)*")
_DATES: Final[dict[DateFormat, re.Pattern[str]]] = {
    "YYYY-MM-DD": re.compile(r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"),
    "YYYYMMDD": re.compile(r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"),
    "MM/DD/YYYY": re.compile(r"(?P<month>[0-9]{1,2})/(?P<day>[0-9]{1,2})/(?P<year>[0-9]{4})"),
    "DD/MM/YYYY": re.compile(r"(?P<day>[0-9]{1,2})/(?P<month>[0-9]{1,2})/(?P<year>[0-9]{4})"),
    "DD.MM.YYYY": re.compile(r"(?P<day>[0-9]{1,2})\.(?P<month>[0-9]{1,2})\.(?P<year>[0-9]{4})"),
}

Parser = Callable[[str], object]


class Bad(Exception):
    """A cell that cannot be taken; the message is one of MESSAGES."""

    def __init__(self, code: str, value: object = None) -> None:
        super().__init__(code)
        self.code = code
        self.value = value
        """What it says, where that much is sure."""


def amount(text: str, profile: Profile) -> int:
    """Cents. The sign comes first; a currency sign and thousands only where the profile has them."""
    unsigned = text.removeprefix("-")
    if profile.currency_sign:
        unsigned = unsigned.removeprefix(profile.currency_sign).removesuffix(profile.currency_sign).strip()
    if profile.thousands_sign and profile.thousands_sign in unsigned:
        whole, sign, rest = unsigned.partition(profile.decimal_sign)
        if not re.fullmatch(rf"[0-9]{{1,3}}({re.escape(profile.thousands_sign)}[0-9]{{3}})+", whole):
            raise Bad("invalid_amount")
        unsigned = whole.replace(profile.thousands_sign, "") + sign + rest
    if profile.decimal_sign == ",":
        unsigned = unsigned.translate(_COMMA_TO_POINT)
    match = _AMOUNT.fullmatch(unsigned)
    if not match:
        raise Bad("invalid_amount")
    cents = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))
    if cents > MAX_CENTS:
        raise Bad("amount_out_of_range")
    return -cents if text.startswith("-") else cents


_COMMA_TO_POINT: Final = str.maketrans(",.", ".,")


def day(text: str, date_format: DateFormat) -> str:
    """The day as YYYY-MM-DD."""
    match = _DATES[date_format].fullmatch(text)
    try:
        found = date(int(match["year"]), int(match["month"]), int(match["day"])) if match else None
    except ValueError:
        found = None
    if found is None or not 1900 <= found.year < 2200:
        raise Bad("invalid_date")
    return found.isoformat()


def line(text: str) -> str:
    """One line of text."""
    try:
        cleaned = clean_text(text)
    except PydanticCustomError:
        raise Bad("invalid_text") from None
    if len(cleaned) > 200:
        raise Bad("invalid_text")
    return cleaned


def identifier(text: str) -> str:
    """A name that another system gave."""
    if not text:
        raise Bad("missing")
    if len(text) > 200 or not _IDENTIFIER.fullmatch(text):
        raise Bad("invalid_identifier")
    return text


def whole(text: str, limit: int, code: str) -> int:
    """A number from 1, in digits."""
    if not re.fullmatch(r"[0-9]{1,16}", text) or not 1 <= int(text) <= limit:
        raise Bad(code)
    return int(text)


def parsers(profile: Profile) -> dict[str, Parser]:
    """How the text of each field becomes its value; of a field of several values, each of them."""

    def cents(text: str) -> int:
        found = amount(text, profile)
        if found < 0:
            raise Bad("negative_amount", found)  # What its file states as its total counts it.
        return found

    def dated(text: str) -> str:
        return day(text, profile.date_format)

    return {
        "emr_clinic_id": identifier,
        "account_number": line,
        "first_name": line,
        "last_name": line,
        "date_of_birth": dated,
        "amount": cents,
        "method": _choice(get_args(Method)),
        "check_number": line,
        "transaction_date": dated,
        "date_of_service": dated,
        "payment_type": _choice(PAYMENT_TYPES),
        "procedure_code": identifier,  # perhaps one of the sender's own, which the company has mapped
        "modifiers": _code(r"[A-Z0-9]{2}"),
        "units": lambda text: whole(text, 999, "invalid_units"),
        "diagnosis_codes": _code(r"[A-Z][0-9][A-Z0-9](\.?[A-Z0-9]{1,4})?"),
    }


def _choice(known: tuple[str, ...]) -> Parser:
    def parse(text: str) -> str:
        if text not in known:
            raise Bad("invalid_choice")
        return text

    return parse


def _code(pattern: str) -> Parser:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise Bad("invalid_code")
        return text

    return parse
