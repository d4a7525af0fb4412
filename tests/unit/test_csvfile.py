"""CSV by a profile: rows become the data of EMR events or problems that name line and column, never anything else."""

from __future__ import annotations

import csv
import io
import json
import random
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.ledger.feeds.cloudevents import (
    EVENT_MODELS,
    ChargeData,
    DeletedPayment,
    PaymentData,
    PaymentType,
)
from services.ledger.feeds.csvfile import records, values
from services.ledger.feeds.csvfile.profile import Profile
from services.ledger.feeds.csvfile.reader import Row, Total, read
from services.ledger.feeds.csvfile.records import CsvUnreadable

HEADER = ["Id", "Ver", "Clinic", "Account", "First", "Last", "Born", "Amount", "How", "Check", "Paid on", "State"]
PAYMENT: dict[str, Any] = {
    "kind": "payment",
    "columns": {
        "emr_clinic_id": "Clinic",
        "account_number": "Account",
        "first_name": "First",
        "last_name": "Last",
        "date_of_birth": "Born",
        "amount": "Amount",
        "method": "How",
        "check_number": "Check",
        "transaction_date": "Paid on",
    },
    "constants": {"payment_type": "copay"},
    "translations": {"method": {"CC": "credit_card", "chk": "check"}},
    "key": ["Id"],
    "version": "Ver",
    "deleted": {"column": "State", "values": ["void"]},
}
GOOD = {
    "Id": "P-1",
    "Ver": "2",
    "Clinic": "CLINIC-9",
    "Account": "ABC-1001",
    "First": "Jane",
    "Last": "Roe",
    "Born": "1980-02-29",
    "Amount": "25.00",
    "How": "cc",
    "Check": "",
    "Paid on": "2026-01-05",
    "State": "",
}
CHARGE: dict[str, Any] = {
    "kind": "charge",
    "header": False,
    "delimiter": ";",
    "date_format": "DD.MM.YYYY",
    "decimal_sign": ",",
    "thousands_sign": ".",
    "columns": {
        "account_number": 1,
        "first_name": 2,
        "last_name": 3,
        "date_of_birth": 4,
        "date_of_service": 5,
        "procedure_code": 6,
        "modifiers": [7, 8],
        "units": 9,
        "amount": 10,
        "diagnosis_codes": 11,
    },
    "constants": {"emr_clinic_id": "CLINIC-9"},
    "key": [1, 5, 6],
}
CHARGE_ROW = "ABC-1;Jane;Roe;29.02.1980;05.01.2026;97110;GP;;2;1.234,5;M54.50 M25.561"


def profile(**changes: Any) -> Profile:
    return Profile.model_validate({**PAYMENT, **changes})


def table(*rows: dict[str, str], header: list[str] = HEADER) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(header)
    for row in rows:
        writer.writerow([{**GOOD, **row}[name] for name in header])
    return out.getvalue().encode()


def rows(content: bytes, wanted: Profile | None = None) -> list[Row]:
    return [one for one in read([content], wanted or profile()) if isinstance(one, Row)]


def told(content: bytes, wanted: Profile | None = None) -> list[tuple[int, str, str]]:
    return [(p.line, p.column, p.code) for row in rows(content, wanted) for p in row.problems]


def test_payment() -> None:
    (row,) = rows(table({}))
    assert (row.line, row.key, row.event_type, row.amount_cents) == (2, "P-1", "emr.payment.posted.v1", 2500)
    assert row.data == {
        "emr_clinic_id": "CLINIC-9",
        "payment_id": "P-1",
        "payment_version": 2,
        "patient": {
            "account_number": "ABC-1001",
            "first_name": "Jane",
            "last_name": "Roe",
            "date_of_birth": "1980-02-29",
        },
        "amount_cents": 2500,
        "method": "credit_card",
        "transaction_date": "2026-01-05",
        "payment_type": "copay",
    }
    PaymentData.model_validate_json(json.dumps(row.data), strict=True)


def test_charge_without_a_header() -> None:
    (row,) = rows(CHARGE_ROW.encode(), Profile.model_validate(CHARGE))
    assert (row.line, row.key) == (1, "ABC-1|05.01.2026|97110")
    assert row.data is not None
    charge = ChargeData.model_validate_json(json.dumps(row.data), strict=True)
    assert (charge.amount_cents, charge.modifiers, charge.units, charge.charge_version) == (123450, ["GP"], 2, 1)
    assert charge.diagnosis_codes == ["M54.50", "M25.561"]


def test_deleted_row() -> None:
    (row,) = rows(table({"State": "VOID", "Amount": "", "Born": "?"}))
    assert (row.event_type, row.amount_cents, row.problems) == ("emr.payment.deleted.v1", 0, ())
    DeletedPayment.model_validate_json(json.dumps(row.data), strict=True)
    assert told(table({"State": "Void", "Clinic": ""})) == [(2, "Clinic", "missing")]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"Id": ""}, ("Id", "missing")),
        ({"Id": "naïve"}, ("Id", "invalid_identifier")),
        ({"Id": "x" * 201}, ("Id", "invalid_identifier")),
        ({"Ver": "0"}, ("Ver", "invalid_version")),
        ({"Ver": "1.5"}, ("Ver", "invalid_version")),
        ({"Ver": "99999999999999999"}, ("Ver", "invalid_version")),
        ({"Clinic": ""}, ("Clinic", "missing")),
        ({"Account": ""}, ("Account", "missing")),
        ({"First": "=cmd|' /C calc'!A0"}, ("First", "formula")),
        ({"First": "@SUM(A1)"}, ("First", "formula")),
        ({"Last": "+1"}, ("Last", "formula")),
        ({"Last": "-1"}, ("Last", "formula")),
        ({"Account": '="0012"'}, ("Account", "formula")),
        ({"Amount": "=1+1"}, ("Amount", "formula")),
        ({"First": "Ja\x00ne"}, ("First", "invalid_text")),
        ({"First": "Ja\nne"}, ("First", "invalid_text")),
        ({"First": "x" * 201}, ("First", "invalid_text")),
        ({"First": "x" * 60_000}, ("First", "invalid_text")),
        ({"Born": "1980-02-30"}, ("Born", "invalid_date")),
        ({"Born": "1880-02-28"}, ("Born", "invalid_date")),
        ({"Paid on": "01/05/2026"}, ("Paid on", "invalid_date")),
        ({"Paid on": ""}, ("Paid on", "missing")),
        ({"How": "barter"}, ("How", "invalid_choice")),
        ({"Amount": "-1.00"}, ("Amount", "negative_amount")),
        ({"Amount": ""}, ("Amount", "missing")),
    ],
)
def test_problem(change: dict[str, str], problem: tuple[str, str]) -> None:
    (bad, good) = rows(table(change, {}))
    assert [(p.column, p.code) for p in bad.problems] == [problem]
    assert (bad.data, bad.line) == (None, 2)
    assert good.data is not None
    assert all(value not in p.message for p in bad.problems for value in change.values() if value)


@pytest.mark.parametrize(
    ("text", "changes", "cents"),
    [
        ("0", {}, 0),
        ("25", {}, 2500),
        ("25.5", {}, 2550),
        ("25.05", {}, 2505),
        ("999999999.99", {}, 99_999_999_999),
        ("1000000000.00", {}, "amount_out_of_range"),
        ("12345678901", {}, "invalid_amount"),
        ("25.", {}, "invalid_amount"),
        (".25", {}, "invalid_amount"),
        ("25.005", {}, "invalid_amount"),
        ("1e3", {}, "invalid_amount"),
        ("--1", {}, "invalid_amount"),
        ("NaN", {}, "invalid_amount"),
        ("٢٥", {}, "invalid_amount"),
        ("1 000", {}, "invalid_amount"),
        ("(25.00)", {}, "invalid_amount"),
        ("$25.00", {}, "invalid_amount"),
        ("$25.00", {"currency_sign": "$"}, 2500),
        ("USD 25.00", {"currency_sign": "USD"}, 2500),
        ("25.00 USD", {"currency_sign": "USD"}, 2500),
        ("-$25.00", {"currency_sign": "$"}, "negative_amount"),
        ("1,234.50", {}, "invalid_amount"),
        ("1,234.50", {"thousands_sign": ","}, 123450),
        ("1,234,567.50", {"thousands_sign": ","}, 123456750),
        ("1234.50", {"thousands_sign": ","}, 123450),
        ("1,23.50", {"thousands_sign": ","}, "invalid_amount"),
        ("12,34", {"thousands_sign": ","}, "invalid_amount"),
        ("12,34", {"decimal_sign": ","}, 1234),
        ("12.34", {"decimal_sign": ","}, "invalid_amount"),
        ("1.234", {"decimal_sign": ",", "thousands_sign": "."}, 123400),
        ("1.234,56", {"decimal_sign": ",", "thousands_sign": "."}, 123456),
    ],
)
def test_amount(text: str, changes: dict[str, Any], cents: int | str) -> None:
    (row,) = rows(table({"Amount": text}), profile(**changes))
    assert (row.problems[0].code if row.problems else row.amount_cents) == cents


@pytest.mark.parametrize(
    ("date_format", "text"),
    [
        ("YYYY-MM-DD", "2026-01-05"),
        ("YYYYMMDD", "20260105"),
        ("MM/DD/YYYY", "1/5/2026"),
        ("DD/MM/YYYY", "05/01/2026"),
        ("DD.MM.YYYY", "5.1.2026"),
    ],
)
def test_dates(date_format: str, text: str) -> None:
    (row,) = rows(table({"Paid on": text, "Born": text}), profile(date_format=date_format))
    assert row.data is not None
    assert row.data["transaction_date"] == "2026-01-05"


def test_records_and_lines() -> None:
    head = ",".join(HEADER)
    good = ",".join(GOOD[name] for name in HEADER)
    text = f'\ufeff{head}\r\n{good}\r\n\r\n,,,,,,,,,,,\r\n{good},extra\r\na,b\r\n{good[:-1]}\r\n"x"y{good}\r\n{good}'
    found = rows(text.encode())
    assert [(row.line, [p.code for p in row.problems]) for row in found] == [
        (2, []),
        (5, ["ragged"]),
        (6, ["ragged"]),
        (7, ["ragged"]),
        (8, ["malformed"]),
        (9, []),
    ]


def test_quotes() -> None:
    (row,) = rows(table({"Last": 'O"Hara, Jr.'}))
    assert row.data is not None
    assert row.data["patient"]["last_name"] == 'O"Hara, Jr.'
    head = ",".join(HEADER).encode()
    with pytest.raises(CsvUnreadable, match="ends inside a quoted field"):
        rows(head + b'\nP-1,"2')
    with pytest.raises(CsvUnreadable, match="longer than"):
        rows(head + b'\nP-1,"' + b"x,y\n" * 20_000)
    # A quote that is not closed swallows what follows, and says so.
    good = ",".join(GOOD[name] for name in HEADER).encode()
    swallowed, after = rows(head + b'\n"' + good + b"\n" + good + b'\n"' + good + b"\n" + good)
    assert (swallowed.line, swallowed.last_line, swallowed.problems[0].code) == (2, 4, "malformed")
    assert after.data is not None


def test_encodings() -> None:
    content = table({"Last": "Nuñez"})
    assert rows(content)[0].data is not None
    assert told(content.decode().encode("windows-1252")) == [(2, "", "encoding")]
    (row,) = rows(content.decode().encode("windows-1252"), profile(encoding="windows-1252"))
    assert row.data is not None
    assert row.data["patient"]["last_name"] == "Nuñez"
    with pytest.raises(CsvUnreadable, match="UTF-16"):
        rows(content.decode().encode("utf-16"))


def test_header() -> None:
    for content in (b"", b"\n\n", b"Id,Ver\n", table({}, header=[*HEADER, "Id"])):
        with pytest.raises(CsvUnreadable):
            rows(content)
    extra = table({}, header=list(reversed(HEADER)))
    assert rows(b"Export of today\n" + extra, profile(skip_lines=1))[0].line == 3
    with pytest.raises(CsvUnreadable, match="a line of more than"):
        rows(b"x" * (records.MAX_RECORD + 1))


def test_same_row_has_the_same_hash() -> None:
    first, again, other = rows(table({}, {}, {"Amount": "25.0"}))
    assert (first.key, first.row_hash) == (again.key, again.row_hash)
    assert (first.key == other.key, first.row_hash == other.row_hash) == (True, False)


def test_keys_of_several_columns_are_never_alike() -> None:
    wanted = profile(key=["Id", "Check"])
    content = table({"Id": "a|b", "Check": "c"}, {"Id": "a", "Check": "b|c"}, {"Id": "a%7Cb", "Check": "c"})
    assert len({row.key for row in rows(content, wanted)}) == 3


def test_total_row() -> None:
    wanted = profile(total={"column": "Id", "label": "TOTAL", "amount": "Amount", "rows": "Ver"})
    good = [{"Amount": "25.00"}, {"Amount": "10.01", "Born": ""}, {"State": "void"}]

    def total(*extra: dict[str, str]) -> Total:
        (found,) = (one for one in read([table(*good, *extra)], wanted) if isinstance(one, Total))
        return found

    assert total({"Id": "Total", "Amount": "35.01", "Ver": "3"}).agrees
    assert not total({"Id": "Total", "Amount": "35.00", "Ver": "3"}).agrees
    assert not total({"Id": "Total", "Amount": "35.01", "Ver": "4"}).agrees
    assert total({"Amount": "-5.00"}, {"Id": "Total", "Amount": "30.01", "Ver": "4"}).agrees
    assert [p.code for p in total({"Id": "Total", "Amount": "?"}).problems] == ["invalid_amount"]
    assert [p.code for p in total().problems] == ["missing_total"]
    after = told(table({"Id": "Total", "Amount": "0", "Ver": "0"}, {}), wanted)
    assert after == [(3, "", "after_total")]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"columns": {**PAYMENT["columns"], "units": "Id"}}, "unknown_fields"),
        ({"constants": {}}, "missing_fields"),
        ({"constants": {"payment_type": "copay", "amount": "1"}}, "given_twice"),
        ({"key": [1]}, "wrong_column"),
        ({"header": False}, "wrong_column"),
        ({"decimal_sign": ",", "thousands_sign": ","}, "ambiguous_signs"),
        ({"columns": {**PAYMENT["columns"], "amount": ["Id", "Ver"]}}, "several_columns"),
        ({"delimiter": ",,"}, "literal_error"),
        ({"encoding": "utf-16"}, "literal_error"),
        ({"colour": "red"}, "extra_forbidden"),
        ({"skip_lines": "1"}, "int_type"),
        ({"key": []}, "too_short"),
    ],
)
def test_profile_is_strict(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        profile(**changes)
    assert code in {error["type"] for error in caught.value.errors()}


def test_vocabulary_is_that_of_the_events() -> None:
    assert get_args(PaymentType) == values.PAYMENT_TYPES
    assert {Row(1, 1, kind, "", "", ()).event_type for kind in ("payment", "charge")} <= set(EVENT_MODELS)


cells = st.one_of(
    st.sampled_from([*GOOD.values(), "=1", "-5", "1,5", "$1", "void", "2026-02-30", "x" * 300, '"', "\x00", "TOTAL"]),
    st.text(max_size=8),
)


@given(st.lists(st.lists(cells, min_size=11, max_size=13), max_size=8))
def test_any_cells_are_valid_data_or_problems(content: list[list[str]]) -> None:
    out = io.StringIO()
    csv.writer(out).writerows([HEADER, *content])
    wanted = profile(total={"column": "Id", "label": "TOTAL", "amount": "Amount"})
    counted = 0
    for row in read([out.getvalue().encode("utf-8", "surrogatepass")], wanted):
        if isinstance(row, Total):
            assert row.counted_cents == counted
            continue
        assert (row.data is None) == bool(row.problems)
        counted += row.amount_cents
        if row.data is not None:
            EVENT_MODELS[row.event_type].model_validate_json(json.dumps(row.data), strict=True)
            assert row.amount_cents == row.data.get("amount_cents", 0)


@given(st.integers(0, 10**9))
def test_damaged_bytes_are_rows_or_refused(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(10):
        content = bytearray(table({}, {"Last": 'O"Hara\nJr.'}, {"Amount": "1.50"}))
        for _ in range(draw.randint(1, 6)):
            content[draw.randrange(len(content))] = draw.choice(b'",\r\n\x00\xff\xc3=;a0')
        damaged = bytes(content)
        try:
            found = list(read([damaged], profile()))
        except CsvUnreadable:
            continue
        cut = draw.randrange(len(damaged))
        assert list(read([damaged[:cut], b"", damaged[cut:]], profile())) == found


@given(st.lists(st.decimals(0, 10**6, places=2), max_size=20))
def test_money_in_is_money_out(amounts: list[Decimal]) -> None:
    content = table(*({"Id": f"P-{i}", "Amount": str(one)} for i, one in enumerate(amounts)))
    assert sum(row.amount_cents for row in rows(content)) == sum(int(one * 100) for one in amounts)
