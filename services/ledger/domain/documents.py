"""The documents that callers see (`api.md`), from the state of the books. Values are plain; orjson renders them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.ledger.domain.books import RECEIVABLES, Charge, Patient, Payer, Payment, Physician


def patient_document(patient: Patient) -> dict[str, Any]:
    return {
        "id": patient.patient_id,
        "account_number": patient.account_number,
        "first_name": patient.first_name,
        "last_name": patient.last_name,
        "date_of_birth": patient.date_of_birth,
        "payer_id": patient.payer_id,
        "company_version": patient.version,
    }


def payer_document(payer: Payer) -> dict[str, Any]:
    return {
        "id": payer.payer_id,
        "code": payer.code,
        "name": payer.name,
        "payer_class": payer.payer_class,
        "era_payer_ids": list(payer.era_payer_ids),
        "company_version": payer.version,
    }


def physician_document(physician: Physician) -> dict[str, Any]:
    return {
        "id": physician.referring_physician_id,
        "npi": physician.npi,
        "first_name": physician.first_name,
        "last_name": physician.last_name,
        "company_version": physician.version,
    }


def charge_status(charge: Charge) -> str:
    """`closed` is not a state but a finding: nothing is owed any more."""
    if charge.state != "active":
        return charge.state
    return "closed" if charge.balance_cents == 0 else "active"


def charge_document(charge: Charge) -> dict[str, Any]:
    return {
        "id": charge.charge_id,
        "status": charge_status(charge),
        "patient_id": charge.patient_id,
        "location_id": charge.location_id,
        "payer_id": charge.payer_id,
        "date_of_service": charge.date_of_service,
        "procedure_code": charge.procedure_code,
        "modifiers": list(charge.modifiers),
        "units": charge.units,
        "diagnosis_codes": list(charge.diagnosis_codes),
        "amount_cents": charge.amount_cents,
        "applied_cents": charge.applied_cents,
        "adjusted_cents": charge.adjusted_cents,
        "balance_cents": charge.balance_cents,
        "payer_balance_cents": charge.due["receivable_payer"],
        "patient_balance_cents": charge.due["receivable_patient"],
        "delayed": charge.state == "delayed",
        "external_id": charge.external_id,
        "source": charge.source,
        "poster_id": charge.poster_id,
        "posted_at": charge.posted_at,
        "company_version": charge.touched_version,
    }


def payment_document(payment: Payment) -> dict[str, Any]:
    words = payment.words
    applied_cents, provider_level_cents = payment.applied_cents, payment.provider_level_cents
    unapplied_cents = words.amount_cents - applied_cents - provider_level_cents
    return {
        "id": payment.payment_id,
        "source": payment.source,
        "location_id": words.location_id,
        "method": words.method,
        "check_number": words.check_number,
        "payer_id": words.payer_id,
        "patient_id": words.patient_id,
        "amount_cents": words.amount_cents,
        "applied_cents": applied_cents,
        "adjusted_cents": payment.adjusted_cents,
        "provider_level_cents": provider_level_cents,
        "unapplied_cents": unapplied_cents,
        "refunded_cents": payment.refunded_cents,
        "available_cents": unapplied_cents - payment.refunded_cents,
        "deposit_date": words.deposit_date,
        "posting_date": payment.posting_date,
        "posted_at": payment.posted_at,
        "batch_number": words.batch_number,
        "memo": words.memo,
        "payment_type": words.payment_type,
        "external_id": payment.external_id,
        "poster_id": payment.poster_id,
        "affiliation": payment.affiliation,
        "withdrawn": words.withdrawn,
        "reverses_id": payment.reverses_id,
        "refunds_id": payment.refunds_id,
        "reversed_by_id": payment.reversed_by,
        "applications": _applications(payment),
        "adjustments": _adjustments(payment),
        "provider_level": _provider_level(payment),
        "company_version": payment.touched_version,
    }


def is_unassigned(document: Mapping[str, Any]) -> bool:
    """Whether a payment, by its document, has money that waits for a charge: as the list of those says it in SQL."""
    undone = document["withdrawn"] or document["reversed_by_id"]
    return document["available_cents"] > 0 and not (undone or document["reverses_id"] or document["refunds_id"])


def _applications(payment: Payment) -> list[dict[str, Any]]:
    """Net cents applied to each charge, whoever owed them."""
    totals: dict[Any, int] = {}
    for key, cents in payment.lines.oriented():
        if "unapplied" in (key.debit, key.credit) and (key.debit in RECEIVABLES or key.credit in RECEIVABLES):
            totals[key.charge_id] = totals.get(key.charge_id, 0) + (cents if key.debit == "unapplied" else -cents)
    return [{"charge_id": charge_id, "amount_cents": cents} for charge_id, cents in totals.items() if cents]


def _adjustments(payment: Payment) -> list[dict[str, Any]]:
    """Write-offs, and moves to the patient (group PR), that came with the payment."""
    rows: list[dict[str, Any]] = []
    for key, cents in payment.lines.oriented():
        if key.debit == "adjustment" or (key.debit == "receivable_patient" and key.credit == "receivable_payer"):
            signed = cents
        elif key.credit == "adjustment" or (key.credit == "receivable_patient" and key.debit == "receivable_payer"):
            signed = -cents
        else:
            continue
        group, _, reason = key.detail.partition(":")
        rows.append({"charge_id": key.charge_id, "group_code": group, "reason_code": reason, "amount_cents": signed})
    return rows


def _provider_level(payment: Payment) -> list[dict[str, Any]]:
    """Provider-level amounts; positive raises the payment."""
    return [
        {"reason_code": key.detail, "amount_cents": cents if key.debit == "unapplied" else -cents}
        for key, cents in payment.lines.oriented()
        if "provider_level" in (key.debit, key.credit)
    ]
