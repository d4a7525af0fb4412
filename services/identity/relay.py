"""Identity's background: publishes the outbox (states of companies, locations, users and clients) to whoever listens,
does the upkeep of keys and sessions, and seals the audit."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from services.identity.sealing import Sealer
from services.identity.service import upkeep
from services.identity.service.acts import SOURCE
from services.identity.store import ROLE, SEALING
from services.identity.store.log import OUTBOX
from shared.bus import BILLING_EVENTS, Bus, Message, Publisher, pause
from shared.config import Config
from shared.contracts.envelope import Event, encode
from shared.contracts.identity_events import HEARTBEAT, HEARTBEAT_KEY, Heartbeat
from shared.ids import uuid7
from shared.outbox import Relay, RelayStatus
from shared.process import bus_of, relay_check, relay_registry, run_background

HEARTBEAT_SECONDS: Final = 5.0
_FIRST_LOOK_SECONDS: Final = 0.1


async def run(config: Config, stop: asyncio.Event, bus: Bus | None = None) -> None:
    """Until `stop`. Without a bus of the caller's, RabbitMQ by AMQP_URL. The routing key of an event is its type."""
    dsn, sealer = config.required("identity_database_url"), Sealer(config.required("identity_secrets_key"))
    # A connection of its own for the heartbeat, which nobody may want to hear: that is no trouble of the relay's.
    async with bus_of(config, bus) as publisher, bus_of(config, bus) as heart:
        relay = Relay(dsn, publisher, BILLING_EVENTS, OUTBOX, role=ROLE)
        chores = upkeep.run(dsn, sealer, timedelta(days=config.signing_key_days), stop)
        checks = {"relay": relay_check(relay)}
        jobs = (relay.run(stop), beat(relay.status, heart, stop), chores, SEALING.run(config, stop))
        await run_background(config, stop, *jobs, checks=checks, registry=relay_registry(relay))


async def beat(status: RelayStatus, publisher: Publisher, stop: asyncio.Event) -> None:
    """Say every few seconds until when everything that was committed has been published. Only who leads knows that,
    and only as of his last look into the outbox; a relay that cannot look or publish falls silent by itself."""
    said: datetime | None = None
    while not stop.is_set():
        as_of = status.oldest_unpublished_at or status.polled_at
        if status.leader and as_of is not None and as_of != said:
            event = Event[Heartbeat](
                id=uuid7(), source=SOURCE, type=HEARTBEAT, time=datetime.now(UTC), data=Heartbeat(as_of=as_of)
            )
            await publisher.publish(
                BILLING_EVENTS, [Message(str(event.id), HEARTBEAT, HEARTBEAT_KEY, encode(event).encode())]
            )
            said = as_of
        await pause(HEARTBEAT_SECONDS if said else _FIRST_LOOK_SECONDS, stop)
