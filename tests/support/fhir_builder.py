"""FHIR resources as a clinic would send them. Amounts are texts, so that they reach the JSON digit for digit."""

from __future__ import annotations

import json
from typing import Any

Raw = dict[str, Any]
CPT = "http://www.ama-assn.org/go/cpt"
ICD = "http://hl7.org/fhir/sid/icd-10-cm"


class Digits(float):
    """A number that is written into JSON as the text it was made of."""

    def __new__(cls, text: str) -> Digits:
        made = super().__new__(cls, 0)
        made.text = text
        return made

    text: str

    def __repr__(self) -> str:
        return self.text


def body(value: Any) -> bytes:
    """As the bytes of a request."""

    def plain(one: Any) -> str:
        if isinstance(one, Digits):
            return one.text
        if isinstance(one, dict):
            return "{" + ",".join(f"{json.dumps(name)}:{plain(inner)}" for name, inner in one.items()) + "}"
        if isinstance(one, list):
            return "[" + ",".join(map(plain, one)) + "]"
        return json.dumps(one)

    return plain(value).encode()


def bundle(*resources: Raw, kind: str = "transaction", base: str = "https://emr.example/fhir") -> Raw:
    entries = [
        {"fullUrl": f"{base}/{one['resourceType']}/{one.get('id', i)}", "resource": one}
        for i, one in enumerate(resources)
    ]
    return {"resourceType": "Bundle", "type": kind, "entry": entries}


def money(text: str | None, currency: str | None = "USD") -> Raw:
    return {
        name: one
        for name, one in (("value", Digits(text) if text else None), ("currency", currency))
        if one is not None
    }


def concept(code: str, system: str | None = CPT) -> Raw:
    return {"coding": [{"code": code} if system is None else {"system": system, "code": code}]}


def patient(**changes: Any) -> Raw:
    made: Raw = {
        "resourceType": "Patient",
        "id": "p1",
        "identifier": [
            {"type": {"coding": [{"code": "SS"}]}, "value": "999-99-9999"},
            {"type": {"coding": [{"code": "MR"}]}, "value": "ABC-1001"},
        ],
        "name": [{"use": "maiden", "family": "Smith"}, {"use": "official", "family": "Roe", "given": ["Jane", "Q"]}],
        "birthDate": "1980-02-29",
    }
    return {name: one for name, one in {**made, **changes}.items() if one is not None}


def charge_item(price: str | None = "120.00", **changes: Any) -> Raw:
    made: Raw = {
        "resourceType": "ChargeItem",
        "id": "ci1",
        "meta": {"versionId": "3"},
        "identifier": [{"system": "urn:emr:charge", "value": "C-77"}],
        "status": "billable",
        "code": {"coding": [*concept("97110")["coding"], *concept("GP")["coding"]]},
        "subject": {"reference": "Patient/p1"},
        "occurrenceDateTime": "2026-01-05T23:30:00-08:00",
        "performingOrganization": {"identifier": {"value": "CLINIC-9"}},
        "quantity": {"value": 2},
        "priceOverride": money(price),
        "reason": [concept("M54.50", ICD)],
    }
    if price is None:
        del made["priceOverride"]
    return {name: one for name, one in {**made, **changes}.items() if one is not None}


def claim_item(sequence: int = 1, net: str | Raw | None = "120.00", **changes: Any) -> Raw:
    made: Raw = {
        "sequence": sequence,
        "diagnosisSequence": [2, 1],
        "productOrService": concept("97110"),
        "modifier": [concept("GP"), concept("59")],
        "servicedDate": "2026-01-05",
        "net": money(net) if isinstance(net, str) else net,
    }
    return {name: one for name, one in {**made, **changes}.items() if one is not None}


def claim(*items: Raw, **changes: Any) -> Raw:
    made: Raw = {
        "resourceType": "Claim",
        "id": "cl1",
        "identifier": [{"system": "urn:emr:claim", "value": "CLM-5"}],
        "status": "active",
        "type": concept("professional", None),
        "use": "claim",
        "patient": {"reference": "Patient/p1"},
        "created": "2026-01-06",
        "facility": {"reference": "Location/l1"},
        "provider": {"reference": "Organization/o1"},
        "priority": concept("normal", None),
        "diagnosis": [
            {"sequence": 1, "diagnosisCodeableConcept": concept("M54.50", ICD)},
            {"sequence": 2, "diagnosisCodeableConcept": concept("M25.561", ICD)},
        ],
        "insurance": [{"sequence": 1, "focal": True, "coverage": {"display": "self"}}],
        "item": list(items or [claim_item()]),
    }
    return {name: one for name, one in {**made, **changes}.items() if one is not None}


def invoice_line(price: str | None = "120.00", sequence: int | None = 1, **changes: Any) -> Raw:
    made: Raw = {
        "sequence": sequence,
        "chargeItemCodeableConcept": concept("97110"),
        "priceComponent": [{"type": "base", "amount": money(price)}],
    }
    return {name: one for name, one in {**made, **changes}.items() if one is not None}


def invoice(*lines: Raw, **changes: Any) -> Raw:
    made: Raw = {
        "resourceType": "Invoice",
        "id": "in1",
        "identifier": [{"value": "INV-8"}],
        "status": "issued",
        "subject": {"reference": "Patient/p1"},
        "date": "2026-01-05",
        "issuer": {"identifier": {"value": "CLINIC-9"}},
        "lineItem": list(lines or [invoice_line()]),
    }
    return {name: one for name, one in {**made, **changes}.items() if one is not None}


def detail(amount: str = "80.00", claim_id: str | None = "CLM-5", kind: str = "payment") -> Raw:
    made: Raw = {
        "identifier": {"value": f"D-{amount}"},
        "type": concept(kind, "http://terminology.hl7.org/CodeSystem/payment-type"),
        "date": "2026-01-20",
        "amount": money(amount),
    }
    return {**made, "request": {"identifier": {"value": claim_id}}} if claim_id else made


def reconciliation(amount: str | None = "80.00", *details: Raw, **changes: Any) -> Raw:
    made: Raw = {
        "resourceType": "PaymentReconciliation",
        "id": "pr1",
        "identifier": [{"system": "urn:payer:recon", "value": "R-1"}],
        "status": "active",
        "created": "2026-01-20",
        "outcome": "complete",
        "paymentIssuer": {"identifier": {"value": "PAYER-1"}, "display": "Example Health"},
        "paymentDate": "2026-01-21",
        "paymentAmount": money(amount),
        "paymentIdentifier": {"system": "urn:payer:eft", "value": "EFT-900"},
        "detail": list(details) or None,
    }
    return {name: one for name, one in {**made, **changes}.items() if one is not None}


def notice(amount: str = "25.00", **changes: Any) -> Raw:
    made: Raw = {
        "resourceType": "PaymentNotice",
        "id": "pn1",
        "identifier": [{"system": "urn:emr:notice", "value": "N-1"}],
        "status": "active",
        "request": {"reference": "Claim/cl1"},
        "created": "2026-01-05",
        "payment": {"identifier": {"system": "urn:payer:eft", "value": "EFT-901"}},
        "paymentDate": "2026-01-05",
        "recipient": {"display": "front desk"},
        "amount": money(amount),
    }
    return {name: one for name, one in {**made, **changes}.items() if one is not None}
