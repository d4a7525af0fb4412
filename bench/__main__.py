"""`python -m bench`: measure everything, write `bench/results.json`, print a table."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from bench.folding import folding
from bench.guarding import guarding
from bench.parsing import parsing
from bench.posting import posting
from bench.remittance import remittances_posted
from bench.rounds import Result
from deploy.postgres import PrivatePostgres

BENCHMARKS = {
    "posting": posting,
    "guarding": guarding,
    "folding": folding,
    "parsing": parsing,
    "remittance": remittances_posted,
}
RESULTS = Path(__file__).parent / "results.json"
README = Path(__file__).parent.parent / "README.md"
_PYTHON = f"Python {platform.python_version()}"
_BEGIN, _END = "<!-- bench:begin -->", "<!-- bench:end -->"


def _into_readme(results: list[Result]) -> None:
    """The README's figures are those of the last run."""
    rows = [f"| {r.name} | {r.floor:,.0f} | {r.product:,.0f} | {r.ratio:.2f} | {r.rounds} |" for r in results]
    measured = f"With {_PYTHON} on {os.cpu_count()} cores:"
    table = [measured, "", "| | floor/s | product/s | ratio | rounds |", "|---|---:|---:|---:|---:|", *rows]
    before, rest = README.read_text().split(_BEGIN)
    README.write_text("\n".join([before + _BEGIN, *table, _END + rest.split(_END)[1]]))


async def _create(server: PrivatePostgres, name: str) -> str:
    connection = await asyncpg.connect(server.dsn())
    await connection.execute(f"create database {name}")
    await connection.close()
    return server.dsn(name)


def main() -> None:
    """Every benchmark on one private PostgreSQL with fsync on."""
    chosen = sys.argv[1:]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        with PrivatePostgres(Path(folder) / "postgres") as server:
            for name, benchmark in BENCHMARKS.items():
                if not chosen or name in chosen:
                    print(f"{name} ...", flush=True)
                    results += benchmark(asyncio.run(_create(server, name)))
    if not chosen:
        document = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "cores": os.cpu_count(),
            "python": _PYTHON,
            "results": [result.row() for result in results],
        }
        RESULTS.write_text(json.dumps(document, indent=2) + "\n")
        _into_readme(results)
    print(f"{'':36}{'floor/s':>12}{'product/s':>12}{'ratio':>8}   rounds (lowest - highest)")
    for r in results:
        span = f"{r.rounds} ({r.lowest:.2f} - {r.highest:.2f})"
        print(f"{r.name:36}{r.floor:12,.0f}{r.product:12,.0f}{r.ratio:8.2f}   {span}")


if __name__ == "__main__":
    main()
