"""The watched directory in trouble: full disks, files that break their handler, several processes, and their deaths."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.ledger.feeds import files, watched, watched_folders
from shared.config import Config
from shared.errors import Unavailable
from tests.support.csv_files import PAYMENTS, agree, payments, table
from tests.support.drop import Drop, ended, process
from tests.support.feed_work import charge_of, check, claim, service, true
from tests.support.hl7_messages import ft1, message
from tests.support.ledger import LedgerStack, counts
from tests.support.x12_builder import x12_file

# -- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["copy", "explain", "database"])
async def test_a_full_disk_and_a_database_that_is_away_are_waited_for(
    drop: Drop, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    good, bad = table(*payments(drop.company, 2)), b"Id\n"
    drop.put("csv/bank/a.csv", bad if where == "explain" else good)
    no_space = OSError(errno.ENOSPC, "No space left on device")

    def fail(error: BaseException) -> Callable[..., Any]:
        def raising(*_: object, **__: object) -> Any:
            raise error

        return raising

    with monkeypatch.context() as patch:
        if where == "copy":
            patch.setattr(watched, "_copy", fail(no_space))
        elif where == "explain":
            patch.setattr(watched.Claimed, "explain", fail(no_space))
        else:
            patch.setattr(files, "keep", fail(Unavailable()))
        watcher = drop.watcher()
        for _ in range(7):
            await watcher.look()
        assert drop.at("working") == ["csv/bank/a.csv"]
    other = drop.watcher()
    await other.look()
    assert drop.at("working") == []
    assert drop.reasons() == ({"csv_unreadable": 1} if where == "explain" else {})
    assert (await drop.company.sums())["payments"] == (0 if where == "explain" else 2)


async def test_a_file_that_breaks_its_handler_is_put_aside_and_holds_up_nobody(
    drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop.put("csv/bank/bad.csv", table(*payments(drop.company, 2)))
    real = files.keep

    async def keep(ledger: Any, reading: Any, arrival: Any) -> Any:
        if arrival.byte_count == drop_size:
            raise ZeroDivisionError
        return await real(ledger, reading, arrival)

    drop_size = len(table(*payments(drop.company, 2)))
    monkeypatch.setattr(files, "keep", keep)
    drop.put("csv/bank/good.csv", table(*payments(drop.company, 3)))
    watcher = drop.watcher()
    await watcher.look()
    assert (drop.at("done"), drop.at("working")) == (["csv/bank/good.csv"], ["csv/bank/bad.csv"])
    for _ in range(6):
        await watcher.look()
    assert (drop.at("failed"), drop.reasons()) == (["csv/bank/bad.csv"], {"poison": 1})
    left = await drop.company.stack.owner.fetchval(
        "select count(*) from feed_attempt where company_id = $1", drop.company.company_id
    )
    assert left == 0


async def test_the_job_stops_when_it_is_asked_to_and_not_for_a_missing_directory(
    stack: LedgerStack, drop: Drop
) -> None:
    drop.put("csv/bank/a.csv", table(*payments(drop.company, 2)))
    for directory in (None, drop.root / "absent", drop.root):
        stop = asyncio.Event()
        config = Config(watch_dir=directory)
        job = asyncio.create_task(watched.run(stack.ledger, config, stop))
        await asyncio.sleep(0.1)
        assert not job.done()
        if directory == drop.root:
            async with asyncio.timeout(20):
                while not drop.at("done"):
                    await asyncio.sleep(0.05)
        stop.set()
        await asyncio.wait_for(job, 5)
    assert (await drop.company.sums())["payments"] == 2


# -- several processes, and processes that die -----------------------------------------------------------------------


async def test_two_watchers_take_each_file_once(drop: Drop, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    real = watched._copy

    def copy(file: Any, spool: Any) -> Any:
        copied.append(os.fstat(file.fileno()).st_ino)
        return real(file, spool)

    monkeypatch.setattr(watched, "_copy", copy)
    draw = random.Random(3)
    names = [f"{number:02}.csv" for number in range(30)]
    sizes = {}
    for number, name in enumerate(names):
        sizes[name] = draw.randint(1, 60)
        drop.put(f"csv/bank/{name}", table(*payments(drop.company, sizes[name], start=number * 100)))
    watchers = [drop.watcher() for _ in range(4)]
    for _ in range(2):
        await asyncio.gather(*(watcher.look() for watcher in watchers))
    assert [Path(name).name for name in drop.at("done")] == names
    assert (drop.at("incoming"), drop.at("working"), drop.at("failed")) == ([], [], [])
    feeds = await drop.feeds()
    assert len(feeds) == len(set(copied)) == len(copied) == len(names)
    assert sum(feed["duplicates"] for feed in feeds) == 0
    assert (await drop.company.sums())["payments"] == sum(sizes.values())


async def test_a_file_that_was_moved_on_just_before_the_lock_is_let_alone(
    drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop.put("csv/bank/a.csv", table(*payments(drop.company, 2)))
    watched_folders.Incoming(0).claim(drop.base)
    (claimed,) = watched_folders.working(drop.base)
    with watched_folders.held(claimed) as file, watched_folders.held(claimed) as again:
        assert (file is not None, again) == (True, None)
    real = fcntl.flock

    def flock(file: Any, how: int) -> None:
        claimed.put("done")
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with watched_folders.held(claimed) as file:
        assert file is None


@pytest.mark.fault
@pytest.mark.parametrize(
    "place",
    [
        "watched.after_claim",
        "watched.after_commit",
        "watched.after_move",
        "csv.after_chunk",
        "csv.after_chunk#3",
        "ledger.before_append#2",
        "ledger.after_commit#2",
    ],
)
async def test_after_a_crash_a_file_is_finished_and_nothing_doubles(drop: Drop, place: str) -> None:
    rows = payments(drop.company, 500)
    rows[7]["Amount"] = rows[450]["Amount"] = "x"
    rows[9] = rows[8]
    drop.put("csv/bank/a.csv", table(*rows))
    assert await ended(process(drop, place)) == -signal.SIGKILL
    moved = place == "watched.after_move"
    assert (len(drop.at("working")), len(drop.at("done"))) == ((0, 1) if moved else (1, 0))
    await asyncio.gather(*(drop.watcher().look() for _ in range(2)))
    assert (drop.at("done"), drop.at("working"), drop.at("failed")) == (["csv/bank/a.csv"], [], [])
    (feed,) = await drop.feeds()
    assert ({feed["feed_id"]}, feed["state"]) == (drop.feed_ids(), "done")
    assert counts(feed) == (500, 497, 1, 0, 2)
    assert (await drop.company.sums())["amount_cents"] == 497 * 2_500
    await true(drop.company)


@pytest.mark.fault
@pytest.mark.parametrize("place", ["watched.after_claim", "ledger.after_commit", "watched.after_commit"])
async def test_after_a_crash_other_kinds_do_not_double_either(drop: Drop, place: str) -> None:
    company = drop.company
    await charge_of(company, "A")
    drop.put("a.835", x12_file([check(claim("A", service())), check(claim("B", service()))]))
    drop.put("hl7/b", message(ft1("PY", "TX1", "10.00"), ft1("PY", "TX2", "5.00"), control_id="C1"))
    for hit in (1, 2):
        await ended(process(drop, f"{place}#{hit}"))
    await drop.watcher().look()
    await stack_posts_hl7(drop)
    assert drop.at("done") == ["hl7/b", "x12/a.835"]
    sums = await company.sums()
    assert (sums["payments"], sums["amount_cents"], sums["applied_cents"]) == (4, 16_000 + 1_500, 8_000)
    by_format = {feed["format"]: feed for feed in await drop.feeds()}
    assert counts(by_format["x12"]) == (2, 2, 0, 0, 0)
    assert by_format["hl7v2"]["posted"] == 2
    await true(company)


async def stack_posts_hl7(drop: Drop) -> None:
    waiting = await drop.company.stack.owner.fetchval(
        "select count(*) from feed_message where company_id = $1 and state = 'received'", drop.company.company_id
    )
    assert waiting == 0


@pytest.mark.fault
async def test_processes_that_are_killed_all_the_time_lose_and_double_nothing(drop: Drop) -> None:
    draw = random.Random(11)
    expected = 0
    for number in range(12):
        size = draw.randint(1, 400)
        expected += size
        drop.put(f"csv/bank/{number}.csv", table(*payments(drop.company, size, start=number * 1_000)))
    for _ in range(3):  # Fewer than make a file a culprit, which is put aside after five attempts.
        running = [process(drop) for _ in range(3)]
        for one in running:
            assert one.stdout is not None
            await asyncio.to_thread(one.stdout.readline)
        await asyncio.sleep(draw.uniform(0.05, 0.4))
        for one in running:  # All in one moment: who is left would take up at once what the others had in hand.
            one.kill()
        for one in running:
            await ended(one)
    for _ in range(2):
        await drop.watcher().look()
    assert (len(drop.at("done")), drop.at("incoming"), drop.at("working"), drop.at("failed")) == (12, [], [], [])
    feeds = await drop.feeds()
    assert {feed["feed_id"] for feed in feeds} == drop.feed_ids()
    assert {feed["state"] for feed in feeds} == {"done"}
    assert sum(feed["posted"] for feed in feeds) == expected
    assert sum(feed["duplicates"] for feed in feeds) == 0
    assert (await drop.company.sums())["payments"] == expected
    await true(drop.company)


async def test_a_file_is_finished_as_it_was_begun(drop: Drop) -> None:
    """Its profile was changed and another process closed its feed while it lay in `working`."""
    drop.put("csv/bank/a.csv", table(*payments(drop.company, 450)))
    running = process(drop, "csv.after_chunk")
    assert await ended(running) == -signal.SIGKILL
    await agree(drop.company, {**PAYMENTS, "translations": {"method": {"cc": "cash"}}})
    await drop.watcher().look()
    (feed,) = await drop.feeds()
    assert counts(feed) == (450, 450, 0, 0, 0)
    assert {one["method"] for one in (await drop.company.get("/v1/payments", limit=500))["items"]} == {"credit_card"}
    assert UUID(feed["feed_id"]).version == 7
