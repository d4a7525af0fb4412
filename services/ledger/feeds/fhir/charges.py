"""Charges: a ChargeItem, the items of a Claim, the lines of an Invoice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal, DecimalException, Inexact
from typing import Final

from fhir.resources.R4B.chargeitem import ChargeItem
from fhir.resources.R4B.claim import Claim, ClaimDiagnosis, ClaimItem
from fhir.resources.R4B.codeableconcept import CodeableConcept
from fhir.resources.R4B.condition import Condition
from fhir.resources.R4B.invoice import Invoice, InvoiceLineItem
from fhir.resources.R4B.money import Money
from fhir.resources.R4B.period import Period

from services.ledger.feeds.fhir import parties, values
from services.ledger.feeds.fhir.issues import Issue
from services.ledger.feeds.fhir.model import ChargeFact, Person
from services.ledger.feeds.fhir.parties import Name
from services.ledger.feeds.fhir.reader import Item, Resource

_EXACT: Final = Context(prec=60, traps=[Inexact])
_BILLABLE: Final = ("planned", "billable", "billed")
_REPLACING: Final = frozenset(("prior", "replaces", "replacement"))


@dataclass(frozen=True, slots=True)
class Built:
    """The lines of a resource that could be made out, and the money of all that could be read."""

    facts: tuple[ChargeFact, ...]
    amount_cents: int


@dataclass(frozen=True, slots=True)
class _Document:
    """What all lines of a resource have in common."""

    name: Name
    version: int
    patient: Person | None
    clinics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Service:
    """What a line says about itself. `line` 0: the resource is the line."""

    line: int
    when: values.When
    codes: tuple[str, tuple[str, ...]]
    units: int | None
    amount_cents: int | None
    diagnoses: tuple[str, ...]


def charge_item(item: Item, resource: ChargeItem, found: list[Issue]) -> Built:
    """priceOverride is the price of the whole line; without it nobody here knows the fee schedule."""
    amount = values.charge_cents(resource.priceOverride, f"{item.path}.priceOverride", found)
    fact = _charge(item, resource, amount, item.path, found)
    return Built((fact,) if fact else (), amount or 0)


def claim(item: Item, resource: Claim, found: list[Issue]) -> Built:
    """One charge per item; `detail` only breaks an item up."""
    _refuse_replacement(item, resource, found)
    document = _Document(
        parties.name(item, resource, found),
        values.version(resource.meta),
        parties.person(item, resource.patient, f"{item.path}.patient", found),
        (),
    )
    facts, amounts = [], []
    for i, line in enumerate(resource.item or ()):
        at = f"{item.path}.item[{i}]"
        units = values.units(line.quantity, f"{at}.quantity", found)
        amount = _net(line, at, found)
        code, coded = values.procedure([line.productOrService], f"{at}.productOrService", found, item.document.aliases)
        service = _Service(
            line=line.sequence or i + 1,
            when=line.servicedDate or _start(line.servicedPeriod) or _start(resource.billablePeriod),
            codes=(code, (*coded, *values.modifiers(line.modifier, f"{at}.modifier", found))),
            units=units,
            amount_cents=amount,
            diagnoses=values.diagnoses(_diagnoses(item, resource, line), f"{at}.diagnosisSequence", found),
        )
        clinics = parties.clinics(
            item, (line.locationReference, resource.facility, resource.provider), line.encounter or ()
        )
        facts.append(_fact(replace(document, clinics=clinics), service, at, found))
        amounts.append(amount)
    if resource.total and not resource.item:
        found.append(Issue("missing_lines", item.path))
    _check_sequences([line.sequence for line in resource.item or ()], f"{item.path}.item", found)
    total = _total(resource.total, amounts, f"{item.path}.total", found)
    return Built(tuple(fact for fact in facts if fact), total)


def invoice(item: Item, resource: Invoice, found: list[Issue]) -> Built:
    """One charge per line: what was done is said in the line, or by the charge item that it bills."""
    name = parties.name(item, resource, found)
    facts, net, gross = [], [], []
    for i, line in enumerate(resource.lineItem or ()):
        at = f"{item.path}.lineItem[{i}]"
        amount, tax = _components(line, at, found)
        net.append(amount)
        gross.append(None if amount is None or tax is None else amount + tax)
        billed = None
        if line.chargeItemReference:
            raw = item.document.target(line.chargeItemReference, item.raw, item.full_url)
            billed = item.document.load(raw, ChargeItem)
            if raw is None or billed is None:
                found.append(Issue("unresolved_charge_item", f"{at}.chargeItemReference"))
                continue
            if billed.status not in _BILLABLE:
                found.append(Issue("unknown_status", f"{at}.chargeItemReference"))
            origin = replace(item, kind="ChargeItem", raw=raw)
            facts.append(_charge(origin, billed, gross[-1], at, found))
            continue
        document = _Document(
            name,
            values.version(resource.meta),
            parties.person(item, resource.subject, f"{item.path}.subject", found),
            parties.clinics(item, (resource.issuer,), ()),
        )
        concept, where = line.chargeItemCodeableConcept, f"{at}.chargeItemCodeableConcept"
        codes = values.procedure([concept], where, found, item.document.aliases)
        service = _Service(line.sequence or i + 1, resource.date, codes, 1, gross[-1], ())
        found.append(Issue("missing_diagnosis", at))
        facts.append(_fact(document, service, at, found))
    if not resource.lineItem:
        found.append(Issue("missing_lines", item.path))
    if any(count > 1 for count in Counter(fact.key for fact in facts if fact).values()):
        found.append(Issue("duplicate_charge_item", f"{item.path}.lineItem"))
    _check_sequences([line.sequence for line in resource.lineItem or ()], f"{item.path}.lineItem", found)
    _total(resource.totalNet, net, f"{item.path}.totalNet", found)
    return Built(
        tuple(fact for fact in facts if fact), _total(resource.totalGross, gross, f"{item.path}.totalGross", found)
    )


def line_numbers(item: Item, resource: Resource, found: list[Issue]) -> tuple[int, ...]:
    """The numbers of the lines that belong to a resource itself. A charge item that an invoice billed is a charge
    with or without the invoice: that it is in the input too, and speaks for itself, is required."""
    numbers = []
    if isinstance(resource, Claim):
        numbers = [line.sequence or i for i, line in enumerate(resource.item or (), 1)]
    elif isinstance(resource, Invoice):
        for i, line in enumerate(resource.lineItem or (), 1):
            if line.chargeItemReference is None:
                numbers.append(line.sequence or i)
            elif item.document.target(line.chargeItemReference, item.raw, item.full_url) is None:
                found.append(Issue("unresolved_charge_item", f"{item.path}.lineItem[{i - 1}].chargeItemReference"))
    return tuple(dict.fromkeys(numbers))


def _charge(item: Item, resource: ChargeItem, amount: int | None, at: str, found: list[Issue]) -> ChargeFact | None:
    """A charge item at a price, its own or that of the invoice which bills it."""
    document = _Document(
        parties.name(item, resource, found),
        values.version(resource.meta),
        parties.person(item, resource.subject, f"{at}.subject", found),
        parties.clinics(item, (resource.performingOrganization, resource.costCenter), (resource.context,)),
    )
    service = _Service(
        line=0,
        when=resource.occurrenceDateTime or _start(resource.occurrencePeriod),
        codes=values.procedure([resource.code], f"{at}.code", found, item.document.aliases),
        units=values.units(resource.quantity, f"{at}.quantity", found),
        amount_cents=amount,
        diagnoses=values.diagnoses(resource.reason or (), f"{at}.reason", found),
    )
    return _fact(document, service, at, found)


def _fact(document: _Document, service: _Service, at: str, found: list[Issue]) -> ChargeFact | None:
    when = values.day(service.when, at, found)
    code, modifiers = service.codes
    modifiers = tuple(dict.fromkeys(modifiers))
    if len(modifiers) > values.MAX_MODIFIERS:
        found.append(Issue("invalid_modifier", at))
    if document.patient is None or when is None or service.units is None or service.amount_cents is None:
        return None
    return ChargeFact(
        key=f"{document.name.key}#{service.line}" if service.line else document.name.key,
        document_key=document.name.key,
        version=document.version,
        claim_id=document.name.value,
        line=service.line,
        patient=document.patient,
        clinics=document.clinics,
        service_date=when,
        procedure_code=code,
        modifiers=modifiers,
        units=service.units,
        amount_cents=service.amount_cents,
        diagnosis_codes=service.diagnoses,
    )


def _start(period: Period | None) -> values.When:
    return period.start if period else None


def _net(line: ClaimItem, at: str, found: list[Issue]) -> int | None:
    """The net of a line, or what makes it up: quantity times unit price times factor (R4 Claim.item.net)."""
    if line.net is not None or line.unitPrice is None or line.unitPrice.value is None:
        return values.charge_cents(line.net, f"{at}.net", found)
    quantity = line.quantity.value if line.quantity and line.quantity.value is not None else Decimal(1)
    factor = line.factor if line.factor is not None else Decimal(1)
    try:
        net = _EXACT.multiply(_EXACT.multiply(line.unitPrice.value, quantity), factor)
    except DecimalException:
        found.append(Issue("three_decimals", f"{at}.unitPrice"))
        return None
    money = Money.model_construct(value=net, currency=line.unitPrice.currency)
    return values.charge_cents(money, f"{at}.unitPrice", found)


def _components(line: InvoiceLineItem, at: str, found: list[Issue]) -> tuple[int | None, int | None]:
    """The price of a line without tax, and its tax. A deduction lowers the price, whichever sign it is sent with."""
    parts = line.priceComponent or ()
    if not parts:
        found.append(Issue("missing_amount", f"{at}.priceComponent"))
        return None, None
    price = tax = 0
    for i, part in enumerate(parts):
        if part.type == "informational":
            continue
        amount = values.cents(part.amount, f"{at}.priceComponent[{i}].amount", found)
        if amount is None:
            return None, None
        if part.type == "tax":
            tax += amount
        elif part.type in ("deduction", "discount"):
            price -= abs(amount)
        elif part.type in ("base", "surcharge"):
            price += amount
        else:
            found.append(Issue("invalid_value", f"{at}.priceComponent[{i}].type"))
    if price < 0 or price + tax < 0:
        found.append(Issue("negative_amount", f"{at}.priceComponent"))
    return price, tax


def _total(total: Money | None, amounts: Sequence[int | None], at: str, found: list[Issue]) -> int:
    """The sum of the lines. If a total is given they must make it up; where one cannot be read it stands for all."""
    counted = sum(amount or 0 for amount in amounts)
    stated = values.cents(total, at, found) if total is not None else None
    if stated is None:
        return counted
    if None in amounts or not amounts:
        return stated
    if stated != counted:
        numbers = (("stated_cents", stated), ("lines_cents", counted), ("difference_cents", stated - counted))
        found.append(Issue("unbalanced", at, numbers))
    return counted


def _check_sequences(sequences: Sequence[int | None], at: str, found: list[Issue]) -> None:
    counts = Counter(sequence for sequence in sequences if sequence is not None)
    if any(count > 1 for count in counts.values()) or 0 < counts.total() < len(sequences):
        # Half of them numbered: the places of the others could be taken.
        found.append(Issue("duplicate_sequence", at))


def _refuse_replacement(item: Item, resource: Claim, found: list[Issue]) -> None:
    """A claim that replaces another would charge the same services again."""
    for i, related in enumerate(resource.related or ()):
        codings = (related.relationship.coding or ()) if related.relationship else ()
        if any(coding.code in _REPLACING for coding in codings):
            found.append(Issue("replaces_claim", f"{item.path}.related[{i}]"))


def _diagnoses(item: Item, resource: Claim, line: ClaimItem) -> list[CodeableConcept]:
    """Those that the line points at, in its order; where it points at none, those of the claim."""
    known = {one.sequence: one for one in resource.diagnosis or ()}
    wanted = [known[number] for number in line.diagnosisSequence or () if number in known] or list(known.values())
    return [concept for one in wanted if (concept := _concept(item, one))]


def _concept(item: Item, diagnosis: ClaimDiagnosis) -> CodeableConcept | None:
    if diagnosis.diagnosisCodeableConcept:
        return diagnosis.diagnosisCodeableConcept
    raw = item.document.target(diagnosis.diagnosisReference, item.raw, item.full_url)
    condition = item.document.load(raw, Condition)
    return condition.code if condition else None
