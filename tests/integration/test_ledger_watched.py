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
import hashlib
import os
from collections import Counter
from typing import Any

import pytest

from services.ledger.feeds import watched
from tests.support.csv_files import TOTALLED, agree, payments, row, table, total_row
from tests.support.drop import Drop
from tests.support.feed_work import charge_of, check, claim, service, true
from tests.support.hl7_messages import ft1, message
from tests.support.ledger import LedgerStack, counts
from tests.support.x12_builder import x12_file

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
        (os.fsdecode(b"csv/\xff/a.csv"), b"Id\n1\n", "unknown_profile"),
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
