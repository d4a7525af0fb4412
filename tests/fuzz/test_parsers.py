"""Every reader of feeds, on damaged files: it refuses in its own words or reads, and no cent is lost in what it read.

`FUZZ_CASES` is how many cases each reader gets (`make fuzz`: 100,000), `FUZZ_SEED` where they begin. A case is named by
its number: `FUZZ_SEED=<number> FUZZ_CASES=1` runs it alone.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.ledger.domain.feed_acts import EmrDocument
from services.ledger.feeds.cloudevents import envelope, understand
from services.ledger.feeds.csvfile.profile import Profile as CsvProfile
from services.ledger.feeds.csvfile.reader import Total
from services.ledger.feeds.csvfile.reader import read as read_csv
from services.ledger.feeds.csvfile.records import CsvUnreadable
from services.ledger.feeds.fhir.answer import operation_outcome
from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.model import ChargeFact, PaymentFact
from services.ledger.feeds.hl7.acts import paid_cents
from services.ledger.feeds.hl7.batch import batches
from services.ledger.feeds.hl7.dft import understand as understand_dft
from services.ledger.feeds.hl7.model import Profile as Hl7Profile
from services.ledger.feeds.hl7.reader import Unreadable
from services.ledger.feeds.hl7.reader import read as read_hl7
from services.ledger.feeds.payees import Payees
from services.ledger.feeds.remittance_claims import claim_of
from services.ledger.feeds.remittance_facts import payment_key, refusal_detail, refusal_of
from services.ledger.feeds.x12 import acknowledgements
from services.ledger.feeds.x12.claim_status import ClaimStatus
from services.ledger.feeds.x12.model import Claim, EnvelopeFault, Header, ProviderAdjustment, Transaction
from services.ledger.feeds.x12.reader import X12Unreadable, transaction_bytes
from services.ledger.feeds.x12.remittance import read as read_x12
from services.ledger.feeds.x12.remittance import survey
from services.ledger.feeds.x12.replies import implementation_ack_999, interchanges, ta1
from shared.errors import BadRequest, Invalid
from shared.web.bodies import load_json
from tests.support import fhir_builder as fhir
from tests.support.damage import bent, damaged
from tests.support.emr import emr_charge, emr_deletion, emr_event, emr_payment
from tests.support.hl7_messages import ft1, message
from tests.support.x12_answers import Told, ack_999, interchange, status_277
from tests.support.x12_builder import ClaimPayment, Payment, ProviderLevel, Service, Syntax, x12_file

CASES = int(os.environ.get("FUZZ_CASES", "5000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"
LARGEST = 8_000
AT = datetime(2026, 1, 2, 3, 4)


def samples(folder: str) -> list[bytes]:
    """The small ones of those beside the project, when they are there."""
    files = sorted((SAMPLES / folder).rglob("*")) if (SAMPLES / folder).is_dir() else []
    return [path.read_bytes() for path in files if path.is_file() and 0 < path.stat().st_size <= LARGEST]


# -- X12 ---------------------------------------------------------------------------------------------------------------


def _remittance(*, syntax: Syntax | None = None) -> bytes:
    cas = (("CO", "45", 2_000), ("PR", "2", 1_500))
    claims = [
        ClaimPayment(
            account="A-1", services=[Service(charge_cents=12_000, adjustments=cas, control_number="L-1")], icn="I"
        ),
        ClaimPayment(account="A-1", status="22", services=[Service(charge_cents=-9_000, adjustments=())], icn="I"),
        ClaimPayment(account="A-2", charge_only_cents=5_000, adjustments=(("CO", "16", 5_000),), status="4"),
    ]
    levels = [ProviderLevel(reason="FB", cents=-700, reference="OLD"), ProviderLevel(reason="L6", cents=-25)]
    payments = [Payment(trace="T-1", claims=claims, provider_level=levels), Payment(trace="T-2", claims=claims[:1])]
    return x12_file(payments, syntax=syntax)


X12 = [
    _remittance(),
    _remittance().replace(b"*0*T*", b"*1*T*") * 2,
    _remittance(syntax=Syntax(element="|", component=">", terminator="\n", newline="")),
    interchange(ack_999(("000000017", "A"), ("18", "R")), ta1=["TA1*000000005*260105*1200*R*021"], asks=1),
    interchange(status_277(Told(claim="C-1"), Told(claim="C-2", status="A7:562:85", action="U"), batch="B-00001")),
    *samples("835"),
    *samples("837"),
]
X12_TOKENS = [
    *(b"*", b":", b"~", b"^", b"\r\n", b"\n", b"\x00", b"\xff", b"ISA*", b"IEA*1*", b"GS*HP*", b"ST*835*0001~"),
    *(
        b"SE*2*0001~",
        b"CLP*",
        b"SVC*",
        b"CAS*CO*45*1~",
        b"PLB*1*20261231*FB*5~",
        b"BPR*I*1*C*ACH~",
        b"-",
        b".",
        b"9" * 20,
    ),
]


def x12(draw: random.Random) -> None:
    content = damaged(draw.choice(X12), X12_TOKENS, draw)
    _x12_money(content)
    with suppress(X12Unreadable):
        for event in acknowledgements.read([content]):
            assert not isinstance(event, ClaimStatus) or event.accepted is None or event.statuses
    with suppress(X12Unreadable):
        for one in interchanges([content]):
            for reply in (ta1(one, control=1, at=AT), implementation_ack_999(one, control=2, at=AT)):
                if reply is not None:
                    list(acknowledgements.read([reply]))


def _judged(events: Iterable[object]) -> list[Transaction]:
    """Every transaction, with the faults of the envelopes around it."""
    found: list[Transaction] = []
    for event in events:
        if isinstance(event, Transaction):
            found.append(event)
        elif isinstance(event, EnvelopeFault):
            for i in range(event.first - 1, event.last):
                found[i] = found[i].blamed(event.problems)
    return found


def _x12_money(content: bytes) -> None:
    """BPR02 of what may post = its claims, readable or in dispute, less PLB; and both readings tell of the same."""
    try:
        events = list(read_x12([content]))
    except X12Unreadable:
        return
    paid = provider = claims = 0
    for event in events:
        if isinstance(event, Header):
            paid = provider = claims = 0
        elif isinstance(event, Claim):
            fact = claim_of(event)
            assert bool(fact.problem) == bool(event.problems)
            paid, claims = paid + fact.paid_cents, claims + 1
        elif isinstance(event, ProviderAdjustment):
            provider += event.cents
        elif isinstance(event, Transaction) and event.header is not None:
            assert (event.paid_cents, event.provider_cents, event.claims) == (paid, provider, claims)
            assert sum(row.cents for row in event.provider) == provider
            if event.reason is None:
                assert event.header.amount_cents == paid - provider
            assert event.reason is None or refusal_detail(event, event.reason)
            assert len(payment_key(event)) == 64
            if reason := refusal_of(event, Payees(frozenset({"1234567893"}), {})):
                assert refusal_detail(event, reason)["problems"]
        else:
            assert isinstance(event, EnvelopeFault | Transaction)
    surveyed = survey([content[:77], content[77:]])
    assert [replace(one, content_hash="", rendering=()) for one in surveyed] == _judged(events)
    assert [one.content_hash for one in surveyed] == [one.content_hash for one in survey([content])]
    if surveyed:
        b"".join(transaction_bytes([content], len(surveyed)))


# -- HL7 ---------------------------------------------------------------------------------------------------------------

_LINES = (ft1("CG", "1", "120.00"), ft1("PY", "2", "25.00", f31="TX1"), ft1("AJ", "3", "-5.00"), ft1("CO", "4", "1.5"))
HL7 = [
    message(*_LINES, control_id="C1"),
    message(_LINES[1], control_id="C2", event="P11"),
    b"FHS|^~\\&|A\rBHS|^~\\&|A\r" + message(_LINES[1], control_id="C3") + b"BTS|1\rFTS|1\r",
    b"\x0b"
    + message(*_LINES[:2], control_id="C4")
    + b"\x1c\r"
    + b"\x0b"
    + message(_LINES[2], control_id="C5")
    + b"\x1c\r",
    *samples("hl7v2"),
]
HL7_TOKENS = [
    *(b"|", b"^", b"~", b"&", b"\\", b"\\X41\\", b"\r", b"\n", b"\x0b", b"\x1c", b"\x00", b"\xff", b'""', b"-", b"."),
    *(b"MSH|^~\\&|", b"FT1|1|", b"BTS|", b"PID|", b"UNICODE UTF-8", b"9" * 13, b"|CG|", b"|PY|", b"|CD|"),
]


def hl7(draw: random.Random) -> None:
    """Of a message either every line is understood, or none; and payments add up to what the message states."""
    content = damaged(draw.choice(HL7), HL7_TOKENS, draw)
    try:
        found = batches(content)
    except Unreadable:
        return
    for raw in (one for batch in found for one in batch.messages):
        try:
            financial = understand_dft(read_hl7(raw), Hl7Profile())
        except Unreadable:
            continue
        assert len(financial.transactions) in (0, financial.lines)
        assert not (financial.transactions and (financial.problems or financial.ignored))
        if financial.transactions:
            assert sum(map(paid_cents, financial.transactions)) == financial.stated_cents


# -- FHIR --------------------------------------------------------------------------------------------------------------

_EVERYTHING = fhir.bundle(
    fhir.charge_item(),
    fhir.claim(fhir.claim_item(1), fhir.claim_item(2, "45.00")),
    fhir.invoice(
        fhir.invoice_line(chargeItemReference={"reference": "ChargeItem/ci1"}, chargeItemCodeableConcept=None)
    ),
    fhir.reconciliation("80.00", fhir.detail()),
    fhir.notice(),
    fhir.patient(),
)
FHIR: list[Any] = [
    *[_EVERYTHING, fhir.charge_item(), fhir.reconciliation("80.00", fhir.detail())] * 10,
    *(json.loads(content) for content in samples("fhir") if content.lstrip()[:1] == b"{"),
]
FHIR_TOKENS = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"1e400", b"-1", b"9" * 40, b"NaN", b"\\ud800", b"\xff"),
    *(b'"resourceType":"Claim",', b'"status":"cancelled",', b'"value":', b"[" * 50),
]


def fhir_json(draw: random.Random) -> None:
    """A resource is refused with its issues, ignored with a reason, or facts whose cents are those it states."""
    content = fhir.body(bent(draw.choice(FHIR), draw))
    if draw.random() < 0.3:
        content = damaged(content, FHIR_TOKENS, draw)
    found = list(outcomes(content))
    for outcome in found:
        refused = any(issue.severity != "warning" for issue in outcome.issues)
        assert [outcome.state] == [
            state
            for state, holds in (("refused", refused), ("ignored", outcome.reason), ("facts", outcome.facts))
            if holds
        ]
        if outcome.state == "facts":
            money = [fact.amount_cents for fact in outcome.facts if isinstance(fact, ChargeFact | PaymentFact)]
            assert outcome.amount_cents == sum(money)
    json.dumps(operation_outcome(found))


# -- CSV ---------------------------------------------------------------------------------------------------------------

_COLUMNS = {
    "emr_clinic_id": "Clinic",
    "account_number": "Account",
    "first_name": "First",
    "last_name": "Last",
    "date_of_birth": "Born",
    "amount": "Amount",
    "method": "How",
    "check_number": "Check",
    "transaction_date": "Paid on",
}
CSV_PROFILE = CsvProfile.model_validate(
    {
        "kind": "payment",
        "columns": _COLUMNS,
        "constants": {"payment_type": "copay"},
        "key": ["Id"],
        "version": "Ver",
        "deleted": {"column": "State", "values": ["void"]},
        "total": {"column": "Id", "label": "TOTAL", "amount": "Amount"},
    }
)
CSV = [
    b"Id,Ver,Clinic,Account,First,Last,Born,Amount,How,Check,Paid on,State\r\n"
    b"P-1,1,CLINIC-9,A-1,Jane,Roe,1980-02-29,25.00,cash,,2026-01-05,\r\n"
    b'P-2,2,CLINIC-9,A-2,"Ja""ne","O\'Hara, Jr.\nII",1980-02-29,1.50,check,"12,3",2026-01-05,\r\n'
    b"P-1,2,CLINIC-9,A-1,Jane,Roe,1980-02-29,25.00,cash,,2026-01-05,void\r\n"
    b"TOTAL,,,,,,,26.50,,,,\r\n"
]
CSV_TOKENS = [
    b",",
    b'"',
    b'""',
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b"\xff",
    b"TOTAL,",
    b"void",
    b"-",
    b".",
    b"=1+1",
    b"\xef\xbb\xbf",
]


def csv(draw: random.Random) -> None:
    """Money in = data + rows in dispute, as far as rows could be read; the total row is compared with just that."""
    content = damaged(draw.choice(CSV), CSV_TOKENS, draw)
    try:
        found = list(read_csv([content], CSV_PROFILE))
    except CsvUnreadable:
        return
    counted = 0
    for row in found:
        if isinstance(row, Total):
            assert row.counted_cents == counted
            continue
        assert (row.data is None) == bool(row.problems)
        counted += row.amount_cents
        if row.data is not None:
            assert row.amount_cents == row.data.get("amount_cents", 0)
    cut = draw.randrange(len(content) + 1)
    assert list(read_csv([content[:cut], content[cut:]], CSV_PROFILE)) == found


# -- CloudEvents -------------------------------------------------------------------------------------------------------

_CLINIC = UUID(int=9)
EVENTS: list[Any] = [
    emr_event("emr", "payment", emr_payment(_CLINIC, "p-1")),
    emr_event("emr", "payment", emr_payment(_CLINIC, "p-2", 2, payment_type="internal"), change="changed"),
    emr_event("emr", "charge", emr_charge(_CLINIC, "c-1")),
    emr_event("emr", "charge", emr_deletion(_CLINIC, "charge", "c-1", 3), change="deleted"),
]
EVENT_TOKENS = [
    *(b'"', b"{", b"}", b"[", b",", b":", b"null", b"true", b"1e400", b"-1", b"9" * 40, b"NaN", b"\\ud800", b"\\u0000"),
    *(b"\xff", b'"id":"x",', b'"amount_cents":', b"[" * 60),
]


def cloudevents(draw: random.Random) -> None:
    """An event is refused by its envelope, or understood: a document with its amount, or a problem."""
    value = bent(draw.choice(EVENTS), draw)
    content = json.dumps(value).encode()
    if draw.random() < 0.4:
        content = damaged(content, EVENT_TOKENS, draw)
    try:
        one = envelope(load_json(content))
        event = understand(one)
    except (BadRequest, Invalid):
        return
    assert (event.problem is None) != (event.document is None)
    if isinstance(event.document, EmrDocument):
        words = event.document.words or {}
        is_payment = event.document.kind == "payment"
        assert event.amount_cents == (words.get("amount_cents", 0) if is_payment else 0)
        assert not is_payment or isinstance(words.get("deposit_date", date.min), date)


# -- all of them -------------------------------------------------------------------------------------------------------

PARSERS = (x12, hl7, fhir_json, csv, cloudevents)


@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
def test_no_damage_is_an_error_and_no_cent_is_lost(parser: Callable[[random.Random], None]) -> None:
    for case in range(SEED, SEED + CASES):
        try:
            parser(random.Random(case))
        except Exception as error:
            error.add_note(f"{parser.__name__}: FUZZ_SEED={case} FUZZ_CASES=1")
            raise
