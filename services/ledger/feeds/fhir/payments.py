"""Payments: a PaymentReconciliation says what a payer paid for what, a PaymentNotice that a payment has occurred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fhir.resources.R4B.account import Account
from fhir.resources.R4B.chargeitem import ChargeItem
from fhir.resources.R4B.claim import Claim
from fhir.resources.R4B.codeableconcept import CodeableConcept
from fhir.resources.R4B.invoice import Invoice
from fhir.resources.R4B.paymentnotice import PaymentNotice
from fhir.resources.R4B.paymentreconciliation import PaymentReconciliation
from fhir.resources.R4B.reference import Reference

from services.ledger.feeds.fhir import parties, values
from services.ledger.feeds.fhir.document import Raw, logical_id
from services.ledger.feeds.fhir.issues import Issue
from services.ledger.feeds.fhir.model import ClaimAmount, PaymentFact, Person
from services.ledger.feeds.fhir.reader import Item

_TYPES: Final = frozenset(("payment", "adjustment", "advance"))


@dataclass(frozen=True, slots=True)
class Built:
    """The payment, if it could be made out, and the money that it states."""

    facts: tuple[PaymentFact, ...]
    amount_cents: int
    reason: str = ""
    """Why it is no news: another resource of the same input brings the same money."""


def reconciliation(item: Item, resource: PaymentReconciliation, found: list[Issue]) -> Built:
    """The receipt, and what it is for. Details that do not add up to it are for a person, like an 835 that does not
    balance: there is no way to tell which of the amounts is right."""
    path = item.path
    if resource.outcome not in (None, "complete", "partial"):
        found.append(Issue("failed_outcome", f"{path}.outcome"))
    name = parties.name(item, resource, found)
    amount = values.charge_cents(resource.paymentAmount, f"{path}.paymentAmount", found)
    when = values.day(resource.paymentDate, f"{path}.paymentDate", found)
    payer = parties.payer(item, resource.paymentIssuer, f"{path}.paymentIssuer", found)
    details, total = _details(item, resource, found)
    if resource.detail and amount is not None and total is not None and total != amount:
        numbers = (("stated_cents", amount), ("lines_cents", total), ("difference_cents", amount - total))
        found.append(Issue("unbalanced", f"{path}.detail", numbers))
    if amount is None or when is None or payer is None:
        return Built((), amount or 0)
    identifier = resource.paymentIdentifier
    names = [values.name_of(one) for one in (*(resource.identifier or ()), identifier) if one and one.value]
    fact = PaymentFact(
        key=name.key,
        document_key=name.key,
        version=values.version(resource.meta),
        kind="reconciliation",
        amount_cents=amount,
        payment_date=when,
        trace_number=values.text(identifier.value if identifier else None, f"{path}.paymentIdentifier", found),
        payer=payer,
        patient=None,
        clinics=parties.clinics(item, (resource.requestor,), ()),
        details=details,
        same_as=_keys("PaymentNotice", (*names, resource.id)),
    )
    return Built((fact,), amount)


def notice(item: Item, resource: PaymentNotice, found: list[Issue]) -> Built:
    """A payment that is known by name only. Its key is the name of the payment, so that several notices of one
    payment (sent, cleared) are one receipt."""
    path = item.path
    amount = values.charge_cents(resource.amount, f"{path}.amount", found)
    reported = item.document.target(resource.payment, item.raw, item.full_url)
    is_reconciliation = reported is not None and reported.get("resourceType") == "PaymentReconciliation"
    # Of a draft nothing is posted, so the notice speaks for itself.
    stands = reported is not None and item.document.speaks(reported) and reported.get("status") != "draft"
    if is_reconciliation and stands:
        return Built((), amount or 0, "reported_by_reconciliation")
    when = values.day(resource.paymentDate or resource.created, f"{path}.paymentDate", found)
    patient = _payer_of(item, resource, found)
    names = _payment_names(resource.payment)
    key = values.key("PaymentNotice", names[0], path, found) if names else parties.name(item, resource, found).key
    if amount is None or when is None:
        return Built((), amount or 0)
    fact = PaymentFact(
        key=key,
        document_key=key,
        version=values.version(resource.meta),
        kind="notice",
        amount_cents=amount,
        payment_date=when,
        trace_number=values.text(names[0].rpartition("|")[2] if names else None, f"{path}.payment", found),
        payer=None,
        patient=patient,
        clinics=parties.clinics(item, (resource.payee, resource.provider), ()),
        same_as=_keys("PaymentReconciliation", names),
    )
    return Built((fact,), amount)


def void_key(item: Item, resource: PaymentNotice | PaymentReconciliation, found: list[Issue]) -> str:
    """The key that the same resource had, or would have had, while it was valid."""
    names = _payment_names(resource.payment) if isinstance(resource, PaymentNotice) else ()
    if names:
        return values.key("PaymentNotice", names[0], item.path, found)
    return parties.name(item, resource, found).key


def _details(
    item: Item, resource: PaymentReconciliation, found: list[Issue]
) -> tuple[tuple[ClaimAmount, ...], int | None]:
    """Each detail, and their sum; no sum when one of them cannot be read."""
    details, readable = [], True
    for i, detail in enumerate(resource.detail or ()):
        at = f"{item.path}.detail[{i}]"
        amount = values.cents(detail.amount, f"{at}.amount", found)
        if amount is None:
            readable = False
            continue
        request, response = (
            item.document.names(reference, item.raw, item.full_url) for reference in (detail.request, detail.response)
        )
        details.append(
            ClaimAmount(
                kind=_detail_kind(detail.type, f"{at}.type", found),
                amount_cents=amount,
                claim_ids=request,
                response_ids=response,
                detail_id=values.text(
                    detail.identifier.value if detail.identifier else None, f"{at}.identifier", found
                ),
                date=values.day(detail.date, f"{at}.date", found, required=False),
            )
        )
    return tuple(details), sum(detail.amount_cents for detail in details) if readable else None


def _detail_kind(concept: CodeableConcept, at: str, found: list[Issue]) -> str:
    codes = [coding.code for coding in concept.coding or () if coding.code]
    known = next((code for code in codes if code in _TYPES), None)
    return known or values.text(codes[0] if codes else concept.text, at, found)


def _payer_of(item: Item, resource: PaymentNotice, found: list[Issue]) -> Person | None:
    """A notice names no payer. It is for a patient, or for a claim, invoice or account, which then must be in the input
    for its patient."""
    at = f"{item.path}.request"
    raw = item.document.target(resource.request, item.raw, item.full_url)
    if _is_patient(resource.request, raw):
        return parties.person(item, resource.request, at, found)
    subject: Reference | None = None
    if claim := item.document.load(raw, Claim):
        subject = claim.patient
    elif billed := item.document.load(raw, Invoice) or item.document.load(raw, ChargeItem):
        subject = billed.subject
    elif account := item.document.load(raw, Account):
        subject = next(iter(account.subject or ()), None)
    return parties.person(item, subject, at, found, raw)


def _is_patient(reference: Reference | None, target: Raw | None) -> bool:
    return reference is not None and parties.kind_of(reference, target) == "Patient"


def _payment_names(reference: Reference) -> tuple[str, ...]:
    """What the payment of a notice is called outside this input."""
    stated = values.name_of(reference.identifier) if reference.identifier and reference.identifier.value else ""
    return tuple(name for name in (stated, logical_id(reference.reference)) if name)


def _keys(kind: str, names: Sequence[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values.plain_key(kind, name) for name in names if name))
