"""Payments by HTTP: everything a receipt becomes, corrections, lists with their cursors, and batches."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from tests.support.ledger import Company, fold, instant


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
