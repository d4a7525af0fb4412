"""Processes and connections that end at any line of a posting: all or nothing, and the key tells which."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from shared.crash import POINTS
from shared.errors import Unavailable
from tests.support.ledger import LedgerStack, fold
from tests.support.ledger_crash import payment_command
from tests.support.owners import ROOT
from tests.support.posting import check, command, gapless, some_charge, some_payer

LEDGER_POINTS = [name for name in POINTS if name.startswith("ledger.")]


@pytest.mark.fault
@pytest.mark.parametrize("place", LEDGER_POINTS)
async def test_a_crash_leaves_all_or_nothing_and_the_key_tells(stack: LedgerStack, place: str) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    charge = await some_charge(company, 10_000, payer)
    before = await company.rows()
    arguments = [stack.dsn, company.company_id, payer, charge, company.today, f"crash at {place}"]
    crash = await asyncio.to_thread(run_poster, arguments, {"CRASH_AT": place})
    assert crash.returncode == -signal.SIGKILL, crash.stderr

    posted = place == "ledger.after_commit"
    again = payment_command(company.company_id, payer, charge, company.today, f"crash at {place}")
    if not posted:
        assert await company.rows() == before
    verdict = await stack.ledger.post(again)
    assert verdict.replayed is posted
    assert (await company.sums()) == {
        "payments": 1,
        "amount_cents": 4_000,
        "applied_cents": 3_000,
        "adjusted_cents": 0,
        "provider_level_cents": 0,
        "unapplied_cents": 1_000,
    }
    await gapless(stack, company)
    assert fold(await company.events()) == await company.totals()


def run_poster(arguments: Sequence[Any], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.support.ledger_crash", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_without_a_crash_point_the_same_process_posts(stack: LedgerStack) -> None:
    company = await stack.company()
    payer = await some_payer(company)
    charge = await some_charge(company, 10_000, payer)
    arguments = [stack.dsn, company.company_id, payer, charge, company.today, "no crash"]
    done = await asyncio.to_thread(run_poster, arguments, {})
    assert done.returncode == 0, done.stderr
    assert (
        await stack.ledger.post(payment_command(company.company_id, payer, charge, company.today, "no crash"))
    ).replayed


async def test_a_connection_cut_in_the_middle_is_settled_by_the_key(stack: LedgerStack) -> None:
    """The sessions of the pool are terminated again and again while payments are posted: none is lost or doubled."""
    company = await stack.company()
    payer = await some_payer(company)
    stop = asyncio.Event()

    async def cut() -> None:
        while not stop.is_set():
            await stack.owner.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'ledger-api' and datname = current_database() and state <> 'idle'"
            )
            await asyncio.sleep(0.1)

    cutter = asyncio.create_task(cut())
    outcomes = []
    for n in range(60):
        one = command(company, check(company, payer_id=payer), key=f"cut {n}")
        for _ in range(20):  # An answer of 503 says: repeat with the same key.
            try:
                verdict = await stack.ledger.poster.post(one)
            except Unavailable:
                continue
            if verdict.problem is None:
                outcomes.append(orjson.loads(verdict.response)["id"])
                break
    stop.set()
    await cutter
    assert len(set(outcomes)) == 60
    assert (await company.sums())["payments"] == 60
    await gapless(stack, company)
