"""What a FHIR resource is known by, and which rule keeps it out of the books."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B import fhirtypes
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome

from services.ledger.feeds.fhir.answer import capability_statement, operation_outcome
from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.reader import ACCEPTED, OTHERS
from tests.support.fhir_builder import Digits, bundle, charge_item, claim, claim_item, concept, money, patient
from tests.support.fhir_facts import charge, codes, errors, only


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({}, "ChargeItem/urn:emr:charge|C-77"),
        ({"identifier": None}, "ChargeItem/ci1"),
        ({"identifier": [{"use": "old", "value": "x"}, {"use": "official", "value": "y"}]}, "ChargeItem/y"),
        ({"identifier": None, "id": None}, "ChargeItem/https://emr.example/fhir/ChargeItem/0"),
    ],
)
def test_key(changes: dict[str, Any], key: str) -> None:
    assert charge(bundle(charge_item(**changes), patient())).key == key


def test_key_that_is_none() -> None:
    assert codes(charge_item(identifier=None, id=None)) == {"missing_identifier"}
    assert codes(charge_item(identifier=[{"value": "x" * 300}])) == {"invalid_identifier"}
    assert codes(charge_item(identifier=[{"value": "naïve"}])) == {"invalid_identifier"}


@pytest.mark.parametrize(
    ("meta", "version"),
    [
        (None, 1),
        ({"versionId": "7", "lastUpdated": "2026-01-05T00:00:00Z"}, 7),
        ({"versionId": "a7", "lastUpdated": "1970-01-01T00:00:01.5Z"}, 1_500_000),
        ({"lastUpdated": "9999-12-31T23:59:59Z"}, 1 << 53),
        ({"versionId": "0"}, 1),
    ],
)
def test_version(meta: Any, version: int) -> None:
    assert charge(charge_item(meta=meta)).version == version


@pytest.mark.parametrize(
    ("amount", "cents"),
    [("120", 12000), ("120.5", 12050), ("120.500", 12050), ("1.2e2", 12000), ("12000E-2", 12000), ("0.00", 0)],
)
def test_amount(amount: str, cents: int) -> None:
    assert charge(charge_item(amount)).amount_cents == cents


@pytest.mark.parametrize(
    ("price", "code"),
    [
        (money("10.005"), "three_decimals"),
        (money("1e-5"), "three_decimals"),
        (money("1e-999999"), "three_decimals"),
        (money("1e12"), "amount_out_of_range"),
        (money("1e999999"), "amount_out_of_range"),
        (money("1000000000.00"), "amount_out_of_range"),
        (money("-5.00"), "negative_amount"),
        (money("40.00", "EUR"), "currency"),
        (money(None), "missing_amount"),
        (None, "missing_amount"),
        ({"value": "ten"}, "invalid_value"),
        ({"value": None}, "invalid_value"),
        ({"value": True}, "invalid_value"),
    ],
)
def test_amount_that_is_none(price: Any, code: str) -> None:
    assert codes(charge_item(priceOverride=price)) == {code}


def test_no_currency_is_the_dollar() -> None:
    assert charge(charge_item(priceOverride=money("1.00", None))).amount_cents == 100


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (charge_item(quantity={"value": Digits("1.5")}), ("invalid_units", "ChargeItem.quantity")),
        (charge_item(quantity={"value": 1000}), ("invalid_units", "ChargeItem.quantity")),
        (charge_item(quantity={"value": Digits("1e999999")}), ("invalid_units", "ChargeItem.quantity")),
        (charge_item(occurrenceDateTime=None), ("missing_date", "ChargeItem")),
        (charge_item(occurrenceDateTime="2026-01"), ("invalid_date", "ChargeItem")),
        (charge_item(occurrenceDateTime=86400), ("invalid_value", "ChargeItem.occurrenceDateTime")),
        (charge_item(code=concept("1234")), ("invalid_procedure_code", "ChargeItem.code")),
        (charge_item(code=concept("38341", "http://snomed.info/sct")), ("invalid_procedure_code", "ChargeItem.code")),
        (claim(claim_item(modifier=[concept("XYZ")])), ("invalid_modifier", "Claim.item[0].modifier[0]")),
        (claim(claim_item(), claim_item()), ("duplicate_sequence", "Claim.item")),
        (claim(related=[{"relationship": concept("prior", None)}]), ("replaces_claim", "Claim.related[0]")),
        (claim(total=money("1.00")), ("unbalanced", "Claim.total")),
        (claim(use=None), ("missing_field", "Claim.use")),
        (claim(claim_item(net=None, neet=money("1"))), ("unknown_field", "Claim.item[0]")),
        (charge_item(implicitRules="http://x"), ("modifier_extension", "ChargeItem.implicitRules")),
        (
            claim(claim_item(modifierExtension=[{"url": "http://x/negated"}])),
            ("modifier_extension", "Claim.item[0].modifierExtension"),
        ),
        ({"resourceType": "Patient"}, ("unsupported_resource", "Patient")),
        ({"resourceType": "Claims"}, ("unknown_resource", "")),
        ({"resourceType": "Bundle", "type": "history"}, ("unsupported_bundle", "Bundle")),
        (bundle({"resourceType": "Bundle"}), ("unsupported_resource", "Bundle.entry[0].resource")),
        (bundle({"resourceType": "claim"}), ("unknown_resource", "Bundle.entry[0].resource")),
        (bundle(claim(total=money("1.00"))), ("unbalanced", "Bundle.entry[0].resource.total")),
        (
            {"resourceType": "Bundle", "type": "batch", "entry": [{"request": {"method": "DELETE"}}]},
            ("unsupported_request", "Bundle.entry[0]"),
        ),
        ({"resourceType": "Bundle", "type": "batch", "entry": [7]}, ("missing_resource", "Bundle.entry[0]")),
        ([], ("not_fhir", "")),
        ({"resource": 1}, ("not_fhir", "")),
    ],
)
def test_refusal_names_the_place(value: Any, found: tuple[str, str]) -> None:
    assert errors(value) == [found]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b'{"resourceType": "Claim", "resourceType": "Patient"}', "duplicate_key"),
        (b'{"resourceType": "Claim", "x": NaN}', "not_a_number"),
        (b'{"resourceType": "Claim", "x": 1e99999999999999999999}', "not_a_number"),
        (b'{"resourceType": "Claim", "x": ' + b"1" * 5000 + b"}", "not_a_number"),
    ],
)
def test_unreadable(content: bytes, code: str) -> None:
    (outcome,) = outcomes(content)
    assert [(issue.code, issue.severity) for issue in outcome.issues] == [(code, "fatal")]


def test_deep_nesting_is_refused() -> None:
    extension: Any = {"url": "x"}
    for _ in range(80):
        extension = {"url": "x", "extension": [extension]}
    assert codes(charge_item(extension=[extension])) == {"too_deep"}


def test_answers_are_valid_r4() -> None:
    found = [only(one) for one in (charge_item(), claim(use="preauthorization"), claim(total=money("1.00")))]
    for some in (found, found[:1], found * 400):
        answer = operation_outcome(some)
        OperationOutcome.model_validate(answer)
        assert len(answer["issue"]) <= 500
    assert operation_outcome([only(charge_item())])["issue"][0]["severity"] == "information"
    statement = capability_statement(software_version="1.0", released=date(2026, 1, 1))
    CapabilityStatement.model_validate(statement)
    assert [one["type"] for one in statement["rest"][0]["resource"]] == sorted(ACCEPTED)


def test_other_types_are_those_of_r4() -> None:
    assert {name for name in OTHERS if not hasattr(fhirtypes, f"{name}Type")} == set()


def test_r5_models_are_never_imported() -> None:
    source = Path(__file__).resolve().parents[2]
    for path in [*source.glob("services/**/*.py"), *source.glob("shared/**/*.py"), *source.glob("deploy/**/*.py")]:
        for line in path.read_text().splitlines():
            if re.match(r"\s*(from|import)\s+fhir\b", line):
                assert re.match(r"\s*(from|import) fhir\.resources\.R4B\b", line), f"{path}: {line}"
