"""What an EMR says it sent against the books: balanced, explained or broken, down to the payment.

Decided here where the rules are silent:

* A day is the payments' `transaction_date`, which is the receipts' deposit date. A type that a report leaves out came
  to nothing.
* Of two reports about a day of a clinic the one with the later event time holds, whenever it arrived; a time ahead of
  ours counts as now.
* A difference is explained only by what accounts for all of it, in payments and in cents. A list that does not add up
  to its own total proves nothing.
* Without a list, what changed in the books after the report explains what is otherwise left, and nothing less: a
  payment that was on its way when the report was made is in both.
* The row of a day that the EMR did not report is `unreported`; that is worse than explained, and better than broken.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from shared.bus import Outcome
from shared.ids import NO_COMPANY
from tests.support.emr import BATCH, Emr
from tests.support.feed_work import register_clinic, retried, the_exception, true
from tests.support.ledger import LedgerStack, clinic_of
from tests.support.reconciliation import DAY, explained, figures, listed, of_list, reconciled, report, rows, total

# -- balanced --------------------------------------------------------------------------------------------------------


async def test_a_day_that_balances(emr: Emr) -> None:
    company = emr.company
    await emr.send(emr.payment("p-1"), emr.payment("p-2", payment_type="other", amount_cents=700))
    feed = await emr.send(report(emr, total("copay", 1, 2_500), total("other", 1, 700)))
    assert (feed["posted"], feed["control_total_cents"], feed["posted_total_cents"]) == (1, 0, 0)
    document = await reconciled(company)
    assert (document["status"], document["rows"]) == (
        "balanced",
        {"balanced": 2, "explained": 0, "unreported": 0, "broken": 0},
    )
    row = next(row for row in document["items"] if row["payment_type"] == "copay")
    assert (row["emr"], row["ledger"], row["difference"]) == (figures(1, 2_500), figures(1, 2_500), figures(0, 0))
    assert (row["source"], row["date"], row["emr_clinic_id"], row["location_id"]) == (
        emr.source,
        DAY,
        clinic_of(company.locations[0]),
        str(company.locations[0]),
    )
    assert (row["explained"], row["differences"], row["listed"]) == ([], None, None)
    await emr.send(of_list(emr, listed("p-1", 2_500), listed("p-2", 700, payment_type="other")))
    document = await reconciled(company)
    assert document["status"] == "balanced"
    assert [row["differences"] for row in document["items"]] == [[], []]
    await true(company)


async def test_a_report_over_the_bus(emr: Emr) -> None:
    outcomes = await emr.deliver(emr.payment("p-1"), report(emr, total("copay", 1, 2_500)))
    assert outcomes == [Outcome.DONE] * 2
    assert (await reconciled(emr.company))["status"] == "balanced"
    await true(emr.company)


async def test_the_latest_report_holds_and_all_are_kept(emr: Emr) -> None:
    company, now = emr.company, datetime.now(UTC)
    await emr.send(emr.payment("p-1"))
    right = report(emr, total("copay", 1, 2_500), time=now)
    assert (await emr.send(right, report(emr, total("copay", 9, 9), time=now - timedelta(hours=1))))["posted"] == 2
    assert (await reconciled(company))["status"] == "balanced"
    assert (await emr.send(right))["duplicates"] == 1
    other = {**right, "data": {**right["data"], "totals": []}}
    assert (await emr.send(other))["quarantined"] == 1
    assert await company.reasons() == {"conflict": 1}
    assert (await reconciled(company))["status"] == "balanced"
    # A clock that runs ahead does not hold for ever.
    await emr.send(report(emr, total("copay", 7, 7), time=now + timedelta(days=400)))
    await emr.send(report(emr, total("copay", 1, 2_500)))
    assert (await reconciled(company))["status"] == "balanced"
    assert (await company.rows())["emr_totals"] == 4
    await true(company)


async def test_a_report_changes_nothing_in_the_books(emr: Emr) -> None:
    await emr.send(emr.payment("p-1"))
    before = await emr.company.rows()
    await emr.send(report(emr, total("copay", 1, 2_500)))
    after = await emr.company.rows()
    assert after["version"] == before["version"]
    assert {name for name in after if after[name] != before[name]} == {
        "emr_totals",
        "feed",
        "feed_chunk",
        "feed_item",
        "idempotency",
    }


# -- by totals -------------------------------------------------------------------------------------------------------


async def test_internal_payments_are_explained(emr: Emr) -> None:
    await emr.send(emr.payment("p-1"), emr.payment("p-2", payment_type="internal"))
    await emr.send(report(emr, total("copay", 1, 2_500), total("internal", 1, 2_500)))
    found = await rows(emr.company)
    assert (found["copay"]["status"], found["internal"]["status"]) == ("balanced", "explained")
    assert explained(found["internal"]) == {"internal_payment": (1, 2_500)}
    assert (await reconciled(emr.company))["status"] == "explained"


async def test_what_waits_in_the_quarantine_is_explained_until_it_is_dismissed(emr: Emr) -> None:
    company = emr.company
    waiting = emr.payment("p-2", amount_cents=900)
    waiting["data"]["patient"] = {"account_number": "X"}
    await emr.send(emr.payment("p-1"), waiting)
    await emr.send(report(emr, total("copay", 2, 3_400)))
    row = (await rows(company))["copay"]
    exception = await the_exception(company)
    assert (row["status"], row["difference"]) == ("explained", figures(1, 900))
    assert row["explained"] == [{"reason": "quarantined", **figures(1, 900), "exception_ids": [exception["id"]]}]
    await company.post(f"/v1/exceptions/{exception['id']}/dismiss", {"note": "test patient"}, status=200)
    row = (await rows(company))["copay"]
    assert (row["status"], row["explained"]) == ("broken", [])


async def test_a_change_that_waits_in_the_quarantine_is_explained(emr: Emr) -> None:
    """The ledger has version 1 of a payment, the EMR version 2, whose event cannot be read."""
    company = emr.company
    change = emr.payment("p-1", 2, amount_cents=9_900, method="barter")
    await emr.send(emr.payment("p-1"), emr.payment("p-2"), change)
    await emr.send(report(emr, total("copay", 2, 12_400)))
    row = (await rows(company))["copay"]
    assert (row["status"], explained(row)) == ("explained", {"quarantined": (0, 7_400)})


async def test_what_changed_after_the_report_is_explained(emr: Emr) -> None:
    company = emr.company
    await emr.send(emr.payment("p-1"), emr.payment("p-2"), emr.payment("p-3"))
    await emr.send(report(emr, total("copay", 3, 7_500)))
    await emr.send(emr.payment("p-1", 2, amount_cents=100), emr.deletion("payment", "p-2", 2), emr.payment("p-4"))
    row = (await rows(company))["copay"]
    assert (row["ledger"], row["difference"]) == (figures(3, 5_100), figures(0, 2_400))
    assert (row["status"], explained(row)) == ("explained", {"changed_after_report": (0, 2_400)})
    # One that moved to another day is gone from this one, and is not reported there.
    await emr.send(emr.payment("p-3", 2, transaction_date="2026-01-07"))
    document = await reconciled(company, to="2026-01-07")
    assert [(row["date"], row["status"]) for row in document["items"]] == [
        (DAY, "explained"),
        ("2026-01-07", "unreported"),
    ]
    assert document["status"] == "unreported"


@pytest.mark.parametrize("as_list", [False, True])
async def test_a_deposit_date_that_a_person_corrected_is_explained_on_both_days(emr: Emr, as_list: bool) -> None:
    """Whichever of the days is asked for, before or after the report, and beside whatever else explains a part."""
    company, next_day = emr.company, "2026-01-07"
    await emr.send(*(emr.payment(f"p-{n}", amount_cents=100 * n) for n in (1, 2, 3)))
    receipts = {one["external_id"]: one["id"] for one in (await company.get("/v1/payments"))["items"]}
    for one in ("p-1", "p-2"):
        await company.patch(f"/v1/payments/{receipts[one]}", {"deposit_date": next_day})
    # A change of it that waits is of what the EMR had sent, wherever that stands now.
    await emr.send(emr.payment("p-1", 2, amount_cents=9_900, method="barter"), **{"Content-Type": BATCH})
    if as_list:
        reports = (
            of_list(emr, listed("p-1", 9_900, 2), listed("p-2", 200), listed("p-3", 300)),
            of_list(emr, date=next_day),
        )
    else:
        reports = report(emr, total("copay", 3, 10_400)), report(emr, date=next_day)
    await emr.send(*reports, emr.payment("p-4", amount_cents=50))
    await company.patch(f"/v1/payments/{receipts['p-3']}", {"deposit_date": next_day})
    for day, moved in ((DAY, (3, 600)), (next_day, (-3, -600))):
        (row,) = (await reconciled(company, **{"from": day, "to": day}))["items"]
        assert row["status"] == "explained", row
        assert as_list or explained(row)["moved_in_ledger"] == moved


async def test_a_payment_that_was_on_its_way_explains_nothing(emr: Emr) -> None:
    """It is in the report although it reached us later; another one is missing, and no sum may hide that."""
    made = datetime.now(UTC)
    await emr.send(emr.payment("p-1"))
    await emr.send(report(emr, total("copay", 2, 3_000), time=made))
    row = (await rows(emr.company))["copay"]
    assert (row["status"], row["explained"], row["difference"]) == ("broken", [], figures(1, 500))


@pytest.mark.parametrize("said", [(2, 2_500), (1, 2_501), (0, 0)])
async def test_a_difference_that_nothing_explains_is_broken(emr: Emr, said: tuple[int, int]) -> None:
    await emr.send(emr.payment("p-1"))
    await emr.send(report(emr, total("copay", *said)))
    document = await reconciled(emr.company)
    assert (document["status"], document["items"][0]["status"]) == ("broken", "broken")


async def test_a_type_that_the_report_leaves_out_came_to_nothing(emr: Emr) -> None:
    await emr.send(emr.payment("p-1"), emr.payment("p-2", payment_type="wellness"))
    await emr.send(report(emr, total("copay", 1, 2_500)))
    found = await rows(emr.company)
    assert (found["wellness"]["status"], found["wellness"]["emr"]) == ("broken", figures(0, 0))


async def test_days_and_clinics_without_a_report(emr: Emr) -> None:
    company = emr.company
    await emr.send(emr.payment("p-1"), emr.payment("p-2", emr_clinic_id=clinic_of(company.locations[1])))
    document = await reconciled(company)
    assert (document["status"], [row["status"] for row in document["items"]]) == ("unreported", ["unreported"] * 2)
    assert [(row["emr"], row["difference"]) for row in document["items"]] == [(None, None)] * 2
    await emr.send(report(emr, total("copay", 1, 2_500)))
    one = await reconciled(company, location_id=company.locations[0])
    assert (one["status"], len(one["items"])) == ("balanced", 1)
    assert (await reconciled(company))["status"] == "unreported"
    assert (await reconciled(company, location_id=uuid4()))["items"] == []


# -- the quarantine, mappings, rights, bad input ---------------------------------------------------------------------


async def test_a_report_of_an_unknown_clinic_waits_and_is_mapped(emr: Emr) -> None:
    company = emr.company
    feed = await emr.send(
        emr.payment("p-1", emr_clinic_id="Old Mill"), report(emr, total("copay", 1, 2_500), emr_clinic_id="Old Mill")
    )
    assert (feed["quarantined"], (await reconciled(company))["items"]) == (2, [])
    body = {
        "clinics": [{"alias": "Old Mill", "location_id": str(company.locations[1])}],
        "payers": [],
        "procedures": [],
    }
    assert (await company.send("PUT", "/v1/feed-mappings", body, key="")).status == 200
    for row in await company.exceptions():
        assert (await retried(company, row))["state"] == "retried"
    document = await reconciled(company)
    assert [(row["status"], row["emr_clinic_id"], row["location_id"]) for row in document["items"]] == [
        ("balanced", "Old Mill", str(company.locations[1]))
    ]
    await true(company)


async def test_a_report_that_waited_is_as_old_as_its_arrival(emr: Emr) -> None:
    """It says no time, and waits for its clinic; meanwhile a later one corrects it."""
    company = emr.company

    def untimed(*totals: Any) -> Any:
        said = report(emr, *totals, emr_clinic_id="Old Mill")
        return {name: value for name, value in said.items() if name != "time"}

    await emr.send(emr.payment("p-1"))
    assert (await emr.send(untimed(total("copay", 9, 900))))["quarantined"] == 1
    await register_clinic(company, "Old Mill")
    assert (await emr.send(untimed(total("copay", 1, 2_500))))["posted"] == 1
    assert (await retried(company, await the_exception(company)))["state"] == "retried"
    assert (await reconciled(company))["status"] == "balanced"
    await true(company)


async def test_a_report_is_the_same_for_one_location_as_for_all(emr: Emr) -> None:
    """The clinic is another location's by now: what was reported under the first one holds no longer."""
    company, clinic = emr.company, clinic_of(emr.company.locations[0])
    await emr.send(emr.payment("p-1"), report(emr, total("copay", 5, 100)))
    await register_clinic(company, "moved out", 0)
    await register_clinic(company, clinic, 1)
    await emr.send(report(emr, total("copay", 1, 2_500)))
    whole = {row["location_id"]: row for row in (await reconciled(company))["items"]}
    assert {one: row["status"] for one, row in whole.items()} == dict(
        zip(map(str, company.locations), ("unreported", "broken"), strict=True)
    )
    for one, row in whole.items():
        assert (await reconciled(company, location_id=one))["items"] == [row]


async def test_people_see_all_sources_of_their_company(stack: LedgerStack, emr: Emr) -> None:
    company, other, stranger = emr.company, await Emr.of(emr.company), await stack.company()
    for one in (emr, other):
        await one.send(one.payment("p-1"))
        await one.send(report(one, total("copay", 1, 2_500)))
    found = (await reconciled(company))["items"]
    assert {(row["source"], row["status"]) for row in found} == {(one.source, "balanced") for one in (emr, other)}
    assert (await reconciled(stranger))["items"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"date": "2026-02-30"}, "data.date"),
        ({"totals": [{"payment_type": "copay", "payments": -1, "amount_cents": 1}]}, "data.totals.0.payments"),
        ({"totals": [{"payment_type": "copay", "payments": 1, "amount_cents": 1.5}]}, "data.totals.0.amount_cents"),
        ({"totals": [{"payment_type": "tips", "payments": 1, "amount_cents": 1}]}, "data.totals.0.payment_type"),
        ({"totals": [total("copay", 1, 1)] * 2}, "data.totals"),
        ({"payments": [listed("p", 1)] * 2}, "data.payments"),
        ({"payments": [{**listed("p", 1), "payment_id": ""}]}, "data.payments.0.payment_id"),
        ({"totals": None}, "data.totals"),
        ({"emr_clinic_id": 7}, "data.emr_clinic_id"),
    ],
)
async def test_reports_that_are_refused(emr: Emr, change: dict[str, Any], field: str) -> None:
    event = report(emr, total("copay", 1, 1))
    event["data"].update(change)
    before = await emr.company.rows()
    answer = await emr.company.upload("emr", json.dumps(event).encode(), token=emr.token)
    assert (answer.status, list(answer.fields)) == (422, [field]), answer
    assert await emr.company.rows() == before


@pytest.mark.parametrize("time", ["yesterday", "2026-01-06T10:00:00", 7, ["x"]])
async def test_a_report_of_no_time(emr: Emr, time: Any) -> None:
    answer = await emr.company.upload("emr", json.dumps({**report(emr), "time": time}).encode(), token=emr.token)
    assert (answer.status, answer.fields) == (422, {"time": "invalid_time"})
    without = report(emr)
    del without["time"]
    assert (await emr.send(without))["posted"] == 1


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"from": DAY}, "to"),
        ({"from": DAY, "to": "2026-01-05"}, "to"),
        ({"from": DAY, "to": "2026-02-06"}, "to"),
        ({"from": "x", "to": DAY}, "from"),
        ({"from": DAY, "to": DAY, "location_id": "x"}, "location_id"),
        ({"from": DAY, "to": DAY, "source": "x"}, "source"),
    ],
)
async def test_questions_that_are_refused(emr: Emr, params: dict[str, str], field: str) -> None:
    answer = await emr.company.send("GET", "/v1/reconciliation", params=params)
    assert (answer.status, list(answer.fields)) == (422, [field])


async def test_a_report_that_nobody_owns_is_quarantined_without_a_company(emr: Emr) -> None:
    nobody = Emr(emr.company, f"nobody {uuid4()}", "")
    assert await nobody.deliver(report(nobody)) == [Outcome.DONE]
    count = "select count(*) from feed_exception where company_id = $1 and starts_with(item_key, $2)"
    assert await emr.company.stack.owner.fetchval(count, NO_COMPANY, nobody.source) == 1
