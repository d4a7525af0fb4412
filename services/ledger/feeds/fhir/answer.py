"""What a FHIR sender is told: an OperationOutcome about his input, and the CapabilityStatement of this endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Any, Final

from services.ledger.feeds.fhir.issues import Issue
from services.ledger.feeds.fhir.model import Outcome
from services.ledger.feeds.fhir.reader import ACCEPTED, BUNDLES

MEDIA_TYPE: Final = "application/fhir+json"
_CODES: Final = "urn:practice-billing:feed-issue"
_ISSUES_SHOWN: Final = 500
_REASONS: Final = {
    "patient_copy": "A copy for the patient or the payer, not for posting",
    "not_financial": "It carries no charge and no payment",
    "estimate": "An authorization or estimate, not for posting",
    "billed_by_invoice": "An invoice in the same input bills this charge item",
    "reported_by_reconciliation": "A reconciliation in the same input brings this payment",
    "search_include": "The search returned it for others to refer to",
    "nothing_to_post": "It has no line",
}


def operation_outcome(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """What was refused and why, then what was ignored; when all is well, one line that says so."""
    refused: list[dict[str, Any]] = []
    ignored: list[dict[str, Any]] = []
    for outcome in outcomes:
        refused += [_issue(issue) for issue in outcome.issues]
        if outcome.state == "ignored":
            text = _REASONS.get(outcome.reason, "Its status says that it is not to be posted")
            ignored.append(_row("information", "informational", outcome.reason, text, outcome.path))
    rows = refused + ignored or [_row("information", "informational", "accepted", "Everything was accepted", "")]
    if len(rows) > _ISSUES_SHOWN:
        text = f"There are {len(rows) - _ISSUES_SHOWN + 1} more"
        rows[_ISSUES_SHOWN - 1 :] = [_row("information", "incomplete", "more", text, "")]
    return {"resourceType": "OperationOutcome", "issue": rows}


def capability_statement(*, software_version: str, released: date) -> dict[str, Any]:
    """What may be sent here (FHIR `metadata`)."""
    resources = [{"type": kind, "interaction": [{"code": "create"}, {"code": "update"}]} for kind in sorted(ACCEPTED)]
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": released.isoformat(),
        "kind": "instance",
        "software": {"name": "Practice billing ledger", "version": software_version},
        "implementation": {"description": "Takes charges and payments for posting; nothing can be read back as FHIR"},
        "fhirVersion": "4.0.1",
        "format": [MEDIA_TYPE],
        "rest": [
            {
                "mode": "server",
                "documentation": f"Single resources, and Bundles of type {', '.join(BUNDLES)}",
                "resource": resources,
                "interaction": [{"code": "transaction"}, {"code": "batch"}],
            }
        ],
    }


def _issue(issue: Issue) -> dict[str, Any]:
    return _row(issue.severity, issue.type, issue.code, issue.diagnostics, issue.expression)


def _row(severity: str, kind: str, code: str, text: str, expression: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "severity": severity,
        "code": kind,
        "details": {"coding": [{"system": _CODES, "code": code}]},
        "diagnostics": text,
    }
    return {**row, "expression": [expression]} if expression else row
