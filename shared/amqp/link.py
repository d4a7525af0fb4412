"""One connection to RabbitMQ with one channel, made when needed, thrown away whole when anything about it is in doubt.

aio-pika's robust connections restore themselves in the background, where nobody sees which messages belong to which
channel. Here the user of a link asks it for the channel, so a new channel is always a new start that the user knows of.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.tls import address_context

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0
HEARTBEAT_SECONDS = 15


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, and safe from cancellation by the AMQP client.

    When it gives up a frozen broker, the client cancels the calls that wait on it, although nobody cancelled their
    task. Left alone, that passes every `except Exception` and ends a TaskGroup without any error.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the AMQP client gave up the connection") from None


class Link:
    """The connection of one purpose. Publishing and consuming never share one: an alarm blocks whoever publishes."""

    def __init__(self, url: str, purpose: str) -> None:
        self._url = url
        self._purpose = purpose
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        return self._channel is not None and not self._channel.is_closed

    async def channel(self) -> AbstractChannel:
        """The open channel, or a new one. An error means that the broker cannot be reached."""
        if self._channel is not None and not self._channel.is_closed:
            return self._channel
        await self.drop()
        async with deadline(CONNECT_SECONDS):
            self._connection = await aio_pika.connect(
                self._url,
                ssl_context=address_context(self._url, "cafile") if self._url.startswith("amqps:") else None,
                heartbeat=HEARTBEAT_SECONDS,
                client_properties={"connection_name": self._purpose},
            )
            # Confirms, and returned messages as errors: without the second an unroutable message looks accepted.
            self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        log.debug("amqp_connected", purpose=self._purpose)
        return self._channel

    async def drop(self) -> None:
        """Close the connection. A broker that does not answer cannot hold us up: then it closes behind our back."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is None:
            return
        closing = asyncio.create_task(_close(connection))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)


async def _close(connection: AbstractConnection) -> None:
    with suppress(Exception):
        await connection.close()
