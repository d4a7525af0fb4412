"""Remittances in many chunks: interrupted and begun again, worked off later, and nobody else held up."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from datetime import date, timedelta
from uuid import uuid4

import pytest

from services.ledger.api.feeds import take_up_abandoned
from services.ledger.deciding import Verdict
from services.ledger.domain.commands import Command
from services.ledger.feeds import intake, remittances
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.remittance_claims import pieces_of
from services.ledger.service import Ledger
from tests.support.feed_work import charge_of, check, claim, service
from tests.support.ledger import Company, LedgerStack
from tests.support.quiet import least
from tests.support.remittances import proven, sent
from tests.support.x12_builder import Payment, ProviderLevel, x12_file


def large(claims: int, name: str, lines: int = 4) -> Payment:
    """A check of many claims: each with so many lines of which every other has a charge."""
    return check(
        *(
            claim(f"{name}{n}", *(service(on=date(2026, 1, 5) + timedelta(days=d)) for d in range(lines)), icn=f"I{n}")
            for n in range(claims)
        ),
        trace=f"BIG-{name}",
    )


async def charges_of_large(company: Company, claims: int, name: str) -> None:
    payer = await company.payer()
    for n in range(0, claims, 5):
        patient = await company.patient(f"{name}{n}")
        for day in range(0, 4, 2):
            on = str(date(2026, 1, 5) + timedelta(days=day))
            await company.charge(patient, payer_id=payer["id"], date_of_service=on)


async def test_a_large_remittance_interrupted_and_begun_again_equals_the_clean_run(stack: LedgerStack) -> None:
    """Four chunks of claims and another check; the process dies after each in turn, then the same bytes come again."""
    body = x12_file([large(250, "L"), check(claim("nobody", service()), trace="AFTER")])
    clean = await stack.company()
    await charges_of_large(clean, 250, "L")
    feed = await sent(clean, body)
    assert (feed["received"], feed["posted"]) == (2, 2)
    expected = await clean.sums()
    reasons = await clean.reasons()
    assert expected["applied_cents"] == 250 // 5 * 2 * 8_000
    assert (await clean.get("/v1/payments"))["items"][1]["location_id"] == str(clean.locations[0])

    for survived in range(5):
        company = await stack.company()
        await charges_of_large(company, 250, "L")
        await interrupted(stack, company, body, survived)
        half = (await company.get("/v1/feeds"))["items"][0]
        assert half["state"] == "processing"
        finished = await sent(company, body)
        assert finished["feed_id"] == half["feed_id"], "the same bytes finish what was begun"
        assert {k: finished[k] for k in ("received", "posted", "duplicates", "exceptions")} == {
            k: feed[k] for k in ("received", "posted", "duplicates", "exceptions")
        }
        assert await company.sums() == expected
        assert await company.reasons() == reasons
        assert (await company.get("/v1/payments"))["items"][1]["location_id"] == str(company.locations[0])
        await proven(company)


async def test_the_location_of_a_large_remittance_is_shared_by_all_of_its_chunks(company: Company) -> None:
    """The first claim lies elsewhere, three chunks before the last: then there is no location that all share."""
    here, there = (str(one) for one in company.locations)
    await charge_of(company, "M0", location_id=there)
    await charge_of(company, "M249", location_id=here)
    await sent(company, large(250, "M"))
    receipt = (await company.get("/v1/payments"))["items"][0]
    assert (receipt["applied_cents"], receipt["location_id"]) == (16_000, None)
    await charge_of(company, "S0", location_id=there)
    await sent(company, large(250, "S"))
    receipt = (await company.get("/v1/payments"))["items"][0]
    assert (receipt["applied_cents"], receipt["location_id"]) == (8_000, there), "of a chunk that is not the last"
    await proven(company)


async def test_a_large_remittance_is_corrected_where_its_location_could_not_be_told(stack: LedgerStack) -> None:
    """A patient has a charge elsewhere that no line means: only what was matched says where the receipt belongs. An
    interruption before the correction is made good, whatever charges came in between."""
    for survived in (1, 4):
        company = await stack.company(locations=2)
        here, there = (str(one) for one in company.locations)
        await charge_of(company, "Q0", location_id=here)
        await charge_of(company, "Q240", location_id=here)
        patient = (await company.post("/v1/patients/search", {"account_number": "Q0"}, status=200))["items"][0]
        await company.charge(patient, location_id=there, amount_cents=77, date_of_service="2026-01-09")
        body = x12_file([large(250, "Q")])
        await interrupted(stack, company, body, survived)
        patient = await company.patient("Q249")
        await company.charge(patient, location_id=there, amount_cents=78)
        await sent(company, body)
        receipt = (await company.get("/v1/payments"))["items"][0]
        assert (receipt["applied_cents"], receipt["location_id"]) == (16_000, here)
        await proven(company)


class ProcessDied(Exception):
    """Stands for the end of a process between two postings."""


class Dying(Ledger):
    """A ledger whose process ends after so many postings."""

    def __init__(self, stack: LedgerStack, postings: int) -> None:
        super().__init__(stack.ledger.pool, stack.ledger.directory)
        self.left = postings

    async def post(self, command: Command, then: Command | None = None) -> Verdict:
        self.left -= 1
        if self.left < 0:
            raise ProcessDied()
        return await super().post(command, then)


async def interrupted(stack: LedgerStack, company: Company, body: bytes, postings: int) -> None:
    """Process a file as the upload does, until the process dies."""
    feed = Feed(company.company_id, uuid4(), "x12", "era")
    digest = hashlib.sha256(body).digest()
    await intake.open_feed(stack.ledger.pool, feed, channel="http", sender="tests", body_hash=digest, chunks=[body])
    found = await remittances.examine([body])
    with pytest.raises(ProcessDied):
        await remittances.process(Dying(stack, postings), feed, [body], "correlation", found)


async def test_an_abandoned_feed_is_taken_up_and_a_half_stored_one_is_closed(
    stack: LedgerStack, company: Company
) -> None:
    body = x12_file([check(claim("A", service()))])
    pool = stack.ledger.pool
    whole, torn = (Feed(company.company_id, uuid4(), "x12", "era") for _ in range(2))
    await intake.open_feed(pool, whole, channel="http", sender="tests", body_hash=b"1", chunks=[body])
    await intake.open_feed(pool, torn, channel="http", sender="tests", body_hash=b"2", byte_count=len(body))
    await intake.add_chunk(pool, torn, 0, body[:300])
    app = stack.client.app
    assert app is not None
    await take_up_abandoned(app)
    assert (await company.get(f"/v1/feeds/{whole.feed_id}"))["state"] == "processing", "somebody may be at it"
    await stack.owner.execute("update feed set worked_at = worked_at - interval '3 minutes'")
    await asyncio.gather(*(take_up_abandoned(app) for _ in range(4)))
    done = await company.get(f"/v1/feeds/{whole.feed_id}")
    assert (done["state"], done["posted"], done["received"]) == ("done", 1, 1)
    closed = await company.get(f"/v1/feeds/{torn.feed_id}")
    assert (closed["state"], closed["received"]) == ("done", 0)
    assert (await company.sums())["payments"] == 1


async def test_a_feed_that_cannot_be_worked_off_does_not_stop_the_others(stack: LedgerStack, company: Company) -> None:
    pool = stack.ledger.pool
    bad, good = (Feed(company.company_id, uuid4(), "x12", "era") for _ in range(2))
    await intake.open_feed(pool, bad, channel="http", sender="tests", body_hash=b"3", chunks=[b"not x12 at all"])
    body = x12_file([check(claim("A", service()))])
    await intake.open_feed(pool, good, channel="http", sender="tests", body_hash=b"4", chunks=[body])
    await stack.owner.execute("update feed set worked_at = worked_at - interval '3 minutes'")
    assert stack.client.app is not None
    await take_up_abandoned(stack.client.app)
    assert (await company.get(f"/v1/feeds/{good.feed_id}"))["posted"] == 1


async def test_claims_of_a_conflicting_check_never_reach_the_first_ones_receipt(company: Company) -> None:
    """The second file has the same check with more claims than the first: its later chunks must not be applied."""
    await charges_of_large(company, 250, "C")
    small = replace(large(250, "C"), claims=large(250, "C").claims[:2], amount_cents=None)
    whole = large(250, "C")
    padding = ProviderLevel(reason="72", cents=whole.net_cents - small.net_cents)
    await sent(company, replace(small, provider_level=(replace(padding, cents=-padding.cents),)))
    before = await company.totals()
    feed = await sent(company, whole)
    assert (feed["quarantined"], feed["posted"], feed["state"]) == (1, 0, "done")
    assert await company.reasons(feed_id=feed["feed_id"]) == {"conflict": 1}
    assert await company.totals() == before


async def test_a_body_over_eight_megabytes_is_taken_and_worked_off_later(company: Company) -> None:
    await charge_of(company, "A")
    filler = "X" * 60_000
    noise = [check(claim(f"N{n}", service(), last_name=filler)) for n in range(145)]
    body = x12_file([check(claim("A", service())), *noise])
    assert len(body) > 8 << 20
    feed = await sent(company, body, status=202)
    assert feed["state"] == "processing"
    async with asyncio.timeout(60):
        while (now := await company.get(f"/v1/feeds/{feed['feed_id']}"))["state"] == "processing":
            await asyncio.sleep(0.05)
    assert (now["received"], now["posted"], now["byte_count"]) == (146, 146, len(body))
    sums = await company.sums()
    assert (sums["payments"], sums["applied_cents"]) == (146, 8_000)
    bad = await company.upload("x12", body[:-10])
    assert (bad.status, bad.code) == (422, "x12_unreadable")


@pytest.mark.measured
async def test_a_large_file_does_not_hold_up_the_others(stack: LedgerStack, company: Company) -> None:
    other = await stack.company()
    patient = await other.patient()
    loop = asyncio.get_running_loop()

    async def slowest() -> float:
        """Of the payments of another company while a large file is posted."""
        body = x12_file([large(600, f"H{uuid4().hex[:6]}-", lines=8)])
        upload = asyncio.create_task(company.upload("x12", body))
        seconds = 0.0
        while not upload.done():
            started = loop.time()
            await other.payment(patient_id=patient["id"])
            seconds = max(seconds, loop.time() - started)
        assert (await upload).body["posted"] == 1
        return seconds

    assert await least(1.0, slowest) < 1.0


def test_pieces_are_keyed_by_content_and_place() -> None:
    """What the keys rest on: the same bytes are cut into the same pieces, whatever chunks they arrive in."""
    body = x12_file([large(100, "P")])

    def pieces(size: int) -> list[tuple[int, int, bytes]]:
        cut = [body[start : start + size] for start in range(0, len(body), size)]
        return [(piece.number, len(piece.claims), piece.content_hash) for piece in pieces_of(cut, {1: False})]

    assert pieces(len(body)) == pieces(777) == pieces(64)
    assert len(pieces(len(body))) == 2
