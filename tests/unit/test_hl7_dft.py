"""DFT messages as data: what each field means, what each profile changes, and what keeps a message from posting."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.feeds.hl7.acts import version_of
from services.ledger.feeds.hl7.batch import batches
from services.ledger.feeds.hl7.dft import understand
from services.ledger.feeds.hl7.model import Financial, Header, Insurance, Patient, Profile, Transaction
from services.ledger.feeds.hl7.reader import Unreadable, read
from tests.support.hl7_samples import COPIED, SHARED, mutations

MSH = r"MSH|^~\&|EMR|CLINIC|LEDGER|BILLING|20260115103000||DFT^P03^DFT_P03|EMR1|P|2.5.1|||NE|AL"
PID = "PID|1||SSN9^^^USA^SS~MRN1^^^CLINIC^MR||DOE&VAN^PAT^A||19700101|F||||||||||ACCT1"
PV1 = "PV1|1|O|PT^ROOM1^^EAST||||||||||||||||V7001"
TABLE_0017 = ("CG", "CD", "PY", "AJ", "CO")


def ft1(kind: str = "CG", **fields: str) -> str:
    """An FT1 with everything a charge needs; `f2="TX9"` sets FT1-2."""
    values = {1: "1", 2: "TX1", 4: "20260105", 6: kind, 7: "97110^EXERCISE^C4", 10: "1", 11: "60.00&USD", 26: "GP"}
    values |= {int(name[1:]): value for name, value in fields.items()}
    return "|".join(["FT1", *(values.get(position, "") for position in range(1, 32))])


def message(*lines: str, msh: str = MSH, pid: str = PID, pv1: str = PV1) -> bytes:
    return "\r".join(line for line in (msh, "EVN|P03", pid, pv1, *lines) if line).encode()


def understood(*lines: str, profile: Profile | None = None, **parts: str) -> Financial:
    return understand(read(message(*lines, **parts)), profile or Profile())


def only(*lines: str, profile: Profile | None = None, **parts: str) -> Transaction:
    financial = understood(*lines, profile=profile, **parts)
    assert financial.problems == ()
    (transaction,) = financial.transactions
    return transaction


def problems(*lines: str, profile: Profile | None = None, **parts: str) -> list[tuple[str, str, int, int | None]]:
    financial = understood(*lines, profile=profile, **parts)
    assert financial.transactions == ()
    return [(p.code, p.segment, p.sequence, p.field) for p in financial.problems]


def test_everything_a_message_says() -> None:
    financial = understood(
        ft1(f2="TX1", f3="B7", f5="20260115", f10="2", f11="120.00&USD", f12="60.00&USD", f19="M54.50^Pain^I10~M25.5",
            f25="97110", f26="GP~59^Distinct", f30="CHK 1", f31="TX0"),
        "IN1|1|PPO^Example|12345|EXAMPLE HEALTH^L||||G1||||||||||||||||||||||||||||P1",
    )  # fmt: skip
    assert financial == Financial(
        header=Header(
            "EMR", "CLINIC", "LEDGER", "BILLING", "20260115103000", "DFT", "P03", "EMR1", "P", "2.5.1", "NE", "AL"
        ),
        lines=1,
        patient=Patient("ACCT1", "MRN1", "ACCT1", "DOE", "PAT", "A", date(1970, 1, 1)),
        visit="V7001",
        clinic="EAST",
        insurance=(plan := Insurance("PPO", "12345", "EXAMPLE HEALTH", "G1", "P1"),),
        transactions=(
            Transaction(
                sequence=1,
                set_id="1",
                transaction_id="TX1",
                key="EMR|CLINIC|TX1",
                batch="B7",
                kind="CG",
                void=False,
                service_date=date(2026, 1, 5),
                posting_date=date(2026, 1, 15),
                code="97110",
                procedure="97110",
                modifiers=("GP", "59"),
                units=2,
                amount_cents=12000,
                diagnoses=("M54.50", "M25.5"),
                payment_reference="CHK 1",
                transaction_reference="TX0",
                insurance=(plan,),
                description="EXERCISE",
                reference_key="EMR|CLINIC|TX0",
            ),
        ),
    )


@pytest.mark.parametrize(
    ("fields", "cents"),
    [
        ({"f11": "120.00&USD", "f12": "1.00"}, 12000),
        ({"f11": "150.00^USD"}, 15000),
        ({"f11": "100&USD"}, 10000),
        ({"f11": ".5"}, 50),
        ({"f11": "+7."}, 700),
        ({"f11": "60.0000^UP"}, 6000),
        ({"f11": "0"}, 0),
        ({"f11": "999999999.99"}, 99_999_999_999),
        ({"f11": "", "f12": "60.00", "f10": "3"}, 18000),
        ({"f11": "&USD", "f12": "60.00"}, 6000),
        ({"f11": '""', "f12": "0.125", "f10": "8"}, 100),
        ({"f11": "", "f12": "60.00", "f10": ""}, 6000),
    ],
)
def test_amounts(fields: dict[str, str], cents: int) -> None:
    assert only(ft1(**fields)).amount_cents == cents


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"f11": "sixty"}, "bad_amount", 11),
        ({"f11": "1,000.00"}, "bad_amount", 11),
        ({"f11": "$60.00"}, "bad_amount", 11),
        ({"f11": "6e1"}, "bad_amount", 11),
        ({"f11": "NaN"}, "bad_amount", 11),
        ({"f11": "٦٠"}, "bad_amount", 11),
        ({"f11": "60.005"}, "bad_amount", 11),
        ({"f11": "1000000000.00"}, "bad_amount", 11),
        ({"f11": "9" * 400}, "bad_amount", 11),
        ({"f11": "", "f12": "0.333", "f10": "2"}, "bad_amount", 12),
        ({"f11": "60.00&CAD"}, "bad_currency", 11),
        ({"f11": "60.00^EUR"}, "bad_currency", 11),
        ({"f11": "", "f12": "60.00&EUR"}, "bad_currency", 12),
        ({"f10": "two"}, "bad_quantity", 10),
        ({"f10": "1.5"}, "bad_quantity", 10),
        ({"f10": "0"}, "bad_quantity", 10),
        ({"f10": "1000"}, "bad_quantity", 10),
        ({"f4": "20261301"}, "bad_date", 4),
        ({"f4": "2026-01-05"}, "bad_date", 4),
        ({"f4": "01/05/2026"}, "bad_date", 4),
        ({"f4": "202601"}, "bad_date", 4),
        ({"f4": "02026010"}, "bad_date", 4),
        ({"f4": ""}, "missing_field", 4),
        ({"f5": "yesterday"}, "bad_date", 5),
        ({"f6": "XX"}, "unknown_kind", 6),
        ({"f6": ""}, "unknown_kind", 6),
        ({"f7": ""}, "missing_field", 7),
        ({"f11": ""}, "missing_amount", 11),
        ({"f2": "X" * 201}, "too_long", 2),
        ({"f31": "X" * 201}, "too_long", 31),
    ],
)
def test_a_fault_keeps_the_whole_message_from_posting(fields: dict[str, str], code: str, field: int) -> None:
    assert problems(ft1(f2="OK1"), ft1(**fields), ft1("PY", f2="OK2")) == [(code, "FT1", 2, field)]


@given(st.decimals("-99999.99", "99999.99", places=2), st.integers(1, 999), st.booleans())
def test_amounts_are_exact(unit: Decimal, quantity: int, extended: bool) -> None:
    amount = {"f11": str(unit * quantity)} if extended else {"f11": "", "f12": str(unit), "f10": str(quantity)}
    found = only(ft1("PY", **amount)).amount_cents
    assert found == int(unit * quantity * 100)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("20260105", date(2026, 1, 5)),
        ("20260105235959", date(2026, 1, 5)),
        ("20260105235959.1234+1400", date(2026, 1, 5)),
        ("20260105235959.123456+1400", date(2026, 1, 5)),
        ("20260105235959.1234567", date(2026, 1, 5)),
        ("202601050000-0600", date(2026, 1, 5)),
        ("20260105^20260107", date(2026, 1, 5)),
        ("20240229", date(2024, 2, 29)),
    ],
)
def test_a_day_is_the_senders(text: str, day: date) -> None:
    assert only(ft1(f4=text)).service_date == day


def test_a_senders_own_transaction_types_are_those_that_were_agreed() -> None:
    """Table 0017 is user-defined: the sender's own word is matched as it is written, and before the table."""
    agreed = Profile(kinds=(("C", "CG"), ("CO", "AJ"), ("c", "CD"), ("P", "PY")))
    found = [only(ft1(code), profile=agreed) for code in ("C", "c", "P", "CO", "cg", "AJ")]
    assert [one.kind for one in found] == ["CG", "CD", "PY", "AJ", "CG", "AJ"]
    assert (found[0].procedure, found[0].void) == ("97110", False)
    assert found[1].void
    assert problems(ft1("p"), profile=agreed) == [("unknown_kind", "FT1", 1, 6)]
    assert problems(ft1("C")) == [("unknown_kind", "FT1", 1, 6)], "nothing was agreed"


def test_the_code_is_where_the_sender_puts_it() -> None:
    assert only(ft1(f7="97110", f25="")).procedure == "97110"
    assert only(ft1(f7="", f25="97110^EXERCISE")).procedure == "97110"
    assert only(ft1(f7="^^^CDM77^EXERCISE^L")).code == "CDM77"
    both = only(ft1(f7="CDM77^EXERCISE^L", f25="97110"))
    assert (both.code, both.procedure) == ("CDM77", "97110")
    payment = only(ft1("PY", f7="COPAYCC"))
    assert (payment.code, payment.procedure) == ("COPAYCC", "")


def test_kinds_may_be_coded_and_in_small_letters() -> None:
    assert only(ft1("cg^Charge^HL70017")).kind == "CG"


def test_payments_count_towards_the_total_even_of_a_refused_message() -> None:
    financial = understood(ft1("PY", f2="A", f11="25.00"), ft1("CO", f2="B", f11="10"), ft1(f2="C"), ft1("??"))
    assert (financial.stated_cents, financial.lines, financial.transactions) == (3500, 4, ())


# ---- how charges are taken back


def test_both_plain_ways_of_voiding_are_understood() -> None:
    credit = only(ft1("CD", f2="TX1", f11="60.00"))
    negative = only(ft1(f2="TX1", f10="-1", f11="-60.00"))
    by_amount = only(ft1(f2="TX1", f11="-60.00"))
    by_quantity = only(ft1(f2="TX1", f10="-2", f11="", f12="30.00"))
    silent = only(ft1("CD", f11=""))
    for void in (credit, negative, by_amount, by_quantity):
        assert (void.void, void.amount_cents, void.key) == (True, 6000, only(ft1(f2="TX1")).key)
    assert (silent.void, silent.amount_cents, by_quantity.units) == (True, None, 2)
    assert not only(ft1()).void
    assert not only(ft1("PY", f11="-25.00")).void  # a refund
    assert only(ft1("PY", f11="-25.00")).amount_cents == -2500


def test_a_way_of_voiding_that_is_not_agreed_is_refused() -> None:
    """As a plain charge or credit it would be wrong by twice its amount."""
    same_id = Profile(voids=frozenset({"cd_same_id"}))
    negative = Profile(voids=frozenset({"negative_quantity"}))
    replacement = Profile(voids=frozenset({"replacement"}))
    for profile in (negative, replacement):
        assert problems(ft1("CD"), profile=profile) == [("void_not_agreed", "FT1", 1, 6)]
    for profile in (same_id, replacement):
        assert problems(ft1(f10="-1"), profile=profile) == [("void_not_agreed", "FT1", 1, 10)]
    assert only(ft1("CD"), profile=same_id).void
    assert only(ft1(f10="-1"), profile=negative).void


def test_a_credit_must_name_what_it_takes_back() -> None:
    assert problems(ft1("CD", f2="")) == [("missing_field", "FT1", 1, 2)]


def test_an_adjustment_that_reduces_is_positive_whatever_the_sign_agreed() -> None:
    assert only(ft1("AJ", f11="-40.00")).amount_cents == 4000
    positive = Profile(adjustments="positive_reduces")
    assert only(ft1("AJ", f11="40.00"), profile=positive).amount_cents == 4000
    assert only(ft1("AJ", f11="-40.00"), profile=positive).amount_cents == -4000


def test_a_missing_amount_is_a_fault_or_the_fee_schedules() -> None:
    by_schedule = Profile(missing_amount="fee_schedule")
    assert only(ft1(f11=""), profile=by_schedule).amount_cents is None
    for kind in ("PY", "AJ", "CO"):
        assert problems(ft1(kind, f11=""), profile=by_schedule) == [("missing_amount", "FT1", 1, 11)]


# ---- line keys


def test_a_line_is_known_by_its_transaction_id_whatever_else_changes() -> None:
    other = only(ft1(f1="3", f4="20260106", f7="97140", f26=""), pv1="", msh=MSH.replace("EMR1", "EMR2"))
    assert other.key == only(ft1()).key
    assert only(ft1(), msh=MSH.replace("CLINIC", "WEST")).key != other.key


def test_without_transaction_id_a_line_is_known_by_what_it_is() -> None:
    base = only(ft1(f2=""))
    assert base.key == "EMR|CLINIC|V7001|20260105|97110|GP|1"
    assert only(ft1(f2=""), msh=MSH.replace("EMR1", "EMR2")).key == base.key
    assert only(ft1(f2="", f4="20260105101500")).key == base.key
    assert only(ft1(f2=""), pv1="").key == "EMR|CLINIC|ACCT1|20260105|97110|GP|1"
    for changed in ({"f4": "20260106"}, {"f7": "97140"}, {"f26": "GP~59"}, {"f1": "2"}):
        assert only(ft1(f2="", **changed)).key != base.key


def test_keys_cannot_run_into_each_other_and_fit_an_index() -> None:
    assert only(ft1(f2=r"A\F\B\E\C")).key == r"EMR|CLINIC|A\F\B\E\C"
    long = only(ft1(f2="", f26="~".join(["59"] * 300))).key
    assert re.fullmatch("sha256:[0-9a-f]{64}", long)
    assert long != only(ft1(f2="", f26="~".join(["59"] * 301))).key


def test_the_same_line_twice_in_one_message_is_refused() -> None:
    assert problems(ft1(), ft1(f1="2")) == [("duplicate_key", "FT1", 2, 2)]
    assert problems(ft1(f2=""), ft1(f2="")) == [("duplicate_key", "FT1", 2, 2)]
    assert len(understood(ft1(f2=""), ft1(f1="2", f2="")).transactions) == 2
    corrected = understood(ft1("CD"), ft1(f11="90.00"))  # a void and the charge anew
    assert [t.void for t in corrected.transactions] == [True, False]


# ---- the patient, the clinic, the groups


def test_account_and_clinic_are_where_the_profile_says() -> None:
    assert understood(ft1(), pid=PID.replace("ACCT1", "")).patient.account_number == "SSN9"
    moved = Profile(account=("PID-3.1",), clinic=("PV1-3.1", "MSH-4"))
    assert understood(ft1(), profile=moved).patient.account_number == "SSN9"
    assert understood(ft1(), profile=moved).clinic == "PT"
    assert understood(ft1(), pv1="").clinic == "CLINIC"
    assert understood(ft1(f16="^^^NORTH"), profile=Profile(clinic=("FT1-16.4",))).clinic == "NORTH"
    for wrong in ("PID", "PID-0", "pid-3", "PID-3.", "PID-100", ""):
        with pytest.raises(ValueError, match="not a place"):
            Profile(account=(wrong,))


def test_a_message_is_about_one_patient_with_an_account() -> None:
    assert problems(ft1(), pid="") == [("segment_sequence", "PID", 1, None)]
    assert problems(PID, ft1()) == [("segment_sequence", "PID", 2, None)]
    assert problems(ft1(), pid="PID|1||||DOE^PAT") == [("missing_field", "PID", 1, 18)]
    assert problems(ft1(), pid=PID + "X" * 200) == [("too_long", "PID", 1, 18)]


def test_versions_follow_the_clock_of_the_sender_to_the_microsecond() -> None:
    """Four digits of a second are the standard's; Python writes six and .NET seven."""
    seconds = "20260105120000"
    times = ["", ".1234", ".123456", ".1234567", ".1235", ".9999999+0000"]
    versions = [version_of(seconds + part, datetime(2030, 1, 1, tzinfo=UTC)) for part in times]
    assert versions == sorted(versions)
    assert versions[0] == int(datetime(2026, 1, 5, 12, tzinfo=UTC).timestamp()) * 1_000_000
    assert versions[2] - versions[0] == 123_456


@pytest.mark.parametrize("born", ["", '""', "0", "00000000", "19701332", "01/01/1970", "unknown"])
def test_a_birth_date_that_is_none_is_unknown(born: str) -> None:
    financial = understood(ft1(), pid=PID.replace("19700101", born))
    assert (financial.patient.birth_date, len(financial.transactions)) == (None, 1)


def test_insurance_and_diagnoses_of_a_p03_are_the_patients() -> None:
    """In a P03 they follow the last FT1 (chapter 6.4.3)."""
    financial = understood(
        ft1(), ft1(f2="TX2", f19="M25.5"), "DG1|1||M54.50^Pain^I10", "DG1|2", "IN1|1|PPO", "IN1|2|HMO"
    )
    first, second = financial.transactions
    assert [plan.plan for plan in financial.insurance] == ["PPO", "HMO"]
    assert first.insurance == second.insurance == financial.insurance
    assert (first.diagnoses, second.diagnoses) == (("M54.50",), ("M25.5",))


def test_insurance_and_diagnoses_of_a_p11_are_the_lines_own() -> None:
    """They supersede the patient's, which come before the first FT1 (chapter 6.4.11)."""
    financial = understood(
        *("DG1|1||R52", "IN1|1|PATIENT", ft1(), "DG1|1||M54.50", "IN1|1|OWN", ft1(f2="TX2")),
        msh=MSH.replace("P03", "P11"),
    )
    first, second = financial.transactions
    assert [plan.plan for plan in financial.insurance] == ["PATIENT"]
    assert ([plan.plan for plan in first.insurance], first.diagnoses) == (["OWN"], ("M54.50",))
    assert ([plan.plan for plan in second.insurance], second.diagnoses) == (["PATIENT"], ("R52",))


# ---- the header


@pytest.mark.parametrize(
    ("old", "new", "code", "field"),
    [
        ("|EMR1|", "||", "missing_field", 10),
        ("|EMR1|", f"|{'X' * 201}|", "too_long", 10),
        ("|P|", "|T|", "wrong_processing_id", 11),
        ("|P|", "|D^A|", "wrong_processing_id", 11),
        ("|P|", "||", "wrong_processing_id", 11),
        ("2.5.1", "3.0", "unsupported_version", 12),
        ("DFT^P03^DFT_P03", "DFT^P99", "unsupported_event", 9),
        ("DFT^P03^DFT_P03", "ADT^A08", "unsupported_type", 9),
        ("DFT^P03^DFT_P03", "", "unsupported_type", 9),
    ],
)
def test_header_faults(old: str, new: str, code: str, field: int) -> None:
    assert problems(ft1(), msh=MSH.replace(old, new)) == [(code, "MSH", 1, field)]


def test_headers_that_are_in_order() -> None:
    for old, new in (
        ("|P|", "|P^T|"),
        ("2.5.1", "2.3"),
        ("2.5.1", "2.8^USA"),
        ("2.5.1", ""),
        ("DFT^P03^DFT_P03", "DFT"),
    ):
        assert understood(ft1(), msh=MSH.replace(old, new)).problems == ()
    training = Profile(processing_ids=frozenset({"T"}))
    assert understood(ft1(), msh=MSH.replace("|P|", "|T|"), profile=training).problems == ()


def test_messages_without_money_are_passed_over() -> None:
    for event in ("P01", "P02", "P05", "P06", "P12"):
        passed = understood(msh=MSH.replace("DFT^P03^DFT_P03", f"BAR^{event}"))
        assert (passed.ignored, passed.problems, passed.transactions) == (True, (), ())
    assert understood(msh=MSH.replace("DFT^P03^DFT_P03", "ACK^P03").replace("|P|", "|T|")).ignored
    assert understood("MSA|AA|X1", msh=MSH.replace("DFT^P03^DFT_P03", "ORR^O02")).ignored
    refused = understood(msh=MSH.replace("DFT^P03^DFT_P03", "BAR^P01").replace("|P|", "|T|"))
    assert (refused.ignored, [p.code for p in refused.problems]) == (False, ["wrong_processing_id"])


# ---- the samples

EXPECTED: dict[str, list[tuple[str, int | None]] | str] = {
    "01_charge_two_lines": [("CG", 12000), ("CG", 6000)],
    "02_payment_copay_PY": [("PY", 2500)],
    "03_adjustment_AJ": [("AJ", 4000)],
    "04_credit_void_CD": [("CD", 6000)],  # for the ledger: voids TX1002 of 01
    "06_copay_CO": [("CO", 2500)],
    "07_resend_same_control_id": [("CG", 12000), ("CG", 6000)],  # for the ledger: a duplicate of 01
    "08_same_control_id_other_content": [("CG", 24000)],  # for the ledger: a conflict with 01
    "10_no_FT1": "segment_sequence",
    "11_unknown_type": "unknown_kind",
    "12_bad_amount": "bad_amount",
    "13_no_control_id": "missing_field",
    "14_lf_only": [("CG", 6000)],
    "15_non_ascii_name": [("CG", 6000)],
    "16_escapes": [("CG", 6000)],
    "17_over_64KB": [("CG", 6000)] * 420,
    "19_mllp_no_end_block": "batch_mismatch",
    "20_batch_count_mismatch": "batch_mismatch",
    "21_enhanced_mode": [("CG", 6000)],
    "22_wrong_processing_id": "wrong_processing_id",
    "23_P11_with_insurance": [("CG", 12000)],
    "24_mixed_CG_PY": "bad_amount",
}


@pytest.mark.parametrize("path", sorted(COPIED.iterdir()), ids=lambda path: path.stem)
def test_derived_samples(path: Path) -> None:
    found: list[tuple[str, int | None]] = []
    codes: set[str] = set()
    for batch in batches(path.read_bytes()):
        codes.update(fault.code for fault in batch.faults)
        for raw in batch.messages:
            financial = understand(read(raw))
            codes.update(problem.code for problem in financial.problems)
            found += [(t.kind, t.amount_cents) for t in financial.transactions]
    expected = EXPECTED[path.stem]
    assert codes == ({expected} if isinstance(expected, str) else set())
    assert isinstance(expected, str) or found == expected


def test_every_derived_sample_is_expected() -> None:
    assert {path.stem for path in COPIED.iterdir()} == set(EXPECTED)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared samples are not here")
def test_dft_and_bar_samples() -> None:
    found = {}
    for path in sorted(SHARED.glob("*.hl7")):
        if re.search(r"dft|bar-", path.name, re.IGNORECASE):
            financial = understand(read(path.read_bytes()))
            assert financial.problems == ()
            assert financial.ignored == ("BAR" in path.name)
            found[path.stem] = [t.amount_cents for t in financial.transactions]
    assert {name: amounts for name, amounts in found.items() if amounts} == {
        "cosyte_dft-p03-charge": [15000, 4500],
        "msft_DFT-P03-01": [10000, 12000],
        "msft_DFT-P03-02": [10000, 12000],
        "msft_DFT-P11-01": [10000, 7000],
    }


def test_no_damage_raises_and_none_posts_in_part() -> None:
    """Of a damaged message either every line is understood, or none."""
    for raw in mutations(3_000, seed=11):
        try:
            found = batches(raw)
        except Unreadable:
            continue
        for one in (one for batch in found for one in batch.messages):
            try:
                financial = understand(read(one), replace(Profile(), missing_amount="fee_schedule"))
            except Unreadable:
                continue
            assert len(financial.transactions) in (0, financial.lines)
            assert bool(financial.transactions) == (
                financial.lines > 0 and not financial.problems and not financial.ignored
            )
            assert all(t.kind in TABLE_0017 and "\0" not in t.key for t in financial.transactions)
