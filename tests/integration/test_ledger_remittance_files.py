"""Files of remittances as they are sent: kept as they were, refused whole, listed with their exceptions.

Decided here where the rules are silent: the same bytes sent again are a feed of their own with duplicates only; while
the first is being posted they wait for it; what was left unfinished, they finish.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from tests.support.feed_work import charge_of, check, claim, service
from tests.support.ledger import Company
from tests.support.remittances import charges_now, figures, proven, sent
from tests.support.x12_builder import x12_file


async def test_what_was_sent_is_kept_as_it_was(company: Company) -> None:
    body = x12_file([check(claim("A", service()))])
    feed = await sent(company, body)
    assert set(feed) == {
        "feed_id",
        "format",
        "channel",
        "state",
        "received_at",
        "byte_count",
        "received",
        "posted",
        "duplicates",
        "ignored",
        "quarantined",
        "exceptions",
        "control_total_cents",
        "posted_total_cents",
        "difference_cents",
        "acknowledgements",
    }
    assert feed["byte_count"] == len(body)
    raw = await company.send("GET", f"/v1/feeds/{feed['feed_id']}/raw")
    assert (raw.status, raw.raw) == (200, body)
    assert await company.get(f"/v1/feeds/{feed['feed_id']}") == feed
    assert (await company.get("/v1/feeds"))["items"] == [feed]


@pytest.mark.parametrize("body", [b"", b"\n", b"<html>", b"ISA*", b"\x00" * 1_000, b"ISA" * 10_000, b"A" * 3_000_000])
async def test_what_is_no_file_is_refused_and_not_kept(company: Company, body: bytes) -> None:
    before = await company.rows()
    answer = await company.upload("x12", body)
    assert (answer.status, answer.code, answer.fields) == (422, "x12_unreadable", {"body": "x12_unreadable"}), answer
    assert await company.rows() == before


async def test_a_refusal_does_not_quote_the_file(company: Company) -> None:
    body = x12_file([check(claim("A", service()))])
    head, tail = body[: body.index(b"ST*835")], body[body.index(b"GE*") :]
    for damaged in (
        head + tail.replace(b"GE*1*1", b"GE*Zyzzyva*1").replace(b"IEA*1*000000101", b"IEA*9*Zyzzyva"),
        body.replace(b"BPR*I*80", b"BPR*I*Zyzzyva"),
        body.replace(b"ST*835*", b"ST*Zyzzyva*"),
        body.replace(b"IEA*", b"Zyzzyva*"),
    ):
        answer = await company.upload("x12", damaged)
        assert (answer.status, answer.code) == (422, "x12_unreadable"), answer
        assert b"Zyzzyva" not in answer.raw


async def test_exceptions_are_listed_by_what_is_asked(company: Company) -> None:
    feeds = [await sent(company, check(claim(account, service()))) for account in "ABC"]
    wrong = x12_file([check(claim("D", service()))]).replace(b"SE*", b"SE*9")
    quarantined = await sent(company, wrong)

    async def keys(**params: Any) -> list[str]:
        return [row["feed_id"] for row in await company.exceptions(**params)]

    newest_first = [quarantined["feed_id"], *(feed["feed_id"] for feed in reversed(feeds))]
    assert await keys() == newest_first
    assert await keys(reason="unmatched_claim") == newest_first[1:]
    assert await keys(feed_id=quarantined["feed_id"]) == newest_first[:1]
    assert await keys(source="era") == newest_first
    assert await keys(source="emr") == []
    one, other = [row["id"] for row in await company.exceptions()][:2]
    resolved = await company.post(f"/v1/exceptions/{one}/resolve", {"note": "by hand"}, status=200)
    assert (resolved["id"], resolved["state"]) == (one, "resolved")
    await company.post(f"/v1/exceptions/{other}/dismiss", {"note": "not ours"}, status=200)
    assert await keys(state="open") == newest_first[2:]
    assert await keys(state="resolved") == newest_first[:1]
    page = await company.get("/v1/exceptions", limit=2)
    rest = await company.get("/v1/exceptions", limit=2, cursor=page["next"])
    assert [row["feed_id"] for row in page["items"] + rest["items"]] == newest_first
    refused = await company.send("POST", f"/v1/exceptions/{uuid4()}/resolve", {"note": "x"})
    assert refused.status == 404


async def test_a_file_cut_anywhere_is_refused_whole(company: Company) -> None:
    body = x12_file([check(claim("A", service())), check(claim("B", service()))])
    before = await company.rows()
    for cut in range(1, len(body) - 4, 37):
        answer = await company.upload("x12", body[:cut])
        assert (answer.status, answer.code) == (422, "x12_unreadable"), cut
    assert await company.rows() == before


async def test_many_uploads_of_one_file_at_once_post_it_once(company: Company) -> None:
    charge = await charge_of(company, "A")
    body = x12_file([check(claim("A", service())), check(claim("nobody", service()))])
    answers = await asyncio.gather(*(company.upload("x12", body) for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["feed_id"] for answer in answers}) == 8
    # One is told that it was posted; the others are told what a later upload is told.
    told = sorted((answer.body["posted"], answer.body["duplicates"]) for answer in answers)
    assert told == [(0, 2)] * 7 + [(2, 0)]
    assert await company.reasons() == {"unmatched_claim": 1}
    assert (await company.sums())["amount_cents"] == 16_000
    assert figures((await charges_now(company, [charge]))[0])[0] == 8_000
    await proven(company)
