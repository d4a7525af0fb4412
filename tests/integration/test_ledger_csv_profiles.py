"""Agreements about CSV files: kept by name and company, and wrong ones told by their field."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support.csv_files import CHARGES, PAYMENTS, agree, row, sent, table, upload
from tests.support.ledger import Company, LedgerStack, clinic_of, counts
from tests.support.owners import ROOT


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    made = await stack.company(locations=2)
    await agree(made)
    return made


async def test_a_profile_is_kept_by_name_and_company(stack: LedgerStack, company: Company) -> None:
    kept = await company.get("/v1/feeds/csv/profiles/bank")
    assert {name: kept[name] for name in ("name", "kind", "key", "delimiter")} == {
        "name": "bank",
        "kind": "payment",
        "key": ["Id"],
        "delimiter": ",",
    }
    changed = await agree(company, {**PAYMENTS, "delimiter": ";"})
    assert changed["delimiter"] == ";"
    await agree(company, CHARGES, "export.2")
    assert [one["name"] for one in (await company.get("/v1/feeds/csv/profiles"))["items"]] == ["bank", "export.2"]
    first = await company.get("/v1/feeds/csv/profiles", limit=1)
    assert ([one["name"] for one in first["items"]], first["next"]) == (["bank"], "bank")
    rest = await company.get("/v1/feeds/csv/profiles", limit=1, cursor="bank")
    assert ([one["name"] for one in rest["items"]], rest["next"]) == (["export.2"], None)
    stranger = await stack.company()
    assert await stranger.get("/v1/feeds/csv/profiles") == {"items": [], "next": None}
    assert (await stranger.send("GET", "/v1/feeds/csv/profiles/bank")).status == 404
    assert (await stranger.send("DELETE", "/v1/feeds/csv/profiles/bank")).status == 404
    assert (await company.send("DELETE", "/v1/feeds/csv/profiles/bank")).status == 204
    assert (await company.send("DELETE", "/v1/feeds/csv/profiles/bank")).status == 404
    answer = await upload(company, table(row(company.locations[0])))
    assert (answer.status, answer.fields) == (422, {"profile": "unknown_profile"})


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"constants": {"amount": "1"}}, {"columns": "given_twice"}),
        ({"columns": {"amount": "Amount"}}, {"columns": "missing_fields"}),
        ({"constants": {"units": "1"}}, {"constants": "unknown_fields"}),
        ({"translations": {"units": {"a": "1"}}}, {"translations": "unknown_fields"}),
        ({"version": 2}, {"version": "wrong_column"}),
        ({"total": {"column": "Id", "label": "T", "amount": 3}}, {"total": "wrong_column"}),
        ({"thousands_sign": "."}, {"thousands_sign": "ambiguous_signs"}),
        ({"encoding": "utf-16"}, {"encoding": "literal_error"}),
        ({"colour": "red"}, {"colour": "extra_forbidden"}),
        ({"key": []}, {"key": "too_short"}),
    ],
)
async def test_a_wrong_profile_is_told_by_its_field(company: Company, changes: Any, fields: Any) -> None:
    before = await company.get("/v1/feeds/csv/profiles")
    answer = await company.send("PUT", "/v1/feeds/csv/profiles/bank", {**PAYMENTS, **changes})
    assert (answer.status, answer.fields) == (422, fields)
    assert await company.get("/v1/feeds/csv/profiles") == before


@pytest.mark.parametrize("name", ["a b", ".hidden", "x" * 65, "%C3%A9", "%2F"])
async def test_a_profile_has_a_name_that_is_a_folder(company: Company, name: str) -> None:
    answer = await company.send("PUT", f"/v1/feeds/csv/profiles/{name}", PAYMENTS)
    assert (answer.status, answer.fields) == (422, {"name": "invalid_name"})
    answer = await upload(company, b"", name)
    assert (answer.status, set(answer.fields)) == (422, {"profile"})


async def test_the_profile_of_the_documentation_works(company: Company) -> None:
    """docs/feeds.md: what it shows can be stored and read by."""
    shown = re.findall(r"```json\n(.*?)```", (ROOT / "docs/feeds.md").read_text(), re.DOTALL)
    (text,) = [one for one in shown if '"date_format"' in one]
    await agree(company, json.loads(text), "shown")
    content = (
        "Receipt;Version;Clinic;Account;First;Last;Born;Amount;How;Paid on;Status\n"
        f"R-1;1;{clinic_of(company.locations[0])};A-1;José;Muñoz;2/29/1980;$1,234.50;chk;1/6/2026;\nTotal;1;;;;;;$1,234.50;;;\n"
    )
    assert counts(await sent(company, content.encode("windows-1252"), "shown")) == (1, 1, 0, 0, 0)
    (receipt,) = (await company.get("/v1/payments"))["items"]
    assert (receipt["amount_cents"], receipt["method"], receipt["deposit_date"]) == (123_450, "check", "2026-01-06")
