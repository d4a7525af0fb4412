"""The watched directory: files are claimed once, posted as if sent by HTTP, moved after the commit, and never lost.

Decided here where the rules are silent:

* A file that is empty, a link, a folder or a pipe, or named like one that is still being written, stays where it is.
* A file that grew while it was read goes back, and comes again as a whole: what was posted of it is then a repetition.
* What cannot be used (unreadable, of no kind) goes to `failed` with a reason, and leaves no trace in the books.
* What can be used is done, even if all of it waits in the quarantine: there it is worked on.
* HL7 counts each delivery of a message, so one that was kept before a crash is counted as a duplicate afterwards.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.ledger.feeds import files, watched, watched_folders
from shared.config import Config
from shared.errors import Unavailable
from tests.support.csv_files import PAYMENTS, TOTALLED, agree, row, table, total_row
from tests.support.drop import Drop, ended, process
from tests.support.feed_work import charge_of, check, claim, service, true
from tests.support.hl7_messages import ft1, message
from tests.support.ledger import Company, LedgerStack, counts
from tests.support.x12_builder import x12_file


@pytest.fixture
async def drop(stack: LedgerStack, tmp_path: Path) -> Drop:
    company = await stack.company()
    await agree(company)
    return Drop(company, tmp_path)


def payments(company: Company, count: int, start: int = 0) -> list[dict[str, str]]:
    return [row(company.locations[0], n) for n in range(start, start + count)]


# -- happy paths -----------------------------------------------------------------------------------------------------


async def test_files_of_every_kind_are_posted_and_moved(drop: Drop) -> None:
    company = drop.company
    await charge_of(company, "A")
    drop.put("csv/bank/today.csv", table(*payments(company, 3)))
    drop.put("x12/in a folder", x12_file([check(claim("A", service()))]))
    drop.put("by suffix.835", x12_file([check(claim("B", service()))]))
    drop.put("hl7/one", message(ft1("PY", "TX1", "10.00"), control_id="C1"))
    drop.put("TWO.HL7", message(ft1("PY", "TX2", "20.00"), control_id="C2"))
    await drop.watcher().look()
    assert (drop.at("incoming"), drop.at("working"), drop.at("failed")) == ([], [], [])
    assert drop.at("done") == ["csv/bank/today.csv", "hl7/TWO.HL7", "hl7/one", "x12/by suffix.835", "x12/in a folder"]
    feeds = await drop.feeds()
    assert {feed["feed_id"] for feed in feeds} == drop.feed_ids()
    assert {(feed["channel"], feed["state"], feed["quarantined"]) for feed in feeds} == {("watched", "done", 0)}
    assert Counter(feed["format"] for feed in feeds) == {"csv": 1, "x12": 2, "hl7v2": 2}
    for feed in feeds:
        content = next((drop.base / "done").rglob(f"{feed['feed_id']}-*")).read_bytes()
        answer = await company.send("GET", f"/v1/feeds/{feed['feed_id']}/raw")
        assert answer.raw == content
    await true(company)


async def test_a_company_is_known_by_its_code_as_well(stack: LedgerStack, drop: Drop) -> None:
    code = await stack.owner.fetchval(
        "select code from directory_company where company_id = $1", drop.company.company_id
    )
    content = table(*payments(drop.company, 2))
    for name in (code, "nobody", "working"):
        folder = drop.root / name / "incoming/csv/bank"
        folder.mkdir(parents=True)
        (folder / "a.csv").write_bytes(content)
    await drop.watcher().look()
    assert [counts(feed) for feed in await drop.feeds()] == [(2, 2, 0, 0, 0)]
    assert (drop.root / "nobody/incoming/csv/bank/a.csv").read_bytes() == content
    assert (await drop.company.sums())["amount_cents"] == 5_000


async def test_a_file_dropped_again_is_a_feed_of_duplicates(drop: Drop) -> None:
    content, watcher = table(*payments(drop.company, 250)), drop.watcher()
    for _ in range(2):
        drop.put("csv/bank/a.csv", content)
        await watcher.look()
    assert sorted(counts(feed) for feed in await drop.feeds()) == [(250, 0, 250, 0, 0), (250, 250, 0, 0, 0)]
    assert drop.at("done") == ["csv/bank/a.csv"] * 2
    hashes = await drop.company.stack.owner.fetch(
        "select distinct body_hash from feed where company_id = $1", drop.company.company_id
    )
    assert [one["body_hash"] for one in hashes] == [hashlib.sha256(content).digest()]


async def test_what_waits_in_the_quarantine_is_done(drop: Drop) -> None:
    await agree(drop.company, TOTALLED)
    drop.put("csv/bank/a.csv", table(*payments(drop.company, 2), total_row("1.00", 2)))
    await drop.watcher().look()
    assert (drop.at("done"), drop.at("failed")) == (["csv/bank/a.csv"], [])
    assert await drop.company.reasons() == {"total_mismatch": 2}


# -- what is left alone, and what fails ------------------------------------------------------------------------------


async def test_files_that_are_being_written_are_left_alone(drop: Drop) -> None:
    content = table(*payments(drop.company, 3))
    for name in (".a.csv", "a.csv.part", "a.csv.TMP", "a.filepart"):
        drop.put(f"csv/bank/{name}", content)
    watcher = drop.watcher()
    await watcher.look()
    await watcher.look()
    assert len(drop.at("incoming")) == 4
    assert await drop.feeds() == []
    (drop.base / "incoming/csv/bank/a.csv.part").rename(drop.base / "incoming/csv/bank/a.csv")
    await watcher.look()
    assert drop.at("done") == ["csv/bank/a.csv"]


async def test_a_file_that_still_grows_is_not_taken(drop: Drop) -> None:
    watcher = drop.watcher(settle_seconds=0.15)
    content = table(*payments(drop.company, 40))
    path = drop.put("csv/bank/a.csv", content[:50])
    for end in range(100, len(content), 200):
        await watcher.look()
        with path.open("ab") as file:
            file.write(content[path.stat().st_size : end])
        await asyncio.sleep(0.05)
    assert (drop.at("incoming"), await drop.feeds()) == (["csv/bank/a.csv"], [])
    path.write_bytes(content)
    async with asyncio.timeout(10):
        while not drop.at("done"):
            await watcher.look()
            await asyncio.sleep(0.02)
    assert [counts(feed) for feed in await drop.feeds()] == [(40, 40, 0, 0, 0)]


@pytest.mark.parametrize("kind", ["readable so far", "not readable so far"])
async def test_a_file_that_grew_while_it_was_read_comes_again(
    drop: Drop, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Its writer had only paused: he holds the file open, and goes on after it was claimed."""
    rows = payments(drop.company, 5)
    whole = table(*rows)
    begin = table(*rows[:3]) if kind == "readable so far" else table(*rows[:3]) + b'"'
    whole = whole if kind == "readable so far" else table(*rows[:3]) + b'"",' + b"," * 11 + b"\r\n"
    path = drop.put("csv/bank/a.csv", begin)
    writer = path.open("ab")
    real = watched._copy

    def copy(file: Any, spool: Any) -> Any:
        found = real(file, spool)
        if not writer.closed:
            writer.write(whole[len(begin) :])
            writer.close()
        return found

    monkeypatch.setattr(watched, "_copy", copy)
    watcher = drop.watcher()
    await watcher.look()
    assert (len(drop.at("incoming")), drop.at("failed"), drop.at("done")) == (1, [], [])
    await watcher.look()
    assert (drop.at("incoming"), drop.at("failed"), drop.at("done")) == ([], [], ["csv/bank/a.csv"])
    assert (await drop.company.sums())["payments"] == (5 if kind == "readable so far" else 3)
    await true(drop.company)


async def test_what_is_no_file_stops_nothing(drop: Drop) -> None:
    folder = drop.base / "incoming/csv/bank"
    outside = drop.root / "outside.csv"
    outside.write_bytes(table(*payments(drop.company, 1, start=500)))
    (folder / "link.csv").symlink_to(outside)
    (folder / "dangling.csv").symlink_to("nowhere")
    (folder / "folder.csv").mkdir()
    (folder / "folder.csv/inside.csv").write_bytes(b"x")
    (drop.base / "incoming/x12").rmdir()
    (drop.base / "incoming/x12").symlink_to(drop.root)
    os.mkfifo(folder / "pipe.csv")
    drop.put("csv/bank/empty.csv", b"")
    drop.put("csv/bank/good.csv", table(*payments(drop.company, 2)))
    watcher = drop.watcher()
    await watcher.look()
    await watcher.look()
    assert drop.at("done") == ["csv/bank/good.csv"]
    assert (drop.at("failed"), drop.at("working")) == ([], [])
    assert len(list(folder.iterdir())) == 5
    assert outside.exists()
    assert (await drop.company.sums())["payments"] == 2


async def test_a_link_that_takes_a_files_place_in_the_last_moment_is_not_followed(drop: Drop) -> None:
    """The claim renames whatever is there by then; what was claimed is opened without following."""
    secret = drop.root / "secret"
    secret.write_bytes(table(*payments(drop.company, 1)))
    folder = drop.base / "working/csv/bank"
    folder.mkdir(parents=True)
    for number, make in enumerate((lambda path: path.symlink_to(secret), os.mkfifo)):
        make(folder / f"01a1ffe9-ddd8-76da-95ee-4f03e046df0{number}-a.csv")
    await drop.watcher().look()
    assert drop.reasons() == {"no_file": 2}
    assert (drop.at("working"), await drop.feeds()) == ([], [])


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("csv/bank/a.csv", b"Id\n1\n", "csv_unreadable"),
        ("csv/till/a.csv", b"Id\n1\n", "unknown_profile"),
        ("csv/a.csv", b"Id\n1\n", "unknown_profile"),
        ("x12/a", b"ISA*00", "x12_unreadable"),
        ("a.edi", b"\0\xff\xfe", "x12_unreadable"),
        ("hl7/a", b"hello", "hl7_unreadable"),
        ("hl7/b", message("", control_id="C").replace(b"DFT^P03", b"ADT^A01"), "hl7_rejected"),
        ("scan.pdf", b"%PDF", "unknown_kind"),
        ("unknown/x", b"x", "unknown_kind"),
    ],
)
async def test_what_cannot_be_used_fails_with_its_reason_and_leaves_no_trace(
    drop: Drop, name: str, content: bytes, code: str
) -> None:
    before = await drop.company.rows()
    drop.put(name.replace("a.csv", "Roe Jane 1980.csv"), content)
    await drop.watcher().look()
    assert (drop.reasons(), drop.at("incoming"), drop.at("working"), drop.at("done")) == ({code: 1}, [], [], [])
    (reason,) = (drop.base / "failed").rglob("*.reason.json")
    (failed,) = [path for path in reason.parent.iterdir() if path != reason]
    assert (failed.read_bytes(), f"{failed.name}.reason.json") == (content, reason.name)
    assert b"Roe" not in reason.read_bytes()
    assert await drop.company.rows() == before


async def test_odd_names(drop: Drop) -> None:
    names = ["a b", "-rf", "x\ny", "ü" * 120, "a" * 250, "%2F..%2F", "'\"$(x)`", os.fsdecode(b"\xff\xfe"), "a.csv\\"]
    for number, name in enumerate(names):
        drop.put(f"csv/bank/{name}", table(*payments(drop.company, 1, start=number)))
    await drop.watcher().look()
    assert (len(drop.at("done")), drop.at("incoming"), drop.at("failed")) == (len(names), [], [])
    assert (await drop.company.sums())["payments"] == len(names)


async def test_nothing_of_a_file_or_its_name_is_logged(drop: Drop, capsys: pytest.CaptureFixture[str]) -> None:
    drop.put("csv/bank/Roe Jane.csv", table(row(drop.company.locations[0], Last="Geheim")))
    drop.put("csv/till/Roe Jack.csv", b"Geheim")
    await drop.watcher().look()
    said = capsys.readouterr()
    assert "watched_file_done" in said.out + said.err
    assert "watched_file_failed" in said.out + said.err
    for secret in ("Roe", "Geheim"):
        assert secret not in said.out + said.err


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


async def test_a_sender_cannot_reach_another_companys_folder_by_a_link(
    stack: LedgerStack, drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither take files from there, nor have one put there that goes back because it changed."""
    other = Drop(await stack.company(), drop.root)
    await agree(other.company)
    stranger, mine = drop.base / "incoming/csv", other.base / "incoming/csv"
    content = table(*payments(other.company, 2))
    claimed = drop.put("csv/bank/a.csv", table(*payments(drop.company, 2)))
    real = watched._copy

    def copy(file: Any, spool: Any) -> Any:
        found = real(file, spool)
        if claimed.parent.exists() and not stranger.is_symlink():
            claimed.parent.rmdir()
            stranger.rmdir()
            stranger.symlink_to(mine)
            (mine / "bank/theirs.csv.part").write_bytes(content)
            os.utime(file.fileno(), (1, 1))
        return found

    monkeypatch.setattr(watched, "_copy", copy)
    await drop.watcher().look()
    (mine / "bank/theirs.csv.part").rename(mine / "bank/theirs.csv")
    (back,) = [path for path in (drop.base / "incoming").iterdir() if path.is_file()]
    assert back.name.endswith("-a.csv")
    assert sorted(path.name for path in (mine / "bank").iterdir()) == ["theirs.csv"]
    watcher = drop.watcher()
    watcher._incoming.claim(drop.base)
    assert (mine / "bank/theirs.csv").exists(), "not claimed by way of the link"


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
