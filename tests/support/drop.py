"""A company's folder of the watched directory as its sender uses it, and processes that watch it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from services.ledger.feeds.watched import Watcher
from tests.support.ledger import Company
from tests.support.owners import ROOT


class Drop:
    """A company's folder, and how its sender uses it."""

    def __init__(self, company: Company, root: Path) -> None:
        self.company, self.root = company, root
        self.base = root / str(company.company_id)
        for kind in ("x12", "hl7", "fhir", "csv/bank"):
            (self.base / "incoming" / kind).mkdir(parents=True)

    def put(self, name: str, content: bytes) -> Path:
        path = self.base / "incoming" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def watcher(self, settle_seconds: float = 0) -> Watcher:
        return Watcher(self.company.stack.ledger, self.root, settle_seconds=settle_seconds)

    def at(self, place: str) -> list[str]:
        """Files there, by kind and the name that the sender gave."""
        top = self.base / place
        found = [path.relative_to(top) for path in top.rglob("*") if not path.is_dir() and ".reason." not in path.name]
        return sorted(str(path.parent / path.name[37:] if place != "incoming" else path) for path in found)

    def reasons(self) -> Counter[str]:
        found = [json.loads(path.read_bytes()) for path in (self.base / "failed").rglob("*.reason.json")]
        return Counter(one["code"] for one in found)

    def feed_ids(self) -> set[str]:
        return {path.name[:36] for path in (self.base / "done").rglob("*") if path.is_file()}

    async def feeds(self) -> list[Any]:
        items: list[Any] = (await self.company.get("/v1/feeds", limit=500))["items"]
        return items


def process(drop: Drop, crash_at: str = "") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.watch_process", drop.company.stack.dsn, str(drop.root)],
        cwd=ROOT,
        env={**os.environ, "CRASH_AT": crash_at},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def ended(running: subprocess.Popen[bytes]) -> int:
    _, said = await asyncio.to_thread(running.communicate, timeout=60)
    assert running.returncode in (0, -signal.SIGKILL), said.decode()[-3000:]
    return running.returncode
