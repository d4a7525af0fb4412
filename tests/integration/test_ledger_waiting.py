"""Adjustments that come before their charge: they wait in the quarantine, counted there, and are posted once with the
charge, by whatever way that comes.

Decided here where the rules are silent:

* The adjustment is tried with every state of its charge that is posted, so that one above the balance, or of a charge
  that was taken back, waits for a later state as well.
* Of several that wait for one charge the oldest comes first; what the balance does not allow goes on waiting.
* An exception that a person has closed waits for nothing any more.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.ledger import store
from shared.access.policy import EMR_CLIENT
from tests.support.csv_files import CHARGES, agree
from tests.support.drop import Drop, ended, process
from tests.support.emr import Emr
from tests.support.feed_work import true
from tests.support.fhir_builder import body, bundle, charge_item, patient
from tests.support.hl7_messages import ft1, message
from tests.support.ledger import COUNTS, Company, LedgerStack, clinic_of, counts

Step = Callable[[], Awaitable[Any]]


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await stack.company()


async def send(company: Company, *lines: str, control_id: str, **more: str) -> str:
    """A message; the id of its feed."""
    answer = await company.upload("hl7v2", message(*lines, control_id=control_id, **more))
    assert answer.status == 200, answer
    return answer.headers["X-Feed-Id"]


async def counted(company: Company, feed_id: str) -> tuple[int, ...]:
    return counts(await company.get(f"/v1/feeds/{feed_id}"))


async def all_add_up(company: Company) -> Counter[str]:
    """received = posted + duplicates + ignored + quarantined, of every feed; the sums of all of them."""
    summed: Counter[str] = Counter()
    for feed in (await company.get("/v1/feeds", limit=500))["items"]:
        assert feed["received"] == sum(feed[name] for name in COUNTS[1:]), feed
        summed.update({name: feed[name] for name in COUNTS})
    return summed


async def charges(company: Company) -> dict[str, tuple[int, int]]:
    """Amount and what was adjusted of each charge that stands, by the last part of its name."""
    rows = (await company.get("/v1/charges", limit=500))["items"]
    return {
        str(row["external_id"]).rpartition("|")[2]: (row["amount_cents"], row["adjusted_cents"])
        for row in rows
        if row["status"] != "void"
    }


async def replacements(company: Company) -> None:
    answer = await company.send(
        "PUT", "/v1/feed-profiles/EMR%7CCLINIC", {"voids": ["cd_same_id", "replacement"]}, key=""
    )
    assert answer.status == 200, answer


# ---- by whatever way its charge comes


async def test_it_waits_and_is_posted_with_its_charge(company: Company) -> None:
    early = await send(company, ft1("AJ", "AJ1", "-40.00", f31="TX1"), control_id="A1")
    assert await counted(company, early) == (1, 0, 0, 0, 1)
    assert await company.reasons(state="open") == {"unknown_charge": 1}
    await send(company, ft1("CG", "TX2", "70.00"), control_id="C0")
    assert await counted(company, early) == (1, 0, 0, 0, 1), "that was another charge"
    charge = await send(company, ft1("CG", "TX1", "120.00"), control_id="C1")
    assert await counted(company, charge) == await counted(company, early) == (1, 1, 0, 0, 0)
    assert await charges(company) == {"TX1": (12_000, 4_000), "TX2": (7_000, 0)}
    (row,) = await company.exceptions()
    assert row["state"] == "retried"
    history = (await company.get(f"/v1/exceptions/{row['id']}"))["history"]
    assert [(one["action"], one["reason"]) for one in history] == [("retried", "posted")]
    again = await send(company, ft1("AJ", "AJ1", "-40.00", f31="TX1"), control_id="A2")
    assert await counted(company, again) == (1, 0, 1, 0, 0)
    await send(company, ft1("CG", "TX1", "120.00"), control_id="C2", time="20260118000000")
    assert await charges(company) == {"TX1": (12_000, 4_000), "TX2": (7_000, 0)}
    await true(company)


async def by_emr(company: Company, account: str) -> None:
    emr = await Emr.of(company)
    person = {"account_number": account, "first_name": "P", "last_name": "D", "date_of_birth": "1980-01-01"}
    feed = await emr.send(emr.charge(f"c-{account}", patient=person, amount_cents=10_000))
    assert feed["posted"] == 1, feed


async def by_fhir(company: Company, account: str) -> None:
    person = patient(identifier=[{"type": {"coding": [{"code": "MR"}]}, "value": account}])
    place = {"identifier": {"value": clinic_of(company.locations[0])}}
    item = charge_item("100.00", identifier=[{"value": account}], performingOrganization=place)
    client = await company.stack.emr_client([company], f"urn:{account}")
    token = company.token(EMR_CLIENT, client_id=client)
    answer = await company.upload("fhir", body(bundle(item, person)), token=token)
    assert answer.body["posted"] == 1, answer


async def by_csv(company: Company, account: str) -> None:
    await agree(company, CHARGES)
    row = f"{clinic_of(company.locations[0])};{account};P;D;01.01.1980;05.01.2026;97110;GP;;100,00;M54.5"
    path, head = "/v1/feeds/csv?profile=bank", {"Content-Type": "text/csv"}
    answer = await company.stack.request(
        "POST", path, company.token(), data=f"Charges\n{row}\n".encode("windows-1252"), headers=head
    )
    assert answer.body["posted"] == 1, answer


async def by_hand(company: Company, account: str) -> None:
    await company.charge(await company.patient(account), external_id=account)


async def by_hl7(company: Company, account: str) -> None:
    await send(company, ft1("CG", f"TX{account}", "100.00"), control_id=f"C{account}", account=account)


WAYS = {"emr": by_emr, "fhir": by_fhir, "csv": by_csv, "hand": by_hand, "hl7": by_hl7}


@pytest.mark.parametrize("way", WAYS)
async def test_without_a_name_it_waits_for_the_patients_charge_of_that_day(company: Company, way: str) -> None:
    early = await send(company, ft1("AJ", "AJ1", "-40.00"), control_id="A1", account="W-1")
    await by_hand(company, "W-2")
    assert await counted(company, early) == (1, 0, 0, 0, 1)
    await WAYS[way](company, "W-1")
    assert await counted(company, early) == (1, 1, 0, 0, 0), await company.exceptions()
    assert sorted((await charges(company)).values()) == [(10_000, 0), (10_000, 4_000)]
    await all_add_up(company)
    await true(company)


async def test_it_may_stand_before_its_charge_in_one_message(company: Company) -> None:
    lines = ft1("AJ", "AJ1", "-40.00", f31="TX1"), ft1("CG", "TX1", "120.00")
    assert await counted(company, await send(company, *lines, control_id="A1")) == (2, 2, 0, 0, 0)
    assert await charges(company) == {"TX1": (12_000, 4_000)}
    assert await company.exceptions() == []


async def test_told_twice_while_it_waits_it_is_posted_once(company: Company) -> None:
    feeds = [
        await send(company, ft1("AJ", "AJ1", "-40.00", f31="TX1"), control_id=f"A{n}", time=f"2026011510{n}000")
        for n in range(3)
    ]
    await send(company, ft1("CG", "TX1", "120.00"), control_id="C1")
    assert await charges(company) == {"TX1": (12_000, 4_000)}
    assert [await counted(company, feed) for feed in feeds] == [(1, 1, 0, 0, 0), (1, 0, 1, 0, 0), (1, 0, 1, 0, 0)]
    assert await company.reasons(state="open") == {}


# ---- what still cannot be posted when the charge comes


async def test_what_is_above_the_balance_goes_on_waiting_and_says_why(company: Company) -> None:
    await replacements(company)
    for n in (1, 2):
        await send(company, ft1("AJ", f"AJ{n}", "-80.00", f31="TX1"), control_id=f"A{n}")
    for n in (1, 2):
        await send(company, ft1("CG", "TX1", "100.00"), control_id=f"C{n}", time=f"2026011611{n}000")
        assert await charges(company) == {"TX1": (10_000, 8_000)}
    (row,) = await company.exceptions(state="open")
    history = (await company.get(f"/v1/exceptions/{row['id']}"))["history"]
    assert [(one["action"], one["reason"]) for one in history] == [("retry_failed", "over_applied")]
    await send(company, ft1("CG", "TX1", "200.00"), control_id="C3", time="20260117110000")
    assert (await charges(company))["TX1"] == (20_000, 16_000)
    assert await company.reasons(state="open") == {}
    await all_add_up(company)
    await true(company)


async def test_what_a_person_closed_waits_for_nothing(company: Company) -> None:
    early = await send(company, ft1("AJ", "AJ1", "-40.00", f31="TX1"), control_id="A1")
    (row,) = await company.exceptions()
    await company.post(f"/v1/exceptions/{row['id']}/dismiss", {"note": "done by hand"}, status=200, key="")
    await send(company, ft1("CG", "TX1", "120.00"), control_id="C1")
    assert await charges(company) == {"TX1": (12_000, 0)}
    assert await counted(company, early) == (1, 0, 0, 0, 1)


async def test_what_a_person_closes_in_that_moment_holds_up_no_charge(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(company, ft1("AJ", "AJ1", "-40.00", f31="TX1"), control_id="A1")
    (row,) = await company.exceptions()
    real, appended = store.append, 0

    async def append(*arguments: Any) -> None:
        nonlocal appended
        appended += 1
        if appended == 1:
            await company.post(f"/v1/exceptions/{row['id']}/dismiss", {"note": "by hand"}, status=200, key="")
        await real(*arguments)

    monkeypatch.setattr(store, "append", append)
    feed = await send(company, ft1("CG", "TX1", "120.00"), control_id="C1")
    assert appended == 2
    assert await counted(company, feed) == (1, 1, 0, 0, 0)
    assert await charges(company) == {"TX1": (12_000, 0)}
    (row,) = await company.exceptions()
    assert row["state"] == "dismissed"


async def test_what_waited_for_something_else_waits_for_its_charge_afterwards(stack: LedgerStack) -> None:
    company = await stack.company(locations=2)
    early = await send(company, ft1("AJ", "AJ1", "-40.00", f31="TX1"), control_id="A1")
    assert await company.reasons() == {"unknown_clinic": 1}
    await stack.owner.execute(
        "update directory_location set emr_location_id = 'CLINIC' where location_id = $1", company.locations[1]
    )
    (row,) = await company.exceptions()
    tried = await company.post(f"/v1/exceptions/{row['id']}/retry", status=200, key="")
    assert (tried["state"], [one["reason"] for one in tried["history"]]) == ("open", ["unknown_charge"])
    await send(company, ft1("CG", "TX1", "120.00"), control_id="C1")
    assert await charges(company) == {"TX1": (12_000, 4_000)}
    assert await counted(company, early) == (1, 1, 0, 0, 0)


async def test_a_charge_by_hand_finds_it_on_remembered_books(company: Company) -> None:
    """The books of a moment ago do not say what waits by now, here or by the doing of another process."""
    person = await company.patient("W-1")
    for n in range(3):
        await company.charge(person, date_of_service=f"2026-01-1{n}")
    await send(company, ft1("AJ", "AJ1", "-40.00"), control_id="A1", account="W-1")
    await company.charge(await company.patient("W-2"))
    await asyncio.sleep(0.6)
    await company.payment(patient_id=person["id"])
    await company.charge(person)
    rows = (await company.get("/v1/charges", limit=500))["items"]
    assert sum(row["adjusted_cents"] for row in rows) == 4_000, await company.exceptions()
    assert await company.reasons(state="open") == {}


# ---- any order


def a_day(company: Company) -> list[Step]:
    """Charges in versions, one of them taken back; adjustments by name and by day, some told twice."""

    def step(*lines: str, **more: str) -> Step:
        return partial(send, company, *lines, **more)

    steps = [
        step(ft1("CG", "TX1", "50.00"), control_id="C1", time="20260115080000"),
        step(ft1("CG", "TX1", "100.00"), control_id="C2", time="20260115090000"),
        step(ft1("AJ", "AJ1", "-80.00", f31="TX1"), control_id="A1"),
        step(ft1("AJ", "AJ2", "-20.00", f31="TX1"), control_id="A2"),
        step(ft1("AJ", "AJ2", "-20.00", f31="TX1"), control_id="A2 again"),
        step(ft1("CG", "TX3", "60.00", code="97140"), control_id="C3"),
        step(ft1("AJ", "AJ3", "-60.00", f31="TX3"), ft1("PY", "PY3", "3.00"), control_id="A3"),
        step(ft1("CG", "TX4", "40.00", code="97530"), control_id="C4"),
        step(ft1("CD", "TX4", "40.00", code="97530"), control_id="V4", time="20260116080000"),
        step(ft1("AJ", "AJ5", "-5.00", f31="TX5"), ft1("CG", "TX5", "30.00", code="97112"), control_id="C5"),
    ]
    for n, way in enumerate(WAYS.values()):
        account = f"W-{n}"
        steps.append(partial(way, company, account))
        steps.append(step(ft1("AJ", f"DAY{n}", "-10.00"), control_id=f"D{n}", account=account))
    return steps


@pytest.mark.parametrize("seed", range(8))
async def test_a_day_in_any_order_comes_to_the_same_end(stack: LedgerStack, seed: int) -> None:
    company = await stack.company()
    await replacements(company)
    steps = a_day(company)
    chance = random.Random(seed)
    if seed:
        chance.shuffle(steps)
    for one in steps:
        await one()
        await all_add_up(company)
    found = await charges(company)
    assert {name: found[name] for name in ("TX1", "TX3", "TX5")} == {
        "TX1": (10_000, 10_000),
        "TX3": (6_000, 6_000),
        "TX5": (3_000, 500),
    }
    assert "TX4" not in found
    rest = [one for name, one in found.items() if name not in ("TX1", "TX3", "TX5")]
    assert rest == [(10_000, 1_000)] * len(WAYS)
    assert await company.reasons(state="open") == {}
    summed = await all_add_up(company)
    assert (summed["received"], summed["duplicates"], summed["quarantined"]) == (22, 1, 0)
    await true(company)


@pytest.mark.parametrize("seed", range(4))
async def test_at_the_same_moment(stack: LedgerStack, seed: int) -> None:
    """Whichever of the two is committed first, the other one finds it."""
    company = await stack.company()
    steps: list[Step] = []
    for n in range(12):
        steps.append(partial(send, company, ft1("AJ", f"AJ{n}", "-40.00", f31=f"TX{n}"), control_id=f"A{n}"))
        steps.append(partial(send, company, ft1("CG", f"TX{n}", "100.00", code=f"971{n:02}"), control_id=f"C{n}"))
    random.Random(seed).shuffle(steps)
    await asyncio.gather(*(one() for one in steps))
    assert await charges(company) == {f"TX{n}": (10_000, 4_000) for n in range(12)}
    assert await company.reasons(state="open") == {}
    assert (await all_add_up(company))["posted"] == 24
    await true(company)


@pytest.mark.fault
@pytest.mark.parametrize("place", ["ledger.before_append", "ledger.after_commit", "watched.after_commit"])
@pytest.mark.parametrize("first", ["adjustment", "charge"])
async def test_a_process_that_dies_doubles_and_loses_nothing(
    company: Company, tmp_path: Path, place: str, first: str
) -> None:
    drop = Drop(company, tmp_path)
    adjustment = message(ft1("AJ", "AJ1", "-40.00", f31="TX1"), control_id="A1")
    charge = message(ft1("CG", "TX1", "120.00"), control_id="C1")
    drop.put("hl7/1", adjustment)
    if first == "charge":  # The adjustment waits already when the process dies with the charge.
        await drop.watcher().look()
        drop.put("hl7/2", charge)
    assert await ended(process(drop, place)) == -signal.SIGKILL
    if first == "adjustment":
        drop.put("hl7/2", charge)
    await drop.watcher().look()
    assert (len(drop.at("done")), drop.at("working"), drop.at("failed")) == (2, [], [])
    assert await charges(company) == {"TX1": (12_000, 4_000)}
    assert await company.reasons(state="open") == {}
    assert (await all_add_up(company))["posted"] == 2
    await true(company)
