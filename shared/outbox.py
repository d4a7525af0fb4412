"""The relay: moves committed events from a database's outbox to the bus, in order, losing none.

An event is written with the change it tells of, and beside it a row that says "not yet published":

    create table event (
        company_id    uuid        not null,
        first_version bigint      not null,
        version       bigint      not null,
        event_id      uuid        not null unique,
        type          text        not null,
        occurred_at   timestamptz not null,
        payload       text        not null,
        primary key (company_id, first_version),
        unique (company_id, version)              -- 3.
    );
    create table outbox (
        outbox_id     bigint generated always as identity primary key,  -- 2.
        company_id    uuid   not null,
        first_version bigint not null
    );

The order of `outbox_id` is the order of versions within a company only while all of this holds:

1. the company's row is locked (its version raised) before the outbox row is inserted, in the same transaction;
2. the identity sequence keeps its cache of 1;
3. the database refuses two events of one version;
4. one relay is the leader: it holds an advisory lock on the connection by which it reads and deletes, and no pool
   resets that connection. When the connection dies, so does the leadership, before anything more can be deleted;
5. an outbox row is deleted only when its own event came back acknowledged, and never one behind the first failure.

The relay asks what is there, never what is newer than what it saw: ids become visible out of order, and a relay that
remembers the last id skips the late ones for good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg
import structlog

from shared.bus import Message, Publisher, backoff, pause
from shared.contracts.envelope import correlation_ids
from shared.crash import point
from shared.db import connect

log = structlog.get_logger(__name__)

LEADER_LOCK = 0x6F7574626F78  # "outbox"; advisory locks belong to one database
STANDBY_SECONDS = 1.0
SHORTEST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
# A leader whose machine vanished keeps its lock until PostgreSQL notices: after a minute instead of two hours.
KEEPALIVE = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}


@dataclass(slots=True)
class RelayStatus:
    """What the relay is doing, for readiness and metrics."""

    leader: bool = False
    published: int = 0
    failed: int = 0
    oldest_unpublished_at: datetime | None = None
    polled_at: datetime | None = None
    """When the leader last saw the outbox; the figures above are as old as this."""

    def lag_seconds(self) -> float:
        """Age of the oldest event that the leader could not publish yet; 0 when there is none."""
        if self.oldest_unpublished_at is None:
            return 0.0
        return max(0.0, (datetime.now(UTC) - self.oldest_unpublished_at).total_seconds())


@dataclass(frozen=True, slots=True)
class Relay:
    """Publishes one database's outbox. Any number may run; one leads, the others wait to take over.

    `select` returns the first `$1` outbox rows in the order of `outbox_id`, each with its event, as
    `outbox_id bigint, event_id uuid, type text, routing_key text, body text, occurred_at timestamptz`.
    `wake` may be set by a writer in the same process, to be published sooner; it is a hint and nothing rests on it.
    """

    dsn: str = field(repr=False)
    publisher: Publisher
    exchange: str
    select: str
    role: str | None = None
    """The group role to work as, see `shared.db.create_pool`."""
    status: RelayStatus = field(default_factory=RelayStatus)
    wake: asyncio.Event | None = None
    batch_size: int = 500

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, waiting out a database or a bus that is away."""
        pauses = backoff()
        while not stop.is_set():
            try:
                await self._lead(stop)
            except Exception as error:  # asyncpg has many ways to say that a connection is lost; a new one cures most
                log.warning("relay_interrupted", error=type(error).__name__, reason=str(error)[:200])
                if self.status.leader:
                    pauses = backoff()
            finally:
                self.status.leader = False
            await pause(next(pauses), stop)

    async def _lead(self, stop: asyncio.Event) -> None:
        connection = await connect(self.dsn, role=self.role, command_seconds=30, settings=KEEPALIVE)
        try:
            # Asked again and again: a statement that waits for the lock would hold back vacuum as long as it waits.
            while not await connection.fetchval("select pg_try_advisory_lock($1)", LEADER_LOCK):
                await pause(STANDBY_SECONDS, stop)
                if stop.is_set():
                    return
            self.status.leader = True
            log.info("relay_leads", exchange=self.exchange)
            await self._publish_all(connection, stop)
        finally:
            await _close(connection)

    async def _publish_all(self, connection: asyncpg.Connection[asyncpg.Record], stop: asyncio.Event) -> None:
        quiet = SHORTEST_PAUSE_SECONDS
        failures = backoff()
        while not stop.is_set():
            if self.wake is not None:
                self.wake.clear()  # before looking, so that no later signal is lost
            rows = await connection.fetch(self.select, self.batch_size)
            self.status.polled_at = datetime.now(UTC)
            self.status.oldest_unpublished_at = rows[0]["occurred_at"] if rows else None
            if not rows:
                # Publishing nothing keeps the connection to the bus open, and its state known.
                await self.publisher.publish(self.exchange, ())
                await pause(quiet, self.wake or stop)
                quiet = min(2 * quiet, LONGEST_PAUSE_SECONDS)
            elif await self._publish(connection, rows):
                quiet, failures = SHORTEST_PAUSE_SECONDS, backoff()
                if len(rows) < self.batch_size:
                    await pause(SHORTEST_PAUSE_SECONDS, stop)
            else:
                await pause(next(failures), stop)

    async def _publish(self, connection: asyncpg.Connection[asyncpg.Record], rows: Sequence[asyncpg.Record]) -> bool:
        """Publish the rows and delete those that were acknowledged, up to the first that was not."""
        point("relay.after_read")
        messages = [_message(row) for row in rows]
        answers = await self.publisher.publish(self.exchange, messages)
        accepted = answers.index(False) if False in answers else len(answers)
        self.status.published += accepted
        self.status.failed += len(rows) - accepted
        if accepted:
            point("relay.after_publish_before_mark")
            ids = [row["outbox_id"] for row in rows[:accepted]]
            await connection.execute("delete from outbox where outbox_id = any($1::bigint[])", ids)
            point("relay.after_mark")
            followed = correlation_ids(message.body for message in messages[:accepted])
            log.info("events_published", events=accepted, correlation_ids=followed)
        return accepted == len(rows)


def _message(row: asyncpg.Record) -> Message:
    return Message(
        message_id=str(row["event_id"]),
        type=row["type"],
        routing_key=row["routing_key"],
        body=row["body"].encode(),
    )


async def _close(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Give up the leadership now, not when PostgreSQL notices that we have gone."""
    try:
        await connection.close(timeout=5)
    except Exception:
        connection.terminate()
