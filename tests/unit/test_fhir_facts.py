"""What each FHIR resource means for the books."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.model import ChargeFact, ClaimAmount, Party, PaymentFact, Person, VoidFact
from tests.support.fhir_builder import (
    Digits,
    body,
    bundle,
    charge_item,
    claim,
    claim_item,
    concept,
    detail,
    invoice,
    invoice_line,
    money,
    notice,
    patient,
    reconciliation,
)
from tests.support.fhir_facts import charge, codes, only, payment

JANE = Person("ABC-1001", "Jane", "Roe", date(1980, 2, 29))
LOCATION = {"resourceType": "Location", "id": "l1", "identifier": [{"value": "CLINIC-9"}]}


def test_charge_item() -> None:
    assert charge(bundle(charge_item(), patient())) == ChargeFact(
        key="ChargeItem/urn:emr:charge|C-77",
        document_key="ChargeItem/urn:emr:charge|C-77",
        version=3,
        claim_id="C-77",
        line=0,
        patient=JANE,
        clinics=("CLINIC-9",),
        service_date=date(2026, 1, 5),  # as written, whatever day it was elsewhere
        procedure_code="97110",
        modifiers=("GP",),
        units=2,
        amount_cents=120_00,
        diagnosis_codes=("M54.50",),
    )


def test_claim_items_are_charges_of_their_own() -> None:
    lines = [claim_item(1), claim_item(2, "45.5", diagnosisSequence=None, modifier=None)]
    outcome = only(bundle(claim(*lines, total=money("165.50")), patient(), LOCATION))
    first, second = (fact for fact in outcome.facts if isinstance(fact, ChargeFact))
    assert (first.key, second.key) == ("Claim/urn:emr:claim|CLM-5#1", "Claim/urn:emr:claim|CLM-5#2")
    assert first.document_key == second.document_key == "Claim/urn:emr:claim|CLM-5"
    assert (first.claim_id, first.line, second.line) == ("CLM-5", 1, 2)
    assert first.clinics == ("CLINIC-9", "l1", "o1")
    assert (first.modifiers, second.modifiers) == (("GP", "59"), ())
    assert (first.diagnosis_codes, second.diagnosis_codes) == (("M25.561", "M54.50"), ("M54.50", "M25.561"))
    assert (first.amount_cents, second.amount_cents, outcome.amount_cents) == (120_00, 45_50, 165_50)


def test_net_of_a_line_may_be_left_to_its_parts() -> None:
    line = claim_item(net=None, unitPrice=money("33.35"), quantity={"value": 3}, factor=Digits("0.8"))
    assert charge(claim(line)).amount_cents == 80_04
    assert codes(claim({**line, "factor": Digits("0.33333")})) == {"three_decimals"}
    assert codes(claim(claim_item(net=None))) == {"missing_amount"}


def test_invoice() -> None:
    line = invoice_line(
        priceComponent=[
            {"type": "base", "amount": money("100.00")},
            {"type": "surcharge", "amount": money("5.00")},
            {"type": "discount", "amount": money("-10.00")},
            {"type": "deduction", "amount": money("10.00")},
            {"type": "tax", "amount": money("8.50")},
            {"type": "informational", "amount": money("999.999", "EUR")},
        ]
    )
    outcome = only(bundle(invoice(line, totalNet=money("85.00"), totalGross=money("93.50")), patient()))
    (fact,) = outcome.facts
    assert isinstance(fact, ChargeFact)
    assert (fact.key, fact.amount_cents, fact.patient, fact.service_date) == (
        "Invoice/INV-8#1",
        93_50,
        JANE,
        date(2026, 1, 5),
    )
    assert codes(invoice(line, totalNet=money("85.01"))) == {"unbalanced"}
    assert codes(invoice(lineItem=[], totalGross=money("85.01"))) >= {"missing_lines"}


def searched(hits: list[dict[str, Any]], *others: dict[str, Any], mode: str = "include") -> dict[str, Any]:
    """A page of search results, as servers answer: hits with or without a mode, and what was asked for beside them."""
    found = bundle(*hits, *others, kind="searchset")
    for place, entry in enumerate(found["entry"]):
        entry["search"] = {"mode": mode} if place >= len(hits) else {"mode": "match", "score": 1} if place % 2 else {}
    return {**found, "total": 400, "link": [{"relation": "next", "url": "https://emr.example/fhir?page=2"}]}


def test_of_a_search_the_hits_are_posted_and_the_rest_is_only_referred_to() -> None:
    page = searched([charge_item(), charge_item(id="ci2", identifier=None)], patient(), claim())
    found = list(outcomes(body(page)))
    assert [one.state for one in found] == ["facts", "facts", "ignored", "ignored"]
    assert {one.reason for one in found[2:]} == {"search_include"}
    assert charge(page).patient == JANE, "who is referred to is found among the others"
    told = searched([charge_item()], {"resourceType": "OperationOutcome", "issue": []}, mode="outcome")
    assert [one.state for one in outcomes(body(told))] == ["facts", "ignored"]


def test_what_a_search_only_shows_takes_the_place_of_nothing() -> None:
    """An invoice or reconciliation beside the hits is not posted, so what it covers must be."""
    line = invoice_line("99.00", chargeItemCodeableConcept=None, chargeItemReference={"reference": "ChargeItem/ci1"})
    assert charge(searched([charge_item()], invoice(line), patient())).amount_cents == 120_00
    assert charge(searched([invoice(line)], charge_item(None), patient())).amount_cents == 99_00
    told = notice(payment={"reference": "PaymentReconciliation/pr1"})
    assert payment(searched([told], reconciliation(), claim(), patient())).amount_cents == 25_00


def test_charge_item_and_its_invoice_are_one_charge() -> None:
    line = invoice_line("99.00", chargeItemCodeableConcept=None, chargeItemReference={"reference": "ChargeItem/ci1"})
    both = bundle(charge_item(None), invoice(line), patient())
    assert (only(both).state, only(both).reason) == ("ignored", "billed_by_invoice")
    fact = charge(both, 1)
    assert (fact.key, fact.version, fact.amount_cents, fact.units) == ("ChargeItem/urn:emr:charge|C-77", 3, 99_00, 2)
    assert codes(invoice(line)) == {"unresolved_charge_item"}
    assert codes(bundle(charge_item(status="aborted"), invoice(line), patient()), 1) == {"unknown_status"}
    # A draft bills nothing, and a cancelled invoice does not take back what was done.
    for status, state in (("draft", "ignored"), ("cancelled", "facts")):
        other = bundle(charge_item(), invoice(line, status=status), patient())
        assert charge(other).amount_cents == 120_00
        assert only(other, 1).state == state
    assert codes(invoice(line, status="cancelled")) == {"unresolved_charge_item"}


def test_reconciliation() -> None:
    details = (detail("80.00"), detail("-5.00", None, "adjustment"))
    fact = payment(reconciliation("75.00", *details))
    assert fact == PaymentFact(
        key="PaymentReconciliation/urn:payer:recon|R-1",
        document_key="PaymentReconciliation/urn:payer:recon|R-1",
        version=1,
        kind="reconciliation",
        amount_cents=75_00,
        payment_date=date(2026, 1, 21),
        trace_number="EFT-900",
        payer=Party("Example Health", ("PAYER-1",)),
        patient=None,
        clinics=(),
        details=(
            ClaimAmount(
                kind="payment",
                amount_cents=80_00,
                claim_ids=("CLM-5",),
                detail_id="D-80.00",
                date=date(2026, 1, 20),
            ),
            ClaimAmount(
                kind="adjustment", amount_cents=-5_00, claim_ids=(), detail_id="D--5.00", date=date(2026, 1, 20)
            ),
        ),
        same_as=("PaymentNotice/urn:payer:recon|R-1", "PaymentNotice/urn:payer:eft|EFT-900", "PaymentNotice/pr1"),
    )
    assert payment(reconciliation("75.00")).details == ()
    outcome = only(reconciliation("76.00", *details))
    assert [(issue.code, dict(issue.numbers)) for issue in outcome.issues] == [
        ("unbalanced", {"stated_cents": 7600, "lines_cents": 7500, "difference_cents": 100})
    ]
    assert codes(reconciliation(outcome="error")) == {"failed_outcome"}
    assert codes(reconciliation("-1.00")) == {"negative_amount"}
    assert codes(reconciliation(paymentIssuer=None)) == {"missing_payer"}


def test_notice_of_a_payment() -> None:
    fact = payment(bundle(notice(), claim(), patient()))
    assert (fact.kind, fact.amount_cents, fact.patient, fact.trace_number) == ("notice", 25_00, JANE, "EFT-901")
    assert fact.key == "PaymentNotice/urn:payer:eft|EFT-901"
    assert fact.same_as == ("PaymentReconciliation/urn:payer:eft|EFT-901",)
    assert codes(notice()) == {"missing_patient"}


@pytest.mark.parametrize(
    "request_",
    [
        {"reference": "Patient/p1"},
        {"reference": "https://emr.example/fhir/Patient/p1"},
        {"reference": "Patient/p1/_history/4"},
        {"reference": "Patient/p1", "type": "Patient"},
    ],
)
def test_notice_of_a_payment_that_a_patient_made_on_no_claim(request_: dict[str, str]) -> None:
    """R4 lets a notice be for anything, and some EMRs (Canvas) name the patient at once."""
    fact = payment(bundle(notice(request=request_), patient()))
    assert (fact.kind, fact.amount_cents, fact.patient) == ("notice", 25_00, JANE)
    alone = payment(notice(request=request_))
    assert alone.patient is not None
    assert (alone.patient.account_number, alone.patient.complete) == ("p1", False)


@pytest.mark.parametrize(
    "request_",
    [
        {"identifier": {"value": "ABC-1001"}},
        {"reference": "Encounter/p1"},
        {"reference": "urn:uuid:00000000-0000-4000-8000-000000000001"},
        {"display": "Jane Roe"},
        None,
    ],
)
def test_notice_for_what_names_no_patient(request_: dict[str, str] | None) -> None:
    assert codes(notice(request=request_)) == {"missing_patient"}


def test_notice_for_a_patient_known_by_number_alone() -> None:
    fact = payment(notice(request={"type": "Patient", "identifier": {"value": "ABC-1001"}}))
    assert fact.patient is not None
    assert fact.patient.account_number == "ABC-1001"


def test_notice_of_what_the_input_brings_anyway_is_no_second_receipt() -> None:
    both = bundle(notice(payment={"reference": "PaymentReconciliation/pr1"}), reconciliation(), claim(), patient())
    assert (only(both).state, only(both).reason) == ("ignored", "reported_by_reconciliation")
    assert payment(both, 1).amount_cents == 80_00


@pytest.mark.parametrize(
    "beside",
    [
        {"contained": [reconciliation(id="pr1")], "payment": {"reference": "#pr1"}},
        {"payment": {"reference": "PaymentReconciliation/pr1"}},
    ],
)
def test_a_notice_of_what_is_only_told_of_and_not_posted_is_posted_itself(beside: dict[str, Any]) -> None:
    """What is contained is no resource of the input, and a draft is not yet anything: its money would be nowhere."""
    value = bundle(notice(request={"reference": "Patient/p1"}, **beside), reconciliation(status="draft"), patient())
    assert payment(value).amount_cents == 25_00


def test_a_reconciliation_need_not_say_how_it_came_out() -> None:
    """`outcome` is optional (R4): that nothing is said is no failure."""
    assert payment(reconciliation(outcome=None)).amount_cents == 80_00
    assert codes(reconciliation(outcome="queued")) == {"failed_outcome"}


@pytest.mark.parametrize(
    "subject",
    [{"reference": "Group/7"}, {"reference": "urn:uuid:g"}, {"identifier": {"value": "7"}, "type": "Group"}],
)
def test_a_group_is_no_patient(subject: dict[str, Any]) -> None:
    """Its number may be some patient's account number."""
    group = {"resourceType": "Group", "id": "7", "type": "person", "actual": True}
    value = bundle(charge_item(subject=subject), group)
    value["entry"][1]["fullUrl"] = "urn:uuid:g"
    assert codes(value) == {"missing_patient"}
    other = charge_item(subject={"reference": "https://other.example/patient/7"})
    assert charge(other).patient.account_number == "7"  # an address that is none of FHIR's says no type


@pytest.mark.parametrize("quantity", [{"value": 45, "unit": "min"}, {"value": 45, "code": "min", "unit": "minutes"}])
def test_minutes_are_no_units(quantity: dict[str, Any]) -> None:
    """Billed is by units of 15 minutes or by occasion, which the code decides; 45 of them would be another service."""
    assert codes(bundle(charge_item(quantity=quantity), patient())) == {"invalid_units"}
    assert charge(bundle(charge_item(quantity={"value": 3, "unit": "units", "code": "1"}), patient())).units == 3


def test_notice_and_reconciliation_in_two_deliveries_know_each_other() -> None:
    told, paid = payment(bundle(notice(), claim(), patient())), payment(reconciliation())
    told_of = notice(payment={"identifier": {"system": "urn:payer:eft", "value": "EFT-900"}})
    told = payment(bundle(told_of, claim(), patient()))
    assert told.key in paid.same_as


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (charge_item(status="planned"), "ignored"),
        (charge_item(status="billed"), "facts"),
        (charge_item(status="not-billable"), "void"),
        (charge_item(status="entered-in-error"), "void"),
        (charge_item(status="unknown"), "refused"),
        (charge_item(status="banana"), "refused"),
        (claim(status="draft"), "ignored"),
        (claim(status="cancelled"), "void"),
        (claim(use="preauthorization"), "ignored"),
        (claim(use="banana"), "refused"),
        (invoice(status="draft"), "ignored"),
        (invoice(status="balanced"), "facts"),
        (invoice(status="cancelled"), "void"),
        (reconciliation(status="draft"), "ignored"),
        (reconciliation(status="cancelled"), "void"),
        (bundle(notice(status="entered-in-error"), claim(), patient()), "void"),
    ],
)
def test_status(value: Any, state: str) -> None:
    outcome = only(value)
    void = any(isinstance(fact, VoidFact) for fact in outcome.facts)
    assert ("void" if void else outcome.state) == state
    assert outcome.reason.startswith(("status_", "estimate")) == (state == "ignored")


def test_void_names_the_keys_that_were_posted() -> None:
    posted = only(claim(claim_item(1), claim_item(4)))
    void = only(claim(claim_item(1), claim_item(4, None), status="entered-in-error", meta={"versionId": "9"}))
    assert {fact.key for fact in void.facts} == {fact.key for fact in posted.facts} | {posted.facts[0].document_key}
    assert {fact.version for fact in void.facts} == {9}
    assert void.amount_cents == 0
    told = payment(bundle(notice(), claim(), patient()))
    assert only(bundle(notice(status="cancelled"), claim(), patient())).facts[0].key == told.key


def test_patient() -> None:
    assert charge(charge_item()).patient == Person("p1")
    assert charge(charge_item(subject={"identifier": {"value": "M-5"}})).patient == Person("M-5")
    contained = patient(id="x")
    assert charge(charge_item(contained=[contained], subject={"reference": "#x"})).patient == JANE
    for reference in ("#x", "urn:uuid:7c0a", None):
        assert "missing_patient" in codes(charge_item(subject={"reference": reference} if reference else {}))
    unnamed = charge(bundle(charge_item(), patient(name=None, birthDate="1980"))).patient
    assert (unnamed.account_number, unnamed.complete, JANE.complete) == ("ABC-1001", False, True)
    # Two patients of one name are no patient, and one from another server is another one.
    assert charge(bundle(charge_item(), patient(), patient())).patient == Person("p1")
    elsewhere = {"reference": "https://other.example/Patient/p1"}
    assert charge(bundle(charge_item(subject=elsewhere), patient())).patient == Person("p1")
    assert charge(bundle(charge_item(), patient(identifier=[{"type": concept("SS", None), "value": "9"}]))).patient == (
        Person("p1", "Jane", "Roe", date(1980, 2, 29))
    )


def test_charge_without_a_diagnosis_is_a_charge() -> None:
    outcome = only(charge_item(reason=[concept("44054006", "http://snomed.info/sct")]))
    assert outcome.state == "facts"
    assert {issue.code for issue in outcome.issues} == {"missing_diagnosis", "unknown_diagnosis"}
