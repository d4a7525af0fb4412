"""What the FHIR reader makes of one resource."""

from __future__ import annotations

from typing import Any

from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.model import ChargeFact, Outcome, PaymentFact
from tests.support.fhir_builder import body


def only(value: Any, index: int = 0) -> Outcome:
    return list(outcomes(body(value)))[index]


def errors(value: Any, index: int = 0) -> list[tuple[str, str]]:
    found = only(value, index)
    assert (found.state == "refused") == any(issue.severity != "warning" for issue in found.issues)
    return [(issue.code, issue.expression) for issue in found.issues if issue.severity != "warning"]


def codes(value: Any, index: int = 0) -> set[str]:
    return {code for code, _ in errors(value, index)}


def charge(value: Any, index: int = 0) -> ChargeFact:
    (fact,) = only(value, index).facts
    assert isinstance(fact, ChargeFact)
    return fact


def payment(value: Any, index: int = 0) -> PaymentFact:
    (fact,) = only(value, index).facts
    assert isinstance(fact, PaymentFact)
    return fact
