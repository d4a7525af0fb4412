"""A profile as it is kept and sent: JSON with the rules of every other body."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from services.ledger.feeds.hl7.model import Kind, Profile, Void, address
from shared.fields import Body, Line, Method


def _address(value: str) -> str:
    try:
        address(value)
    except ValueError:
        raise PydanticCustomError("invalid_place", "Must be a place in a message, such as PID-18 or PV1-3.4") from None
    return value


Address = Annotated[str, StringConstraints(max_length=20), AfterValidator(_address)]
Addresses = Annotated[list[Address], Field(min_length=1, max_length=10)]
ProcessingId = Literal["P", "T", "D"]
_DEFAULT = Profile()


class ProfileIn(Body):
    """What is agreed with one sender of HL7 messages (`model.Profile`); what is left out is as with everybody."""

    voids: Annotated[list[Void], Field(max_length=3)] = Field(default_factory=lambda: sorted(_DEFAULT.voids))
    account: Addresses = Field(default_factory=lambda: list(_DEFAULT.account))
    clinic: Addresses = Field(default_factory=lambda: list(_DEFAULT.clinic))
    missing_amount: Literal["refuse", "fee_schedule"] = _DEFAULT.missing_amount
    processing_ids: Annotated[list[ProcessingId], Field(min_length=1, max_length=3)] = Field(default=["P"])
    adjustments: Literal["negative_reduces", "positive_reduces"] = _DEFAULT.adjustments
    kinds: Annotated[dict[Line, Kind], Field(max_length=100)] = Field(default_factory=dict)
    methods: Annotated[dict[Line, Method], Field(max_length=200)] = Field(default_factory=dict)

    def profile(self) -> Profile:
        return Profile(
            voids=frozenset(self.voids),
            account=tuple(self.account),
            clinic=tuple(self.clinic),
            missing_amount=self.missing_amount,
            processing_ids=frozenset(self.processing_ids),
            adjustments=self.adjustments,
            kinds=tuple(sorted(self.kinds.items())),
            methods=tuple(sorted(self.methods.items())),
        )
