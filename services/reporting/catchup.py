"""Closing gaps from the ledger's own event log: what the bus lost, or came before this database existed.

Every few seconds the ledger's heads are compared with what is folded. A company that has not reached by now the head
of the look before is behind for a reason other than messages under way, and its log is read from where we stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import asyncpg
import orjson
import structlog
from prometheus_client import CollectorRegistry, Gauge

from services.reporting import store
from services.reporting.inbox import Inbox, Received, read
from shared.bus import pause
from shared.db import TRANSIENT, acquire
from shared.errors import Unavailable
from shared.identity_client import ServiceClient

_PAGE: Final = 100
log = structlog.get_logger("catchup")


class CatchUp:
    """Reads the ledger's `/v1/events/heads` and `/v1/events`; what it finds goes through the inbox."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        inbox: Inbox,
        ledger: ServiceClient,
        *,
        seconds: float = 2.0,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._pool = pool
        self._inbox = inbox
        self._ledger = ledger
        self._seconds = seconds
        self._behind = Gauge(
            "reporting_companies_behind", "Companies behind the ledger for more than a moment", registry=registry
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Look every few seconds until `stop`. A ledger or a database that is away is waited for."""
        expected: Mapping[UUID, int] = {}
        while not stop.is_set():
            try:
                expected = await self.look(expected)
            except (Unavailable, TimeoutError, *TRANSIENT) as error:
                log.warning("catch_up_postponed", error=type(error).__name__)
            await pause(self._seconds, stop)

    async def look(self, expected: Mapping[UUID, int]) -> dict[UUID, int]:
        """Catch up every company that is below `expected`; answers the heads, to be expected at the next look."""
        async with acquire(self._pool) as connection:
            ready = await store.ready(connection)
            progress = await store.progress(connection)
        for company in ready:
            await self._inbox.drain(company)
        behind = [company for company, head in expected.items() if progress.get(company, 0) < head]
        self._behind.set(len(behind))
        for company in behind:
            await self.close_gap(company, progress.get(company, 0))
        answer = await self._ledger.get("/v1/events/heads")
        return {UUID(item["company_id"]): item["version"] for item in answer["items"]}

    async def close_gap(self, company_id: UUID, after_version: int) -> None:
        """Read the company's log from a version on, passing over what already waits in the inbox, to its end; or up to
        an event that cannot be folded, which stays an alarm at every look."""
        log.info("catching_up", company_id=str(company_id), after_version=after_version)
        while True:
            page = await self._ledger.get(
                "/v1/events", {"company_id": str(company_id), "after_version": after_version, "limit": _PAGE}
            )
            await self._inbox.receive(_understood(page["items"]))
            async with acquire(self._pool) as connection:
                reached = await store.version_of(connection, company_id)
            if page["items"] and reached <= after_version:
                log.error("company_stays_behind", company_id=str(company_id), version=reached)
            if page["next"] is None or reached <= after_version:
                return
            after_version = reached


def _understood(items: list[object]) -> list[Received]:
    events = []
    for item in items:
        try:
            events.append(read(orjson.dumps(item)))
        except ValueError as error:
            log.error("ledger_event_not_understood", error=type(error).__name__)
    return events
