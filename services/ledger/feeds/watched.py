"""Files of the watched directory (an SFTP drop): claimed, posted as if they had been sent by HTTP, and only then moved.

The feed of a file has the id that the file was claimed under. So whoever takes it up after an interruption goes on with
the same feed, and finds out whether only the last step, the move, is missing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

import asyncpg
import orjson
import structlog

from services.ledger.feeds import csv_store, files, hl7_store, intake
from services.ledger.feeds.attempts import AWAY, Attempts, Past, Work
from services.ledger.feeds.csv_posting import CsvFile
from services.ledger.feeds.files import Arrival, Reading
from services.ledger.feeds.hl7.reader import Unreadable
from services.ledger.feeds.hl7_intake import Origin, receive_file
from services.ledger.feeds.hl7_posting import post_feed
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.spooled import PIECE, Spooled
from services.ledger.feeds.watched_folders import (
    Claimed,
    Incoming,
    NoFile,
    companies,
    held,
    signature_of,
    working,
)
from services.ledger.service import Ledger
from shared.bus import pause
from shared.config import Config
from shared.crash import point
from shared.errors import Invalid, PayloadTooLarge, Problem
from shared.ids import uuid7

CHANNEL: Final = "watched"
_LOOK_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 3.0
"""How long a file must not have changed before it is taken for complete."""
_HL7_BYTES: Final = 8 << 20
"""HL7 files are held in memory, as they are by HTTP."""
log = structlog.get_logger("watched")


async def run(ledger: Ledger, config: Config, stop: asyncio.Event) -> None:
    """Watch until `stop`, where there is a directory to watch."""
    if config.watch_dir is None:
        await stop.wait()
        return
    watcher = Watcher(ledger, config.watch_dir)
    while not stop.is_set():
        try:
            await watcher.look(stop)
        except Exception:
            log.warning("watched_directory_waits", exc_info=True)
        await pause(_LOOK_SECONDS, stop)


class Watcher:
    """Looks into the directory. Any number of them may look into the same one."""

    def __init__(self, ledger: Ledger, root: Path, *, settle_seconds: float = _SETTLE_SECONDS) -> None:
        self._ledger, self._root = ledger, root
        self._incoming = Incoming(settle_seconds)
        self._attempts = Attempts(ledger.pool)
        self._unknown: set[str] = set()

    async def look(self, stop: asyncio.Event | None = None) -> None:
        """Claim what has settled and work on what is claimed, one file after the other. What cannot be done now is left
        for the next look, and holds up nothing else."""
        for base, company_id in await self._companies():
            try:
                await asyncio.to_thread(self._incoming.claim, base)
            except OSError as error:
                log.warning("watched_folder_waits", company_id=str(company_id), error=type(error).__name__)
            for claimed in await asyncio.to_thread(working, base):
                if stop is not None and stop.is_set():
                    return
                await self._attend(company_id, claimed)

    async def _companies(self) -> list[tuple[Path, UUID]]:
        """Folders that are named by a company's code or id."""
        known: dict[str, UUID] = {}
        for row in await self._ledger.pool.fetch("select company_id, code from directory_company where active"):
            known |= {row["code"]: row["company_id"], str(row["company_id"]): row["company_id"]}
        found = []
        for base in await asyncio.to_thread(companies, self._root):
            if base.name in known:
                found.append((base, known[base.name]))
            elif base.name not in self._unknown:
                self._unknown.add(base.name)
                log.warning("watched_folder_of_no_company", folder=_hash_of(base.name))
        return found

    async def _attend(self, company_id: UUID, claimed: Claimed) -> None:
        """Work on a file unless somebody else does. Attempts are counted, so that one which ends the process is put
        aside after a few."""
        try:
            with held(claimed) as file:
                if file is not None:
                    point("watched.after_claim")
                    await self._attempts.make(self._work(company_id, claimed, file))
        except NoFile:
            with suppress(OSError):  # Else at the next look.
                _fail(claimed, {"code": "no_file", "detail": "It is no file, or none that may be read"})
        except AWAY as error:
            # The database is away, the disk is full: nobody's fault, and over some time.
            log.warning("watched_file_waits", file=_hash_of(claimed.name), error=type(error).__name__)

    def _work(self, company_id: UUID, claimed: Claimed, file: BinaryIO) -> Work[Claimed]:
        async def handle(_: Sequence[Claimed]) -> None:
            await self._handle(company_id, claimed, file)

        async def put_aside(_: Claimed, past: Past) -> None:
            said = {"attempts": past.attempts, "last_error_type": past.last_error_type}
            _fail(claimed, {"code": "poison", "detail": "It ended whatever handled it", **said})

        return Work(company_id, {f"watched {claimed.id}": [claimed]}, handle, put_aside)

    async def _handle(self, company_id: UUID, claimed: Claimed, file: BinaryIO) -> None:
        """Post a file, and when that is committed move it on."""
        started, before = time.monotonic(), signature_of(file)
        said: dict[str, Any] = {"company_id": str(company_id), "file": _hash_of(claimed.name), "bytes": before[1]}
        refusal: Problem | None = None
        body_hash = b""
        with tempfile.TemporaryFile() as spool:
            try:
                body_hash, size = await asyncio.to_thread(_copy, file, spool)
                arrival = Arrival(company_id, CHANNEL, CHANNEL, body_hash, size, spool, claimed.id)
                changed = not await self._post(claimed.kind, arrival)
            except (Invalid, PayloadTooLarge) as problem:
                refusal, changed = problem, False
        point("watched.after_commit")
        if changed or signature_of(file) != before:
            # Its sender had not finished. What was posted of it is known by its content when the rest has come.
            claimed.put_back()
            log.info("watched_file_put_back", **said)
            return
        if refusal is not None:
            what = {"bytes": before[1], "sha256": body_hash.hex() or None}
            _fail(claimed, {"code": refusal.code, "detail": refusal.detail, **what})
            log.warning("watched_file_failed", code=refusal.code, **said)
            return
        claimed.put("done")
        point("watched.after_move")
        ms = round((time.monotonic() - started) * 1000, 1)
        log.info("watched_file_done", feed_id=str(claimed.id), ms=ms, **said)

    async def _post(self, kind: str, arrival: Arrival) -> bool:
        """Post the file, or what an interruption has left of it. False when its feed is of other bytes.
        Raises Invalid for a file that cannot be used: nothing of it is stored."""
        pool, correlation_id = self._ledger.pool, str(uuid7())
        feed_id = arrival.feed_id or uuid7()
        begun = await intake.opened(pool, arrival.company_id, feed_id)
        if begun is not None and begun["body_hash"] != arrival.body_hash:
            return False
        if begun is not None and begun["state"] == "done":
            return True
        if kind == "hl7":
            await self._receive(arrival, feed_id, correlation_id)
            return True
        reading = await self._reading(kind, arrival.company_id, begun)
        post = await reading.examine(Spooled.of(arrival.spool))
        feed = await files.keep(self._ledger, reading, arrival)
        await post(self._ledger, feed, correlation_id)
        return True

    async def _reading(self, kind: str, company_id: UUID, begun: asyncpg.Record | None) -> Reading:
        """How files of this folder are read; one that was begun is finished as it was begun."""
        format, _, profile_name = kind.partition("/")
        if format not in files.READINGS:
            raise Invalid("Neither its folder nor its name says what it is", code="unknown_kind")
        if begun is not None:
            return files.READINGS[format](begun["reading"])
        if format != "csv":
            return files.READINGS[format](None)
        # A folder's name may be any bytes, a profile's is ASCII.
        known = profile_name.isascii()
        profile = await csv_store.profile_of(self._ledger.pool, company_id, profile_name) if known else None
        if profile is None:
            raise Invalid("The company has no profile of the folder's name", code="unknown_profile")
        return files.csv(CsvFile(name=profile_name, profile=profile))

    async def _receive(self, arrival: Arrival, feed_id: UUID, correlation_id: str) -> None:
        """Messages of HL7 v2. Each delivery of a message counts: one that was kept before an interruption is counted
        as a duplicate when its file is read again."""
        if arrival.byte_count > _HL7_BYTES:
            raise PayloadTooLarge()
        arrival.spool.seek(0)
        content = arrival.spool.read()
        feed = Feed(arrival.company_id, feed_id, hl7_store.FORMAT, "emr")
        opened: list[Feed] = []

        async def open_feed(_company_id: UUID, _source: str) -> Feed:
            if not opened:
                await intake.open_feed(
                    self._ledger.pool,
                    feed,
                    channel=CHANNEL,
                    sender=arrival.sender,
                    body_hash=arrival.body_hash,
                    chunks=[content],
                )
                opened.append(feed)
            return feed

        await self._ledger.learn({arrival.company_id})
        try:
            await receive_file(self._ledger, content, Origin(CHANNEL, open_feed, arrival.company_id))
        except Unreadable as error:
            raise Invalid.field("body", "hl7_unreadable", str(error)) from None
        if not opened:
            raise Invalid("None of its messages is for this receiver", code="hl7_rejected")
        await post_feed(self._ledger, feed, correlation_id)
        await intake.close_feed(self._ledger.pool, feed)


def _fail(claimed: Claimed, reason: Mapping[str, Any]) -> None:
    """Move a file to `failed`, with the reason beside it: nothing of its content, nor its name."""
    claimed.explain(orjson.dumps({**reason, "failed_at": datetime.now(UTC)}, option=orjson.OPT_INDENT_2))
    claimed.put("failed")


def _copy(file: BinaryIO, spool: BinaryIO) -> tuple[bytes, int]:
    """A copy that nobody can change while it is read; its hash and size."""
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    while piece := file.read(PIECE):
        size += len(piece)
        if size > files.MAX_BYTES:
            raise PayloadTooLarge()
        digest.update(piece)
        spool.write(piece)
    spool.flush()
    return digest.digest(), size


def _hash_of(name: str) -> str:
    """What is logged in place of a name, which may be a patient's."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
