"""A small load generator: keep-alive connections that send one prepared request after another. It runs in a process
of its own, so that its work is not counted as the server's."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count


@dataclass(frozen=True, slots=True)
class Load:
    """What to send: each connection one of the kinds of request in turn, again and again."""

    port: int
    connections: int
    seconds: float
    kinds: tuple[tuple[str, str], ...]
    """Head and body; `%N%` in both is replaced by a number that never repeats."""
    first: int = 0


def run(load: Load) -> dict[str, float]:
    """Requests per second, median and 99th percentile in ms; raises when an answer is not a 2xx."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(load, sender))
    process.start()
    try:
        if not receiver.poll(load.seconds + 60):
            raise TimeoutError("the load generator did not answer")
        result: dict[str, float] = json.loads(receiver.recv())
    finally:
        process.join(5)
        process.kill()
    if "error" in result:
        raise RuntimeError(result["error"])
    return result


def _child(load: Load, sender: object) -> None:
    try:
        answer = asyncio.run(_drive(load))
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    sender.send(json.dumps(answer))  # type: ignore[attr-defined]


async def _drive(load: Load) -> dict[str, object]:
    numbers = count(load.first)
    latencies: list[float] = []
    started = time.perf_counter()
    until = started + load.seconds
    kinds = [load.kinds[place % len(load.kinds)] for place in range(load.connections)]
    await asyncio.gather(*(_connection(load.port, kind, numbers.__next__, latencies, until) for kind in kinds))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return {
        "rate": len(latencies) / elapsed,
        "count": len(latencies),
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
    }


async def _connection(
    port: int, kind: tuple[str, str], number: Callable[[], int], latencies: list[float], until: float
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    first, template = kind
    try:
        while (before := time.perf_counter()) < until:
            n = str(number())
            body = template.replace("%N%", n).encode()
            writer.write(first.replace("%N%", n).encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            answer = await reader.readexactly(length)
            if head[9:10] != b"2":
                raise RuntimeError(f"{head[:80]!r} {answer[:300]!r}")
            latencies.append(time.perf_counter() - before)
    finally:
        writer.close()
