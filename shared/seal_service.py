"""A service's sealing: its background job, and the commands `seal` and `verify-audit`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import structlog

from shared.bus import pause
from shared.config import Config
from shared.db import BUSY_OR_AWAY, KEYED_PLANS, create_pool
from shared.errors import Unavailable
from shared.seal import Head, Source, run, seal_all
from shared.seal_check import Finding, verify
from shared.seal_heads import HeadFile, heads_path, keys_path, public_keys, read

_RETRY_SECONDS = 2.0
log = structlog.get_logger("seal")


@dataclass(slots=True)
class _Counted:
    """Heads, and how many of them have been read."""

    heads: Iterable[tuple[int, Head]]
    count: int = 0

    def __iter__(self) -> Iterator[tuple[int, Head]]:
        for head in self.heads:
            self.count += 1
            yield head


@dataclass(frozen=True, slots=True)
class Sealing:
    """What a service seals, and as whom: `role` is the service's own, which owns nothing."""

    service: str
    role: str
    sources: Sequence[Source]

    async def run(self, config: Config, stop: asyncio.Event) -> None:
        """The background job: until `stop`, waiting out a database that is away."""
        keeper = HeadFile.of(config, self.service)
        while not stop.is_set():
            try:
                async with await self._pool(config) as pool:
                    await run(pool, self.sources, stop, keeper)
            except (Unavailable, TimeoutError, *BUSY_OR_AWAY):
                log.warning("seal_put_off", exc_info=True)
                await pause(_RETRY_SECONDS, stop)

    async def seal(self, config: Config) -> None:
        """`seal`: seal what is waiting now and have the heads kept, as before a backup."""
        async with await self._pool(config) as pool:
            done = await seal_all(pool, self.sources, HeadFile.of(config, self.service))
        print(json.dumps({"service": self.service, "sealed": done}))  # noqa: T201

    async def verify(self, config: Config, *options: str) -> None:
        """`verify-audit [--heads FILE]`: one JSON object for the first bad place of each company, a summary last. Ends
        the process with 1 when something was found. Without `--heads` the file in `SEAL_DIR`; where heads are kept,
        none to compare with is a finding."""
        path = self._heads(config, options)
        heads = _Counted(() if path is None else self._read(config, path))
        async with await self._pool(config) as pool:
            seals, findings = await verify(pool, self.sources, heads)
        unread = seals and not heads.count and all(one.company_id for one in findings)
        if unread and (path is not None or config.seal_dir is not None):
            findings.append(Finding(None, None, None, "the file of heads: there is none, or nothing in it"))
        for one in findings:
            company = None if one.company_id is None else str(one.company_id)
            print(json.dumps({"company_id": company, "seq": one.seq, "row": one.ref, "found": one.what}))  # noqa: T201
        compared = None if path is None else str(path)
        summary = {
            "service": self.service,
            "seals": seals,
            "heads": compared,
            "heads_compared": heads.count,
            "bad_companies": len(findings),
        }
        print(json.dumps(summary))  # noqa: T201
        if findings:
            raise SystemExit(1)

    def _read(self, config: Config, path: Path) -> Iterable[tuple[int, Head]]:
        beside = keys_path(path.parent, self.service)
        if not beside.exists() and config.seal_dir is not None:
            beside = keys_path(config.seal_dir, self.service)
        if not beside.exists():
            raise SystemExit(f"There is no file {beside}")
        # What is appended from now on is of a later moment than the one that is going to be read.
        return read(path, self.service, public_keys(beside), size=path.stat().st_size)

    def _heads(self, config: Config, options: Sequence[str]) -> Path | None:
        if options:
            if len(options) != 2 or options[0] != "--heads":
                raise SystemExit(f"usage: python -m services.{self.service} verify-audit [--heads FILE]")
            path = Path(options[1])
            if not path.is_file():
                raise SystemExit(f"There is no file {path}")
            return path
        known = heads_path(config.seal_dir, self.service) if config.seal_dir else None
        return known if known is not None and known.exists() else None

    async def _pool(self, config: Config) -> asyncpg.Pool:
        dsn = config.required(f"{self.service}_database_url")
        return await create_pool(dsn, name=f"{self.service}-seal", role=self.role, size=1, settings=KEYED_PLANS)
