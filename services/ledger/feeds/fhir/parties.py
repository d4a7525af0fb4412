"""Who and where: the patient, the payer, the clinic, and the name of the document itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fhir.resources.R4B.encounter import Encounter
from fhir.resources.R4B.humanname import HumanName
from fhir.resources.R4B.identifier import Identifier
from fhir.resources.R4B.organization import Organization
from fhir.resources.R4B.patient import Patient
from fhir.resources.R4B.reference import Reference

from services.ledger.feeds.fhir import values
from services.ledger.feeds.fhir.document import Raw, logical_id
from services.ledger.feeds.fhir.issues import Issue
from services.ledger.feeds.fhir.model import Party, Person
from services.ledger.feeds.fhir.reader import OTHERS, Item, Resource
from services.ledger.feeds.identifier_types import PERSONAL

_NAME_USES: Final = ("official", "usual", None, "temp", "nickname", "anonymous")
_CLINICS_KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class Name:
    """What a document is called: its key, and the bare value of its business identifier."""

    key: str
    value: str


def name(item: Item, resource: Resource, found: list[Issue]) -> Name:
    """Business identifier, else id, else fullUrl. The id comes before the URL because the same resource may come
    alone, where it has none, or from another address of the same server. A fullUrl of `urn:uuid:` stands for an id
    that is still to be given (FHIR 3.1.1.2): sent again, it would be another one."""
    identifier = values.best(resource.identifier)
    if identifier:
        return Name(
            values.key(item.kind, values.name_of(identifier), f"{item.path}.identifier", found), value(identifier)
        )
    plain = resource.id or ("" if item.full_url.lower().startswith("urn:uuid:") else item.full_url)
    return Name(values.key(item.kind, plain, item.path, found), plain)


def value(identifier: Identifier) -> str:
    """The value without its system."""
    return identifier.value or ""


def person(
    item: Item, reference: Reference | None, at: str, found: list[Issue], raw: Raw | None = None
) -> Person | None:
    """The patient of a reference inside `raw`, which is the item itself unless another resource led there."""
    source = item.raw if raw is None else raw
    target = item.document.target(reference, source, item.full_url)
    if reference is not None and kind_of(reference, target) in OTHERS - {"Patient"}:
        # The number of a group may be some patient's account number.
        found.append(Issue("missing_patient", at))
        return None
    patient = item.document.load(target, Patient)
    if patient is None:
        stated = reference.identifier.value if reference and reference.identifier else None
        account = values.text(stated or logical_id(reference.reference if reference else None), at, found)
        if not account:
            found.append(Issue("missing_patient", at))
        return Person(account) if account else None
    account = values.text(_account(patient, reference), at, found)
    human = _name(patient.name)
    if not account:
        found.append(Issue("missing_patient", at))
        return None
    return Person(
        account_number=account,
        first_name=values.text(" ".join(part for part in (human.given or ())[:1] if part), at, found) if human else "",
        last_name=values.text(human.family, at, found) if human else "",
        birth_date=values.day(patient.birthDate, at, [], required=False),
    )


def kind_of(reference: Reference, target: Raw | None) -> str:
    """What it points at: by the target where that is in the input, else by the type that it states or its address has;
    empty where nothing says."""
    if target is not None:
        return str(target.get("resourceType"))
    address = (reference.reference or "").partition("/_history/")[0]
    return reference.type or address.rpartition("/")[0].rpartition("/")[2]


def payer(item: Item, reference: Reference | None, at: str, found: list[Issue]) -> Party | None:
    """The organization that pays, by name if it has one, else by number."""
    ids = item.document.names(reference, item.raw, item.full_url)
    organization = item.document.load(item.document.target(reference, item.raw, item.full_url), Organization)
    stated = (organization.name if organization else None) or (reference.display if reference else None)
    name = values.text(stated, at, found) or (ids[0] if ids else "")
    if not name:
        found.append(Issue("missing_payer", at))
        return None
    return Party(name, ids)


def clinics(
    item: Item, references: Sequence[Reference | None], encounters: Sequence[Reference | None]
) -> tuple[str, ...]:
    """Everything by which the place is known: where the visit took place if it is said, then who is named."""
    visited: list[str] = []
    for reference in encounters:
        raw = item.document.target(reference, item.raw, item.full_url)
        encounter = item.document.load(raw, Encounter)
        if raw is not None and encounter is not None:
            places = [place.location for place in encounter.location or ()]
            for one in (*places, encounter.serviceProvider):
                visited += item.document.names(one, raw, item.full_url)
    named = [name for one in references for name in item.document.names(one, item.raw, item.full_url)]
    return tuple(dict.fromkeys((*named, *visited)))[:_CLINICS_KEPT]


def _account(patient: Patient, reference: Reference | None) -> str:
    """The medical record number; of other identifiers the best that the clinic may have given; the id of a resource
    that is known outside the input."""
    usable = []
    for identifier in patient.identifier or ():
        kinds = {coding.code for coding in (identifier.type.coding or () if identifier.type else ())}
        if "MR" in kinds and identifier.value and identifier.use != "old":
            return identifier.value
        if not kinds & PERSONAL:
            usable.append(identifier)
    chosen = values.best(usable)
    if chosen:
        return value(chosen)
    contained = bool(reference and reference.reference and reference.reference.startswith("#"))
    return "" if contained else patient.id or ""


def _name(names: Sequence[HumanName] | None) -> HumanName | None:
    usable = [one for one in names or () if one.use in _NAME_USES and one.family]
    return min(usable, key=lambda one: _NAME_USES.index(one.use), default=None)
