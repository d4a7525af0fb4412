"""The data of each event that an EMR may send (api.md), with the rules of every other body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from services.ledger.feeds.charges import ChargeWords
from shared.fields import IsoDate, Line, Method, NonNegativeCents

EXTERNAL_ID: Final = r"^[!-~]+( [!-~]+)*$"
ExternalId = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=EXTERNAL_ID)]
Version = Annotated[int, Field(ge=1, le=1 << 53)]
PaymentType = Literal[
    "copay", "coinsurance", "deductible", "wellness", "supplies", "payment_on_account", "other", "internal"
]


class _Part(BaseModel):
    """A sender may add fields; those we know are strict."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class EventData(_Part):
    """What every event says."""

    emr_clinic_id: ExternalId


class _Person(_Part):
    account_number: Line
    first_name: Line
    last_name: Line
    date_of_birth: IsoDate


class PaymentData(EventData):
    """`emr.payment.posted.v1` and `.changed.v1` (api.md)."""

    payment_id: ExternalId
    payment_version: Version
    patient: _Person
    amount_cents: NonNegativeCents
    method: Method
    check_number: Line | None = None
    transaction_date: IsoDate
    date_of_service: IsoDate | None = None
    payment_type: PaymentType


class ChargeData(EventData, ChargeWords):
    """`emr.charge.posted.v1` and `.changed.v1`."""

    charge_id: ExternalId
    charge_version: Version
    patient: _Person


class DeletedPayment(EventData):
    """`emr.payment.deleted.v1`."""

    payment_id: ExternalId
    payment_version: Version


class DeletedCharge(EventData):
    """`emr.charge.deleted.v1`."""

    charge_id: ExternalId
    charge_version: Version


class TypeTotal(_Part):
    """All payments of one type in a day of a clinic."""

    payment_type: PaymentType
    payments: Annotated[int, Field(ge=0, le=1_000_000)]
    amount_cents: NonNegativeCents


class ListedPayment(_Part):
    """One of the payments that a total consists of."""

    payment_id: ExternalId
    payment_version: Version
    amount_cents: NonNegativeCents
    payment_type: PaymentType


def _once(name: str) -> Callable[[list[Any]], list[Any]]:
    def check(rows: list[Any]) -> list[Any]:
        if any(count > 1 for count in Counter(getattr(row, name) for row in rows).values()):
            raise PydanticCustomError("repeated", "Each {name} may be given once", {"name": name})
        return rows

    return check


class TotalsData(EventData):
    """`emr.totals.reported.v1`: what the EMR sent for a day of a clinic, by the day's `transaction_date`; and, where
    it lists them, of which payments each total consists. Types that are left out came to nothing."""

    date: IsoDate
    totals: Annotated[list[TypeTotal], Field(max_length=20), AfterValidator(_once("payment_type"))]
    payments: Annotated[list[ListedPayment], Field(max_length=5_000), AfterValidator(_once("payment_id"))] | None = None
