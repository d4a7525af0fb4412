"""Whatever order the states of EMR documents arrive in, and however often, the books end the same (P8)."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.domain import commands as acts
from services.ledger.domain.feed_acts import EmrDocument, EmrPerson
from shared.errors import Problem
from tests.support.ledger_acts import Clerk, Memory

COMPANY = UUID(int=42)
LOCATIONS = [UUID(int=1), UUID(int=2)]
PEOPLE = [EmrPerson(f"EMR-{n}", "Pat", f"Ient {n}", date(1980, 1, 1)) for n in range(2)]


@st.composite
def state(draw: st.DrawFn, kind: str, external_id: str, version: int) -> EmrDocument:
    """One version of a document: its words, a deletion, or a payment that brings nothing."""
    what = draw(st.sampled_from(["words", "words", "words", "deleted", "zero_amount", "internal_payment"]))
    person = draw(st.sampled_from(PEOPLE))
    clinic = f"clinic-{draw(st.sampled_from(LOCATIONS))}"
    cents = draw(st.integers(1, 9)) * 100
    if what == "deleted" or (kind == "charge" and what != "words"):
        return _document(kind, external_id, version, clinic, deleted=True)
    if what != "words":
        return _document(kind, external_id, version, clinic, withheld=what, person=person)
    if kind == "payment":
        words: dict[str, Any] = {
            "amount_cents": cents,
            "method": draw(st.sampled_from(["cash", "check"])),
            "check_number": None,
            "deposit_date": date(2026, 1, draw(st.integers(1, 3))),
            "payment_type": "copay",
        }
    else:
        words = {
            "date_of_service": date(2026, 1, draw(st.integers(1, 3))),
            "procedure_code": draw(st.sampled_from(["97110", "97140"])),
            "modifiers": (),
            "units": 1,
            "amount_cents": cents,
            "diagnosis_codes": ("M54.5",),
        }
    return _document(kind, external_id, version, clinic, person=person, words=words)


def _document(kind: str, external_id: str, version: int, clinic: str, **more: Any) -> EmrDocument:
    content = repr((kind, external_id, version, clinic, more)).encode()
    return EmrDocument("emr", kind, external_id, version, clinic, content, **more)


@st.composite
def feeds(draw: st.DrawFn) -> tuple[list[EmrDocument], list[EmrDocument]]:
    """Every state of some documents in order, and the same shuffled, with repetitions."""
    ordered = []
    for kind in ("payment", "charge"):
        for external_id in ("one", "two"):
            for version in range(1, draw(st.integers(1, 4)) + 1):
                ordered.append(draw(state(kind, external_id, version)))
    repeated = ordered + draw(st.lists(st.sampled_from(ordered), max_size=6))
    return ordered, draw(st.permutations(repeated))


def posted(documents: list[EmrDocument]) -> tuple[Memory, list[Any]]:
    clerk = Clerk(random.Random(1), COMPANY, LOCATIONS)
    memory = Memory.of(clerk)
    return memory, [memory.post(clerk.wrap(document)) for document in documents]


def what_stands(memory: Memory) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """What a reader sees of payments and charges, by their name in the EMR; what is gone is not there."""
    accounts = {one.patient_id: one.account_number for one in memory.books.patients.values()}
    payments = {
        payment.external_id: (
            replace(payment.words, patient_id=None),
            accounts[payment.words.patient_id] if payment.words.patient_id else None,
            payment.unapplied_cents,
        )
        for payment in memory.books.payments.values()
        if not payment.words.withdrawn
    }
    charges = {
        charge.external_id: (
            accounts[charge.patient_id],
            charge.location_id,
            charge.procedure_code,
            charge.date_of_service,
            charge.amount_cents,
            charge.balance_cents,
            dict(charge.due),
        )
        for charge in memory.books.charges.values()
        if charge.state != "void"
    }
    return payments, charges


def totals(memory: Memory) -> dict[Any, int]:
    """Control totals: cents by location and deposit date, from the documents."""
    found: dict[Any, int] = {}
    for payment in memory.books.payments.values():
        key = (payment.words.location_id, payment.words.deposit_date)
        found[key] = found.get(key, 0) + payment.words.amount_cents
    return {key: cents for key, cents in found.items() if cents}


@given(feeds())
def test_order_and_repetition_change_nothing(feed: tuple[list[EmrDocument], list[EmrDocument]]) -> None:
    ordered, shuffled = feed
    one, answers = posted(ordered)
    other, others = posted(shuffled)
    assert not any(isinstance(answer, Problem) for answer in (*answers, *others))
    assert what_stands(one) == what_stands(other)
    assert totals(one) == totals(other)
    # Every document stands as its last version says.
    last = {(document.kind, document.external_id): document for document in ordered}
    payments, charges = what_stands(one)
    for (kind, external_id), document in last.items():
        assert (external_id in (payments if kind == "payment" else charges)) == (document.words is not None)
    for memory in (one, other):
        for payment in memory.books.payments.values():
            assert payment.words.amount_cents == payment.unapplied_cents
            assert payment.words.withdrawn == (payment.words.amount_cents == 0)


@given(feeds())
def test_a_document_is_one_receipt_or_charge_for_ever(feed: tuple[list[EmrDocument], list[EmrDocument]]) -> None:
    memory, _ = posted(feed[1])
    for documents in (memory.books.payments.values(), memory.books.charges.values()):
        names = [one.external_id for one in documents]
        assert len(names) == len(set(names))


@given(feeds())
def test_every_event_has_an_outcome_that_says_what_it_did(feed: tuple[list[EmrDocument], list[EmrDocument]]) -> None:
    clerk = Clerk(random.Random(1), COMPANY, LOCATIONS)
    memory = Memory.of(clerk)
    for document in feed[1]:
        before = memory.books.version
        answer = memory.post(clerk.wrap(document))
        assert isinstance(answer, dict)
        assert answer["outcome"] in ("posted", "ignored", "duplicate")
        assert (memory.books.version > before) == (answer["outcome"] == "posted")


WORDS = {
    "amount_cents": 10_000,
    "method": "cash",
    "check_number": None,
    "deposit_date": date(2026, 1, 1),
    "payment_type": "copay",
}


def payment(version: int, cents: int = 10_000, **more: Any) -> EmrDocument:
    words = None if more.get("deleted") or more.get("withheld") else {**WORDS, "amount_cents": cents}
    return _document("payment", "one", version, f"clinic-{LOCATIONS[0]}", person=PEOPLE[0], words=words, **more)


class Office:
    """Books with an EMR payment of 100.00 and a charge of 100.00, on which people act in between."""

    def __init__(self) -> None:
        self.clerk = Clerk(random.Random(1), COMPANY, LOCATIONS)
        self.memory = Memory.of(self.clerk)
        self.payment_id: UUID = self.do(payment(1))["document_id"]
        charge = acts.PostCharge(
            next(iter(self.memory.books.patients)), LOCATIONS[0], date(2026, 1, 1), "97110", 1, 10_000, ("M54.5",)
        )
        self.charge_id: UUID = self.do(charge)["id"]

    def do(self, act: acts.Act) -> dict[str, Any]:
        answer = self.memory.post(self.clerk.wrap(act))
        if isinstance(answer, Problem):
            raise answer
        return answer

    def apply(self, cents: int, *adjustments: acts.Adjustment) -> None:
        self.do(acts.ApplyPayment(self.payment_id, (acts.Application(self.charge_id, cents),), adjustments))

    @property
    def figures(self) -> tuple[int, int, int, int]:
        """Of the receipt: amount, applied, available; and what is open on the charge."""
        receipt = self.memory.books.payments[self.payment_id]
        balance = self.memory.books.charges[self.charge_id].balance_cents
        return receipt.words.amount_cents, receipt.applied_cents, receipt.available_cents, balance


def test_a_change_after_an_application() -> None:
    office = Office()
    office.apply(6_000, acts.Adjustment(office.charge_id, "CO", "45", 1_000))
    office.do(payment(2, 7_000))
    assert office.figures == (7_000, 6_000, 1_000, 3_000), "what still fits stays applied"
    office.do(payment(3, 5_000))
    assert office.figures == (5_000, 0, 5_000, 10_000), "else all of it is taken back, its adjustments too"


def test_a_deletion_after_an_application() -> None:
    office = Office()
    office.apply(10_000)
    office.do(payment(2, deleted=True))
    assert office.figures == (0, 0, 0, 10_000)
    office.do(payment(3, 4_000))
    assert office.figures == (4_000, 0, 4_000, 10_000), "posted again it is the same receipt"


@pytest.mark.parametrize("withheld", ["zero_amount", "internal_payment"])
def test_a_payment_that_no_longer_brings_money_is_withdrawn(withheld: str) -> None:
    office = Office()
    assert office.do(payment(2, withheld=withheld))["outcome"] == "posted"
    assert office.figures == (0, 0, 0, 10_000)
    assert office.do(payment(3, withheld=withheld))["outcome"] == "ignored"


def test_a_change_after_a_refund_keeps_what_was_given_back() -> None:
    office = Office()
    office.apply(5_000)
    office.do(acts.RefundPayment(office.payment_id, 3_000))
    office.do(payment(2, 8_000))
    assert office.figures == (8_000, 5_000, 0, 5_000)
    office.do(payment(3, 7_000))
    assert office.figures == (7_000, 0, 4_000, 10_000), "applied and refunded together are never more than there is"
    with pytest.raises(Problem, match="refunded"):
        office.do(payment(4, 2_999))
    with pytest.raises(Problem, match="refunded"):
        office.do(payment(4, deleted=True))
    assert office.figures == (7_000, 0, 4_000, 10_000)


def test_a_change_after_a_reversal_is_for_a_person() -> None:
    office = Office()
    office.do(acts.ReversePayment(office.payment_id))
    for document in (payment(2, 5_000), payment(2, deleted=True)):
        with pytest.raises(Problem, match="reversed"):
            office.do(document)
    assert office.do(payment(1))["outcome"] == "duplicate"


def charge(version: int, cents: int = 10_000, *, person: int = 0, code: str = "97110", **more: Any) -> EmrDocument:
    words = {
        "date_of_service": date(2026, 1, 1),
        "procedure_code": code,
        "modifiers": (),
        "units": 1,
        "amount_cents": cents,
        "diagnosis_codes": ("M54.5",),
    }
    clinic = f"clinic-{LOCATIONS[0]}"
    more = more or {"person": PEOPLE[person], "words": words}
    return _document("charge", "one", version, clinic, **more)


def test_a_charge_with_money_on_it_changes_only_where_none_is_touched() -> None:
    office = Office()
    office.charge_id = office.do(charge(1))["document_id"]
    office.apply(6_000)
    for document in (charge(2, 5_999), charge(2, code="97140"), charge(2, person=1), charge(2, deleted=True)):
        with pytest.raises(Problem, match="applied"):
            office.do(document)
    office.do(charge(2, 6_000))
    assert office.figures[3] == 0
    office.do(charge(3, 9_000))
    assert office.figures[3] == 3_000


def test_a_charge_follows_the_payer_of_its_patient() -> None:
    """In whatever order the states come, who owes a charge is who would owe its last state."""
    for documents in ([charge(1, person=0), charge(2, person=1)], [charge(2, person=1), charge(1, person=0)]):
        clerk = Clerk(random.Random(1), COMPANY, LOCATIONS)
        memory = Memory.of(clerk)
        payer = memory.post(clerk.wrap(acts.NewPayer("P", "Payer")))
        assert isinstance(payer, dict)
        insured = acts.NewPatient("EMR-1", "Pat", "Insured", date(1980, 1, 1), payer["id"])
        memory.post(clerk.wrap(insured))
        for document in documents:
            memory.post(clerk.wrap(document))
        (found,) = memory.books.charges.values()
        assert found.payer_id == payer["id"]
        assert found.due == {"receivable_payer": 10_000, "receivable_patient": 0}


def test_a_charge_that_a_person_voided_comes_back_with_its_next_version() -> None:
    office = Office()
    office.charge_id = office.do(charge(1))["document_id"]
    office.do(acts.SetChargeState(office.charge_id, "void"))
    assert office.do(charge(2, deleted=True))["outcome"] == "ignored"
    office.do(charge(3, 4_000))
    assert office.figures[3] == 4_000


def test_the_same_version_with_other_content_is_a_conflict() -> None:
    office = Office()
    with pytest.raises(Problem) as refused:
        office.do(payment(1, 9_999))
    assert refused.value.code == "conflict"
    assert office.do(payment(1))["outcome"] == "duplicate"
    assert office.do(payment(0 + 1, deleted=True))["outcome"] == "posted", "a deletion is above its own version"
    assert office.do(payment(1))["outcome"] == "ignored"
