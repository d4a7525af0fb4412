"""EMR events over HTTP: any order, any repetition, the same books.

Decided here where the rules are silent:

* A payment whose newer version is `internal` or of amount zero brings no money any more: it is withdrawn like a
  deleted one. Where there was nothing to withdraw, such an event, and a deletion that comes first, is `ignored`, and
  its version is remembered: an older state that arrives later is stale.
* The same event id with other content is a conflict, whatever its version says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import orjson
import pytest

from shared.ids import INTEGRATION_POSTER_ID
from tests.support.emr import Emr, emr_event, emr_payment
from tests.support.ledger import LedgerStack, clinic_of, fold, patient_body


async def test_a_payment_and_a_charge_and_their_patient(emr: Emr) -> None:
    company = emr.company
    person = {**patient_body("EMR-77", first_name="Ana", last_name="Muñoz"), "email": "is not ours to keep"}
    feed = await emr.send(emr.payment(patient=person, check_number="12", method="check"))
    assert (feed["posted"], feed["control_total_cents"], feed["difference_cents"]) == (1, 2_500, 0)
    (receipt,) = (await company.get("/v1/payments"))["items"]
    (patient,) = (await company.get("/v1/patients"))["items"]
    assert (patient["account_number"], patient["last_name"]) == ("EMR-77", "Muñoz")
    assert {name: receipt[name] for name in ("patient_id", "external_id", "source", "affiliation", "payment_type")} == {
        "patient_id": patient["id"],
        "external_id": "p-1",
        "source": "emr",
        "affiliation": "integration",
        "payment_type": "copay",
    }
    assert (receipt["location_id"], receipt["deposit_date"]) == (str(company.locations[0]), "2026-01-06")
    assert (receipt["method"], receipt["check_number"], receipt["unapplied_cents"]) == ("check", "12", 2_500)
    assert receipt["poster_id"] == str(INTEGRATION_POSTER_ID)
    await emr.send(emr.charge(patient=person, modifiers=["GP"]))
    (charge,) = (await company.get("/v1/charges"))["items"]
    assert (charge["patient_id"], charge["source"], charge["external_id"]) == (patient["id"], "emr", "c-1")
    assert (charge["amount_cents"], charge["units"], charge["modifiers"]) == (12_000, 2, ["GP"])
    assert len((await company.get("/v1/patients"))["items"]) == 1
    assert fold(await company.events()) == await company.totals()


async def test_binary_mode(emr: Emr) -> None:
    event = emr.payment()
    headers = {f"ce-{name}": event[name] for name in ("specversion", "id", "source", "type", "time")}
    answer = await emr.company.upload(
        "emr", orjson.dumps(event["data"]), token=emr.token, **headers, **{"Content-Type": "application/json"}
    )
    assert answer.body["posted"] == 1
    assert await emr.outcome(event) == {"duplicates": 1}
    del headers["ce-id"]
    answer = await emr.company.upload(
        "emr", orjson.dumps(event["data"]), token=emr.token, **headers, **{"Content-Type": "application/json"}
    )
    assert (answer.status, answer.fields) == (422, {"id": "missing"})


async def test_an_event_has_one_name_in_either_mode(emr: Emr) -> None:
    """Spaces and percent signs are percent-encoded in headers (CloudEvents HTTP binding, 3.1.3.2)."""
    event = {**emr.payment(), "id": "receipt 7, 100% paid"}
    names = ("specversion", "source", "type")
    headers = {f"ce-{name}": event[name] for name in names} | {"ce-id": "receipt%207%2C%20100%25%20paid"}
    answer = await emr.company.upload(
        "emr", orjson.dumps(event["data"]), token=emr.token, **headers, **{"Content-Type": "application/json"}
    )
    assert answer.body["posted"] == 1
    assert await emr.outcome({**emr.payment("p-2"), "id": event["id"]}) == {"quarantined": 1}
    assert (await emr.company.reasons()) == {"conflict": 1}


async def test_structured_mode_under_the_plain_type(emr: Emr) -> None:
    assert (await emr.send(emr.payment(), **{"Content-Type": "application/json"}))["posted"] == 1
    answer = await emr.company.upload(
        "emr", orjson.dumps([emr.payment("p-2")]), token=emr.token, **{"Content-Type": "application/json"}
    )
    assert answer.body["posted"] == 1


async def test_versions_compensate_and_old_ones_are_stale(emr: Emr) -> None:
    company = emr.company
    other = str(company.locations[1])
    assert await emr.outcome(emr.payment()) == {"posted": 1}
    moved = emr_payment(
        company.locations[1], "p-1", 3, amount_cents=4_000, method="cash", transaction_date="2026-01-07"
    )
    assert await emr.outcome(emr.event("payment", moved, change="changed")) == {"posted": 1}
    assert await emr.outcome(emr.payment(version=2, amount_cents=9_999)) == {"ignored": 1}
    (receipt,) = (await company.get("/v1/payments"))["items"]
    assert (receipt["amount_cents"], receipt["method"], receipt["location_id"]) == (4_000, "cash", other)
    assert await company.sums() == {
        "payments": 1,
        "amount_cents": 4_000,
        "applied_cents": 0,
        "adjusted_cents": 0,
        "provider_level_cents": 0,
        "unapplied_cents": 4_000,
    }
    assert await emr.outcome(emr.deletion("payment", "p-1", 4)) == {"posted": 1}
    assert (await company.sums())["payments"] == 0
    gone = await company.get(f"/v1/payments/{receipt['id']}")
    assert (gone["withdrawn"], gone["amount_cents"]) == (True, 0)
    history = (await company.get(f"/v1/payments/{receipt['id']}/history"))["items"]
    assert [row["amount_cents"] for row in history] == [2_500, 4_000, 0]
    assert fold(await company.events()) == await company.totals()


async def test_words_that_an_emr_does_not_speak_of_stay_as_a_person_wrote_them(emr: Emr) -> None:
    await emr.send(emr.payment(method="check", check_number="7"))
    (receipt,) = (await emr.company.get("/v1/payments"))["items"]
    own = {"batch_number": "COPAYS", "memo": "Counted twice"}
    await emr.company.patch(f"/v1/payments/{receipt['id']}", {**own, "check_number": "8"})
    states = (
        (emr.payment(version=2, method="check", check_number="9"), {**own, "check_number": "9", "withdrawn": False}),
        (emr.payment(version=3, amount_cents=3_000), {**own, "check_number": None, "method": "credit_card"}),
        (emr.deletion("payment", "p-1", 4), {**own, "withdrawn": True}),
        (emr.payment(version=5), {**own, "amount_cents": 2_500, "withdrawn": False}),
    )
    for event, expected in states:
        assert await emr.outcome(event) == {"posted": 1}
        assert (await emr.company.get(f"/v1/payments/{receipt['id']}")).items() >= expected.items()
    (batch,) = (await emr.company.get("/v1/batches"))["items"]
    assert (batch["batch_number"], batch["posted_cents"], batch["payments"]) == ("COPAYS", 2_500, 1)
    assert fold(await emr.company.events()) == await emr.company.totals()


async def test_what_is_sent_again(emr: Emr) -> None:
    event = emr.payment()
    assert await emr.outcome(event) == {"posted": 1}
    assert await emr.outcome(event) == {"duplicates": 1}
    assert await emr.outcome(event, event) == {"duplicates": 2}
    assert await emr.outcome({**event, "id": "under another id"}) == {"duplicates": 1}
    assert await emr.outcome(emr.payment("p-2"), emr.payment("p-3")) == {"posted": 2}
    assert (await emr.company.sums())["payments"] == 3, "equal-looking payments with keys of their own both stay"


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("the same id, other data", lambda e: {**e, "data": {**e["data"], "amount_cents": 1}}),
        ("the same id, another type", lambda e: {**e, "type": "emr.payment.deleted.v1"}),
        (
            "another id, the same version, other data",
            lambda e: {**e, "id": "other", "data": {**e["data"], "amount_cents": 1}},
        ),
    ],
)
async def test_a_conflict_is_quarantined(emr: Emr, what: str, change: Callable[[Any], Any]) -> None:
    event = emr.payment()
    await emr.send(event)
    before = await emr.company.totals()
    assert await emr.outcome(change(event)) == {"quarantined": 1}
    (row,) = await emr.company.exceptions()
    assert (row["reason"], row["quarantined"], row["source"]) == ("conflict", True, "emr")
    assert await emr.company.totals() == before


async def test_internal_and_empty_payments_never_flow(emr: Emr) -> None:
    feed = await emr.send(emr.payment("i", payment_type="internal"), emr.payment("z", amount_cents=0))
    assert (feed["ignored"], feed["control_total_cents"], feed["difference_cents"]) == (2, 0, 0)
    assert (await emr.company.get("/v1/payments"))["items"] == []
    # Their versions count: what is older is stale, what becomes internal is withdrawn.
    await emr.send(emr.payment("late", version=2, payment_type="internal"))
    assert await emr.outcome(emr.payment("late")) == {"ignored": 1}
    await emr.send(emr.payment("was"))
    assert await emr.outcome(emr.payment("was", version=2, amount_cents=0)) == {"posted": 1}
    assert (await emr.company.sums())["payments"] == 0
    assert await emr.outcome(emr.payment("was", version=3)) == {"posted": 1}
    assert (await emr.company.sums())["amount_cents"] == 2_500


async def test_a_deletion_that_comes_first(emr: Emr) -> None:
    assert await emr.outcome(emr.deletion("payment", "p-1", 2)) == {"ignored": 1}
    assert await emr.outcome(emr.payment()) == {"ignored": 1}
    assert await emr.outcome(emr.payment(version=2)) == {"ignored": 1}
    assert (await emr.company.rows())["posting"] == 0
    assert await emr.outcome(emr.payment(version=3)) == {"posted": 1}


async def test_sources_and_clinics_are_bounds(stack: LedgerStack, emr: Emr) -> None:
    stranger = await stack.company()
    wrong_clinic = emr.event("payment", emr_payment(stranger.locations[0], "p-1"))
    no_clinic = emr.event("payment", {**emr_payment(uuid4(), "p-2")})
    no_source = emr_event("nobody's", "payment", emr_payment(emr.company.locations[0], "p-3"))
    other_client = await Emr.of(emr.company)
    not_mine = other_client.payment("p-4")
    assert await emr.outcome(wrong_clinic, no_clinic, no_source, not_mine) == {"quarantined": 4}
    assert await emr.company.reasons() == {"unknown_clinic": 2, "unknown_source": 2}
    assert (await stranger.rows())["feed"] == 0
    inactive = emr.event("payment", emr_payment(emr.company.locations[1], "p-5"))
    await stack.owner.execute(
        "update directory_location set active = false where location_id = $1", emr.company.locations[1]
    )
    assert await emr.outcome(inactive) == {"quarantined": 1}
    await stack.owner.execute("update directory_client set active = false where client_id = $1", emr.client)
    assert await emr.outcome(emr.payment("p-6")) == {"quarantined": 1}


async def test_an_event_that_came_before_its_clinic_is_posted_when_it_comes_again(stack: LedgerStack, emr: Emr) -> None:
    new = uuid4()
    event = emr.event("payment", emr_payment(new, "p-1"))
    assert await emr.outcome(event) == {"quarantined": 1}
    await stack.owner.execute(
        "insert into directory_location (company_id, location_id, version, code, name, emr_location_id)"
        " values ($1, $2, 1, 'N', 'New', $3)",
        emr.company.company_id,
        new,
        clinic_of(new),
    )
    assert await emr.outcome(event) == {"posted": 1}


async def test_what_a_person_did_in_between_is_respected(emr: Emr) -> None:
    company = emr.company
    await emr.send(emr.payment(), emr.charge())
    (receipt,) = (await company.get("/v1/payments"))["items"]
    (charge,) = (await company.get("/v1/charges"))["items"]
    row = {"charge_id": charge["id"], "amount_cents": 2_500}
    await company.post(f"/v1/payments/{receipt['id']}/applications", {"applications": [row]})
    assert await emr.outcome(emr.charge(version=2, amount_cents=2_499)) == {"quarantined": 1}
    assert await emr.outcome(emr.deletion("charge", "c-1", 2)) == {"quarantined": 1}
    assert await emr.outcome(emr.charge(version=2, amount_cents=20_000)) == {"posted": 1}
    assert await emr.outcome(emr.payment(version=2, amount_cents=2_000)) == {"posted": 1}
    assert (await company.get(f"/v1/charges/{charge['id']}"))["balance_cents"] == 20_000
    await company.post(f"/v1/payments/{receipt['id']}/refund", {"amount_cents": 500})
    assert await emr.outcome(emr.deletion("payment", "p-1", 3)) == {"quarantined": 1}
    await emr.send(emr.payment("p-2"))
    second = (await company.get("/v1/payments"))["items"][0]
    await company.post(f"/v1/payments/{second['id']}/reversal", {})
    assert await emr.outcome(emr.payment("p-2", version=2)) == {"quarantined": 1}
    assert await company.reasons() == {"charge_has_payments": 2, "already_refunded": 1, "already_reversed": 1}
    assert fold(await company.events()) == await company.totals()
