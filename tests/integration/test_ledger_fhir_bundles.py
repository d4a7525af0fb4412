"""FHIR Bundles by HTTP on a real database: whatever their order, size and number, each resource counts once."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.reader import ACCEPTED
from tests.support.fhir_builder import Raw, body, bundle, detail, patient, reconciliation
from tests.support.fhir_sender import Sender, line
from tests.support.ledger import COUNTS, LedgerStack, patient_body, together

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples" / "fhir"


# ---- counting, in any order


def beside(sender: Sender) -> list[Raw]:
    """What the others refer to: a patient, and a draft that posts nothing."""
    return [patient(), sender.claim(line(1), id="draft", status="draft")]


def a_day(sender: Sender) -> list[Raw]:
    """Versions and voids of several documents, and the payments for them."""
    claims = [
        sender.claim(*lines, version=version, identifier=[{"value": f"CLM-{number}"}], id=f"cl{number}", status=status)
        for number in (1, 2, 3)
        for version, lines, status in (
            (1, [line(1), line(2, "45.00", "97140")], "active"),
            (2, [line(2, "50.00", "97140"), line(3, "10.00", "97530")], "active"),
            (3, [line(1, "70.00")], "active" if number < 3 else "cancelled"),
        )
    ]
    items = [
        sender.charge_item(price, identifier=[{"value": f"C-{number}"}], meta={"versionId": str(version)})
        for number in (1, 2)
        for version, price in ((1, "10.00"), (2, "20.00"), (5, "0.00" if number == 2 else "33.00"))
    ]
    notices = [
        sender.notice(
            amount,
            payment={"identifier": {"value": "CASH-1"}},
            meta={"versionId": str(version)},
            request={"reference": "Claim/draft"},
        )
        for version, amount in ((1, "25.00"), (2, "15.00"))
    ]
    paid = [
        reconciliation(amount, meta={"versionId": str(version)}, identifier=[{"value": "R-1"}])
        for version, amount in ((1, "80.00"), (2, "70.00"))
    ]
    return [*claims, *items, *notices, *paid]


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_and_any_packing_comes_to_the_same_books(stack: LedgerStack, seed: int) -> None:
    draw = random.Random(seed)
    plain, mixed = await Sender.made(stack), await Sender.made(stack)
    for resource in a_day(plain):
        assert (await plain.feed(bundle(resource, *beside(plain))))["quarantined"] == 0
    sent = [*a_day(mixed), *a_day(mixed)]
    draw.shuffle(sent)
    total: Counter[str] = Counter()
    while sent:
        some, sent = sent[: (size := draw.randint(1, 12))], sent[size:]
        feed = await mixed.feed(bundle(*some, *beside(mixed)))
        total.update({name: feed[name] for name in COUNTS})
        assert feed["quarantined"] == 0, await mixed.company.exceptions()
    assert total["received"] == sum(total[name] for name in COUNTS[1:])
    assert await mixed.charges() == await plain.charges() != {}
    assert await mixed.company.sums() == await plain.company.sums()
    assert (await mixed.company.sums())["amount_cents"] == 85_00
    await mixed.consistent()


async def test_states_that_come_at_the_same_moment(stack: LedgerStack) -> None:
    sender, other = await Sender.made(stack), await Sender.made(stack)
    states = [
        sender.claim(
            *(line(n, "10.00") for n in range(version, version + 3)),
            version=version,
            facility=None,
            provider={"display": "PT"},
        )
        for version in range(1, 9)
    ]
    sent = [bundle(one, patient()) for one in states]
    draw = random.Random(1)
    for _ in range(3):
        draw.shuffle(sent)
        answers = await together(*(sender.answer(body(one)) for one in sent))
        assert {answer.status for answer in answers} <= {200, 503}
    assert (await sender.feed(bundle(*states, patient())))["posted"] == 0
    # And in one Bundle where nothing was before.
    assert await other.send(*states) == (8, 8, 0, 0, 0)
    assert await other.charges() == await sender.charges()
    assert await sender.charges() == {"CLM-5": [("97110", 10_00, 10_00)] * 3}
    assert await sender.company.reasons() == {}
    await sender.consistent()


async def test_an_interrupted_feed_is_finished_when_it_comes_again(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    content = body(
        bundle(sender.claim(line(1)), sender.charge_item(), patient(), reconciliation("80.00", detail("79.00")))
    )
    first = await sender.feed(content)
    await stack.owner.execute("update feed set state = 'processing' where feed_id = $1", first["feed_id"])
    await stack.owner.execute("delete from feed_item where feed_id = $1 and item_key like '1 %'", first["feed_id"])
    again = await sender.feed(content)
    assert again["feed_id"] == first["feed_id"]
    assert again["received"] == 4
    assert await sender.charges() == {"CLM-5": [("97110", 120_00, 120_00)], "C-77": [("97110", 120_00, 120_00)]}
    assert await sender.company.reasons() == {"unbalanced": 1}


async def test_a_bundle_of_the_largest_size(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    entries = [{"resource": {"resourceType": "Basic"}}] * 9_000 + [{"resource": {"resourceType": "Bsaic"}}] * 1_000
    feed = await sender.feed(body({"resourceType": "Bundle", "type": "collection", "entry": entries}))
    assert [feed[name] for name in COUNTS] == [10_000, 0, 0, 9_000, 1_000]


async def test_hundreds_of_claims_in_one_bundle(stack: LedgerStack) -> None:
    """More than one chunk, with two states of each claim."""
    sender = await Sender.made(stack)
    claims = [
        sender.claim(*lines, version=version, id=f"c{number}", identifier=[{"value": f"N{number}"}])
        for number in range(230)
        for version, lines in ((2, [line(1, "10.00")]), (1, [line(1, "11.00"), line(2, "5.00")]))
    ]
    assert await sender.send(*claims) == (460, 230, 0, 230, 0)
    rows = (await sender.company.rows())["charge"]
    assert rows == 230
    again = await sender.send(*claims[:40])
    assert again == (40, 0, 20, 20, 0)


# ---- the samples


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
async def test_sample(stack: LedgerStack, path: Path) -> None:
    """Every resource is posted, ignored or quarantined as its reader says; sent again, nothing changes."""
    sender = await Sender.made(stack)
    content = path.read_bytes()
    states = Counter(outcome.state for outcome in outcomes(content))
    # The samples name providers of their own as places, and patients by number only.
    mapped = [{"alias": name, "location_id": str(sender.company.locations[0])} for name in ("1", "2")]
    agreed = {"clinics": mapped, "payers": [], "procedures": []}
    assert (await sender.company.send("PUT", "/v1/feed-mappings", agreed)).status == 200
    await sender.company.post("/v1/patients", patient_body("1"))
    if not states["facts"] and not states["ignored"] and not any(o.kind in ACCEPTED for o in outcomes(content)):
        assert (await sender.answer(content)).status == 422
        return
    feed = await sender.feed(content)
    expected = [states.total(), states["facts"], 0, states["ignored"], states["refused"]]
    assert [feed[name] for name in COUNTS] == expected, await sender.company.exceptions()
    sums, charges = await sender.company.sums(), await sender.charges()
    again = await sender.feed(content)
    assert [again[name] for name in COUNTS] == [
        states.total(),
        0,
        states["facts"],
        states["ignored"],
        states["refused"],
    ]
    assert (await sender.company.sums(), await sender.charges()) == (sums, charges)
    raw = await sender.company.send("GET", f"/v1/feeds/{feed['feed_id']}/raw")
    assert raw.raw == content
