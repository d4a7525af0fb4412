"""FHIR in the watched directory: posted as by HTTP, refused with a reason, finished after a crash; and FHIR feeds that
were kept by a process which died before it had posted them."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.ledger.api.feeds import take_up_abandoned
from services.ledger.feeds import intake
from services.ledger.feeds.fhir_input import MAX_BYTES, FhirInput
from services.ledger.feeds.intake import Feed
from tests.support.drop import Drop, ended, process
from tests.support.feed_work import true
from tests.support.fhir_builder import Raw, body, bundle, charge_item, concept, detail, notice, patient, reconciliation
from tests.support.hl7_messages import ft1, message
from tests.support.ledger import FEED_TYPES, LedgerStack, clinic_of, counts


@pytest.fixture
async def drop(stack: LedgerStack, tmp_path: Path) -> Drop:
    company = await stack.company()
    await stack.emr_client([company])
    return Drop(company, tmp_path)


def a_day(drop: Drop, charges: int = 5) -> Raw:
    """Charges, a patient's payment and a payer's that pays the first charge; one resource that must wait."""
    place = {"identifier": {"value": clinic_of(drop.company.locations[0])}}
    items = [
        charge_item(
            "100.00",
            id=f"c{n}",
            identifier=[{"system": "urn:emr:charge", "value": f"C-{n}"}],
            performingOrganization=place,
        )
        for n in range(charges)
    ]
    money = [
        reconciliation("80.00", detail("80.00", "C-0")),
        notice("25.00", payee=place, request={"reference": "ChargeItem/c1"}),
    ]
    return bundle(
        *items, *money, reconciliation("9.00", detail("8.00"), id="bad", identifier=[{"value": "R-2"}]), patient()
    )


async def figures(drop: Drop) -> dict[str, Any]:
    """What the day has left in the books, without its names."""
    rows = (await drop.company.get("/v1/charges", limit=500))["items"]
    sums = await drop.company.sums()
    return {
        "charges": sorted((row["external_id"], row["amount_cents"], row["balance_cents"]) for row in rows),
        "sums": {name: sums[name] for name in ("payments", "amount_cents", "applied_cents")},
        "reasons": await drop.company.reasons(),
    }


async def test_a_file_is_posted_as_over_http(stack: LedgerStack, drop: Drop, tmp_path: Path) -> None:
    names = ("fhir/today.json", "Late.FHIR", "more.fhir.json")
    drop.put(names[0], body(a_day(drop)))
    drop.put(names[1], body(notice("5.00", identifier=[{"value": "N-9"}], payment={"identifier": {"value": "E9"}})))
    drop.put(names[2], body(bundle(concept_less(), patient())))
    await drop.watcher().look()
    assert drop.at("done") == ["fhir/Late.FHIR", "fhir/more.fhir.json", "fhir/today.json"]
    assert (drop.at("incoming"), drop.at("working"), drop.at("failed")) == ([], [], [])
    feeds = {feed["received"]: feed for feed in await drop.feeds()}
    assert {(feed["channel"], feed["format"], feed["state"]) for feed in feeds.values()} == {
        ("watched", "fhir", "done")
    }
    assert {feed["feed_id"] for feed in feeds.values()} == drop.feed_ids()
    assert counts(feeds[9]) == (9, 7, 0, 1, 1)
    content = next((drop.base / "done").rglob(f"{feeds[9]['feed_id']}-*")).read_bytes()
    assert (await drop.company.send("GET", f"/v1/feeds/{feeds[9]['feed_id']}/raw")).raw == content == body(a_day(drop))
    other = Drop(await stack.company(), tmp_path / "other")
    await stack.emr_client([other.company])
    answer = await stack.request(
        "POST",
        "/v1/feeds/fhir",
        other.company.token(),
        data=body(a_day(other)),
        headers={"Content-Type": FEED_TYPES["fhir"]},
    )
    assert counts(answer.body) == counts(feeds[9])
    posted = await figures(drop)
    assert posted.pop("reasons") == {"unbalanced": 1, "missing_patient": 1, "invalid_procedure_code": 1}
    expected = await figures(other)
    assert expected.pop("reasons") == {"unbalanced": 1}
    assert posted == expected
    assert len(posted["charges"]) == 5
    await true(drop.company)


def concept_less() -> Raw:
    return charge_item(code=concept("physio", None))


async def test_a_file_dropped_again_is_known_by_its_documents(drop: Drop) -> None:
    for _ in range(2):
        drop.put("fhir/a", body(a_day(drop)))
        await drop.watcher().look()
    first, second = sorted((counts(feed) for feed in await drop.feeds()), key=lambda one: -one[1])
    assert (first, second) == ((9, 7, 0, 1, 1), (9, 0, 7, 1, 1))
    assert (await drop.company.sums())["amount_cents"] == 80_00 + 25_00


@pytest.mark.parametrize(
    ("content", "code", "detail"),
    [
        (b"{", "fhir_unreadable", "not_json: The body is not valid JSON in UTF-8"),
        (b'{"resourceType": "Bundle", "type": "history"}', "fhir_unreadable", "unsupported_bundle: "),
        (body(bundle()), "fhir_unreadable", "nothing_known: "),
        (b'{"resourceType": "Roe"}', "fhir_unreadable", "unknown_resource: "),
        (body(patient()) + b" " * MAX_BYTES, "too_large", ""),
    ],
    ids=["not JSON", "another Bundle", "empty Bundle", "no resource", "too large"],
)
async def test_what_http_refuses_fails_with_its_reason(drop: Drop, content: bytes, code: str, detail: str) -> None:
    before = await drop.company.rows()
    drop.put("fhir/Roe Jane.json", content)
    await drop.watcher().look()
    assert (drop.at("working"), drop.at("done"), drop.at("failed")) == ([], [], ["fhir/Roe Jane.json"])
    (reason,) = (drop.base / "failed").rglob("*.reason.json")
    said = json.loads(reason.read_bytes())
    assert said["code"] == code
    assert said["detail"].startswith(detail)
    assert b"Roe" not in reason.read_bytes()
    assert await drop.company.rows() == before


# -- processes that die ----------------------------------------------------------------------------------------------


@pytest.mark.fault
@pytest.mark.parametrize(
    "place",
    [
        "watched.after_claim",
        "ledger.before_append",
        "ledger.after_commit",
        "fhir.after_chunk",
        "fhir.after_chunk#2",
        "watched.after_commit",
        "watched.after_move",
    ],
)
async def test_after_a_crash_a_file_is_finished_and_nothing_doubles(drop: Drop, place: str) -> None:
    drop.put("fhir/a.json", body(a_day(drop, 300)))
    assert await ended(process(drop, place)) == -signal.SIGKILL
    await asyncio.gather(*(drop.watcher().look() for _ in range(2)))
    assert (drop.at("done"), drop.at("working"), drop.at("failed")) == (["fhir/a.json"], [], [])
    (feed,) = await drop.feeds()
    assert ({feed["feed_id"]}, feed["state"]) == (drop.feed_ids(), "done")
    assert counts(feed) == (304, 302, 0, 1, 1)
    assert await drop.company.reasons() == {"unbalanced": 1}
    assert (await drop.company.sums())["amount_cents"] == 80_00 + 25_00
    await true(drop.company)


async def abandoned(stack: LedgerStack) -> None:
    """Minutes pass, and other processes look for what nobody works on."""
    await stack.owner.execute("update feed set worked_at = worked_at - interval '3 minutes'")
    assert stack.client.app is not None
    app = stack.client.app
    await asyncio.gather(*(take_up_abandoned(app) for _ in range(3)))


async def kept(stack: LedgerStack, drop: Drop, content: bytes, client_id: str | None, **more: Any) -> Feed:
    """A feed as a process leaves it that dies before it has posted anything."""
    feed = Feed(drop.company.company_id, uuid4(), "fhir", "emr")
    said: dict[str, Any] = {"channel": "http", "sender": client_id or "tests", "body_hash": b"1", "chunks": [content]}
    said["reading"] = FhirInput(client_id=client_id).model_dump_json()
    await intake.open_feed(stack.ledger.pool, feed, **{**said, **more})
    return feed


async def test_a_feed_whose_process_died_is_worked_off(stack: LedgerStack, drop: Drop) -> None:
    feed = await kept(stack, drop, body(a_day(drop)), None)
    await abandoned(stack)
    found = await drop.company.get(f"/v1/feeds/{feed.feed_id}")
    assert (found["state"], counts(found)) == ("done", (9, 7, 0, 1, 1))
    await abandoned(stack)
    assert (await drop.company.sums())["amount_cents"] == 80_00 + 25_00
    await true(drop.company)


async def test_it_is_worked_off_by_the_word_of_who_sent_it(stack: LedgerStack, drop: Drop) -> None:
    """A client may name its own sources only, also when another process finishes what it sent."""
    await stack.emr_client([drop.company], "emr://other")
    mine = await stack.emr_client([drop.company], "emr://mine")
    for source, expected in (("emr://mine", (2, 1, 0, 1, 0)), ("emr://other", (2, 0, 0, 1, 1))):
        place = {"identifier": {"value": clinic_of(drop.company.locations[0])}}
        item = charge_item(performingOrganization=place, meta={"source": source})
        feed = await kept(stack, drop, body(bundle(item, patient())), mine)
        await abandoned(stack)
        found = await drop.company.get(f"/v1/feeds/{feed.feed_id}")
        assert (found["state"], counts(found)) == ("done", expected)
    assert await drop.company.reasons() == {"unknown_source": 1}


async def test_what_was_not_kept_whole_is_closed(stack: LedgerStack, drop: Drop) -> None:
    """Its sender got no answer and sends it again."""
    content = body(a_day(drop))
    torn = await kept(stack, drop, content[:100], None, byte_count=len(content))
    nameless = await kept(stack, drop, content, None, reading=None)
    await abandoned(stack)
    for feed in (torn, nameless):
        found = await drop.company.get(f"/v1/feeds/{feed.feed_id}")
        assert (found["state"], counts(found)) == ("done", (0, 0, 0, 0, 0))


@pytest.mark.parametrize("kind", ["fhir", "hl7"])
async def test_a_file_whose_feed_was_not_kept_whole_is_not_lost(
    stack: LedgerStack, drop: Drop, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its watcher dies while it keeps the file, and is away while others close what nobody works on."""
    content = body(a_day(drop)) if kind == "fhir" else message(ft1("PY", "TX1", "10.00"), control_id="C1")
    drop.put(f"{kind}/a", content)
    watcher = drop.watcher()

    def away(*_: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as patch:
        if kind == "fhir":
            patch.setattr(intake, "add_chunk", away)
        else:
            patch.setattr("services.ledger.feeds.watched.receive_file", away)
        await watcher.look()
    assert drop.at("working") == [f"{kind}/a"]
    await abandoned(stack)
    await watcher.look()
    assert drop.at("done") == [f"{kind}/a"]
    (feed,) = await drop.feeds()
    assert counts(feed)[:2] == ((9, 7) if kind == "fhir" else (1, 1))


async def test_a_resource_that_waited_before_an_interruption_goes_on_waiting(stack: LedgerStack, drop: Drop) -> None:
    """What made it wait is gone meanwhile: it must not be posted behind its own count."""
    place = {"identifier": {"value": clinic_of(drop.company.locations[0])}}
    item = charge_item(performingOrganization=place)
    nameless = patient(name=None, birthDate=None)
    feed = await kept(stack, drop, body(bundle(item, nameless)), None)
    await abandoned(stack)
    found = await drop.company.get(f"/v1/feeds/{feed.feed_id}")
    assert counts(found) == (2, 0, 0, 1, 1), await drop.company.exceptions()
    await drop.company.post(
        "/v1/patients",
        {"account_number": "ABC-1001", "first_name": "J", "last_name": "R", "date_of_birth": "1980-02-29"},
    )
    await stack.owner.execute("update feed set state = 'processing' where feed_id = $1", feed.feed_id)
    await abandoned(stack)
    assert (await drop.company.get("/v1/charges"))["items"] == []
    (row,) = await drop.company.exceptions(state="open")
    tried = await drop.company.send("POST", f"/v1/exceptions/{row['id']}/retry", key="")
    assert tried.body["state"] == "retried"
    assert counts(await drop.company.get(f"/v1/feeds/{feed.feed_id}")) == (2, 1, 0, 1, 0)
