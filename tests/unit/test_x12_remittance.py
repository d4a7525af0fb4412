"""What an 835 says, which rule finds which fault, and where the bounds are."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from services.ledger.feeds.x12 import envelope, transaction
from services.ledger.feeds.x12.model import Adjustment, Claim, Line, Procedure, ProviderAdjustment, Transaction
from services.ledger.feeds.x12.reader import X12Unreadable
from services.ledger.feeds.x12.remittance import placed_claims, read, survey
from tests.support.x12_builder import ClaimPayment, Payment, ProviderLevel, Service, x12_file

COPIED = Path(__file__).resolve().parents[1] / "data" / "x12"


def sample(number: int) -> bytes:
    (path,) = COPIED.glob(f"{number:02}_*")
    return path.read_bytes()


def only(content: bytes) -> Transaction:
    (found,) = survey([content])
    return found


def codes(content: bytes) -> tuple[list[str], list[str]]:
    """The codes on the transaction, and those on its claims."""
    events = list(read([content]))
    return (
        sorted({p.code for t in survey([content]) for p in t.problems}),
        [p.code for event in events if isinstance(event, Claim) for p in event.problems],
    )


def claims_of(content: bytes) -> list[Claim]:
    return [event for event in read([content]) if isinstance(event, Claim)]


def test_the_header() -> None:
    header = only(sample(1)).header
    assert header
    assert (header.amount_cents, header.method, header.trace_number) == (9836, "eft", "EFT2026011500001")
    assert (header.handling, header.originator, header.deposit_date) == ("I", "1512345678", date(2026, 1, 15))
    assert (header.payer.name, header.payer_ids) == ("EXAMPLE HEALTH PLAN", ("12345", "1512345678"))
    assert (header.payee.name, header.payee_npis) == ("EXAMPLE PHYSICAL THERAPY LLC", ("1234567893",))
    assert header.payee_tax_id == "987654321"
    ids = header.envelope
    assert (ids.sender, ids.receiver, ids.interchange_control) == ("PAYERID", "PTCLINIC", "000000101")
    assert (ids.group_control, ids.version, ids.transaction_control) == ("1", "005010X221A1", "0001")


@pytest.mark.parametrize(("number", "method"), [(1, "eft"), (8, "check"), (7, "other")])
def test_methods(number: int, method: str) -> None:
    header = only(sample(number)).header
    assert header
    assert header.method == method


def test_a_claim_with_its_lines() -> None:
    (claim,) = claims_of(sample(1))
    assert (claim.account, claim.status, claim.icn, claim.filing) == ("PT-1001", "1", "ICN0001", "12")
    assert (claim.charge_cents, claim.paid_cents, claim.patient_cents) == (18000, 9836, 2000)
    assert (claim.patient.last, claim.patient.first, claim.patient.identifier) == ("DOE", "PAT", "MBR000123")
    assert (claim.service_from, claim.received) == (date(2026, 1, 5), date(2026, 1, 8))
    first, second = claim.lines
    assert first.procedure == Procedure("HC", "97110", ("GP",))
    assert second.procedure == Procedure("HC", "97140", ("GP", "59"))
    assert (first.charge_cents, first.paid_cents, first.units, first.submitted_units) == (12000, 6370, "2", "2")
    assert first.adjustments == (
        Adjustment("CO", "45", 4000),
        Adjustment("CO", "253", 130),
        Adjustment("PR", "2", 1500),
    )
    assert (first.control_number, first.amounts, first.service_from) == ("1", (("B6", 8000),), date(2026, 1, 5))
    assert claim.line_key() == ("PT-1001", "ICN0001", "1", 0)
    assert claim.line_key(second) == ("PT-1001", "ICN0001", "1", 2)


def test_every_triplet_of_a_cas_is_kept_with_its_quantity() -> None:
    six = b"CAS*CO*45*10*1*253*10**97*10*2*16*5**29*5**B4*.5*3~"
    content = sample(1).replace(b"CAS*CO*45*40**253*1.3~", six)
    adjustments = claims_of(content)[0].lines[0].adjustments[:6]
    assert [a.cents for a in adjustments] == [1000, 1000, 1000, 500, 500, 50]
    assert [a.quantity for a in adjustments] == ["1", "", "2", "", "", "3"]


def test_reversal_and_correction_come_in_their_order() -> None:
    reversal, correction, other = claims_of(sample(2))
    assert (reversal.is_reversal, reversal.paid_cents, reversal.lines[0].charge_cents) == (True, -9836, -12000)
    assert (correction.is_reversal, correction.icn, correction.frequency) == (False, "ICN0001R", "7")
    assert correction.lines[1].remarks == ("N525",)
    assert [claim.ordinal for claim in (reversal, correction, other)] == [1, 2, 3]


def test_a_denial() -> None:
    (claim,) = claims_of(sample(7))
    assert claim.is_denied
    assert claim.lines[1].remarks == ("M51", "N290")


def test_line_without_dates_or_units_takes_the_claims_and_one() -> None:
    content = (
        sample(1)
        .replace(b"DTM*472*20260105~", b"QTY*ZK*1~")
        .replace(b"SVC*HC:97110:GP*120*63.7**2~", b"SVC*HC:97110:GP*120*63.7~")
    )
    line = claims_of(content)[0].lines[0]
    assert (line.service_from, line.service_to, line.units) == (date(2026, 1, 5), date(2026, 1, 5), "1")


def test_the_submitted_code_is_kept_where_the_payer_restates_it() -> None:
    line: Line = claims_of(sample(1).replace(b"*63.7**2~", b"*63.7**1*HC:97530:GP*2~"))[0].lines[0]
    assert line.submitted == Procedure("HC", "97530", ("GP",))
    assert (line.units, line.submitted_units) == ("1", "2")


def test_provider_adjustments() -> None:
    plb = [e for e in read([sample(5)]) if isinstance(e, ProviderAdjustment)]
    assert plb == [ProviderAdjustment("1234567893", date(2026, 12, 31), "FB", "FB202601150001", 9836)]
    several = sample(5).replace(b"*98.36~\nSE", b"*90*WO*8.36*L6:X*0~\nSE")
    assert only(several).problems == ()
    assert [(e.reason, e.cents) for e in read([several]) if isinstance(e, ProviderAdjustment)][1:] == [
        ("WO", 836),
        ("L6", 0),
    ]


def test_an_unreadable_bpr16_falls_back_to_the_production_date() -> None:
    found = only(sample(1).replace(b"*98765*20260115", b"*98765*20260080"))
    assert found.problems == ()
    assert found.header
    assert (found.header.effective_date, found.header.deposit_date) == (None, date(2026, 1, 15))


@pytest.mark.parametrize(
    ("number", "old", "new", "whole", "parts"),
    [
        (1, b"BPR*I*98.36", b"BPR*I*98.37", ["transaction_unbalanced"], []),
        (1, b"BPR*I*98.36*C", b"BPR*I*98.36*D", ["transaction_unbalanced"], []),
        (1, b"BPR*I", b"BPR*H", ["notification_with_money"], []),
        (1, b"BPR*I", b"BPR*P", ["notification_with_money"], []),
        (1, b"98.36*C*ACH", b"98.36*C*NON", ["notification_with_money"], []),
        (7, b"BPR*H", b"BPR*P", [], []),
        (5, b"*98.36~\nSE", b"*98.35~\nSE", ["transaction_unbalanced"], []),
        (4, b"*-98.36~\nSE", b"*98.36~\nSE", ["transaction_unbalanced"], []),
        (1, b"*180*98.36", b"*181*98.36", [], ["claim_unbalanced"]),
        (1, b"*180*98.36", b"*180*98.35", ["transaction_unbalanced"], ["claim_unbalanced"]),
        (1, b"*120*63.7*", b"*121*63.7*", [], ["line_unbalanced"]),
        (1, b"*120*63.7*", b"*120*63.71*", [], ["line_unbalanced"]),
        (1, b"CAS*PR*2*15", b"CAS*PR*2*15.01", [], ["line_unbalanced", "claim_unbalanced"]),
        (1, b"SVC*HC:97140:GP:59*60*34.66", b"SVC*HC:97140:GP:59*70*44.66", [], ["claim_unbalanced"]),
        (1, b"*180*98.36", b"*180*98.3600", ["envelope_mismatch", "transaction_unbalanced"], []),
        (1, b"CAS*PR*2*15", b"CAS*PR*2*1e1", ["envelope_mismatch"], ["line_unbalanced", "claim_unbalanced"]),
        (1, b"SE*29*0001", b"SE*29*0002", ["envelope_mismatch"], []),
        (1, b"SE*29*0001", b"SE*0029*0001", [], []),
        (1, b"SE*29*0001", b"SE**0001", ["envelope_mismatch"], []),
        (1, b"GE*1*1", b"GE*2*1", ["envelope_mismatch"], []),
        (1, b"GE*1*1", b"GE*1*2", ["envelope_mismatch"], []),
        (1, b"IEA*1", b"IEA*2", ["envelope_mismatch"], []),
        (1, b"GE*1*1~", b"GE*1*1~GE*1*1~", ["envelope_mismatch"], []),
        (1, b"GE*1*1~", b"GE*1*1~GS*HP~GE*1~", ["envelope_mismatch"], []),
        (1, b"ST*835", b"CLP*835*1*1*1~ST*835", ["envelope_mismatch"], []),
        (1, b"GS*HP", b"TA1*000000101*260115*0830*A*000~GS*HP", [], []),
        (1, b"LX*1~", b"LX*1~BPR*I*98.36*C*ACH~", ["envelope_mismatch"], []),
        (1, b"REF*EV*CLEARHOUSE1", b"CUR*PR*CAD", ["envelope_mismatch"], []),
        (1, b"REF*EV*CLEARHOUSE1", b"CUR*PR*USD", [], []),
        (1, b"N3*1 PAYER WAY", b"N1*PR*ANOTHER PLAN", ["envelope_mismatch"], []),
        (1, b"REF*EV*CLEARHOUSE1", b"N1*PE*ANOTHER PRACTICE", ["envelope_mismatch"], []),
        (9, b"PLB*1234567893*20261231*CT:CAP202601*-4200", b"REF*EV*1", ["transaction_unbalanced"], []),
    ],
)
def test_each_fault_is_found_by_its_rule(
    number: int, old: bytes, new: bytes, whole: list[str], parts: list[str]
) -> None:
    content = sample(number)
    assert content.count(old) == 1
    assert codes(content.replace(old, new)) == (whole, parts)


@pytest.mark.parametrize(
    ("handling", "amount", "found"),
    [
        ("H", "-98.36*C*NON", ["notification_with_money"]),
        ("H", "98.36*D*ACH", ["notification_with_money"]),
        ("I", "-98.36*C*NON", ["notification_with_money"]),
        ("P", "-98.36*C*ACH", ["notification_with_money"]),
        # Nobody pays less than nothing; but a payer may draw what he is owed.
        ("I", "-98.36*C*ACH", ["negative_payment"]),
        ("I", "-98.36*C*CHK", ["negative_payment"]),
        ("I", "98.36*D*CHK", ["negative_payment"]),
        ("I", "98.36*D*ACH", []),
        ("C", "98.36*D*FWT", []),
    ],
)
def test_money_below_zero_is_a_debit_or_none_at_all(handling: str, amount: str, found: list[str]) -> None:
    back = (("CO", "45", -2_164),)
    reversal = ClaimPayment(
        account="A", status="22", services=[Service(charge_cents=-12_000, adjustments=back)], icn="I1"
    )
    content = x12_file([Payment(trace="T", claims=[reversal])]).decode()
    assert codes(content.replace("BPR*I*98.36*D*ACH", f"BPR*{handling}*{amount}").encode()) == (found, [])


def test_a_debit_of_less_than_nothing_is_no_credit() -> None:
    content = x12_file([Payment(trace="T", claims=[ClaimPayment(account="A", charge_only_cents=9_836)])])
    assert codes(content.replace(b"BPR*I*98.36*C", b"BPR*I*-98.36*D"))[0] == ["negative_payment"]


def test_nothing_found_is_not_a_balanced_zero() -> None:
    found = only(x12_file([Payment(trace="T", method="NON")]))
    assert [p.code for p in found.problems] == ["transaction_unbalanced"]


def test_findings_carry_their_numbers() -> None:
    (finding,) = only(sample(25)).problems
    assert dict(finding.numbers) == {"bpr02": 10836, "claims": 9836, "provider_adjustments": 0}
    assert "108.36" in finding.detail
    (line,) = claims_of(sample(1).replace(b"*120*63.7*", b"*121*63.7*"))[0].problems
    assert (line.line, dict(line.numbers)) == (1, {"charge": 12100, "adjustments": 5630, "paid": 6370})


def test_a_fault_of_the_envelope_concerns_the_transactions_inside_it() -> None:
    two = x12_file([Payment(trace="A"), Payment(trace="B")], control="000000007")
    mixed = sample(1) + two.replace(b"GE*2*1", b"GE*3*1") + sample(5)
    blamed = [any(p.detail.startswith("GE01") for p in t.problems) for t in survey([mixed])]
    assert blamed == [False, True, True, False]


def test_faults_are_listed_up_to_a_bound() -> None:
    claim = ClaimPayment(account="PT-1", adjustments=[("CO", "45", 100)], charge_only_cents=100)
    content = x12_file([Payment(trace="T", claims=[claim] * 500)]).replace(b"CAS*CO*45*1~", b"CAS*CO*45*x~")
    problems = only(content).problems
    assert len(problems) < 30
    assert "480 more" in problems[-1].detail


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"ST*835*0001", b"ST*999*0001"),  # a group of remittances with something else in it
        (b"BPR*I*98.36", b"BPR*I*"),
        (b"SE*29*0001~\nGE*1*1~\nIEA*1", b"IEA*1"),
        (b"ST*835*0001", b"ST*835*0001~ST*835*0001"),
        (b"ST*835*0001", b"GS*HP~ST*835*0001"),
        (b"ST*835*0001", b"ISA*00~ST*835*0001"),
        (b"*T*:~", b"*T*"),
        (b"*T*:~", b"*T*:*"),
    ],
)
def test_what_must_not_even_be_kept(old: bytes, new: bytes) -> None:
    assert old in sample(1)
    with pytest.raises(X12Unreadable):
        survey([sample(1).replace(old, new)])


def test_a_damaged_first_interchange_is_not_taken_for_text_before_the_second() -> None:
    with pytest.raises(X12Unreadable, match="before the first readable ISA"):
        survey([sample(11).replace(b"ISA*00*  ", b"IS*00*  ", 1)])


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(charge_cents=100)
    content = x12_file([Payment(trace="T", claims=[ClaimPayment(account="1", services=[service] * 2000)])])
    assert only(content).problems == ()
    monkeypatch.setattr(transaction, "MAX_LINES", 1999)
    with pytest.raises(X12Unreadable, match="more than 1999 lines"):
        survey([content])
    monkeypatch.setattr(transaction, "MAX_LINES", 2000)
    monkeypatch.setattr("services.ledger.feeds.x12.survey.MAX_CLAIM", 20_000)
    with pytest.raises(X12Unreadable, match="larger than"):
        survey([content])
    monkeypatch.setattr(envelope, "MAX_TRANSACTIONS", 2)
    with pytest.raises(X12Unreadable, match="more than 2 transactions"):
        survey([x12_file([Payment(trace="T")] * 3)])


def test_the_content_hash_names_the_payment_not_its_wrapping() -> None:
    content = sample(1)
    same = only(content).content_hash
    rewrapped = (
        content.replace(b"000000101", b"000000999").replace(b"ST*835*0001", b"ST*835*7").replace(b"*0001~", b"*7~")
    )
    for wrapping in (
        rewrapped,
        content.replace(b"~\n", b"~"),
        content.replace(b"*", b"|").replace(b"~", b"'"),
        content.replace(b":", b">"),
        content.replace(b"LX*1~", b"LX*1***~"),
    ):
        assert only(wrapping).content_hash == same
    for other in (
        content.replace(b"*2*15~", b"*3*15~"),
        content.replace(b"DOE", b"DOF"),
        content.replace(b"GP:59", b"GP*59"),
    ):
        assert only(other).content_hash != same


def test_the_second_pass_yields_claims_with_the_place_of_their_transaction() -> None:
    content = sample(10) + sample(5)
    placed = [(ordinal, claim.account) for ordinal, claim in placed_claims([content])]
    assert [account for ordinal, account in placed if ordinal == 2] == ["PT-1009"]
    assert [ordinal for ordinal, _ in placed] == [1, 2, 3, 3]
    assert [account for _, account in placed] == [claim.account for claim in claims_of(content)]


def test_predetermination_and_forwarding() -> None:
    def with_status(status: str) -> Claim:
        return claims_of(x12_file([Payment(trace="T", claims=[ClaimPayment(account="1", status=status)])]))[0]

    assert with_status("25").is_predetermination
    assert [with_status(status).is_forwarded for status in ("1", "19", "20", "21")] == [False, True, True, True]


def test_interest_and_capitation_are_provider_level() -> None:
    levels = [ProviderLevel(reason="CT", cents=-420_000, reference="CAP"), ProviderLevel(reason="L6", cents=-125)]
    found = only(x12_file([Payment(trace="T", provider_level=levels)]))
    assert (found.claims, found.provider_cents, found.problems) == (0, -420_125, ())
    assert found.header
    assert found.header.amount_cents == 420_125


def test_spaces_that_fill_an_element_up_mean_nothing() -> None:
    """Some payers write elements in their full width; the header and CLP were read so from the beginning."""
    plain, content = claims_of(sample(1))[0], sample(1)
    padding = [
        (b"SVC*HC:97110:GP", b"SVC*HC :97110 :GP "),
        (b"CAS*CO*45*", b"CAS*CO *45 *"),
        (b"DTM*472*20260105", b"DTM*472 *20260105 "),
        (b"REF*6R*", b"REF*6R *"),
    ]
    for old, new in padding:
        assert old in content, old
        content = content.replace(old, new)
    (padded,) = claims_of(content)
    assert padded == plain
    assert claims_of(sample(1).replace(b"REF*6R*1~", b"CAS~"))[0].lines[0].adjustments == plain.lines[0].adjustments
