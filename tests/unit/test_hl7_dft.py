"""Lines of a DFT message as data: what each field means, what profiles change, and what keeps it all from posting."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.feeds.hl7.model import Financial, Header, Insurance, Patient, Profile, Transaction
from tests.support.hl7_dft import MSH, PID, ft1, only, problems, understood


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


def test_the_same_transaction_id_twice_in_one_message_is_refused() -> None:
    assert problems(ft1(), ft1(f1="2")) == [("duplicate_key", "FT1", 2, 2)]


def test_equal_lines_of_one_message_without_transaction_id_are_told_apart_by_their_order() -> None:
    financial = understood(*[ft1(f2="")] * 3, ft1(f2="", f10="-1"), ft1(f2="", f7="97140"))
    keys = [one.key for one in financial.transactions]
    first = "EMR|CLINIC|V7001|20260105|97110|GP|1"
    assert keys == [first, f"{first}|2", f"{first}|3", first, "EMR|CLINIC|V7001|20260105|97140|GP|1"]
    assert financial.transactions[3].void


def test_a_line_of_no_visit_is_its_patients() -> None:
    """Two patients who pay the same on one day are two, although nothing else tells their lines apart."""
    pid = PID.replace("SSN9^^^USA^SS~", "").replace("|ACCT1", "")
    one, other = (only(ft1(f2=""), pid=pid.replace("MRN1", mrn), pv1="") for mrn in ("MRN1", "MRN2"))
    assert (one.key, other.key) == tuple(f"EMR|CLINIC|{mrn}|20260105|97110|GP|1" for mrn in ("MRN1", "MRN2"))
    assert len(understood(ft1(f2=""), ft1(f1="2", f2="")).transactions) == 2
    corrected = understood(ft1("CD"), ft1(f11="90.00"))  # a void and the charge anew
    assert [t.void for t in corrected.transactions] == [True, False]
