"""The MLLP server over real sockets, with senders that behave and senders that do not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.feeds.hl7.ack import acknowledge
from services.ledger.feeds.hl7.dft import understand
from services.ledger.feeds.hl7.reader import read
from services.ledger.feeds.mllp import Framer, FrameTooLong, Handler, serve_mllp
from tests.support.hl7_samples import COPIED

START, END = b"\x0b", b"\x1c\r"
CHARGE = (COPIED / "01_charge_two_lines.hl7").read_bytes()


def framed(*messages: bytes) -> bytes:
    return b"".join(START + message + END for message in messages)


# ---- the framer

CONTENT = st.binary(max_size=40).map(lambda raw: raw.translate(None, START + END[:1])).filter(lambda raw: raw.strip())
GAP = st.sampled_from([b"", b"\r", b"\n", b"\r\n\r\n", b"garbage", b"\x1c\r", b"\x0b\x1c\r", b"\x0b  \x1c"])
CLOSING = st.sampled_from([END, END[:1], b"\x1c\r\n", b"\x1c\n"])


@given(st.lists(st.tuples(GAP, CONTENT, CLOSING), max_size=6), st.lists(st.integers(0, 400), max_size=30))
def test_any_chunking_gives_the_same_messages(frames: list[tuple[bytes, bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(gap + START + content + closing for gap, content, closing in frames)
    framer = Framer(1_000)
    points = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    found = [one for at, to in pairwise(points) for one in framer.feed(stream[at:to])]
    assert found == [content for _, content, _ in frames]
    assert not framer.inside


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=20))
def test_any_bytes_are_framed_alike_however_they_are_cut(stream: bytes, cuts: list[int]) -> None:
    whole, pieces = Framer(1_000), Framer(1_000)
    points = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    expected = whole.feed(stream)
    found = [one for at, to in pairwise(points) for one in pieces.feed(stream[at:to])]
    assert (found, pieces.inside) == (expected, whole.inside)


def test_a_frame_that_begins_anew_replaces_the_one_before() -> None:
    framer = Framer(100)
    assert framer.feed(b"\x0bfirst half") == []
    assert framer.feed(b"\x0bagain\x1c\r\x0bnext\x1c") == [b"again", b"next"]


def test_the_limit_is_of_the_message_however_it_comes() -> None:
    assert Framer(5).feed(framed(b"12345", b"12345")) == [b"12345", b"12345"]
    for before, chunk in ((b"", framed(b"123456")), (b"\x0b123", b"456"), (framed(b"1"), b"\x0b123456")):
        framer = Framer(5)
        framer.feed(before)
        with pytest.raises(FrameTooLong):
            framer.feed(chunk)
    assert Framer(5).feed(b"x" * 100) == []  # nobody's message


# ---- the server


class Sender:
    """A client that can send anything, anyhow."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.framer = Framer(1 << 20)
        self.answers: list[bytes] = []

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> bytes:
        """The next answer; b"" when the socket was closed instead."""
        async with asyncio.timeout(10):
            while not self.answers:
                try:
                    chunk = await self.reader.read(1 << 16)
                except ConnectionError:
                    chunk = b""
                if not chunk:
                    return b""
                self.answers += self.framer.feed(chunk)
        return self.answers.pop(0)

    async def ask(self, message: bytes) -> bytes:
        await self.send(framed(message))
        return await self.answer()


Connect = Callable[..., Awaitable[Sender]]


@asynccontextmanager
async def serving(handler: Handler, stop: asyncio.Event | None = None, **options: Any) -> AsyncIterator[Connect]:
    """A server on a free port; gives a function that connects a sender. Leaving it waits for the server to end."""
    stop = stop or asyncio.Event()
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(
        serve_mllp(handler, "127.0.0.1", 0, stop, on_listening=listening.set_result, **options)
    )
    async with AsyncExitStack() as stack:
        port = await listening

        async def connect(**tls: Any) -> Sender:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
            stack.callback(writer.close)
            return Sender(reader, writer)

        try:
            yield connect
        finally:
            stop.set()
            async with asyncio.timeout(15):
                await server


async def echo(raw: bytes, peer: str) -> bytes:
    assert peer.startswith("127.0.0.1:")
    return b"ack " + raw


async def acknowledging(raw: bytes, peer: str) -> bytes:
    message = read(raw)
    problems = understand(message).problems
    return acknowledge(message.msh, problems, control_id="A1", now=datetime.now(UTC))


async def test_a_message_is_acknowledged() -> None:
    async with serving(acknowledging) as connect:
        sender = await connect()
        for name, code in (("01_charge_two_lines", b"MSA|AA|EMR0001"), ("12_bad_amount", b"MSA|AE|EMR0012")):
            assert code in await sender.ask((COPIED / f"{name}.hl7").read_bytes())


async def test_a_message_over_64_kib_with_letters_of_any_kind() -> None:
    """Both break other servers: asyncio's line limit, and ASCII as the default (python-hl7 54)."""
    large = (COPIED / "17_over_64KB.hl7").read_bytes().replace(b"DOE", "NUÑEZ".encode())
    async with serving(acknowledging) as connect:
        assert b"MSA|AA|EMR0017" in await (await connect()).ask(large)


async def test_byte_by_byte() -> None:
    async with serving(echo) as connect:
        sender = await connect()
        for byte in framed(CHARGE[:60]):
            await sender.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await sender.answer() == b"ack " + CHARGE[:60]


async def test_several_frames_in_a_chunk_are_answered_in_order_one_at_a_time() -> None:
    in_hand = most = 0

    async def slow_at_first(raw: bytes, peer: str) -> bytes:
        nonlocal in_hand, most
        in_hand += 1
        most = max(most, in_hand)
        await asyncio.sleep(0.05 if raw == b"0" else 0)
        in_hand -= 1
        return b"ack " + raw

    async with serving(slow_at_first) as connect:
        sender = await connect()
        await sender.send(framed(*[b"%d" % number for number in range(20)]))
        assert [await sender.answer() for _ in range(20)] == [b"ack %d" % number for number in range(20)]
    assert most == 1


async def test_two_connections_do_not_wait_for_each_other() -> None:
    release = asyncio.Event()

    async def handler(raw: bytes, peer: str) -> bytes:
        if raw == b"slow":
            await release.wait()
        return raw

    async with serving(handler) as connect:
        first, second = await connect(), await connect()
        await first.send(framed(b"slow"))
        assert await second.ask(b"quick") == b"quick"
        release.set()
        assert await first.answer() == b"slow"


async def test_a_doubled_message_is_handled_twice() -> None:
    """Whether it is a duplicate, the handler knows; the transport must not."""
    async with serving(echo) as connect:
        sender = await connect()
        await sender.send(framed(b"same") * 2)
        assert [await sender.answer(), await sender.answer()] == [b"ack same"] * 2


async def test_loose_framing_is_tolerated() -> None:
    async with serving(echo) as connect:
        sender = await connect()
        for around in (b"\x0b%b\x1c", b"\r\n\x0b%b\x1c\r\n", b"noise\x0b%b\x1c\r\r", b"\x0b\x1c\r\x0b%b\x1c\r"):
            await sender.send(around % b"one")
            assert await sender.answer() == b"ack one"


async def test_a_frame_that_never_ends_is_not_answered() -> None:
    async with serving(echo, idle_seconds=0.2) as connect:
        sender = await connect()
        await sender.send((COPIED / "19_mllp_no_end_block.bin").read_bytes())
        assert await sender.answer() == b""


async def test_a_sender_that_drips_does_not_keep_its_connection() -> None:
    async def drip(sender: Sender) -> None:
        await sender.send(START)
        while True:
            await sender.send(b"x")
            await asyncio.sleep(0.02)

    async with serving(echo, idle_seconds=0.3) as connect:
        sender = await connect()
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionError):
                await drip(sender)


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def slow(raw: bytes, peer: str) -> bytes:
        await asyncio.sleep(0.5)
        return raw

    async with serving(slow, idle_seconds=0.2) as connect:
        idle, busy = await connect(), await connect()
        await busy.send(framed(b"x"))
        assert await idle.answer() == b""
        assert await busy.answer() == b"x"


async def test_a_cut_connection_leaves_nothing() -> None:
    seen = []

    async def remember(raw: bytes, peer: str) -> bytes:
        seen.append(raw)
        return b"ok"

    async with serving(remember) as connect:
        cut = await connect()
        await cut.send(framed(b"whole") + b"\x0bhalf of a mess")
        assert await cut.answer() == b"ok"
        cut.writer.transport.abort()
        half_closed = await connect()
        await half_closed.send(framed(b"last"))
        half_closed.writer.write_eof()
        assert await half_closed.answer() == b"ok"
        assert await half_closed.answer() == b""
    assert seen == [b"whole", b"last"]


async def test_a_sender_that_leaves_before_the_answer_harms_nobody() -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def handler(raw: bytes, peer: str) -> bytes:
        if raw == b"leaver":
            arrived.set()
            await release.wait()
        return raw * 1_000

    async with serving(handler) as connect:
        leaver = await connect()
        await leaver.send(framed(b"leaver", b"second"))
        await arrived.wait()
        leaver.writer.transport.abort()
        await asyncio.sleep(0.05)
        release.set()
        assert await (await connect()).ask(b"x") == b"x" * 1_000


async def test_an_oversized_message_closes_the_connection() -> None:
    async with serving(echo, max_message_bytes=1_000) as connect:
        sender = await connect()
        assert await sender.ask(b"x" * 1_000) == b"ack " + b"x" * 1_000
        await sender.send(START + b"x" * 1_001)
        assert await sender.answer() == b""


async def test_trouble_is_not_answered() -> None:
    """The sender takes silence for trouble and sends again; an error it would put aside (feeds.md 4.1)."""

    async def troubled(raw: bytes, peer: str) -> bytes | None:
        if raw == b"away":
            return None
        raise RuntimeError("unexpected")

    async with serving(troubled) as connect:
        for message in (b"away", b"raise"):
            sender = await connect()
            await sender.send(framed(message, b"next"))
            assert await sender.answer() == b""


async def test_no_answer_wanted_leaves_the_connection_open() -> None:
    async def choosy(raw: bytes, peer: str) -> bytes:
        return b"" if raw == b"quiet" else raw

    async with serving(choosy) as connect:
        sender = await connect()
        await sender.send(framed(b"quiet", b"loud"))
        assert await sender.answer() == b"loud"


async def test_connections_are_bounded() -> None:
    async with serving(echo, max_connections=2) as connect:
        first, second = await connect(), await connect()
        assert await first.ask(b"1") == b"ack 1"
        assert await second.ask(b"2") == b"ack 2"
        third = await connect()
        assert await third.answer() == b""
        first.writer.close()
        await first.writer.wait_closed()
        await asyncio.sleep(0.05)
        assert await (await connect()).ask(b"4") == b"ack 4"


async def test_a_sender_that_never_reads_is_let_go() -> None:
    async def verbose(raw: bytes, peer: str) -> bytes:
        return b"x" * (8 << 20)

    async with serving(verbose, idle_seconds=0.3) as connect:
        sender = await connect()
        sender.writer.transport.pause_reading()
        await sender.send(framed(b"1", b"2", b"3"))
        await asyncio.sleep(0.6)


async def test_stopping_finishes_the_message_in_hand() -> None:
    stop, arrived, release = asyncio.Event(), asyncio.Event(), asyncio.Event()
    seen = []

    async def handler(raw: bytes, peer: str) -> bytes:
        seen.append(raw)
        arrived.set()
        await release.wait()
        return b"kept " + raw

    async with serving(handler, stop) as connect:
        idle, busy = await connect(), await connect()
        await busy.send(framed(b"1", b"2"))
        await arrived.wait()
        stop.set()
        assert await idle.answer() == b""
        with pytest.raises(ConnectionError):
            await connect()
        release.set()
        assert await busy.answer() == b"kept 1"
        assert await busy.answer() == b""
    assert seen == [b"1"]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ledger")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, key_pem


async def test_tls(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    async with serving(echo, tls=context) as connect:
        sender = await connect(ssl=ssl.create_default_context(cafile=str(pem)))
        assert await sender.ask(CHARGE) == b"ack " + CHARGE
        plain = await connect()
        await plain.send(framed(CHARGE))
        assert await plain.answer() == b""
