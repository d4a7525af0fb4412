"""A server of the minimal lower layer protocol, which carries HL7 v2 over TCP: 0x0B message 0x1C 0x0D, both ways.

It knows nothing of what it carries. One message of a connection is in hand at a time and answers keep the order, so a
sender that waits for each answer and one that does not are served alike. What cannot be answered truly is not answered:
the socket is closed and the sender sends again (feeds.md 4.1).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import structlog

Handler = Callable[[bytes, str], Awaitable[bytes | None]]
"""Takes a message and the peer's address. Gives the answer; b"" when the sender wants none; None to close the socket
without one, because the message could not be kept."""

_START, _END, _TRAILER = b"\x0b", b"\x1c", b"\x1c\r"
_CHUNK = 1 << 16
_STOP_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
log = structlog.get_logger("mllp")


class FrameTooLong(Exception):
    """A frame exceeds the limit; where the next one begins cannot be known."""


class Framer:
    """Cuts a stream into messages, however it is chunked.

    A frame ends at 0x1C: the 0x0D after it may be late, missing, or more line breaks, and all up to the next 0x0B is
    nobody's message. 0x0B inside a frame begins it anew: the sender gave up the one before, which had no answer.
    Neither byte can be part of a message (HL7 MLLP release 1).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frame = bytearray()
        self.inside = False
        """A frame has begun and not ended."""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that this chunk completes, in order; empty ones are passed over. Raises FrameTooLong."""
        messages = []
        position = 0
        while position < len(data):
            if not self.inside:
                start = data.find(_START, position)
                if start < 0:
                    break
                self.inside, position = True, start + 1
            end = data.find(_END, position)
            stop = end if end >= 0 else len(data)
            restart = data.rfind(_START, position, stop)
            if restart >= 0:
                self._frame.clear()
                position = restart + 1
            if len(self._frame) + stop - position > self._limit:
                raise FrameTooLong
            self._frame += data[position:stop]
            position = stop + 1
            if end >= 0:
                if self._frame.strip():
                    messages.append(bytes(self._frame))
                self._frame.clear()
                self.inside = False
        return messages


async def serve_mllp(
    handler: Handler,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    tls: ssl.SSLContext | None = None,
    max_message_bytes: int = 16 << 20,
    idle_seconds: float = 60,
    max_connections: int = 200,
    on_listening: Callable[[int], None] | None = None,
) -> None:
    """Serve until `stop`; the message in hand of each connection is then finished and answered.

    `idle_seconds` is how long a connection may be silent between messages, how long one message may take to arrive,
    and how long an answer may wait to be read. `on_listening` is told the port, which matters when it was 0.
    """
    connections: dict[asyncio.Task[None], _Connection] = {}

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(handler, reader, writer, stop, Framer(max_message_bytes), idle_seconds)
        if len(connections) >= max_connections or stop.is_set():
            log.warning("mllp_refused", peer=connection.peer, connections=len(connections))
            writer.transport.abort()
            return
        task = asyncio.create_task(connection.run())
        connections[task] = connection
        task.add_done_callback(connections.pop)

    server = await asyncio.start_server(
        accept, host, port, limit=_CHUNK, ssl=tls, ssl_handshake_timeout=10 if tls else None
    )
    log.info("mllp_listening", host=host, port=port, tls=tls is not None)
    try:
        if on_listening:
            on_listening(server.sockets[0].getsockname()[1])
        await stop.wait()
    finally:
        server.close()
        for task, connection in connections.items():
            if not connection.busy:
                task.cancel()
        if tasks := list(connections):
            _, late = await asyncio.wait(tasks, timeout=_STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        log.info("mllp_stopped")


class _Connection:
    """One sender's socket."""

    def __init__(
        self,
        handler: Handler,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stop: asyncio.Event,
        framer: Framer,
        idle_seconds: float,
    ) -> None:
        self._handler = handler
        self._reader = reader
        self._writer = writer
        self._stop = stop
        self._framer = framer
        self._idle_seconds = idle_seconds
        self.busy = False
        """A message is in hand."""
        host, port, *_ = writer.get_extra_info("peername") or ("?", 0)
        self.peer = f"{host}:{port}"

    async def run(self) -> None:
        """Serve the connection to its end, whatever ends it."""
        reason = "stopping"
        try:
            reason = await self._serve()
        except TimeoutError:
            reason = "unfinished message" if self._framer.inside else "idle"
        except FrameTooLong:
            reason = "message too long"
        except OSError:
            reason = "lost"
        finally:
            log.info("mllp_disconnected", peer=self.peer, reason=reason)
            await self._close()

    async def _close(self) -> None:
        """What was answered still goes out, unless nobody reads it."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()
        except OSError:
            self._writer.transport.abort()

    async def _serve(self) -> str:
        """Until there is a reason to close. The time allowed runs from the last message, or from the beginning of the
        one that is arriving: a sender that drips bytes does not keep a connection."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._idle_seconds
        while not self._stop.is_set():
            inside = self._framer.inside
            async with asyncio.timeout_at(deadline):
                chunk = await self._reader.read(_CHUNK)
            if not chunk:
                return "cut" if inside else "closed"
            messages = self._framer.feed(chunk)
            for message in messages:
                if not await self._answer(message):
                    return "not answered"
                if self._stop.is_set():
                    return "stopping"
            if messages or self._framer.inside != inside:
                deadline = loop.time() + self._idle_seconds
        return "stopping"

    async def _answer(self, message: bytes) -> bool:
        """Whether to go on after this message."""
        self.busy = True
        try:
            answer = await self._handler(message, self.peer)
        except Exception:
            log.exception("mllp_handler_failed", peer=self.peer)
            return False
        finally:
            self.busy = False
        if answer:
            self._writer.write(b"".join((_START, answer, _TRAILER)))
            try:
                async with asyncio.timeout(self._idle_seconds):
                    await self._writer.drain()
            except TimeoutError:
                raise ConnectionError("the answer is not read") from None
        return answer is not None
