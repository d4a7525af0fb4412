"""What can be wrong with a FHIR input: stable codes, each with its FHIR issue type and a sentence for a person.

Sentences name the rule and never the value: what was sent may be about a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["fatal", "error", "warning"]

CATALOGUE: Final[dict[str, tuple[Severity, str, str]]] = {
    "not_json": ("fatal", "structure", "The body is not valid JSON in UTF-8"),
    "duplicate_key": ("fatal", "structure", "A name is repeated in a JSON object"),
    "not_a_number": ("fatal", "structure", "A number is not finite or out of range"),
    "not_fhir": ("fatal", "structure", "The body is not a FHIR resource"),
    "too_large": ("fatal", "too-long", "The body is larger than allowed"),
    "too_many": ("fatal", "too-long", "A Bundle may have at most 10,000 entries"),
    "nothing_known": ("fatal", "not-found", "There is no resource here that could be read"),
    "unsupported_bundle": ("fatal", "not-supported", "Bundles of this type are not read"),
    "unsupported_resource": ("error", "not-supported", "Resources of this type are not accepted here"),
    "unknown_resource": ("error", "structure", "There is no R4 resource of this type"),
    "missing_resource": ("error", "required", "The entry has no resource"),
    "unsupported_request": ("error", "not-supported", "Entries are created or updated here, nothing else"),
    "modifier_extension": ("error", "not-supported", "A modifier extension or implicit rule is not understood"),
    "too_deep": ("error", "structure", "The resource is nested too deeply"),
    "missing_field": ("error", "required", "A required element is missing"),
    "unknown_field": ("error", "structure", "There is an element that R4 does not have"),
    "invalid_value": ("error", "value", "The value is not one that R4 allows here"),
    "invalid_resource": ("error", "invalid", "The resource is not valid R4"),
    "unknown_status": ("error", "code-invalid", "The status or use does not say whether this is to be posted"),
    "failed_outcome": ("error", "business-rule", "The payer says that the reconciliation is not complete"),
    "missing_identifier": ("error", "required", "There is neither a business identifier nor an id"),
    "invalid_identifier": ("error", "value", "The identifier is too long or not plain text"),
    "missing_patient": ("error", "required", "The patient cannot be made out"),
    "missing_payer": ("error", "required", "The payer cannot be made out"),
    "missing_amount": ("error", "required", "There is no amount"),
    "three_decimals": ("error", "value", "The amount has a fraction of a cent"),
    "amount_out_of_range": ("error", "value", "The amount is too large"),
    "negative_amount": ("error", "business-rule", "The amount is negative: a reversal is sent as a change of status"),
    "currency": ("error", "not-supported", "The ledger is kept in US dollars"),
    "unbalanced": ("error", "business-rule", "The parts do not add up to the total"),
    "missing_lines": ("error", "required", "There is a total, but no line"),
    "duplicate_sequence": ("error", "business-rule", "Two lines have the same sequence"),
    "duplicate_charge_item": ("error", "business-rule", "Two lines bill the same charge item"),
    "missing_date": ("error", "required", "There is no date of service or payment"),
    "invalid_date": ("error", "value", "The date is not a whole day between 1900 and 2199"),
    "invalid_procedure_code": ("error", "code-invalid", "There is no CPT or HCPCS code of five characters"),
    "invalid_modifier": ("error", "code-invalid", "A modifier has two characters, and there are at most four"),
    "invalid_units": ("error", "value", "Units are a whole number between 1 and 999"),
    "invalid_text": ("error", "value", "The text has characters that are not allowed, or is too long"),
    "unresolved_charge_item": ("error", "not-found", "The charge item of this line is not in the input"),
    "replaces_claim": ("error", "business-rule", "The claim replaces another one, whose charges a person must settle"),
    "missing_diagnosis": ("warning", "required", "There is no diagnosis"),
    "unknown_diagnosis": ("warning", "code-invalid", "A diagnosis that is no ICD-10-CM code was left out"),
}


@dataclass(frozen=True, slots=True)
class Issue:
    """One finding. `expression` is a FHIRPath into the input; `numbers` are cents, for a balancing rule."""

    code: str
    expression: str = ""
    numbers: tuple[tuple[str, int], ...] = ()

    @property
    def severity(self) -> Severity:
        """A warning does not keep anything from being posted; fatal means that nothing could be read."""
        return CATALOGUE[self.code][0]

    @property
    def type(self) -> str:
        """The FHIR code of the issue (value set issue-type)."""
        return CATALOGUE[self.code][1]

    @property
    def diagnostics(self) -> str:
        """A sentence for a person."""
        return CATALOGUE[self.code][2]
