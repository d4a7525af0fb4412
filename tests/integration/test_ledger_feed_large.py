"""Large remittances: memory that does not grow with the file, and nobody else who waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from services.ledger.feeds.apart import LONG
from tests.support.ledger import Company, LedgerStack
from tests.support.quiet import least
from tests.support.x12_builder import ClaimPayment, Payment, Service, x12_file

ROOT = Path(__file__).resolve().parents[2]
LATEST = 2.0
"""Seconds that somebody else's first posting may be delayed."""


def giant(claims: int, lines: int = 4) -> bytes:
    """One check of many claims; of every fiftieth the first charge is known."""
    paid = (("CO", "45", 2_000),)
    services = [
        Service(charge_cents=10_000, adjustments=paid, on=date(2026, 1, 5) + timedelta(days=day))
        for day in range(lines)
    ]
    made = [ClaimPayment(account=f"G{n}", services=services, icn=f"I{n}") for n in range(claims)]
    return x12_file([Payment(trace=f"BIG-{uuid4().hex[:8]}", claims=made)])


def small() -> bytes:
    paid = [ClaimPayment(account="S", services=[Service(charge_cents=10_000, adjustments=())], icn=uuid4().hex[:9])]
    return x12_file([Payment(trace=f"T{uuid4().hex[:12]}", claims=paid)])


async def charges(company: Company, claims: int) -> None:
    payer = await company.payer()
    for n in range(0, claims, 50):
        patient = await company.patient(f"G{n}")
        await company.charge(patient, payer_id=payer["id"], date_of_service="2026-01-05")


@pytest.mark.measured
async def test_another_feeds_first_posting_does_not_wait_for_a_giant_file(stack: LedgerStack) -> None:
    """Another company's feed, and one of the same company, whose books both are being written to."""
    loop = asyncio.get_running_loop()

    async def longest() -> float:
        company, other = await stack.company(), await stack.company()
        await charges(company, 6_000)
        upload = asyncio.create_task(company.upload("x12", giant(6_000)))
        while not (await company.get("/v1/payments"))["items"]:  # its receipt: from here on it is being posted
            assert not upload.done()
            await asyncio.sleep(0.01)
        waited: dict[str, list[float]] = {"other": [], "same": []}
        while not upload.done():
            for name, one in (("other", other), ("same", company)):
                started = loop.time()
                feed = (await one.upload("x12", small())).body
                assert feed["posted"] == 1
                waited[name].append(loop.time() - started)
        feed = (await upload).body
        assert (feed["posted"], feed["quarantined"]) == (1, 0)
        assert len(waited["other"]) >= 3, "the file was posted before anybody could have waited"
        return max(max(times) for times in waited.values())

    assert await least(LATEST, longest) < LATEST


def reading_processes() -> list[int]:
    """Those that read for us."""
    children = Path("/proc/self/task").glob("*/children")
    ids = [int(one) for path in children for one in path.read_text().split()]
    return [one for one in ids if b"reading_process" in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.mark.parametrize("after_receipt", [False, True], ids=["surveyed", "posted"])
async def test_whoever_reads_a_large_file_may_be_killed(stack: LedgerStack, after_receipt: bool) -> None:
    """While it is surveyed nothing is kept; while it is posted, the same bytes finish what was begun."""
    clean, company = await stack.company(), await stack.company()
    body = giant(2_000)
    assert len(body) > LONG
    for one in (clean, company):
        await charges(one, 2_000)
    assert (await clean.upload("x12", body)).body["posted"] == 1
    upload = asyncio.create_task(company.upload("x12", body))
    while after_receipt and not (await company.get("/v1/payments"))["items"]:
        assert not upload.done()
    while not (found := reading_processes()):
        assert not upload.done()
        await asyncio.sleep(0.001)
    os.kill(found[0], signal.SIGKILL)
    answer = await upload
    assert (answer.status, answer.code) == (503, "unavailable")
    assert len((await company.get("/v1/feeds"))["items"]) == after_receipt
    feed = (await company.upload("x12", body)).body
    assert (feed["state"], feed["posted"], feed["duplicates"], feed["quarantined"]) == ("done", 1, 0, 0)
    assert await company.sums() == await clean.sums()
    assert not reading_processes()


_READ_WHOLE = """
import resource, sys
import pytest

from bench.remittance import remittance
from services.ledger.feeds.remittance_claims import pieces_of
from services.ledger.feeds.x12.remittance import contents

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def all_pieces(lines):
    found = contents(remittance(lines, "T"))
    assert found.transactions[0].reason is None, found.transactions[0].problems
    return sum(len(piece.claims) for piece in pieces_of(remittance(lines, "T"), {1: False}))

assert all_pieces(4_000) == 1_000
before = peak()
lines, size = int(sys.argv[1]), 0

def counted():
    global size
    for chunk in remittance(lines, "T"):
        size += len(chunk)
        yield chunk

(found,) = contents(counted()).transactions
assert (found.lines, found.reason) == (lines, None)
assert all_pieces(lines // 16) == lines // 64
print(size, before, peak())
"""


def test_the_memory_of_a_reader_does_not_grow_with_the_file() -> None:
    """64 MB surveyed with every check, and a part of it cut into what is posted: a few megabytes, whatever the
    size. In a process of its own, whose highest memory ever is measured."""
    lines = 640_000
    command = [sys.executable, "-c", _READ_WHOLE, str(lines)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, cwd=ROOT)
    size, before, after = map(int, done.stdout.split())
    assert size >= 64_000_000
    assert after - before < 8, f"{before} MB before, {after} MB after {size} bytes"
