"""From resources to what is to be posted: charges, payments, and voids of either.

A resource is posted whole or not at all, so that every one of them, and all the money in it, is in exactly one of
three places: facts, ignored with a reason, refused with issues.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Final, Literal

from fhir.resources.R4B.chargeitem import ChargeItem
from fhir.resources.R4B.claim import Claim
from fhir.resources.R4B.invoice import Invoice
from fhir.resources.R4B.paymentnotice import PaymentNotice
from fhir.resources.R4B.paymentreconciliation import PaymentReconciliation

from services.ledger.feeds.fhir import charges, parties, payments, values
from services.ledger.feeds.fhir.issues import Issue
from services.ledger.feeds.fhir.model import Facts, Outcome, VoidFact
from services.ledger.feeds.fhir.reader import PATIENT_COPIES, Item, Resource, read

Meaning = Literal["post", "ignore", "void"]

_DOCUMENT: Final[dict[str, Meaning]] = {
    "active": "post",
    "draft": "ignore",
    "cancelled": "void",
    "entered-in-error": "void",
}
_MEANINGS: Final[dict[str, dict[str, Meaning]]] = {
    "ChargeItem": {
        "planned": "ignore",
        "billable": "post",
        "billed": "post",
        # These may follow upon "billable". Where they do not, there is nothing to take back.
        "not-billable": "void",
        "aborted": "void",
        "entered-in-error": "void",
    },
    "Claim": _DOCUMENT,
    "Invoice": {
        "draft": "ignore",
        "issued": "post",
        "balanced": "post",
        "cancelled": "void",
        "entered-in-error": "void",
    },
    "PaymentNotice": _DOCUMENT,
    "PaymentReconciliation": _DOCUMENT,
}
_ESTIMATES: Final = ("preauthorization", "predetermination")


def outcomes(body: bytes, aliases: Collection[str] = ()) -> Iterator[Outcome]:
    """What becomes of every resource of an input, in its order. `aliases`: as of `read`."""
    return (_named(understand(item), item) for item in read(body, aliases))


def _named(outcome: Outcome, item: Item) -> Outcome:
    if item.resource is None:
        return outcome
    meta, found = item.resource.meta, list[Issue]()
    key = _key(item, item.resource, found)
    source = str(meta.source).partition("#")[0] if meta is not None and meta.source else ""
    return replace(outcome, key="" if found else key, version=values.version(meta), source=source)


def _key(item: Item, resource: Resource, found: list[Issue]) -> str:
    if isinstance(resource, PaymentNotice | PaymentReconciliation):
        return payments.void_key(item, resource, found)
    return parties.name(item, resource, found).key


def understand(item: Item) -> Outcome:
    """What becomes of one resource."""
    if item.accompanies:
        return Outcome(item.index, item.path, item.kind, "ignored", reason="search_include")
    if item.issues:
        return _refused(item, list(item.issues))
    resource = item.resource
    if resource is None:
        reason = "patient_copy" if item.kind in PATIENT_COPIES else "not_financial"
        return Outcome(item.index, item.path, item.kind, "ignored", reason=reason)
    found: list[Issue] = []
    meaning = _MEANINGS[item.kind].get(resource.status or "")
    if meaning is None or (isinstance(resource, Claim) and resource.use not in ("claim", *_ESTIMATES)):
        found.append(Issue("unknown_status", f"{item.path}.status"))
    if meaning == "void" and not found:
        return _void(item, resource, found)
    built = _build(item, resource, found if meaning != "ignore" else [])
    reason = _ignored(item, resource, meaning) or (built.reason if isinstance(built, payments.Built) else "")
    if reason:
        return Outcome(item.index, item.path, item.kind, "ignored", reason=reason, amount_cents=built.amount_cents)
    if any(issue.severity != "warning" for issue in found):
        return _refused(item, found, built.amount_cents, built.facts)
    if not built.facts:
        return Outcome(item.index, item.path, item.kind, "ignored", reason="nothing_to_post")
    warnings = tuple(dict.fromkeys(found))
    return Outcome(
        item.index, item.path, item.kind, "facts", built.facts, issues=warnings, amount_cents=built.amount_cents
    )


def _build(item: Item, resource: Resource, found: list[Issue]) -> charges.Built | payments.Built:
    if isinstance(resource, ChargeItem):
        return charges.charge_item(item, resource, found)
    if isinstance(resource, Claim):
        return charges.claim(item, resource, found)
    if isinstance(resource, Invoice):
        return charges.invoice(item, resource, found)
    if isinstance(resource, PaymentNotice):
        return payments.notice(item, resource, found)
    return payments.reconciliation(item, resource, found)


def _ignored(item: Item, resource: Resource, meaning: Meaning | None) -> str:
    """Why a valid resource brings nothing into the books."""
    if meaning == "ignore":
        return f"status_{resource.status}"
    if isinstance(resource, Claim) and resource.use in _ESTIMATES:
        return "estimate"
    if id(item.raw) in item.document.billed:
        return "billed_by_invoice"  # whose line says the price, which a charge item may leave out
    return ""


def _void(item: Item, resource: Resource, found: list[Issue]) -> Outcome:
    """A deletion of every line that is listed, and of the document itself for those that no longer are."""
    payment = isinstance(resource, PaymentNotice | PaymentReconciliation)
    kind: Literal["charge", "payment"] = "payment" if payment else "charge"
    key = _key(item, resource, found)
    numbers = charges.line_numbers(item, resource, found)
    if found:
        return _refused(item, found)
    keys = (key, *(f"{key}#{number}" for number in numbers))
    version = values.version(resource.meta)
    facts = tuple(VoidFact(key=one, document_key=key, version=version, kind=kind) for one in keys)
    return Outcome(item.index, item.path, item.kind, "facts", facts)


def _refused(item: Item, found: list[Issue], amount_cents: int = 0, legible: Facts = ()) -> Outcome:
    issues = tuple(dict.fromkeys(found))
    return Outcome(
        item.index, item.path, item.kind, "refused", issues=issues, amount_cents=amount_cents, legible=legible
    )
