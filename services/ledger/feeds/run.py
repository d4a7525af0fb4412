"""The ledger's feeds process: EMR events and identity's news from the bus, HL7 messages over MLLP, files of the watched
directory."""

from __future__ import annotations

import asyncio

from services.ledger.feeds import watched
from services.ledger.feeds.consumer import EmrConsumer
from services.ledger.feeds.hl7_listener import Hl7Listener
from services.ledger.service import Ledger
from services.ledger.store import create_ledger_pool
from shared.bus import Bus
from shared.config import Config
from shared.db import ping
from shared.directory import Directory
from shared.identity_client import IdentityLink
from shared.process import bus_check, bus_of, run_background

IDENTITY_QUEUE = "ledger.identity.v1"


async def run(config: Config, stop: asyncio.Event, bus: Bus | None = None) -> None:
    """Consume and listen until `stop`. With a bus of its own it is a process of its own, which fails where it cannot
    listen; as a guest in another it does without."""
    pool = await create_ledger_pool(config, "ledger-feeds", size=6)
    identity = IdentityLink(config)
    directory = Directory(pool, identity.client)
    ledger = Ledger(pool, directory)
    consumer, listener = EmrConsumer(ledger), Hl7Listener(ledger)

    async def database() -> None:
        await ping(pool)

    try:
        async with bus_of(config, bus) as source:
            await run_background(
                config,
                stop,
                consumer.run(source, stop),
                source.consume(directory.subscription(IDENTITY_QUEUE), directory.handle, stop),
                directory.run(stop),
                listener.listen(config, stop, required=bus is None),
                listener.post_waiting(stop),
                watched.run(ledger, config, stop),
                checks={"bus": bus_check(source), "database": database},
            )
    finally:
        await pool.close()
        await identity.close()
