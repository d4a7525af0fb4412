"""Identity's background: publishes the outbox (states of companies, locations, users and clients) to whoever listens,
and does the upkeep of keys and sessions."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from services.identity.sealing import Sealer
from services.identity.service import upkeep
from services.identity.store.log import OUTBOX
from shared.bus import BILLING_EVENTS, Bus
from shared.config import Config
from shared.outbox import Relay
from shared.process import bus_of, relay_check, relay_registry, run_background


async def run(config: Config, stop: asyncio.Event, bus: Bus | None = None) -> None:
    """Until `stop`. Without a bus of the caller's, RabbitMQ by AMQP_URL. The routing key of an event is its type."""
    dsn, sealer = config.required("identity_database_url"), Sealer(config.required("identity_secrets_key"))
    async with bus_of(config, bus) as publisher:
        relay = Relay(dsn, publisher, BILLING_EVENTS, OUTBOX)
        chores = upkeep.run(dsn, sealer, timedelta(days=config.signing_key_days), stop)
        checks = {"relay": relay_check(relay)}
        await run_background(config, stop, relay.run(stop), chores, checks=checks, registry=relay_registry(relay))
