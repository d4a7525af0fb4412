"""The ledger's API as its callers see it: every call's answer, the rules of money, cursors, keys, bulk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from services.ledger.service import Ledger
from shared.errors import Unavailable
from shared.money import MAX_CENTS
from tests.support.databases import Databases
from tests.support.ledger import Company, LedgerStack, fold, patient_body


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await stack.company(locations=2)


def instant(text: str) -> bool:
    """RFC 3339 in UTC."""
    return len(text) in range(20, 28) and text[10] == "T" and text.endswith("Z")


# -- patients, payers, referring physicians ------------------------------------------------------------------------

PARTIES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "patients": (
        patient_body("A-1", payer_id=None),
        {"last_name": "Roe", "payer_id": None},
        {"account_number": "A-1"},
    ),
    "payers": (
        {"code": "BCBS", "name": "Blue Cross", "payer_class": "commercial", "era_payer_ids": ["12345", "BC"]},
        {"name": "Blue Cross Blue Shield", "payer_class": None, "era_payer_ids": []},
        {"name": "blue"},
    ),
    "referring-physicians": (
        {"npi": "1234567893", "first_name": "Ref", "last_name": "Erring"},
        {"last_name": "Referring"},
        {"npi": "1234567893"},
    ),
}


@pytest.mark.parametrize("path", PARTIES)
async def test_a_party_is_made_read_changed_found_and_listed(company: Company, path: str) -> None:
    body, changes, found_by = PARTIES[path]
    made = await company.post(f"/v1/{path}", body)
    assert set(made) == {"id", "company_version", *body}
    assert {name: made[name] for name in body} == body
    assert made["company_version"] == 1
    assert await company.get(f"/v1/{path}/{made['id']}") == made
    changed = await company.patch(f"/v1/{path}/{made['id']}", changes)
    assert changed == {**made, **changes, "company_version": 2}
    assert await company.get(f"/v1/{path}/{made['id']}") == changed
    assert await company.post(f"/v1/{path}/search", found_by, status=200) == {"items": [changed], "next": None}
    assert await company.get(f"/v1/{path}") == {"items": [changed], "next": None}


@pytest.mark.parametrize(
    ("path", "field"), [("patients", "account_number"), ("payers", "code"), ("referring-physicians", "npi")]
)
async def test_a_party_is_unique_in_its_company_only(
    stack: LedgerStack, company: Company, path: str, field: str
) -> None:
    body = PARTIES[path][0]
    first = await company.post(f"/v1/{path}", body)
    refused = await company.send("POST", f"/v1/{path}", body)
    assert (refused.status, refused.fields) == (422, {field: "taken"})
    other = await company.post(f"/v1/{path}", {**body, field: "1234567894" if field == "npi" else "OTHER"})
    refused = await company.send("PATCH", f"/v1/{path}/{other['id']}", {field: first[field]})
    assert refused.fields == {field: "taken"}
    await company.patch(f"/v1/{path}/{first['id']}", {field: first[field]})
    await (await stack.company()).post(f"/v1/{path}", body)


async def test_of_many_callers_who_add_one_account_number_one_succeeds(company: Company) -> None:
    body = patient_body("the same")
    answers = await asyncio.gather(*(company.send("POST", "/v1/patients", body) for _ in range(12)))
    assert sorted(answer.status for answer in answers) == [201] + [422] * 11


@pytest.mark.parametrize("path", PARTIES)
async def test_a_patch_names_something_and_clears_only_what_may_be_empty(company: Company, path: str) -> None:
    made = await company.post(f"/v1/{path}", PARTIES[path][0])
    nothing = await company.send("PATCH", f"/v1/{path}/{made['id']}", {})
    assert (nothing.status, nothing.fields) == (422, {"body": "nothing_to_change"})
    for name in made.keys() - {"id", "company_version", "payer_id", "payer_class"}:
        refused = await company.send("PATCH", f"/v1/{path}/{made['id']}", {name: None})
        assert (refused.status, list(refused.fields)) == (422, [name])
    assert (await company.get(f"/v1/{path}/{made['id']}")) == made


async def test_search_takes_only_its_own_fields_and_matches_beginnings(company: Company) -> None:
    for last_name in ("Smith", "Smithers", "Jones", "100%", "O_x"):
        await company.patient(last_name=last_name)

    async def names(**body: Any) -> list[str]:
        return [row["last_name"] for row in (await company.post("/v1/patients/search", body, status=200))["items"]]

    assert sorted(await names(last_name="smith")) == ["Smith", "Smithers"]
    assert await names(last_name="%") == []
    assert await names(last_name="_") == []
    assert await names(last_name="100%") == ["100%"]
    assert await names(last_name="Smith", first_name="Nobody") == []
    for path, field in (("payers", "npi"), ("referring-physicians", "code"), ("patients", "code")):
        refused = await company.send("POST", f"/v1/{path}/search", {field: "1234567893"})
        assert (refused.status, refused.fields) == (422, {field: "extra_forbidden"}), path


async def test_nobody_is_born_tomorrow(company: Company) -> None:
    tomorrow = str(datetime.now(UTC).date() + timedelta(days=2))  # The company's day may still be yesterday's.
    refused = await company.send("POST", "/v1/patients", patient_body(date_of_birth=tomorrow))
    assert (refused.status, refused.fields) == (422, {"date_of_birth": "date_in_future"})
    patient = await company.patient()
    refused = await company.send("PATCH", f"/v1/patients/{patient['id']}", {"date_of_birth": tomorrow})
    assert refused.fields == {"date_of_birth": "date_in_future"}


async def test_an_unknown_payer_of_a_patient_is_named(company: Company) -> None:
    refused = await company.send("POST", "/v1/patients", patient_body(payer_id=str(uuid4())))
    assert (refused.status, refused.fields) == (422, {"payer_id": "unknown_payer"})


# -- charges -------------------------------------------------------------------------------------------------------


async def test_a_charge_document(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    body = company.charge_body(
        patient, payer_id=payer["id"], modifiers=["GP", "59"], delayed=True, external_id="line 7", units=3
    )
    made = await company.post("/v1/charges", body)
    assert instant(made.pop("posted_at"))
    assert UUID(made.pop("id"))
    assert UUID(made.pop("poster_id"))
    assert made == {
        **body,
        "status": "delayed",
        "source": "manual",
        "applied_cents": 0,
        "adjusted_cents": 0,
        "balance_cents": 10_000,
        "payer_balance_cents": 10_000,
        "patient_balance_cents": 0,
        "company_version": 3,
    }


async def test_the_life_of_a_charge(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"], delayed=True)
    path = f"/v1/charges/{charge['id']}"
    released = await company.post(f"{path}/release", status=200)
    assert (released["status"], released["delayed"]) == ("active", False)
    assert (await company.send("POST", f"{path}/release")).fields == {"status": "not_delayed"}
    changed = await company.patch(path, {"amount_cents": 12_000, "units": 2, "modifiers": ["GP"]})
    assert (changed["balance_cents"], changed["units"], changed["modifiers"]) == (12_000, 2, ["GP"])
    written = await company.post(
        f"{path}/adjustments", {"group_code": "CO", "reason_code": "45", "amount_cents": 3_000}
    )
    assert (written["adjusted_cents"], written["balance_cents"]) == (3_000, 9_000)
    moved = await company.post(f"{path}/transfer", {"to": "patient", "amount_cents": 2_000})
    assert (moved["payer_balance_cents"], moved["patient_balance_cents"]) == (7_000, 2_000)
    await company.post(f"{path}/transfer", {"to": "payer", "amount_cents": 500})
    paid = await company.payment(
        payer_id=payer["id"], amount_cents=9_000, applications=[{"charge_id": charge["id"], "amount_cents": 9_000}]
    )
    closed = await company.get(path)
    assert (closed["status"], closed["balance_cents"]) == ("closed", 0)
    assert (closed["payer_balance_cents"], closed["patient_balance_cents"]) == (0, 0)
    refused = await company.send("POST", f"{path}/void")
    assert refused.fields == {"status": "has_payments"}
    await company.post(f"/v1/payments/{paid['id']}/reversal", {})
    assert (await company.get(path))["status"] == "active"
    void = await company.post(f"{path}/void", status=200)
    assert (void["status"], void["balance_cents"]) == ("void", 0)
    for action, body in (
        ("void", None),
        ("transfer", {"to": "patient", "amount_cents": 1}),
        ("adjustments", {"group_code": "CO", "reason_code": "45", "amount_cents": 1}),
    ):
        assert (await company.send("POST", f"{path}/{action}", body)).fields == {"status": "charge_void"}
    assert (await company.send("PATCH", path, {"units": 1})).fields == {"status": "charge_void"}
    assert await company.totals() == fold(await company.events())


async def test_a_charge_follows_its_payer(company: Company) -> None:
    """Without a payer all of it is the patient's; with the first payer it is the payer's to pay."""
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient)
    assert charge["patient_balance_cents"] == 10_000
    insured = await company.patch(f"/v1/charges/{charge['id']}", {"payer_id": payer["id"]})
    assert (insured["payer_balance_cents"], insured["patient_balance_cents"]) == (10_000, 0)
    alone = await company.patch(f"/v1/charges/{charge['id']}", {"payer_id": None})
    assert (alone["payer_balance_cents"], alone["patient_balance_cents"]) == (0, 10_000)


async def test_a_charge_is_never_lowered_below_what_is_settled(company: Company) -> None:
    patient = await company.patient()
    charge = await company.charge(patient)
    await company.payment(patient_id=patient["id"], applications=[{"charge_id": charge["id"], "amount_cents": 6_000}])
    path = f"/v1/charges/{charge['id']}"
    assert (await company.send("PATCH", path, {"amount_cents": 5_999})).fields == {"amount_cents": "over_applied"}
    assert (await company.patch(path, {"amount_cents": 6_000}))["status"] == "closed"


async def test_what_is_moved_to_the_patient_is_what_the_payer_owes(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"])
    path = f"/v1/charges/{charge['id']}"
    to_patient = {"group_code": "PR", "reason_code": "2", "amount_cents": 4_000}
    moved = await company.post(f"{path}/adjustments", to_patient)
    assert (moved["adjusted_cents"], moved["patient_balance_cents"], moved["balance_cents"]) == (0, 4_000, 10_000)
    await company.post(f"{path}/adjustments", {**to_patient, "amount_cents": 6_000})
    for body in ({**to_patient, "amount_cents": 1},):
        assert (await company.send("POST", f"{path}/adjustments", body)).fields == {"amount_cents": "over_applied"}
    assert (await company.send("POST", f"{path}/transfer", {"to": "patient", "amount_cents": 1})).status == 422
    cash = await company.charge(patient)
    refused = await company.send("POST", f"/v1/charges/{cash['id']}/transfer", {"to": "payer", "amount_cents": 1})
    assert refused.fields == {"to": "no_payer"}
    refused = await company.send("POST", f"/v1/charges/{cash['id']}/adjustments", {**to_patient, "amount_cents": 1})
    assert refused.fields == {"amount_cents": "over_applied"}


async def test_lists_of_charges(company: Company) -> None:
    patient, other = await company.patient(), await company.patient()
    active = await company.charge(patient)
    delayed = await company.charge(patient, delayed=True, date_of_service="2026-01-06")
    elsewhere = await company.charge(other, location_id=str(company.locations[1]))
    void = await company.charge(other)
    await company.post(f"/v1/charges/{void['id']}/void", status=200)

    async def ids(**params: Any) -> list[str]:
        return [row["id"] for row in (await company.get("/v1/charges", **params))["items"]]

    assert await ids() == [one["id"] for one in (void, elsewhere, delayed, active)]
    assert await ids(status="active") == [elsewhere["id"], active["id"]]
    assert await ids(status="delayed") == [delayed["id"]]
    assert await ids(status="void") == [void["id"]]
    assert await ids(patient_id=patient["id"]) == [delayed["id"], active["id"]]
    assert await ids(location_id=company.locations[1]) == [elsewhere["id"]]
    assert await ids(**{"from": "2026-01-06", "to": "2026-01-06"}) == [delayed["id"]]
    backwards = await company.send("GET", "/v1/charges", params={"from": "2026-01-06", "to": "2026-01-05"})
    assert (backwards.status, backwards.fields) == (422, {"to": "range"})


# -- payments ------------------------------------------------------------------------------------------------------


async def test_a_payment_document_and_everything_it_became(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"])
    body = company.payment_body(
        payer_id=payer["id"],
        patient_id=patient["id"],
        batch_number="BCBS",
        memo="by hand",
        external_id="stub 7",
        applications=[{"charge_id": charge["id"], "amount_cents": 4_000}],
        adjustments=[
            {"charge_id": charge["id"], "group_code": "PR", "reason_code": "2", "amount_cents": 1_000},
            {"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 5_000},
        ],
    )
    made = await company.post("/v1/payments", body)
    assert {name: made[name] for name in body if name != "adjustments"} == {
        name: value for name, value in body.items() if name != "adjustments"
    }
    assert sorted(made["adjustments"], key=str) == sorted(body["adjustments"], key=str)
    figures = {
        "applied_cents": 4_000,
        "adjusted_cents": 5_000,
        "provider_level_cents": 0,
        "unapplied_cents": 6_000,
        "available_cents": 6_000,
        "refunded_cents": 0,
    }
    assert {name: made[name] for name in figures} == figures
    assert made["posting_date"] == str(company.today)
    assert instant(made["posted_at"])
    assert (made["source"], made["affiliation"], made["company_version"]) == ("manual", "practice", 4)
    assert await company.get(f"/v1/payments/{made['id']}") == made
    after = await company.get(f"/v1/charges/{charge['id']}")
    assert (after["applied_cents"], after["adjusted_cents"], after["balance_cents"]) == (4_000, 5_000, 1_000)
    assert (after["payer_balance_cents"], after["patient_balance_cents"]) == (0, 1_000)

    applied = await company.post(
        f"/v1/payments/{made['id']}/applications",
        {"applications": [{"charge_id": charge["id"], "amount_cents": 1_000}]},
    )
    assert (applied["applied_cents"], applied["unapplied_cents"]) == (5_000, 5_000)
    assert applied["applications"] == [{"charge_id": charge["id"], "amount_cents": 5_000}]

    refund = await company.post(f"/v1/payments/{made['id']}/refund", {"amount_cents": 1_500, "method": "eft"})
    assert (refund["amount_cents"], refund["refunds_id"], refund["method"]) == (-1_500, made["id"], "eft")
    assert (refund["unapplied_cents"], refund["batch_number"]) == (-1_500, "BCBS")
    kept = await company.get(f"/v1/payments/{made['id']}")
    assert (kept["amount_cents"], kept["unapplied_cents"], kept["refunded_cents"]) == (10_000, 5_000, 1_500)
    assert kept["available_cents"] == 3_500
    refused = await company.send("POST", f"/v1/payments/{made['id']}/refund", {"amount_cents": 3_501})
    assert refused.fields == {"amount_cents": "over_refunded"}
    refused = await company.send("POST", f"/v1/payments/{made['id']}/reversal", {})
    assert refused.fields == {"payment": "already_refunded"}
    for action, wrong in (("refund", {"amount_cents": 1}), ("reversal", {})):
        refused = await company.send("POST", f"/v1/payments/{refund['id']}/{action}", wrong)
        assert refused.fields == {"payment": "not_a_receipt"}
    assert await company.sums() == {
        "payments": 2,
        "amount_cents": 8_500,
        "applied_cents": 5_000,
        "adjusted_cents": 5_000,
        "provider_level_cents": 0,
        "unapplied_cents": 3_500,
    }
    assert fold(await company.events()) == await company.totals()


async def test_a_reversal_needs_no_body_and_says_the_same_as_an_empty_one(company: Company) -> None:
    payer = await company.payer()
    paid = await company.payment(payer_id=payer["id"])
    path = f"/v1/payments/{paid['id']}/reversal"
    without = await company.post(path, key="back")
    with_empty = await company.send("POST", path, {}, key="back")
    assert without["reverses_id"] == paid["id"]
    assert with_empty.body == without
    assert with_empty.headers["Idempotency-Replayed"] == "true"
    assert (await company.send("POST", f"/v1/payments/{paid['id']}/refund")).status == 415, "it has required fields"


async def test_a_reversal_takes_everything_back_under_todays_dates(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"])
    long_ago = str(company.today - timedelta(days=100))
    paid = await company.payment(
        payer_id=payer["id"],
        deposit_date=long_ago,
        applications=[{"charge_id": charge["id"], "amount_cents": 4_000}],
        adjustments=[{"charge_id": charge["id"], "group_code": "PR", "reason_code": "2", "amount_cents": 1_000}],
    )
    before = await company.totals()
    taken = await company.post(f"/v1/payments/{paid['id']}/reversal", {"memo": "bounced"})
    assert (taken["amount_cents"], taken["applied_cents"], taken["unapplied_cents"]) == (-10_000, -4_000, -6_000)
    assert (taken["deposit_date"], taken["reverses_id"], taken["memo"]) == (str(company.today), paid["id"], "bounced")
    after = await company.totals()
    assert {words: figures for words, figures in after.items() if words[1] == long_ago} == before
    original = await company.get(f"/v1/payments/{paid['id']}")
    assert (original["reversed_by_id"], original["amount_cents"]) == (taken["id"], 10_000)
    whole = await company.get(f"/v1/charges/{charge['id']}")
    assert (whole["payer_balance_cents"], whole["patient_balance_cents"]) == (10_000, 0)
    for document, code in ((paid, "already_reversed"), (taken, "not_a_receipt")):
        refused = await company.send("POST", f"/v1/payments/{document['id']}/reversal", {})
        assert refused.fields == {"payment": code}
        refused = await company.send("POST", f"/v1/payments/{document['id']}/refund", {"amount_cents": 1})
        assert refused.fields == {"payment": code}
        applied = {"applications": [{"charge_id": charge["id"], "amount_cents": 1}]}
        refused = await company.send("POST", f"/v1/payments/{document['id']}/applications", applied)
        assert refused.fields == {"payment": code}


async def test_reversing_a_write_off_of_a_void_charge_leaves_nothing_owed(company: Company) -> None:
    """A zero pay wrote part of it off, the rest was voided; taking the zero pay back must not revive the charge."""
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"])
    zero = await company.payment(
        payer_id=payer["id"],
        amount_cents=0,
        adjustments=[
            {"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 4_000},
            {"charge_id": charge["id"], "group_code": "PR", "reason_code": "1", "amount_cents": 1_000},
        ],
    )
    void = await company.post(f"/v1/charges/{charge['id']}/void", status=200)
    assert (void["status"], void["amount_cents"], void["adjusted_cents"]) == ("void", 4_000, 4_000)
    await company.post(f"/v1/payments/{zero['id']}/reversal", {})
    after = await company.get(f"/v1/charges/{charge['id']}")
    assert (after["status"], after["balance_cents"], after["adjusted_cents"]) == ("void", 0, 0)
    assert (after["payer_balance_cents"], after["patient_balance_cents"], after["amount_cents"]) == (0, 0, 0)
    assert fold(await company.events()) == await company.totals()


async def test_corrected_words_move_the_figures_and_keep_the_history(company: Company) -> None:
    patient = await company.patient()
    charge = await company.charge(patient)
    paid = await company.payment(
        patient_id=patient["id"],
        batch_number="B-1",
        memo="old",
        applications=[{"charge_id": charge["id"], "amount_cents": 4_000}],
    )
    path = f"/v1/payments/{paid['id']}"
    yesterday = str(company.today - timedelta(days=1))
    changes = {
        "batch_number": None,
        "check_number": "1002",
        "deposit_date": yesterday,
        "location_id": str(company.locations[1]),
        "memo": None,
    }
    corrected = await company.patch(path, changes)
    assert corrected == {**paid, **changes, "company_version": paid["company_version"] + 1}
    assert await company.get(path) == corrected
    assert await company.patch(path, changes) == corrected, "nothing to correct is no posting"
    history = (await company.get(f"{path}/history"))["items"]
    assert [row["company_version"] for row in history] == [paid["company_version"], corrected["company_version"]]
    assert [row["check_number"] for row in history] == ["1001", "1002"]
    assert [row["memo"] for row in history] == ["old", None]
    (words,) = await company.totals()
    assert words[:2] == (str(company.locations[1]), yesterday)
    assert fold(await company.events()) == await company.totals()
    for name in ("amount_cents", "method", "payer_id", "patient_id", "posting_date", "applications"):
        refused = await company.send("PATCH", path, {name: corrected.get(name)})
        assert (refused.status, refused.fields) == (422, {name: "extra_forbidden"}), name
    assert (await company.send("PATCH", path, {"deposit_date": None})).fields == {"deposit_date": "null"}
    assert (await company.send("PATCH", path, {"location_id": str(uuid4())})).fields == {
        "location_id": "unknown_location"
    }


async def test_lists_of_payments(company: Company) -> None:
    patient = await company.patient()
    charge = await company.charge(patient)
    spent = await company.payment(
        patient_id=patient["id"], batch_number="B", applications=[{"charge_id": charge["id"], "amount_cents": 10_000}]
    )
    free = await company.payment(patient_id=patient["id"], check_number="77")
    yesterday = str(company.today - timedelta(days=1))
    older = await company.payment(patient_id=patient["id"], batch_number="B", deposit_date=yesterday)
    reversed_one = await company.payment(patient_id=patient["id"])
    reversal = await company.post(f"/v1/payments/{reversed_one['id']}/reversal", {})
    refunded = await company.payment(patient_id=patient["id"])
    refund = await company.post(f"/v1/payments/{refunded['id']}/refund", {"amount_cents": 10_000})

    async def ids(**params: Any) -> list[str]:
        return [row["id"] for row in (await company.get("/v1/payments", **params))["items"]]

    everything = [refund, refunded, reversal, reversed_one, older, free, spent]
    assert await ids() == [one["id"] for one in everything]
    assert await ids(unassigned="true") == [older["id"], free["id"]]
    assert await ids(batch_number="B") == [older["id"], spent["id"]]
    assert await ids(check_number="77") == [free["id"]]
    assert await ids(deposit_to=yesterday) == [older["id"]]
    assert older["id"] not in await ids(deposit_from=str(company.today))
    assert await ids(unassigned="true", batch_number="B") == [older["id"]]
    await company.patch(f"/v1/payments/{free['id']}", {"batch_number": "B"})
    await company.patch(f"/v1/payments/{older['id']}", {"batch_number": "C"})
    assert await ids(batch_number="B") == [free["id"], spent["id"]]


async def test_cursors_walk_the_whole_list_once(company: Company) -> None:
    made = [await company.patient() for _ in range(7)]
    for limit in (1, 3, 7, 500):
        found: list[Any] = []
        cursor: dict[str, Any] = {}
        while True:
            page = await company.get("/v1/patients", limit=limit, **cursor)
            assert len(page["items"]) <= limit
            found += page["items"]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert found == made[::-1]
    for params in ({"limit": "0"}, {"limit": "501"}, {"limit": "x"}, {"limit": "-1"}, {"limit": "1e3"}):
        answer = await company.send("GET", "/v1/patients", params=params)
        assert (answer.status, list(answer.fields)) == (422, ["limit"])
    for cursor_text in ("x", "1 or 1=1", str(uuid4())[:-1]):
        answer = await company.send("GET", "/v1/patients", params={"cursor": cursor_text})
        assert (answer.status, list(answer.fields)) == (422, ["cursor"])


async def test_unassigned_money_over_many_pages(company: Company) -> None:
    patient = await company.patient()
    made = [await company.payment(patient_id=patient["id"], amount_cents=100 + n) for n in range(5)]
    first = await company.get("/v1/payments", unassigned="true", limit=2)
    second = await company.get("/v1/payments", unassigned="true", limit=2, cursor=first["next"])
    last = await company.get("/v1/payments", unassigned="true", limit=2, cursor=second["next"])
    assert first["items"] + second["items"] + last["items"] == made[::-1]
    assert last["next"] is None


# -- the rules of money --------------------------------------------------------------------------------------------


async def test_what_a_payment_may_not_be(stack: LedgerStack, company: Company) -> None:
    """Each refusal names its field and stores nothing."""
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"], amount_cents=1_000)
    void = await company.charge(patient)
    await company.post(f"/v1/charges/{void['id']}/void", status=200)
    stranger = await stack.company()
    foreign = await stranger.charge(await stranger.patient())
    one = {"charge_id": charge["id"], "amount_cents": 1_000}
    write_off = {"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 1}
    to_patient = {**write_off, "group_code": "PR"}
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"payer_id": None}, "payer_id", "payer_or_patient"),
        ({"amount_cents": 0}, "amount_cents", "zero_amount"),
        ({"payer_id": str(uuid4())}, "payer_id", "unknown_payer"),
        ({"patient_id": str(uuid4())}, "patient_id", "unknown_patient"),
        ({"location_id": str(uuid4())}, "location_id", "unknown_location"),
        ({"location_id": str(stranger.locations[0])}, "location_id", "unknown_location"),
        ({"deposit_date": str(company.today - timedelta(days=367))}, "deposit_date", "deposit_date_range"),
        ({"deposit_date": str(company.today + timedelta(days=32))}, "deposit_date", "deposit_date_range"),
        ({"amount_cents": 999, "applications": [one]}, "applications", "over_applied"),
        ({"applications": [{**one, "amount_cents": 1_001}]}, "applications.0.amount_cents", "over_applied"),
        ({"applications": [one], "adjustments": [write_off]}, "adjustments.0.amount_cents", "over_applied"),
        ({"adjustments": [{**write_off, "amount_cents": 1_001}]}, "adjustments.0.amount_cents", "over_applied"),
        (
            {"adjustments": [write_off] * 2 + [{**write_off, "amount_cents": 999}]},
            "adjustments.2.amount_cents",
            "over_applied",
        ),
        ({"applications": [one], "adjustments": [to_patient]}, "adjustments.0.amount_cents", "over_applied"),
        (
            {"applications": [{**one, "amount_cents": 1}, {**one, "amount_cents": 1}]},
            "applications.1.charge_id",
            "duplicate_charge",
        ),
        ({"applications": [{**one, "charge_id": str(uuid4())}]}, "applications.0.charge_id", "unknown_charge"),
        ({"applications": [{**one, "charge_id": foreign["id"]}]}, "applications.0.charge_id", "unknown_charge"),
        ({"adjustments": [{**write_off, "charge_id": foreign["id"]}]}, "adjustments.0.charge_id", "unknown_charge"),
        ({"applications": [{**one, "charge_id": void["id"]}]}, "applications.0.charge_id", "charge_void"),
    ]
    before = await stack.rows()
    for fields, field, code in cases:
        body = company.payment_body(**{"payer_id": payer["id"], **fields})
        answer = await company.send("POST", "/v1/payments", body)
        assert (answer.status, answer.code, answer.fields) == (422, code, {field: code}), fields
    assert await stack.rows() == before


async def test_the_edges_of_the_deposit_window_and_of_amounts(company: Company) -> None:
    patient = await company.patient()
    for days in (-366, 31):
        await company.payment(patient_id=patient["id"], deposit_date=str(company.today + timedelta(days=days)))
    assert (await company.payment(patient_id=patient["id"], amount_cents=MAX_CENTS))["amount_cents"] == MAX_CENTS
    for _ in range(3):
        await company.payment(patient_id=patient["id"], amount_cents=MAX_CENTS)
    assert (await company.sums())["amount_cents"] == 4 * MAX_CENTS + 20_000


async def test_an_inactive_location_takes_nothing_new(stack: LedgerStack, company: Company) -> None:
    patient = await company.patient()
    place = str(company.locations[1])
    paid = await company.payment(patient_id=patient["id"])
    await stack.owner.execute(
        "update directory_location set active = false where location_id = $1", company.locations[1]
    )
    for method, path, body in (
        ("POST", "/v1/payments", company.payment_body(patient_id=patient["id"], location_id=place)),
        ("POST", "/v1/charges", company.charge_body(patient, location_id=place)),
        ("PATCH", f"/v1/payments/{paid['id']}", {"location_id": place}),
    ):
        answer = await company.send(method, path, body)
        assert (answer.status, answer.fields) == (422, {"location_id": "inactive_location"})


async def test_the_posting_date_is_the_companys_local_day(stack: LedgerStack) -> None:
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"):
        company = await stack.company(time_zone=zone)
        paid = await company.payment(
            patient_id=(await company.patient())["id"], deposit_date=str(await stack.today(zone))
        )
        assert paid["posting_date"] == str(await stack.today(zone))
        await stack.owner.execute(
            "update directory_company set time_zone = 'Asia/Tokyo' where company_id = $1", company.company_id
        )
        assert (await company.get(f"/v1/payments/{paid['id']}"))["posting_date"] == paid["posting_date"]


# -- keys ----------------------------------------------------------------------------------------------------------


async def test_the_same_key_and_body_give_the_first_answer_again(company: Company) -> None:
    patient = await company.patient()
    body = company.payment_body(patient_id=patient["id"])
    first = await company.send("POST", "/v1/payments", body, key="k-1")
    shuffled = orjson.dumps(dict(reversed(body.items())), option=orjson.OPT_INDENT_2)
    again = await company.send(
        "POST", "/v1/payments", data=shuffled, headers={"Content-Type": "application/json"}, key="k-1"
    )
    assert (first.status, again.status) == (201, 201)
    assert first.raw == again.raw
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    await company.patch(f"/v1/payments/{first.body['id']}", {"memo": "changed since"})
    assert (await company.send("POST", "/v1/payments", body, key="k-1")).raw == first.raw


async def test_a_key_used_otherwise_is_refused_and_nothing_changes(company: Company) -> None:
    patient = await company.patient()
    charge = await company.charge(patient)
    body = company.payment_body(patient_id=patient["id"])
    paid = await company.post("/v1/payments", body, key="k-2")
    other = await company.payment(patient_id=patient["id"])
    before = await company.rows()
    someone_else = company.token("self_service_admin", subject=uuid4())
    apply = {"applications": [{"charge_id": charge["id"], "amount_cents": 1}]}
    for answer in (
        await company.send("POST", "/v1/payments", {**body, "amount_cents": 9_999}, key="k-2"),
        await company.send("POST", "/v1/payments", body, key="k-2", token=someone_else),
        await company.send("POST", f"/v1/payments/{paid['id']}/reversal", {}, key="k-2"),
        await company.send("POST", f"/v1/payments/{paid['id']}/applications", apply, key="k-2"),
        await company.send("POST", "/v1/charges", company.charge_body(patient), key="k-2"),
    ):
        assert (answer.status, answer.fields) == (422, {"Idempotency-Key": "idempotency_mismatch"})
    assert await company.rows() == before
    await company.post(f"/v1/payments/{paid['id']}/reversal", {}, key="k-3")
    answer = await company.send("POST", f"/v1/payments/{other['id']}/reversal", {}, key="k-3")
    assert answer.fields == {"Idempotency-Key": "idempotency_mismatch"}, "another payment's reversal is another request"


async def test_every_call_that_moves_money_demands_a_key(company: Company) -> None:
    patient, payer = await company.patient(), await company.payer()
    charge = await company.charge(patient, payer_id=payer["id"])
    paid = await company.payment(patient_id=patient["id"])
    calls: list[tuple[str, Any]] = [
        ("/v1/payments", company.payment_body(patient_id=patient["id"])),
        ("/v1/charges", company.charge_body(patient)),
        (f"/v1/charges/{charge['id']}/void", None),
        (f"/v1/charges/{charge['id']}/adjustments", {"group_code": "CO", "reason_code": "45", "amount_cents": 1}),
        (f"/v1/charges/{charge['id']}/transfer", {"to": "patient", "amount_cents": 1}),
        (f"/v1/payments/{paid['id']}/applications", {"applications": [{"charge_id": charge["id"], "amount_cents": 1}]}),
        (f"/v1/payments/{paid['id']}/reversal", {}),
        (f"/v1/payments/{paid['id']}/refund", {"amount_cents": 1}),
    ]
    before = await company.rows()
    for path, body in calls:
        answer = await company.send("POST", path, body, key="")
        assert (answer.status, answer.fields) == (422, {"Idempotency-Key": "idempotency_key"}), path
    assert await company.rows() == before


@pytest.mark.parametrize("key", ["x" * 201, "with space", "émigré", "tab\tinside", "x" * 8_000], ids=range(5))
async def test_keys_that_are_none(company: Company, key: str) -> None:
    body = company.payment_body(patient_id=(await company.patient())["id"])
    answer = await company.send("POST", "/v1/payments", body, key=key)
    assert (answer.status, answer.fields) == (422, {"Idempotency-Key": "idempotency_key"})


async def test_a_repeated_key_header_is_refused_and_the_longest_is_taken(company: Company) -> None:
    body = company.payment_body(patient_id=(await company.patient())["id"])
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Authorization", f"Bearer {company.token()}")]
    async with company.stack.client.post("/v1/payments", json=body, headers=twice) as answer:
        assert answer.status == 422
    await company.post("/v1/payments", body, key="~" * 200)


# -- bulk ----------------------------------------------------------------------------------------------------------


async def send_lines(company: Company, *lines: Any) -> list[Any]:
    raw = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    answer = await company.send(
        "POST", "/v1/payments/bulk", data=raw, headers={"Content-Type": "application/x-ndjson"}, key=""
    )
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    return answer.lines


async def test_good_lines_post_and_bad_lines_say_why_in_order(company: Company) -> None:
    patient = await company.patient()
    charge = await company.charge(patient, amount_cents=1_000)
    good = {**company.payment_body(patient_id=patient["id"]), "idempotency_key": "line-1"}
    lines: list[tuple[Any, int, str]] = [
        (good, 201, ""),
        (b"not json", 400, "malformed"),
        ({**good, "idempotency_key": "line-3", "amount_cents": -1}, 422, "amount_cents"),
        ({**good, "idempotency_key": "line-4", "unknown": 1}, 422, "unknown"),
        ({name: value for name, value in good.items() if name != "idempotency_key"}, 422, "idempotency_key"),
        (good, 201, ""),
        ({**good, "amount_cents": 5}, 422, "Idempotency-Key"),
        (b'{"idempotency_key": "line-8", "memo": "' + b"x" * 70_000 + b'"}', 422, "line"),
        (
            {**good, "idempotency_key": "l9", "applications": [{"charge_id": charge["id"], "amount_cents": 1_000}]},
            201,
            "",
        ),
        (
            {**good, "idempotency_key": "l10", "applications": [{"charge_id": charge["id"], "amount_cents": 1}]},
            422,
            "applications.0.amount_cents",
        ),
        (b"[]", 422, "body"),
        ({**good, "idempotency_key": "x" * 201}, 422, "idempotency_key"),
        (b'{"idempotency_key": "l13", "idempotency_key": "l13"}', 422, ""),
        ({**good, "idempotency_key": "l14", "posting_date": str(company.today)}, 422, "posting_date"),
    ]
    results = await send_lines(company, *(line for line, _, _ in lines))
    assert [row["line"] for row in results] == list(range(1, len(lines) + 1))
    assert [row["status"] for row in results] == [status for _, status, _ in lines]
    for row, (_, status, field) in zip(results, lines, strict=True):
        if status == 422 and field:
            assert field in {error["field"] for error in row["errors"]}, row
    assert [row["replayed"] for row in results if row["status"] == 201] == [False, True, False]
    assert results[0]["payment"] == results[5]["payment"]
    assert results[0]["id"] == results[0]["payment"]["id"]
    assert (await company.sums())["payments"] == 2
    again = await send_lines(company, *(line for line, _, _ in lines))
    assert [row["status"] for row in again] == [row["status"] for row in results]
    assert (await company.sums())["payments"] == 2


async def test_bulk_of_nothing_and_of_many_pieces(company: Company) -> None:
    assert await send_lines(company) == []
    assert await send_lines(company, b"", b"  ", b"") == []
    patient = await company.patient()
    lines = [
        {**company.payment_body(patient_id=patient["id"], memo="m" * 300), "idempotency_key": f"p{n}"}
        for n in range(450)
    ]
    raw = b"\r\n".join(orjson.dumps(line) for line in lines)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), 777):
            yield raw[start : start + 777]

    answer = await company.send(
        "POST", "/v1/payments/bulk", data=pieces(), headers={"Content-Type": "application/x-ndjson"}, key=""
    )
    assert [row["status"] for row in answer.lines] == [201] * 450
    numbers = [row["payment"]["company_version"] for row in answer.lines]
    assert numbers == sorted(numbers)


async def test_books_that_are_away_in_the_middle_are_told_line_by_line(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has begun, so it cannot become a 503: the lines that were not posted say so, and may come again."""
    patient = await company.patient()
    lines = [{**company.payment_body(patient_id=patient["id"]), "idempotency_key": f"away-{n}"} for n in range(450)]
    real, calls = Ledger.post_many, 0

    async def sometimes(self: Ledger, commands: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("The database is away")
        return await real(self, commands)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "post_many", sometimes)
        results = await send_lines(company, *lines)
    assert [row["status"] for row in results] == [201] * 200 + [503] * 200 + [201] * 50
    assert (await company.sums())["payments"] == 250
    again = await send_lines(company, *lines)
    assert [row["replayed"] for row in again] == [True] * 200 + [False] * 200 + [True] * 50


# -- batches -------------------------------------------------------------------------------------------------------


async def test_batches_declare_and_are_compared(company: Company) -> None:
    patient = await company.patient()
    declared = await company.post(
        "/v1/batches", {"batch_number": "Batch Number BCBS", "control_total_cents": 25_000, "control_count": 2}
    )
    assert declared == {
        "batch_number": "Batch Number BCBS",
        "control_total_cents": 25_000,
        "control_count": 2,
        "posted_cents": 0,
        "payments": 0,
        "difference_cents": -25_000,
    }
    await company.payment(patient_id=patient["id"], batch_number="Batch Number BCBS")
    moved = await company.payment(patient_id=patient["id"], batch_number="other / batch?")
    assert (await company.get("/v1/batches/Batch%20Number%20BCBS"))["difference_cents"] == -15_000
    assert (await company.get("/v1/batches"))["items"][1]["batch_number"] == "other / batch?"
    assert (await company.get("/v1/batches/other%20%2F%20batch%3F"))["posted_cents"] == 10_000
    await company.patch(f"/v1/payments/{moved['id']}", {"batch_number": "Batch Number BCBS"})
    again = await company.post("/v1/batches", {"batch_number": "Batch Number BCBS", "control_total_cents": 20_000})
    assert (again["difference_cents"], again["payments"], again["control_count"]) == (0, 2, None)
    assert (await company.send("GET", "/v1/batches/other%20%2F%20batch%3F")).status == 404
    first = await company.post("/v1/batches", {"batch_number": "A"})
    page = await company.get("/v1/batches", limit=1)
    assert (page["items"], page["next"]) == ([first], "A")
    assert [row["batch_number"] for row in (await company.get("/v1/batches", cursor="A"))["items"]] == [
        "Batch Number BCBS"
    ]


# -- for the services ----------------------------------------------------------------------------------------------


async def test_the_event_log_is_paged_by_version(stack: LedgerStack, company: Company) -> None:
    for _ in range(5):
        await company.patient()
    token = stack.internal()

    async def page(**params: Any) -> Any:
        answer = await stack.request(
            "GET", "/v1/events", token, params={"company_id": str(company.company_id), **params}
        )
        assert answer.status == 200, answer
        return answer.body

    whole = await page()
    assert [item["data"]["version"] for item in whole["items"]] == [1, 2, 3, 4, 5]
    assert whole["next"] is None
    first = await page(limit="2")
    assert first["next"] == 2
    rest = await page(limit="10", after_version="2")
    assert first["items"] + rest["items"] == whole["items"]
    assert (await page(after_version="5"))["items"] == []
    assert (await page(after_version=str(2**63 - 1)))["items"] == []
    envelope = whole["items"][0]
    assert (envelope["specversion"], envelope["type"], envelope["source"]) == ("1.0", "ledger.posting.v1", "ledger")
    assert envelope["subject"] == str(company.company_id)
    stored = await stack.owner.fetchval(
        "select payload from event where company_id = $1 and version = 1", company.company_id
    )
    assert orjson.loads(stored) == envelope
    for params in (
        {},
        {"company_id": "x"},
        {"company_id": str(company.company_id), "after_version": "-1"},
        {"company_id": str(company.company_id), "after_version": "9" * 30},
        {"company_id": str(company.company_id), "limit": "501"},
    ):
        assert (await stack.request("GET", "/v1/events", token, params=params)).status == 422, params


async def test_heads_name_the_version_of_every_company(stack: LedgerStack, company: Company) -> None:
    await company.patient()
    heads = (await stack.request("GET", "/v1/events/heads", stack.internal())).body["items"]
    assert {"company_id": str(company.company_id), "version": 1} in heads
    assert len(heads) == len({row["company_id"] for row in heads})


async def test_control_totals_of_any_version_for_services_and_people(stack: LedgerStack, company: Company) -> None:
    patient = await company.patient()
    first = await company.payment(patient_id=patient["id"])
    await company.payment(patient_id=patient["id"], location_id=str(company.locations[1]))
    await company.patch(f"/v1/payments/{first['id']}", {"location_id": None})
    document = await company.get("/v1/control-totals")
    assert document["company_id"] == str(company.company_id)
    assert document["as_of_version"] == 4
    assert [row["location_id"] for row in document["items"]] == [None, str(company.locations[1])]
    params = {"company_id": str(company.company_id)}
    assert (await stack.request("GET", "/v1/control-totals", stack.internal(), params=params)).body == document
    past = await company.get("/v1/control-totals", as_of_version=2)
    assert [row["location_id"] for row in past["items"]] == [str(company.locations[0])]
    assert past["as_of_version"] == 2
    assert (await company.get("/v1/control-totals", as_of_version=0))["items"] == []
    assert (await company.get("/v1/control-totals", as_of_version=10**9))["as_of_version"] == 4
    assert (await stack.request("GET", "/v1/control-totals", stack.internal())).fields == {"company_id": "missing"}
    for as_of in ("-1", "x", "9" * 40):
        answer = await company.send("GET", "/v1/control-totals", params={"as_of_version": as_of})
        assert (answer.status, list(answer.fields)) == (422, ["as_of_version"])
    for version in range(5):
        assert await company.totals(version) == fold(await company.events(), version)


async def test_health_and_the_description_of_the_api(stack: LedgerStack) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json", "/docs"):
        assert (await stack.request("GET", path, None)).status == 200, path
    document = (await stack.request("GET", "/openapi.json", None)).body
    assert document["openapi"] == "3.1.0"
    assert "/v1/payments/{id}/reversal" in document["paths"]
