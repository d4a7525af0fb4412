"""CSV files that cannot be read, are cut off, interrupted, sent by many at once, or large."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from uuid import uuid4

import pytest

from services.ledger.api.feeds import take_up_abandoned
from services.ledger.deciding import Verdict
from services.ledger.feeds import files, intake
from services.ledger.feeds.csv_posting import CsvFile
from services.ledger.feeds.csvfile.profile import Profile
from services.ledger.feeds.intake import Feed
from services.ledger.service import Ledger
from tests.support.csv_files import PAYMENTS, agree, row, sent, table, upload
from tests.support.feed_work import retried, true
from tests.support.ledger import Company, LedgerStack, counts


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    made = await stack.company(locations=2)
    await agree(made)
    return made


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"Id,Ver\nP-1,1\n",
        b'"Id',
        "\ufeffId".encode("utf-16"),
        b"x" * 70_000,
    ],
)
async def test_a_file_that_is_not_what_the_profile_says_leaves_no_trace(company: Company, content: bytes) -> None:
    before = await company.rows()
    answer = await upload(company, content)
    assert (answer.status, answer.fields) == (422, {"body": "csv_unreadable"})
    assert await company.rows() == before


async def test_a_file_that_is_cut_at_its_end_posts_nothing_of_its_beginning(company: Company) -> None:
    before = await company.rows()
    content = table(*(row(company.locations[0], n) for n in range(700)))
    answer = await upload(company, content + b'P-9,1,"')
    assert (answer.status, answer.code) == (422, "csv_unreadable")
    assert await company.rows() == before


async def test_only_csv_is_taken(company: Company) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await company.stack.request(
        "POST", "/v1/feeds/csv", company.token(), data=b"{}", headers=headers, params={"profile": "bank"}
    )
    assert answer.status == 415
    answer = await company.stack.request("POST", "/v1/feeds/csv", company.token(), data=b"a", headers=headers)
    assert (answer.status, answer.fields) == (422, {"profile": "missing"})


class ProcessDied(Exception):
    """Stands for the end of a process between two postings."""


class Dying(Ledger):
    """A ledger whose process ends after so many chunks."""

    def __init__(self, stack: LedgerStack, chunks: int) -> None:
        super().__init__(stack.ledger.pool, stack.ledger.directory)
        self.left = chunks

    async def post_many(self, commands: Any) -> list[Verdict]:
        self.left -= 1
        if self.left < 0:
            raise ProcessDied()
        found: list[Verdict] = await super().post_many(commands)
        return found


@pytest.mark.parametrize("again", ["the same file", "a restart"])
@pytest.mark.parametrize("survived", [0, 1, 3])
async def test_an_interrupted_file_is_finished_as_it_was_begun(
    stack: LedgerStack, company: Company, survived: int, again: str
) -> None:
    """Every row is counted once, also those whose outcome was recorded before the end; a profile that was changed
    meanwhile changes nothing of what the file was."""
    here = company.locations[0]
    rows = [row(here, n) for n in range(700)]
    rows[10]["Amount"] = rows[650]["Amount"] = "bad"
    rows[20]["Clinic"] = rows[660]["Clinic"] = "nowhere"
    rows[30] = rows[29]
    content = table(*rows)
    profile = Profile.model_validate(PAYMENTS)
    reading = files.csv(CsvFile(name="bank", profile=profile))
    feed = Feed(company.company_id, uuid4(), "csv", "emr")
    pool = stack.ledger.pool
    digest = hashlib.sha256(content).digest()
    await intake.open_feed(
        pool, feed, channel="http", sender="x", body_hash=digest, chunks=[content], reading=reading.kept
    )
    post = await reading.examine([content])
    with pytest.raises(ProcessDied):
        await post(Dying(stack, survived), feed, "c")
    half = await company.get(f"/v1/feeds/{feed.feed_id}")
    assert (half["state"], half["posted"]) == ("processing", max(0, survived * 200 - (survived > 0) * 3))
    if again == "the same file":
        assert (await sent(company, content))["feed_id"] == str(feed.feed_id)
    else:
        await agree(company, {**PAYMENTS, "translations": {"method": {"cc": "cash"}}})
        await stack.owner.execute("update feed set worked_at = worked_at - interval '3 minutes'")
        assert stack.client.app is not None
        await asyncio.gather(*(take_up_abandoned(stack.client.app) for _ in range(2)))
    done = await company.get(f"/v1/feeds/{feed.feed_id}")
    assert done["state"] == "done"
    assert counts(done) == (700, 695, 1, 0, 4)
    assert await company.reasons() == {"invalid": 2, "unknown_clinic": 2}
    assert (await company.sums())["amount_cents"] == 695 * 2_500
    assert {one["method"] for one in (await company.get("/v1/payments"))["items"]} == {"credit_card"}
    await true(company)


async def test_a_mapping_made_between_interruption_and_end_does_not_double_what_waits(
    stack: LedgerStack, company: Company
) -> None:
    """The row waits for a person already: it is his to try again, and must not be posted behind his back."""
    content = table(*(row(company.locations[0], n) for n in range(250)), row("Main St", "x"))
    begin = table(row("Main St", "y"), *(row(company.locations[0], n) for n in range(250)))
    reading = files.csv(CsvFile(name="bank", profile=Profile.model_validate(PAYMENTS)))
    feeds = []
    for body in (content, begin):
        feed = Feed(company.company_id, uuid4(), "csv", "emr")
        digest = hashlib.sha256(body).digest()
        await intake.open_feed(
            stack.ledger.pool, feed, channel="http", sender="x", body_hash=digest, chunks=[body], reading=reading.kept
        )
        post = await reading.examine([body])  # type: ignore[misc]
        with pytest.raises(ProcessDied):
            await post(Dying(stack, 0), feed, "c")
        feeds.append(str(feed.feed_id))
    mapped = {
        "clinics": [{"alias": "Main St", "location_id": str(company.locations[1])}],
        "payers": [],
        "procedures": [],
    }
    assert (await company.send("PUT", "/v1/feed-mappings", mapped)).status == 200
    assert counts(await sent(company, content)) == (251, 251, 0, 0, 0), "it had not come to that row"
    assert counts(await sent(company, begin)) == (251, 0, 250, 0, 1)
    assert {feed["feed_id"] for feed in (await company.get("/v1/feeds"))["items"]} == set(feeds)
    (waiting,) = await company.exceptions()
    assert (await company.sums())["payments"] == 251
    assert (await retried(company, waiting))["state"] == "retried"
    assert (await company.sums())["payments"] == 252
    assert sum(feed["posted"] for feed in (await company.get("/v1/feeds"))["items"]) == 252
    await true(company)


async def test_the_same_bytes_by_another_profile_are_another_feed(stack: LedgerStack, company: Company) -> None:
    content = table(row(company.locations[0]))
    await agree(company, {**PAYMENTS, "translations": {"method": {"CC": "cash"}}}, "till")
    reading = files.csv(CsvFile(name="till", profile=Profile.model_validate(PAYMENTS)))
    begun = Feed(company.company_id, uuid4(), "csv", "emr")
    await intake.open_feed(
        stack.ledger.pool,
        begun,
        channel="http",
        sender="x",
        body_hash=hashlib.sha256(content).digest(),
        chunks=[content],
        reading=reading.kept,
    )
    assert (await sent(company, content))["feed_id"] != str(begun.feed_id)


async def test_many_uploads_of_one_file_at_once_post_it_once(company: Company) -> None:
    content = table(*(row(company.locations[0], n) for n in range(250)), row("nowhere", "x"))
    answers = await asyncio.gather(*(upload(company, content) for _ in range(6)))
    assert {answer.status for answer in answers} == {200}
    told = sorted((answer.body["posted"], answer.body["duplicates"]) for answer in answers)
    assert told == [(0, 250)] * 5 + [(250, 0)]
    assert {answer.body["received"] for answer in answers} == {251}
    assert (await company.sums())["amount_cents"] == 250 * 2_500
    await true(company)


async def test_a_body_over_eight_megabytes_is_taken_and_worked_off_later(company: Company) -> None:
    filler = "x" * 60_000
    header, *lines = table(*(row(company.locations[0], n) for n in range(150))).decode().splitlines()
    content = "\n".join([f"{header},Note", *(f"{line},{filler}" for line in lines)]).encode()
    assert len(content) > 8 << 20
    answer = await upload(company, content)
    assert (answer.status, answer.body["state"]) == (202, "processing")
    async with asyncio.timeout(60):
        while (now := await company.get(f"/v1/feeds/{answer.body['feed_id']}"))["state"] == "processing":
            await asyncio.sleep(0.05)
    assert (*counts(now), now["byte_count"]) == (150, 150, 0, 0, 0, len(content))
    cut = await upload(company, content + b'\n"')
    assert (cut.status, cut.code) == (422, "csv_unreadable")


def test_a_row_has_one_name_whatever_else_is_in_the_file() -> None:
    """What the keys rest on: an event is named by what it says, not by its place, its file or its neighbours."""
    file = CsvFile(name="bank", profile=Profile.model_validate(PAYMENTS))

    def names(content: bytes) -> list[str]:
        return [entry.event.event_id for entry in file.entries([content]) if entry.event]

    one, two = row("C", 1), row("C", 2)
    assert names(table(one, two)) == names(table(two, one))[::-1]
    assert len({*names(table(one, {**one, "Ver": "2"}, {**one, "State": "void"}, {**one, "Amount": "1.00"}))}) == 4
    assert names(table(one)) == names(table({**one, "How": "CC"}))
    other = CsvFile(name="till", profile=file.profile)
    (entry,) = other.entries([table(one)])
    assert entry.event is not None
    assert entry.event.source == "csv:till"
