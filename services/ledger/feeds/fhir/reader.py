"""FHIR R4 JSON into validated resources, each with its place in the input: a single resource, or a Bundle of them.

Only resources that can be posted are validated whole; of the others it is enough to know what they are. Models are
those of R4B: the library's top level is R5, where these resources have other elements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from fhir.resources.R4B.chargeitem import ChargeItem
from fhir.resources.R4B.claim import Claim
from fhir.resources.R4B.invoice import Invoice
from fhir.resources.R4B.paymentnotice import PaymentNotice
from fhir.resources.R4B.paymentreconciliation import PaymentReconciliation

from services.ledger.feeds.fhir.document import Document, Raw
from services.ledger.feeds.fhir.issues import Issue
from services.ledger.feeds.fhir.validation import validated

Resource = ChargeItem | Claim | Invoice | PaymentNotice | PaymentReconciliation

ACCEPTED: Final[dict[str, type[Resource]]] = {
    "ChargeItem": ChargeItem,
    "Claim": Claim,
    "Invoice": Invoice,
    "PaymentNotice": PaymentNotice,
    "PaymentReconciliation": PaymentReconciliation,
}
PATIENT_COPIES: Final = frozenset(("Account", "ClaimResponse", "Coverage", "ExplanationOfBenefit"))
"""They repeat for somebody else what is posted from other resources (HL7: "not for posting")."""
MAX_ENTRIES: Final = 10_000
BUNDLES: Final = ("batch", "collection", "message", "searchset", "transaction")
OTHERS: Final = frozenset(
    re.findall(
        r"\w+",
        """ActivityDefinition AdministrableProductDefinition AdverseEvent AllergyIntolerance Appointment
        AppointmentResponse AuditEvent Basic Binary BiologicallyDerivedProduct BodyStructure CapabilityStatement
        CarePlan CareTeam CatalogEntry ChargeItemDefinition Citation ClinicalImpression ClinicalUseDefinition
        CodeSystem Communication CommunicationRequest CompartmentDefinition Composition ConceptMap Condition Consent
        Contract CoverageEligibilityRequest CoverageEligibilityResponse DetectedIssue Device DeviceDefinition
        DeviceMetric DeviceRequest DeviceUseStatement DiagnosticReport DocumentManifest DocumentReference Encounter
        Endpoint EnrollmentRequest EnrollmentResponse EpisodeOfCare EventDefinition Evidence EvidenceReport
        EvidenceVariable ExampleScenario FamilyMemberHistory Flag Goal GraphDefinition Group GuidanceResponse
        HealthcareService ImagingStudy Immunization ImmunizationEvaluation ImmunizationRecommendation
        ImplementationGuide Ingredient InsurancePlan Library Linkage List Location ManufacturedItemDefinition
        Measure MeasureReport Media Medication MedicationAdministration MedicationDispense MedicationKnowledge
        MedicationRequest MedicationStatement MedicinalProductDefinition MessageDefinition MessageHeader
        MolecularSequence NamingSystem NutritionOrder NutritionProduct Observation ObservationDefinition
        OperationDefinition OperationOutcome Organization OrganizationAffiliation PackagedProductDefinition
        Parameters Patient Person PlanDefinition Practitioner PractitionerRole Procedure Provenance Questionnaire
        QuestionnaireResponse RegulatedAuthorization RelatedPerson RequestGroup ResearchDefinition
        ResearchElementDefinition ResearchStudy ResearchSubject RiskAssessment Schedule SearchParameter
        ServiceRequest Slot Specimen SpecimenDefinition StructureDefinition StructureMap Subscription
        SubscriptionStatus SubscriptionTopic Substance SubstanceDefinition SupplyDelivery SupplyRequest Task
        TerminologyCapabilities TestReport TestScript ValueSet VerificationResult VisionPrescription""",
    )
)
"""What else may accompany a charge or payment in a Bundle. A misspelt type must not pass for one of these."""


@dataclass(frozen=True, slots=True)
class Item:
    """One resource of an input. `resource` is there when it is of an accepted type and valid."""

    index: int
    path: str
    kind: str
    """The resource type; empty where it could not be made out."""
    full_url: str
    raw: Raw
    document: Document
    resource: Resource | None = None
    issues: tuple[Issue, ...] = ()
    accompanies: bool = False
    """It is no hit of the search, and is here only for the others to refer to."""


class _Refused(ValueError):
    pass


def read(body: bytes, aliases: Collection[str] = ()) -> Iterator[Item]:
    """Every resource of the input, in its order. An input that cannot be read is one Item with a fatal issue.

    `aliases`: procedure codes of the sender's own that count beside CPT and HCPCS."""
    try:
        root = _parse(body)
    except _Refused as refusal:
        yield Item(0, "", "", "", {}, Document(()), issues=(Issue(str(refusal)),))
        return
    if root.get("resourceType") != "Bundle":
        yield _item(0, "", "", root, Document([("", root)], aliases))
        return
    entries = root.get("entry", [])
    if root.get("type") not in BUNDLES or not isinstance(entries, list) or "implicitRules" in root:
        yield Item(0, "Bundle", "Bundle", "", {}, Document(()), issues=(Issue("unsupported_bundle", "Bundle"),))
        return
    if len(entries) > MAX_ENTRIES:
        yield Item(0, "Bundle", "Bundle", "", {}, Document(()), issues=(Issue("too_many", "Bundle.entry"),))
        return
    named = [(_full_url(entry), resource) for entry in entries if (resource := _resource(entry))]
    found_for = [resource for entry in entries if _accompanies(root, entry) and (resource := _resource(entry))]
    document = Document(named, aliases, found_for)
    for index, entry in enumerate(entries):
        path = f"Bundle.entry[{index}]"
        fault = _entry_fault(entry)
        if _accompanies(root, entry):
            yield Item(index, f"{path}.resource", "", "", {}, document, accompanies=True)
        elif fault:
            raw = entry if isinstance(entry, dict) else {}
            yield Item(index, path, "", "", raw, document, issues=(Issue(fault, path),))
        else:
            yield _item(index, f"{path}.resource", _full_url(entry), entry["resource"], document)


def _parse(body: bytes) -> Raw:
    try:
        root = json.loads(
            body.decode("utf-8-sig"),
            parse_float=Decimal,
            parse_constant=_no_constant,
            object_pairs_hook=_unique_names,
        )
    except _Refused:
        raise
    except ArithmeticError:  # Decimal, of an exponent beyond all bounds
        raise _Refused("not_a_number") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise _Refused("not_json") from None
    except ValueError:  # the standard library refuses integers of more than 4,300 digits
        raise _Refused("not_a_number") from None
    if not isinstance(root, dict) or not isinstance(root.get("resourceType"), str):
        raise _Refused("not_fhir")
    return root


def _unique_names(pairs: list[tuple[str, Any]]) -> Raw:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("duplicate_key")
    return found


def _no_constant(_: str) -> Any:
    raise _Refused("not_a_number")


def _resource(entry: Any) -> Raw | None:
    resource = entry.get("resource") if isinstance(entry, dict) else None
    return resource if isinstance(resource, dict) else None


def _accompanies(root: Raw, entry: Any) -> bool:
    """Whether a search returned it beside what it was for (FHIR 3.1.1.5, Bundle.entry.search.mode)."""
    search = entry.get("search") if isinstance(entry, dict) and root.get("type") == "searchset" else None
    return isinstance(search, dict) and search.get("mode") in ("include", "outcome")


def _full_url(entry: Raw) -> str:
    full_url = entry.get("fullUrl")
    return full_url if isinstance(full_url, str) else ""


def _entry_fault(entry: Any) -> str:
    """Why an entry brings no resource that could be read."""
    if not isinstance(entry, dict):
        return "missing_resource"
    request = entry.get("request")
    if isinstance(request, dict) and request.get("method", "POST") not in ("POST", "PUT"):
        return "unsupported_request"
    if "modifierExtension" in entry:
        return "modifier_extension"
    resource = _resource(entry)
    if resource is None:
        return "missing_resource"
    return "" if isinstance(resource.get("resourceType"), str) else "unknown_resource"


def _item(index: int, path: str, full_url: str, raw: Raw, document: Document) -> Item:
    """A resource, in a Bundle at `path` or alone with none; alone, one that could only accompany others is an error."""
    kind, alone = str(raw["resourceType"]), not path
    known = kind in ACCEPTED or kind in PATIENT_COPIES or kind in OTHERS or kind == "Bundle"
    path = path or (kind if known else "")
    resource: Resource | None = None
    issues: tuple[Issue, ...] = ()
    if kind in ACCEPTED:
        resource, issues = validated(ACCEPTED[kind], raw, path)
    elif not known:
        issues = (Issue("unknown_resource", path),)
    elif kind == "Bundle" or (alone and kind in OTHERS):
        issues = (Issue("unsupported_resource", path),)
    return Item(index, path, kind if known else "", full_url, raw, document, resource, issues)
