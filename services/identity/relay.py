"""Publishes identity's outbox: states of companies, locations, users and clients, to whoever listens."""

from __future__ import annotations

import asyncio

from services.identity.store.log import OUTBOX
from shared.bus import BILLING_EVENTS, Bus
from shared.config import Config
from shared.outbox import Relay
from shared.process import bus_of, relay_check, relay_registry, run_background


async def run(config: Config, stop: asyncio.Event, bus: Bus | None = None) -> None:
    """Until `stop`. Without a bus of the caller's, RabbitMQ by AMQP_URL. The routing key of an event is its type."""
    async with bus_of(config, bus) as publisher:
        relay = Relay(config.required("identity_database_url"), publisher, BILLING_EVENTS, OUTBOX)
        checks = {"relay": relay_check(relay)}
        await run_background(config, stop, relay.run(stop), checks=checks, registry=relay_registry(relay))
