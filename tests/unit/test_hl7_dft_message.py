"""What a DFT message says around its lines: header, patient, clinic, insurance and diagnoses."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.ledger.feeds.hl7.acts import version_of
from services.ledger.feeds.hl7.model import Profile
from tests.support.hl7_dft import MSH, PID, ft1, problems, understood

# ---- the patient, the clinic, the groups


def test_account_and_clinic_are_where_the_profile_says() -> None:
    # What a person is called outside the clinic is no account number as long as there is another.
    assert understood(ft1(), pid=PID.replace("ACCT1", "")).patient.account_number == "MRN1"
    other = PID.replace("ACCT1", "").replace("^MR|", "^PI|")
    assert (understood(ft1(), pid=other).patient.account_number, understood(ft1(), pid=other).patient.mrn) == (
        "MRN1",
        "MRN1",
    )
    alone = PID.replace("ACCT1", "").replace("~MRN1^^^CLINIC^MR", "")
    assert understood(ft1(), pid=alone).patient.account_number == "SSN9"
    moved = Profile(account=("PID-3.1",), clinic=("PV1-3.1", "MSH-4"))
    assert understood(ft1(), profile=moved).patient.account_number == "MRN1"
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


@pytest.mark.parametrize("segment", ["DSC|2|I", "ADD|60.00"])
def test_a_fragment_of_a_message_is_refused(segment: str) -> None:
    """Its last segment may go on in the next message (chapter 2.10.2): an amount may lack its last digits."""
    assert problems(ft1(), segment) == [("segment_sequence", segment[:3], 1, None)]
    assert understood(ft1(), "DSC").problems == ()


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


def test_money_is_never_passed_over_for_an_acknowledgement() -> None:
    """An MSA makes an answer of a message; of one with transactions it makes nothing."""
    (paid,) = understood("MSA|AA|X1", ft1("PY", f7="CASH")).transactions
    assert (paid.kind, paid.amount_cents) == ("PY", 6_000)
