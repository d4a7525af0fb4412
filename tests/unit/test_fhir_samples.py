"""Every FHIR sample is posted, ignored or refused as stated here, and never anything else."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from services.ledger.feeds.fhir.answer import operation_outcome
from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.model import Outcome

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples" / "fhir"

NO_CODE = ("invalid_procedure_code",)
# State, reason or errors, cents. The r4spec claims bill dental, vision and pharmacy codes, which are no CPT.
STATED: dict[str, tuple[str, tuple[str, ...], int]] = {
    "pdex_EOB_priorauth": ("ignored", ("patient_copy",), 0),
    "r4spec_Account-ewg": ("ignored", ("patient_copy",), 0),
    "r4spec_Account-example": ("ignored", ("patient_copy",), 0),
    "r4spec_ChargeItem-example": ("refused", ("currency",), 0),
    "r4spec_Claim-100150": ("refused", NO_CODE, 135_57),
    "r4spec_Claim-100151": ("refused", NO_CODE, 1340_57),
    "r4spec_Claim-100152": ("refused", ("invalid_procedure_code", "missing_patient"), 135_57),
    "r4spec_Claim-100153": ("ignored", ("estimate",), 10205_00),
    "r4spec_Claim-100154": ("refused", NO_CODE, 135_57),
    "r4spec_Claim-100155": ("refused", ("invalid_procedure_code", "missing_patient"), 135_57),
    "r4spec_Claim-100156": ("facts", (), 2255_00),
    "r4spec_Claim-660150": ("refused", NO_CODE, 80_00),
    "r4spec_Claim-660151": ("refused", NO_CODE, 214_00),
    "r4spec_Claim-660152": ("refused", ("invalid_modifier", "invalid_procedure_code"), 235_40),
    "r4spec_Claim-760150": ("refused", NO_CODE, 60_00),
    "r4spec_Claim-760151": ("refused", NO_CODE, 90_00),
    "r4spec_Claim-760152": ("refused", NO_CODE, 155_00),
    "r4spec_Claim-860150": ("refused", NO_CODE, 75_00),
    "r4spec_Claim-960150": ("refused", NO_CODE, 125_00),
    "r4spec_Claim-960151": ("refused", NO_CODE, 125_00),
    # Its patient is contained and has no number: nobody here could be told from another Alvina.
    "r4spec_Claim-MED-00050": ("refused", ("missing_patient",), 12500_00),
    "r4spec_ClaimResponse-R3500": ("ignored", ("patient_copy",), 0),
    "r4spec_ClaimResponse-R3501": ("ignored", ("patient_copy",), 0),
    "r4spec_ClaimResponse-R3502": ("ignored", ("patient_copy",), 0),
    "r4spec_ClaimResponse-R3503": ("ignored", ("patient_copy",), 0),
    "r4spec_ClaimResponse-UR3503": ("ignored", ("patient_copy",), 0),
    "r4spec_Coverage-7546D": ("ignored", ("patient_copy",), 0),
    "r4spec_Coverage-7547E": ("ignored", ("patient_copy",), 0),
    "r4spec_Coverage-9876B1": ("ignored", ("patient_copy",), 0),
    "r4spec_Coverage-SP1234": ("ignored", ("patient_copy",), 0),
    "r4spec_ExplanationOfBenefit-EB3500": ("ignored", ("patient_copy",), 0),
    "r4spec_ExplanationOfBenefit-EB3501": ("ignored", ("patient_copy",), 0),
    "r4spec_Invoice-example": ("refused", ("currency", "missing_lines"), 0),
    # The standard's own example: 3500 + 4000 - 1500 is not 7000.
    "r4spec_PaymentReconciliation-ER2500": ("refused", ("unbalanced",), 7000_00),
}
# Synthea prices a claim as a whole and leaves the line of the visit without an amount, and codes in SNOMED and CVX.
BUNDLES = {"synthea_Gayla": (23, 16), "synthea_Royal": (11, 9), "synthea_Yi": (18, 14), "synthea_practitioner": (0, 0)}


def sample(name: str) -> bytes:
    paths = list(SAMPLES.glob(f"{name}*json")) if SAMPLES.is_dir() else []
    if not paths:
        pytest.skip("the samples are not here")
    return paths[0].read_bytes()


def told(outcome: Outcome) -> tuple[str, tuple[str, ...], int]:
    errors = sorted({issue.code for issue in outcome.issues if issue.severity != "warning"})
    return outcome.state, tuple(errors) or ((outcome.reason,) if outcome.reason else ()), outcome.amount_cents


@pytest.mark.parametrize("name", STATED)
def test_single_resource(name: str) -> None:
    (outcome,) = outcomes(sample(f"{name}."))
    assert told(outcome) == STATED[name]


@pytest.mark.parametrize("name", BUNDLES)
def test_bundle(name: str) -> None:
    content = sample(name)
    found = list(outcomes(content))
    entries: list[dict[str, Any]] = json.loads(content)["entry"]
    assert [outcome.kind for outcome in found] == [entry["resource"]["resourceType"] for entry in entries]
    counts = Counter((outcome.kind, outcome.state) for outcome in found)
    claims, copies = BUNDLES[name]
    assert (counts["Claim", "refused"], counts["ExplanationOfBenefit", "ignored"]) == (claims, copies)
    assert counts.total() - claims == sum(n for (_, state), n in counts.items() if state == "ignored")
    for outcome in found:
        if outcome.kind == "Claim":
            assert {"missing_amount", "invalid_procedure_code"} <= {issue.code for issue in outcome.issues}
    stated = sum(
        round(entry["resource"]["total"]["value"] * 100)
        for entry in entries
        if entry["resource"]["resourceType"] == "Claim"
    )
    assert sum(outcome.amount_cents for outcome in found) == stated


def test_every_sample_is_stated_here() -> None:
    names = {path.name.partition(".")[0] for path in SAMPLES.glob("*.json")}
    assert not {name for name in names if name not in STATED and not name.startswith(tuple(BUNDLES))}


def test_no_name_of_a_patient_in_an_answer() -> None:
    answer = json.dumps(operation_outcome(outcomes(sample("synthea_Gayla"))))
    assert "Gayla" not in answer
    assert "Ferry" not in answer
