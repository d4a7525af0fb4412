"""The ledger's relay: its outbox to the exchange of billing events; and the sealing of what has been written."""

from __future__ import annotations

import asyncio
from typing import Final

from services.ledger.audit import SEALING
from services.ledger.store import ROLE
from shared.bus import BILLING_EVENTS, Bus
from shared.config import Config
from shared.outbox import Relay
from shared.process import bus_of, relay_check, relay_registry, run_background

SELECT: Final = (
    "select o.outbox_id, e.event_id, e.type, e.type as routing_key, e.payload as body, e.occurred_at"
    " from outbox o join event e on e.company_id = o.company_id and e.first_version = o.first_version"
    " order by o.outbox_id limit $1"
)


async def run(config: Config, stop: asyncio.Event, bus: Bus | None = None) -> None:
    """Publish and seal until `stop`."""
    async with bus_of(config, bus) as publisher:
        relay = Relay(config.required("ledger_database_url"), publisher, BILLING_EVENTS, SELECT, role=ROLE)
        checks = {"relay": relay_check(relay)}
        jobs = (relay.run(stop), SEALING.run(config, stop))
        await run_background(config, stop, *jobs, checks=checks, registry=relay_registry(relay))
