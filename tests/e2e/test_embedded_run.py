"""`make run`: the whole of it as a process, on an empty folder, through every way in which it can end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil
import pytest

from deploy.processes import free_port, wait_until
from tests.support.deployed import SERVICES, compose_postgres, database_address
from tests.support.owners import ROOT, owner

RUN = """
import os, sys
os.environ.update(zip(("PORT", "MLLP_PORT", "DATA_DIR", "DEMO"), sys.argv[1:]))
from deploy.run import main
main()
"""
# The demo's totals, added up by hand from what its posters, its EMR and its payers send.
BASE = {"payments": 26, "amount_cents": 1837_00, "provider_level_cents": -23_00}
FULL_ACCESS = {"payments": 28, "amount_cents": 2007_00}
LAKESIDE = {"payments": 7, "amount_cents": 347_00}
GROUPS = {
    ("Integration Import, Not mapped to a user", "emr"): 137_00,
    ("Integration Import, Not mapped to a user", "era"): 732_00,
    ("Paula Ortiz", "manual"): 494_00,
    ("Quentin Hale", "manual"): 462_00,
    ("Sam Ellery", "manual"): 12_00,
}
LAST_LINE = "payment-balancing"
SESSIONS = """
select distinct usename, datname from pg_stat_activity
where backend_type = 'client backend' and usename is not null and pid <> pg_backend_pid()
"""
STOP_SECONDS = 10.0


@dataclass(slots=True)
class Running:
    """A run and what it has said."""

    process: subprocess.Popen[str]
    port: int
    data: Path
    said: str = ""

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        file = self.data / "logs" / "billing.jsonl"
        return file.read_text() if file.exists() else ""

    def read_to(self, text: str) -> str:
        """What it says up to the line with this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if text in line:
                return self.said
        raise AssertionError(f"it ended before it said {text!r}:\n{self.said}")

    def family(self) -> list[psutil.Process]:
        me = psutil.Process(self.process.pid)
        found = [me, *me.children(recursive=True)]
        assert any("postgres" in process.name() for process in found)
        return found

    def end(self, number: signal.Signals) -> int:
        """The exit code after a signal, within seconds; then nothing of the run is left, PostgreSQL included."""
        family = self.family()
        self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS)
        assert wait_until(lambda: not any(map(lives, family)), STOP_SECONDS), [p.cmdline() for p in family if lives(p)]
        return code


def lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def place(server_dir: Path, request: pytest.FixtureRequest) -> Path:
    folder = server_dir / f"run of {request.node.name}"
    folder.mkdir(mode=0o755)
    return folder


@asynccontextmanager
async def running(place: Path, *, demo: bool = True, as_nobody: bool = False) -> AsyncIterator[Running]:
    port, data = free_port(), place / "data"
    with owner(RUN, str(port), str(free_port()), str(data), str(int(demo)), as_nobody=as_nobody, home=place) as process:
        yield Running(process, port, data)


class Browser:
    """Asks a run over HTTP."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self._base = base
        self._session = session

    async def get(self, path: str, token: str | None = None, **query: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self._session.get(self._base + path, params=query, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if "json" in response.content_type else text

    async def sign_in(self, user_name: str, password: str) -> str:
        form = {"grant_type": "password", "username": user_name, "password": password}
        async with self._session.post(f"{self._base}/identity/v1/token", data=form) as response:
            assert response.status == 200, await response.text()
            return str((await response.json())["access_token"])


@asynccontextmanager
async def browser(run: Running) -> AsyncIterator[Browser]:
    async with aiohttp.ClientSession() as session:
        yield Browser(run.base, session)


def password_of_the_demo(run: Running) -> str:
    found = re.search(r"all with the password (\S+)", run.said)
    assert found
    return found[1]


def has(totals: dict[str, int], expected: dict[str, int]) -> bool:
    return expected.items() <= totals.items()


async def check_reports(run: Running) -> int:
    """The figures that two roles get over HTTP are those on the screen; answers the version of the books."""
    printed = re.search(r"Payment Balancing, (\S+) to (\S+), as", run.said)
    assert printed
    days = {"from": printed[1], "to": printed[2]}
    path, secret = "/reporting/v1/reports/payment-balancing", password_of_the_demo(run)
    async with browser(run) as web:
        admin, restricted = await web.sign_in("practice.admin", secret), await web.sign_in("restricted.biller", secret)
        status, grouped = await web.get(path, admin, **days, group_by="poster,source")
        assert status == 200
        assert {(row["poster_name"], row["source"]): row["amount_cents"] for row in grouped["items"]} == GROUPS
        assert has(grouped["totals"], BASE)
        assert re.search(r"^Total +26 +1,837\.00 ", run.said, re.MULTILINE)
        _, full = await web.get(path, admin, **days, variation="full_access")
        assert has(full["totals"], FULL_ACCESS)
        assert "28 payments, 2,007.00" in run.said
        _, own = await web.get(path, restricted, **days)
        assert has(own["totals"], LAKESIDE)
        assert "Lakeside only: 7 payments, 347.00" in run.said
        assert own["totals"]["amount_cents"] < grouped["totals"]["amount_cents"]
        # What he does not see he cannot ask for either.
        seen = {row["location_id"] for row in own["items"]}
        others = {row["location_id"] for row in full["items"]} - seen - {None}
        assert len(seen) == 1
        assert len(others) == 2
        for location in others:
            status, problem = await web.get(path, restricted, **days, location_id=location)
            assert (status, problem["code"]) == (403, "location_forbidden")
        return int(full["as_of_version"])


async def check_pages(run: Running) -> None:
    async with browser(run) as web:
        assert await web.get("/livez") == (200, {"status": "ok"})
        assert await web.get("/readyz") == (200, {"status": "ok", "failed": []})
        status, page = await web.get("/")
        assert status == 200
        for link in re.findall(r"href=(\S+?)>", page):
            assert (await web.get(link))[0] == 200, link
        for path in ("/nothing", "/ledger/nothing", "/ledgers/v1/patients"):
            status, problem = await web.get(path)
            assert (status, problem["code"]) == (404, "not_found"), path
            assert problem["detail"].startswith("There is no such address; "), path


async def check_sessions(run: Running) -> None:
    """The services are connected by their login roles, each to its own database, and nobody by another."""
    home = run.data / "postgres"
    port = (home / "pgdata" / "postmaster.pid").read_text().splitlines()[3]
    address = f"postgresql://postgres:{(home / 'password').read_text()}@127.0.0.1:{port}/postgres"
    connection = await asyncpg.connect(address)
    try:
        sessions = await connection.fetch(SESSIONS)
    finally:
        await connection.close()
    assert {tuple(row) for row in sessions} == {(f"{name}_login", name) for name in SERVICES}


def check_log(run: Running) -> None:
    """Every line is an object, and none holds a secret or a patient."""
    lines = [json.loads(line) for line in run.log.splitlines()]
    assert {"identity", "ledger", "reporting"} <= {line.get("service") for line in lines}
    assert not [line for line in lines if line["level"] in ("error", "critical")]
    kept = json.loads((run.data / "secrets.json").read_text())
    for text in (*kept.values(), "Reyes", "Okafor", "RVR-1001", "BH-55120"):
        assert text not in run.log


@pytest.mark.fault
async def test_it_is_killed_while_it_makes_the_demo_and_goes_on_where_it_was(place: Path) -> None:
    async with running(place) as run:
        assert wait_until(lambda: run.log.count('"/ledger/v1/charges"') > 5, 60)
        first = run.read_to("operator")
        run.end(signal.SIGKILL)
    kept = json.loads((place / "data" / "secrets.json").read_text())
    assert kept["operator_password"] in first
    assert (place / "data" / "secrets.json").stat().st_mode & 0o777 == 0o600

    async with running(place) as run:
        run.read_to(LAST_LINE)
        assert kept["operator_password"] not in run.said
        assert str(place / "data" / "secrets.json") in run.said
        await check_pages(run)
        await check_sessions(run)
        version = await check_reports(run)
        assert run.end(signal.SIGINT) == 0
        check_log(run)

    started = time.monotonic()
    async with running(place) as run:
        run.read_to("Ready at")
        assert time.monotonic() - started < 15
        run.read_to(LAST_LINE)
        assert await check_reports(run) == version  # nothing was posted again
        with socket.create_connection(("127.0.0.1", run.port)) as upload:  # which never ends
            upload.sendall(b"POST /ledger/v1/feeds/x12 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nISA")
            await asyncio.sleep(0.1)
            assert run.end(signal.SIGTERM) == 0


async def test_it_runs_for_an_ordinary_user_behind_closed_doors(server_dir: Path) -> None:
    """As `nobody`, in a folder with a space in its name whose parent nobody else may enter."""
    closed = server_dir / "closed"
    inner = closed / "my data"
    inner.mkdir(parents=True)
    for folder in (closed, inner):
        folder.chmod(0o700)
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
    async with running(inner, demo=False, as_nobody=True) as run:
        said = re.search(r"user `operator`, password (\S+),", run.read_to("operator"))
        assert said
        async with browser(run) as web:
            assert await web.sign_in("operator", said[1])
        assert len({process.username() for process in run.family()}) == 1
        assert run.end(signal.SIGINT) == 0
        assert "Demo" not in run.said


async def test_real_servers_are_migrated_by_their_owners_and_used_without(place: Path, server_dir: Path) -> None:
    with compose_postgres(server_dir / "given") as server:
        addresses = {}
        for name in SERVICES:
            addresses[f"{name.upper()}_DATABASE_URL"] = database_address(server, f"{name}_login", name)
            addresses[f"{name.upper()}_OWNER_DATABASE_URL"] = database_address(server, name, name)
        given = f"import os; os.environ.update({addresses!r})\n"
        port, data = free_port(), place / "data"
        with owner(given + RUN, str(port), str(free_port()), str(data), "0", home=place) as process:
            run = Running(process, port, data)
            assert "PostgreSQL" not in run.read_to("Ready at")
            assert {line.strip() for line in server.execute(SESSIONS).splitlines()} == {
                f"{n}_login|{n}" for n in SERVICES
            }
            process.send_signal(signal.SIGINT)
            assert process.wait(STOP_SECONDS) == 0


@pytest.mark.parametrize("fault", ["port", "folder", "watched"])
def test_what_is_wrong_at_the_start_is_one_sentence(place: Path, fault: str) -> None:
    data = place / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if fault == "port" else free_port()
        if fault == "folder":
            data.write_text("not a folder")
        settings = {**os.environ, "PORT": str(port), "DATA_DIR": str(data)}
        if fault == "watched":
            settings["WATCH_DIR"] = str(place / "watched")
        command = [sys.executable, "-m", "deploy.run"]
        done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Cannot start: ")
    assert done.stderr.count("\n") == 1
    assert {"port": str(port), "folder": str(data), "watched": str(place / "watched")}[fault] in done.stderr
