"""EMR events over HTTP and over both transports of the bus: any order, any repetition, any crash, the same books.

Decided here where the rules are silent:

* A payment whose newer version is `internal` or of amount zero brings no money any more: it is withdrawn like a
  deleted one. Where there was nothing to withdraw, such an event, and a deletion that comes first, is `ignored`, and
  its version is remembered: an older state that arrives later is stale.
* A single event that cannot be read is refused (422); in a batch, data that cannot be read is quarantined, so that it
  does not hold up the others, while an envelope that cannot be read refuses the batch: the event has no name to be
  quarantined under. Over AMQP such a message goes to the dead letters.
* The same event id with other content is a conflict, whatever its version says.
* A body over 8 MiB is refused (413): it is many thousand events, and a batch can be cut.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
import pytest

from services.ledger.feeds.consumer import SUBSCRIPTION, EmrConsumer
from services.ledger.service import Ledger
from shared.access.policy import EMR_CLIENT
from shared.amqp import AmqpBus
from shared.amqp.dead_letters import dead_letters
from shared.bus import EMR_FEED, Bus, Message, Outcome
from shared.errors import Unavailable
from shared.ids import INTEGRATION_POSTER_ID, NO_COMPANY
from shared.loopback import LoopbackBus
from tests.support.databases import Databases
from tests.support.ledger import (
    Company,
    LedgerStack,
    clinic_of,
    emr_charge,
    emr_deletion,
    emr_event,
    emr_payment,
    fold,
    patient_body,
)

BATCH = "application/cloudevents-batch+json"
COUNTS = ("received", "posted", "duplicates", "ignored", "quarantined")


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


@dataclass(slots=True)
class Clinic:
    """A company with an EMR that may write to it."""

    company: Company
    source: str
    client: str

    @property
    def token(self) -> str:
        return self.company.token(EMR_CLIENT, client_id=self.client)

    def event(self, kind: str, data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return emr_event(self.source, kind, data, **more)

    def payment(self, payment_id: str = "p-1", version: int = 1, **fields: Any) -> dict[str, Any]:
        change = "posted" if version == 1 else "changed"
        return self.event(
            "payment", emr_payment(self.company.locations[0], payment_id, version, **fields), change=change
        )

    def charge(self, charge_id: str = "c-1", version: int = 1, **fields: Any) -> dict[str, Any]:
        change = "posted" if version == 1 else "changed"
        return self.event("charge", emr_charge(self.company.locations[0], charge_id, version, **fields), change=change)

    def deletion(self, kind: str, document_id: str, version: int) -> dict[str, Any]:
        return self.event(kind, emr_deletion(self.company.locations[0], kind, document_id, version), change="deleted")

    async def send(self, *events: Any, status: int = 200, **headers: str) -> Any:
        """As a batch; one alone as a single event."""
        many = len(events) != 1
        headers.setdefault("Content-Type", BATCH if many else "application/cloudevents+json")
        body = json.dumps(events if many else events[0]).encode()
        answer = await self.company.upload("emr", body, token=self.token, **headers)
        assert answer.status == status, answer
        return answer.body

    async def outcome(self, *events: Any) -> dict[str, int]:
        """The counts that are not zero, without `received`."""
        feed = await self.send(*events)
        assert feed["state"] == "done"
        assert feed["received"] == len(events) == sum(feed[name] for name in COUNTS[1:])
        return {name: feed[name] for name in COUNTS[1:] if feed[name]}


async def clinic_at(company: Company) -> Clinic:
    source = f"https://emr.example/{uuid4()}"
    return Clinic(company, source, await company.stack.emr_client([company], source))


@pytest.fixture
async def clinic(stack: LedgerStack) -> Clinic:
    return await clinic_at(await stack.company(locations=2))


# -- over HTTP -------------------------------------------------------------------------------------------------------


async def test_a_payment_and_a_charge_and_their_patient(clinic: Clinic) -> None:
    company = clinic.company
    person = {**patient_body("EMR-77", first_name="Ana", last_name="Muñoz"), "email": "is not ours to keep"}
    feed = await clinic.send(clinic.payment(patient=person, check_number="12", method="check"))
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
    await clinic.send(clinic.charge(patient=person, modifiers=["GP"]))
    (charge,) = (await company.get("/v1/charges"))["items"]
    assert (charge["patient_id"], charge["source"], charge["external_id"]) == (patient["id"], "emr", "c-1")
    assert (charge["amount_cents"], charge["units"], charge["modifiers"]) == (12_000, 2, ["GP"])
    assert len((await company.get("/v1/patients"))["items"]) == 1
    assert fold(await company.events()) == await company.totals()


async def test_binary_mode(clinic: Clinic) -> None:
    event = clinic.payment()
    headers = {f"ce-{name}": event[name] for name in ("specversion", "id", "source", "type", "time")}
    answer = await clinic.company.upload(
        "emr", orjson.dumps(event["data"]), token=clinic.token, **headers, **{"Content-Type": "application/json"}
    )
    assert answer.body["posted"] == 1
    assert await clinic.outcome(event) == {"duplicates": 1}
    del headers["ce-id"]
    answer = await clinic.company.upload(
        "emr", orjson.dumps(event["data"]), token=clinic.token, **headers, **{"Content-Type": "application/json"}
    )
    assert (answer.status, answer.fields) == (422, {"id": "missing"})


async def test_structured_mode_under_the_plain_type(clinic: Clinic) -> None:
    assert (await clinic.send(clinic.payment(), **{"Content-Type": "application/json"}))["posted"] == 1
    answer = await clinic.company.upload(
        "emr", orjson.dumps([clinic.payment("p-2")]), token=clinic.token, **{"Content-Type": "application/json"}
    )
    assert answer.body["posted"] == 1


async def test_versions_compensate_and_old_ones_are_stale(clinic: Clinic) -> None:
    company = clinic.company
    other = str(company.locations[1])
    assert await clinic.outcome(clinic.payment()) == {"posted": 1}
    moved = emr_payment(
        company.locations[1], "p-1", 3, amount_cents=4_000, method="cash", transaction_date="2026-01-07"
    )
    assert await clinic.outcome(clinic.event("payment", moved, change="changed")) == {"posted": 1}
    assert await clinic.outcome(clinic.payment(version=2, amount_cents=9_999)) == {"ignored": 1}
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
    assert await clinic.outcome(clinic.deletion("payment", "p-1", 4)) == {"posted": 1}
    assert (await company.sums())["payments"] == 0
    gone = await company.get(f"/v1/payments/{receipt['id']}")
    assert (gone["withdrawn"], gone["amount_cents"]) == (True, 0)
    history = (await company.get(f"/v1/payments/{receipt['id']}/history"))["items"]
    assert [row["amount_cents"] for row in history] == [2_500, 4_000, 0]
    assert fold(await company.events()) == await company.totals()


async def test_what_is_sent_again(clinic: Clinic) -> None:
    event = clinic.payment()
    assert await clinic.outcome(event) == {"posted": 1}
    assert await clinic.outcome(event) == {"duplicates": 1}
    assert await clinic.outcome(event, event) == {"duplicates": 2}
    assert await clinic.outcome({**event, "id": "under another id"}) == {"duplicates": 1}
    assert await clinic.outcome(clinic.payment("p-2"), clinic.payment("p-3")) == {"posted": 2}
    assert (await clinic.company.sums())["payments"] == 3, "equal-looking payments with keys of their own both stay"


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
async def test_a_conflict_is_quarantined(clinic: Clinic, what: str, change: Callable[[Any], Any]) -> None:
    event = clinic.payment()
    await clinic.send(event)
    before = await clinic.company.totals()
    assert await clinic.outcome(change(event)) == {"quarantined": 1}
    (row,) = await clinic.company.exceptions()
    assert (row["reason"], row["quarantined"], row["source"]) == ("conflict", True, "emr")
    assert await clinic.company.totals() == before


async def test_internal_and_empty_payments_never_flow(clinic: Clinic) -> None:
    feed = await clinic.send(clinic.payment("i", payment_type="internal"), clinic.payment("z", amount_cents=0))
    assert (feed["ignored"], feed["control_total_cents"], feed["difference_cents"]) == (2, 0, 0)
    assert (await clinic.company.get("/v1/payments"))["items"] == []
    # Their versions count: what is older is stale, what becomes internal is withdrawn.
    await clinic.send(clinic.payment("late", version=2, payment_type="internal"))
    assert await clinic.outcome(clinic.payment("late")) == {"ignored": 1}
    await clinic.send(clinic.payment("was"))
    assert await clinic.outcome(clinic.payment("was", version=2, amount_cents=0)) == {"posted": 1}
    assert (await clinic.company.sums())["payments"] == 0
    assert await clinic.outcome(clinic.payment("was", version=3)) == {"posted": 1}
    assert (await clinic.company.sums())["amount_cents"] == 2_500


async def test_a_deletion_that_comes_first(clinic: Clinic) -> None:
    assert await clinic.outcome(clinic.deletion("payment", "p-1", 2)) == {"ignored": 1}
    assert await clinic.outcome(clinic.payment()) == {"ignored": 1}
    assert await clinic.outcome(clinic.payment(version=2)) == {"ignored": 1}
    assert (await clinic.company.rows())["posting"] == 0
    assert await clinic.outcome(clinic.payment(version=3)) == {"posted": 1}


async def test_sources_and_clinics_are_bounds(stack: LedgerStack, clinic: Clinic) -> None:
    stranger = await stack.company()
    wrong_clinic = clinic.event("payment", emr_payment(stranger.locations[0], "p-1"))
    no_clinic = clinic.event("payment", {**emr_payment(uuid4(), "p-2")})
    no_source = emr_event("nobody's", "payment", emr_payment(clinic.company.locations[0], "p-3"))
    other_client = await clinic_at(clinic.company)
    not_mine = other_client.payment("p-4")
    assert await clinic.outcome(wrong_clinic, no_clinic, no_source, not_mine) == {"quarantined": 4}
    assert await clinic.company.reasons() == {"unknown_clinic": 2, "unknown_source": 2}
    assert (await stranger.rows())["feed"] == 0
    inactive = clinic.event("payment", emr_payment(clinic.company.locations[1], "p-5"))
    await stack.owner.execute(
        "update directory_location set active = false where location_id = $1", clinic.company.locations[1]
    )
    assert await clinic.outcome(inactive) == {"quarantined": 1}
    await stack.owner.execute("update directory_client set active = false where client_id = $1", clinic.client)
    assert await clinic.outcome(clinic.payment("p-6")) == {"quarantined": 1}


async def test_an_event_that_came_before_its_clinic_is_posted_when_it_comes_again(
    stack: LedgerStack, clinic: Clinic
) -> None:
    new = uuid4()
    event = clinic.event("payment", emr_payment(new, "p-1"))
    assert await clinic.outcome(event) == {"quarantined": 1}
    await stack.owner.execute(
        "insert into directory_location (company_id, location_id, version, code, name, emr_location_id)"
        " values ($1, $2, 1, 'N', 'New', $3)",
        clinic.company.company_id,
        new,
        clinic_of(new),
    )
    assert await clinic.outcome(event) == {"posted": 1}


async def test_what_a_person_did_in_between_is_respected(clinic: Clinic) -> None:
    company = clinic.company
    await clinic.send(clinic.payment(), clinic.charge())
    (receipt,) = (await company.get("/v1/payments"))["items"]
    (charge,) = (await company.get("/v1/charges"))["items"]
    row = {"charge_id": charge["id"], "amount_cents": 2_500}
    await company.post(f"/v1/payments/{receipt['id']}/applications", {"applications": [row]})
    assert await clinic.outcome(clinic.charge(version=2, amount_cents=2_499)) == {"quarantined": 1}
    assert await clinic.outcome(clinic.deletion("charge", "c-1", 2)) == {"quarantined": 1}
    assert await clinic.outcome(clinic.charge(version=2, amount_cents=20_000)) == {"posted": 1}
    assert await clinic.outcome(clinic.payment(version=2, amount_cents=2_000)) == {"posted": 1}
    assert (await company.get(f"/v1/charges/{charge['id']}"))["balance_cents"] == 20_000
    await company.post(f"/v1/payments/{receipt['id']}/refund", {"amount_cents": 500})
    assert await clinic.outcome(clinic.deletion("payment", "p-1", 3)) == {"quarantined": 1}
    await clinic.send(clinic.payment("p-2"))
    second = (await company.get("/v1/payments"))["items"][0]
    await company.post(f"/v1/payments/{second['id']}/reversal", {})
    assert await clinic.outcome(clinic.payment("p-2", version=2)) == {"quarantined": 1}
    assert await company.reasons() == {"charge_has_payments": 2, "already_refunded": 1, "already_reversed": 1}
    assert fold(await company.events()) == await company.totals()


# -- bad input -------------------------------------------------------------------------------------------------------

DATA: list[tuple[str, Any]] = [
    ("payment_id", ""),
    ("payment_id", "x" * 201),
    ("payment_id", "nul\x00"),
    ("payment_version", 0),
    ("payment_version", "1"),
    ("payment_version", True),
    ("payment_version", 2**70),
    ("amount_cents", -1),
    ("amount_cents", 25.0),
    ("amount_cents", "2500"),
    ("amount_cents", 10**12),
    ("method", "barter"),
    ("transaction_date", "2026-02-30"),
    ("transaction_date", 20260105),
    ("payment_type", "gift"),
    ("check_number", "two\nlines"),
    ("patient", None),
    ("patient.account_number", "\u202e"),
    ("patient.last_name", "a\x00b"),
    ("patient.date_of_birth", "yesterday"),
    ("emr_clinic_id", None),
]


def changed(event: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, name = path.split(".")
    data = json.loads(json.dumps(event["data"]))
    target = data
    for parent in parents:
        target = target[parent]
    target[name] = value
    return {**event, "id": str(uuid4()), "data": data}


@pytest.mark.parametrize(("path", "value"), DATA)
async def test_bad_data_is_refused_alone_and_quarantined_in_a_batch(clinic: Clinic, path: str, value: Any) -> None:
    bad = changed(clinic.payment("bad"), path, value)
    before = await clinic.company.stack.rows()
    refused = await clinic.send(bad, status=422)
    assert f"data.{path}" in {error["field"] for error in refused["errors"]}, refused
    assert await clinic.company.stack.rows() == before
    assert await clinic.outcome(clinic.payment("good"), bad) == {"posted": 1, "quarantined": 1}
    (row,) = await clinic.company.exceptions()
    assert row["reason"] == "invalid"
    assert f"data.{path}" in {error["field"].partition(".")[2] for error in row["detail"]["errors"]}


HOSTILE: list[tuple[str, Any]] = [
    ("a lone surrogate", "\ud800"),
    ("NUL", "\x00"),
    ("a number over 64 bits", 2**80),
    ("nested lists", json.loads("[" * 300 + "]" * 300)),
    ("many names", {str(n): n for n in range(5_000)}),
]


@pytest.mark.parametrize(("what", "value"), HOSTILE, ids=[what for what, _ in HOSTILE])
async def test_what_a_sender_adds_is_passed_over_or_quarantined_never_fatal(
    clinic: Clinic, what: str, value: Any
) -> None:
    event = clinic.payment("extra")
    event["data"]["extension"] = value
    good = clinic.payment("good")
    feed = await clinic.send(good, event)
    assert feed["posted"] + feed["quarantined"] == 2
    assert feed["posted"] >= 1
    for row in await clinic.company.exceptions():
        assert row["reason"] == "invalid"


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
async def test_an_envelope_that_cannot_be_read_refuses_all(clinic: Clinic, name: str) -> None:
    for value in (None, "", 7, "\ud800", "a\x00b", "x" * 300):
        bad = {**clinic.payment("bad"), name: value}
        before = await clinic.company.stack.rows()
        assert (await clinic.send(bad, status=422))["errors"]
        many = await clinic.send(clinic.payment("good"), bad, status=422)
        assert {error["field"] for error in many["errors"]} == {f"1.{name}"}
        assert await clinic.company.stack.rows() == before


async def test_bodies_that_are_no_events(clinic: Clinic) -> None:
    for body, status in (
        (b"", 400),
        (b"{", 400),
        (b"7", 422),
        (b'"x"', 422),
        (b"null", 422),
        (b"[7]", 422),
        (b"{}", 422),
    ):
        answer = await clinic.company.upload("emr", body, token=clinic.token)
        assert answer.status == status, (body, answer)
    assert (await clinic.send())["received"] == 0
    many = await clinic.company.upload(
        "emr", orjson.dumps([{}] * 10_001), token=clinic.token, **{"Content-Type": BATCH}
    )
    assert (many.status, many.fields) == (422, {"body": "too_many"})
    large = await clinic.company.upload("emr", b"[" + b" " * (8 << 20) + b"]", token=clinic.token)
    assert large.status == 413


async def test_a_batch_of_some_megabytes_is_one_request(clinic: Clinic) -> None:
    events = [clinic.payment(f"p-{n}", note="is passed over" * 500) for n in range(400)]
    assert len(orjson.dumps(events)) > 2 << 20
    assert await clinic.outcome(*events) == {"posted": 400}
    assert (await clinic.company.sums())["payments"] == 400


async def test_an_unknown_type_is_quarantined(clinic: Clinic) -> None:
    event = {**clinic.payment(), "type": "emr.payment.merged.v1"}
    assert (await clinic.send(event, status=422))["code"] == "unknown_type"
    assert await clinic.outcome(event, clinic.payment("p-2")) == {"posted": 1, "quarantined": 1}
    assert await clinic.company.reasons() == {"unknown_type": 1}


async def test_a_failed_append_is_quarantined_not_lost(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that the database refuses for a reason nobody foresaw is shown to a person, with its raw form."""
    await clinic.company.stack.owner.execute(
        "alter table payment_revision add constraint unforeseen check (amount_cents <> 66600)"
    )
    try:
        events = [clinic.payment(f"p-{n}", amount_cents=66_600 if n == 3 else 100) for n in range(6)]
        assert await clinic.outcome(*events) == {"posted": 5, "quarantined": 1}
    finally:
        await clinic.company.stack.owner.execute("alter table payment_revision drop constraint unforeseen")
    assert await clinic.company.reasons() == {"internal_error": 1}
    assert await clinic.outcome(events[3]) == {"posted": 1}


# -- over the bus ----------------------------------------------------------------------------------------------------


def message(event: Mapping[str, Any], *, binary: bool = False) -> Message:
    """An event as an EMR publishes it: structured, or with its attributes as headers."""
    if not binary:
        return Message(event["id"], event["type"], event["type"], json.dumps(event).encode(), {}, "application/json")
    headers = {f"ce-{name}": str(event[name]) for name in ("specversion", "id", "source", "type", "time")}
    return Message(event["id"], event["type"], event["type"], orjson.dumps(event["data"]), headers)


def story(clinic: Clinic, rng: random.Random, documents: int = 12) -> list[dict[str, Any]]:
    """Several payments and charges with one to four versions each, some deleted, some posted again."""
    events = []
    for n in range(documents):
        kind = rng.choice(("payment", "charge"))
        make = clinic.payment if kind == "payment" else clinic.charge
        for version in range(1, rng.randint(1, 4) + 1):
            if version > 1 and rng.random() < 0.3:
                events.append(clinic.deletion(kind, f"{kind}-{n}", version))
            else:
                fields: dict[str, Any] = {"amount_cents": rng.choice((100, 2_500, 7_300))}
                if kind == "payment":
                    fields["payment_type"] = rng.choice(("copay", "copay", "other", "internal"))
                    fields["method"] = rng.choice(("cash", "credit_card"))
                events.append(make(f"{kind}-{n}", version, **fields))
    return events


async def what_stands(company: Company) -> Any:
    """Payments, charges and totals, without ids, times and versions, which tell in what order things came."""
    payments = [
        {
            k: row[k]
            for k in ("external_id", "amount_cents", "unapplied_cents", "method", "deposit_date", "payment_type")
        }
        for row in (await company.get("/v1/payments", limit=500))["items"]
        if not row["withdrawn"]
    ]
    charges = [
        {k: row[k] for k in ("external_id", "amount_cents", "balance_cents", "procedure_code", "units")}
        for row in (await company.get("/v1/charges", limit=500))["items"]
        if row["status"] != "void"
    ]
    names = sorted(payments, key=lambda row: row["external_id"]), sorted(charges, key=lambda row: row["external_id"])
    figures = sorted((words[1:], value) for words, value in (await company.totals()).items())
    return (*names, figures)


@pytest.mark.parametrize("seed", range(5))
async def test_shuffled_and_repeated_versions_end_in_the_same_books(stack: LedgerStack, seed: int) -> None:
    rng = random.Random(seed)
    plain, shuffled = [await clinic_at(await stack.company()) for _ in range(2)]
    events = story(plain, rng)
    await plain.send(*events)
    # The same story told to another company.
    moved = json.loads(
        json.dumps(events)
        .replace(plain.source, shuffled.source)
        .replace(str(plain.company.locations[0]), str(shuffled.company.locations[0]))
    )
    messages = [message(event, binary=rng.random() < 0.5) for event in moved for _ in range(rng.choice((1, 1, 2)))]
    rng.shuffle(messages)
    consumer = EmrConsumer(stack.ledger)
    while messages:
        size = rng.randint(1, len(messages))
        assert set(await consumer.handle(messages[:size])) == {Outcome.DONE}
        messages = messages[size:]
    assert await what_stands(shuffled.company) == await what_stands(plain.company)
    assert await shuffled.company.reasons() == {}
    for clinic in (plain, shuffled):
        assert fold(await clinic.company.events()) == await clinic.company.totals()


async def test_a_day_of_a_source_is_one_feed_that_its_client_may_read(clinic: Clinic) -> None:
    consumer = EmrConsumer(clinic.company.stack.ledger)
    good, bad = clinic.payment(), clinic.event("payment", emr_payment(uuid4(), "p-2"))
    await consumer.handle([message(good), message(bad), message(good)])
    (feed,) = (await clinic.company.get("/v1/feeds", clinic.token))["items"]
    assert {name: feed[name] for name in ("channel", "state", *COUNTS)} == {
        "channel": "amqp",
        "state": "done",
        "received": 3,
        "posted": 1,
        "duplicates": 1,
        "ignored": 0,
        "quarantined": 1,
    }
    (row,) = (await clinic.company.get("/v1/exceptions", clinic.token))["items"]
    assert (row["reason"], row["feed_id"]) == ("unknown_clinic", feed["feed_id"])
    other = await clinic_at(clinic.company)
    assert (await clinic.company.get("/v1/feeds", other.token))["items"] == []
    assert (await clinic.company.send("GET", f"/v1/feeds/{feed['feed_id']}", token=other.token)).status == 404
    assert (await clinic.company.get("/v1/exceptions", other.token))["items"] == []


async def test_a_source_with_many_companies_is_led_by_its_clinics(stack: LedgerStack) -> None:
    companies = [await stack.company() for _ in range(3)]
    source = f"shared {uuid4()}"
    await stack.emr_client(companies[:2], source)
    events = [emr_event(source, "payment", emr_payment(company.locations[0], "p-1")) for company in companies]
    assert await EmrConsumer(stack.ledger).handle([message(event) for event in events]) == [Outcome.DONE] * 3
    assert [(await company.sums())["payments"] for company in companies] == [1, 1, 0]
    parked = await stack.owner.fetchval(
        "select count(*) from feed_exception where company_id = $1 and detail ->> 'source' = $2", NO_COMPANY, source
    )
    assert parked == 1


async def test_a_whole_batch_that_comes_again_doubles_nothing(clinic: Clinic) -> None:
    """As after a crash between commit and ack: postings, documents and exceptions are as they were."""
    consumer = EmrConsumer(clinic.company.stack.ledger)
    batch = [
        message(clinic.payment("p-1")),
        message(clinic.charge("c-1")),
        message(clinic.payment("p-1", 2, amount_cents=100)),
        message(changed(clinic.payment("p-2"), "amount_cents", -5)),
        message(clinic.event("payment", emr_payment(uuid4(), "p-3"))),
        message({**clinic.payment("p-1"), "id": "conflict", "data": {**clinic.payment("p-1", 2)["data"], "memo": "x"}}),
        message(clinic.payment("i", payment_type="internal")),
    ]
    assert await consumer.handle(batch) == [Outcome.DONE] * 7
    rows, stands = await clinic.company.rows(), await what_stands(clinic.company)
    assert rows["feed_exception"] == 3
    for _ in range(2):
        assert await EmrConsumer(clinic.company.stack.ledger).handle(batch) == [Outcome.DONE] * 7
    again = await clinic.company.rows()
    counted = {"feed_item", "company_book"}
    assert {k: v for k, v in again.items() if k not in counted} == {k: v for k, v in rows.items() if k not in counted}
    assert await what_stands(clinic.company) == stands
    (feed,) = (await clinic.company.get("/v1/feeds"))["items"]
    assert feed["received"] == sum(feed[name] for name in COUNTS[1:]) == 21
    assert (feed["posted"], feed["exceptions"]) == (3, 3)


async def test_books_that_are_away_leave_the_batch_to_come_again(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = clinic.company.stack.ledger
    batch = [message(clinic.payment(f"p-{n}")) for n in range(3)]

    async def away(self: Ledger, commands: Sequence[Any]) -> Any:
        raise Unavailable("The database is away")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "post_many", away)
        with pytest.raises(Unavailable):
            await EmrConsumer(ledger).handle(batch)
    assert await EmrConsumer(ledger).handle(batch) == [Outcome.DONE] * 3
    assert (await clinic.company.sums())["payments"] == 3


async def test_a_company_whose_books_are_not_open_yet_is_waited_for(stack: LedgerStack, clinic: Clinic) -> None:
    """The news of a location may overtake that of its company: its money must not be dropped meanwhile."""
    late = uuid4()
    place = uuid4()
    await stack.owner.execute(
        "insert into directory_location (company_id, location_id, version, code, name, emr_location_id)"
        " values ($1, $2, 1, 'E', 'Early', $3)",
        late,
        place,
        clinic_of(place),
    )
    await stack.owner.execute(
        "update directory_client set company_ids = company_ids || $1::uuid where client_id = $2", late, clinic.client
    )
    event = message(clinic.event("payment", emr_payment(place, "p-1")))
    with pytest.raises(Unavailable):
        await EmrConsumer(stack.ledger).handle([event])
    await stack.owner.execute(
        "insert into directory_company (company_id, version, code, name, service_type, time_zone, close_policy)"
        " values ($1, 1, 'LATE', 'Late', 'revequip', 'UTC', 'deposit_date')",
        late,
    )
    assert await EmrConsumer(stack.ledger).handle([event]) == [Outcome.DONE]
    assert await stack.owner.fetchval("select count(*) from payment where company_id = $1", late) == 1


UNREADABLE = [
    b"",
    b"not json",
    b"\xff\xfe",
    b"[]",
    b"7",
    b"{}",
    b"[" * 100_000,
    b'{"specversion": "1.0", "id": "1", "id": "2", "source": "s", "type": "t", "data": {}}',
    b'{"specversion": "1.0", "id": "\\ud800", "source": "s", "type": "t", "data": {}}',
    b'{"specversion": "1.0", "id": "1", "source": "s", "type": "a b", "data": {}}',
    b'{"specversion": "1.0", "id": "1", "source": "s\\u0000", "type": "t", "data": {}}',
    b'{"specversion": "0.3", "id": "1", "source": "s", "type": "t", "data": {}}',
    b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": NaN}',
    b'"' + b"x" * (1 << 20) + b'"',
]


async def test_a_message_that_is_no_event_is_parked_and_holds_nobody_up(clinic: Clinic) -> None:
    bad = [Message(f"m-{n}", "emr.payment.posted.v1", "emr.x", body) for n, body in enumerate(UNREADABLE)]
    answers = await EmrConsumer(clinic.company.stack.ledger).handle([*bad, message(clinic.payment())])
    assert answers == [Outcome.PARK] * len(bad) + [Outcome.DONE]
    assert (await clinic.company.sums())["payments"] == 1


async def test_hostile_data_in_a_readable_envelope_is_quarantined(clinic: Clinic) -> None:
    events = [
        {**clinic.payment(f"p-{n}"), "data": data} for n, data in enumerate(([], 7, None, "x", {"emr_clinic_id": 7}))
    ]
    for n, (_, value) in enumerate(HOSTILE):
        event = clinic.payment(f"h-{n}")
        event["data"]["extension"] = value
        event["data"]["amount_cents"] = -1
        events.append(event)
    for clinic_id in ("a\x00b", "\ud800", "x" * 5_000, ""):
        events.append(changed(clinic.payment(f"c-{clinic_id[:1]!r}"), "emr_clinic_id", clinic_id))
    answers = await EmrConsumer(clinic.company.stack.ledger).handle([message(event) for event in events])
    assert set(answers) == {Outcome.DONE}
    assert (await clinic.company.rows())["feed_exception"] == len(events)
    assert set(await clinic.company.reasons()) <= {"invalid", "unknown_clinic"}


async def test_a_batch_costs_the_same_however_many_events_it_has(clinic: Clinic) -> None:
    consumer = EmrConsumer(clinic.company.stack.ledger)
    await consumer.handle([message(clinic.payment("first"))])
    counts = []
    pool: Any = clinic.company.stack.ledger.pool
    for size in (1, 10, 200):
        queries: list[str] = []

        def record(row: Any, queries: list[str] = queries) -> None:
            if "insert into audit" not in row.query:  # Written meanwhile, many entries at a time.
                queries.append(row.query)

        for holder in pool._holders:
            if holder._con is not None:
                holder._con.add_query_logger(record)
        await consumer.handle([message(clinic.payment(f"{size}-{n}")) for n in range(size)])
        for holder in pool._holders:
            if holder._con is not None:
                holder._con.remove_query_logger(record)
        counts.append(len(queries))
    assert counts == [7, 7, 7], "three to route, two to count the attempt, two to post"


Started = Callable[[], Awaitable[tuple[Bus, Callable[[], Awaitable[int]]]]]


@pytest.fixture(params=["loopback", "amqp"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Bus, Callable[[], Awaitable[int]]]]:
    """A transport, and how many messages it has parked."""
    if request.param == "loopback":
        loopback = LoopbackBus()

        async def parked() -> int:
            return len(loopback.parked[SUBSCRIPTION.queue])

        yield loopback, parked
        await loopback.close()
        return
    url = request.getfixturevalue("amqp_url")
    amqp = AmqpBus(url)

    async def dead() -> int:
        return len(await dead_letters(url, SUBSCRIPTION.queue))

    yield amqp, dead
    await amqp.close()


async def test_over_a_transport(stack: LedgerStack, bus: tuple[Bus, Callable[[], Awaitable[int]]]) -> None:
    """Published as api.md says, in both modes, with repetitions and rubbish between; consumed by the feeds process."""
    transport, parked = bus
    clinic = await clinic_at(await stack.company())
    reference = await clinic_at(await stack.company())
    rng = random.Random(7)
    events = story(reference, rng)
    await reference.send(*events)
    moved = json.loads(
        json.dumps(events)
        .replace(reference.source, clinic.source)
        .replace(str(reference.company.locations[0]), str(clinic.company.locations[0]))
    )
    messages = [message(event, binary=rng.random() < 0.5) for event in moved for _ in range(2)]
    messages += [Message(f"rubbish-{n}", "emr.x", "emr.payment.posted.v1", b"rubbish") for n in range(3)]
    rng.shuffle(messages)
    await transport.declare([SUBSCRIPTION])
    stop = asyncio.Event()
    consuming = asyncio.create_task(EmrConsumer(stack.ledger).run(transport, stop))
    async with asyncio.timeout(60):
        while messages:
            answers = await transport.publish(EMR_FEED, messages[:50])
            accepted = answers.index(False) if False in answers else len(answers)
            messages = messages[accepted:]
            await asyncio.sleep(0.02)
        while await handled(clinic) < 2 * len(events):
            await asyncio.sleep(0.05)
    stop.set()
    await consuming
    assert await what_stands(clinic.company) == await what_stands(reference.company)
    assert await parked() == 3


async def handled(clinic: Clinic) -> int:
    return sum(feed["received"] for feed in (await clinic.company.get("/v1/feeds"))["items"])
