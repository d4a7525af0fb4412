"""What a charge of any feed must say, and what its state then brings into the books: one rule for all formats.

It says what a charge by a person says (api.md), under the same bounds, but for two things that a person would be asked
about at once. Nothing is nothing: a state of 0.00 is ignored, as a payment of 0.00 is, and takes back what an earlier
state brought. And what was done was done: a charge whose diagnosis is not told is posted, so that its payment finds it,
and is diagnosed later, by the sender or by hand.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from services.ledger.wire import Units
from shared.fields import DiagnosisCode, IsoDate, Modifier, NonNegativeCents, ProcedureCode


class ChargeWords(BaseModel):
    """The words of a charge. A sender may add fields; those we know are strict."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    date_of_service: IsoDate
    procedure_code: ProcedureCode
    modifiers: Annotated[list[Modifier], Field(max_length=4)] = Field(default_factory=list)
    units: Units
    amount_cents: NonNegativeCents
    diagnosis_codes: Annotated[list[DiagnosisCode], Field(max_length=12)]

    def words(self) -> dict[str, Any]:
        """As the books keep them."""
        return {
            "date_of_service": self.date_of_service,
            "procedure_code": self.procedure_code,
            "modifiers": tuple(self.modifiers),
            "units": self.units,
            "amount_cents": self.amount_cents,
            "diagnosis_codes": tuple(self.diagnosis_codes),
        }


def brought(words: dict[str, Any]) -> dict[str, Any]:
    """What a state of a charge or payment with these words brings: `words`, or why they are `withheld`."""
    return {"words": words} if words["amount_cents"] else {"withheld": "zero_amount"}
