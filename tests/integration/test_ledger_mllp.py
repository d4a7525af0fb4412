"""HL7 v2 over MLLP: real sockets, a real database, senders that repeat themselves and processes that are killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.ledger.feeds import hl7_posting
from services.ledger.feeds.agreements import Agreements
from services.ledger.feeds.hl7_listener import Hl7Listener
from services.ledger.feeds.hl7_store import Waiting
from services.ledger.feeds.mllp import Framer, serve_mllp
from services.ledger.service import Ledger
from shared.access.policy import EMR_CLIENT
from shared.ids import NO_COMPANY
from tests.support.databases import Databases
from tests.support.hl7_messages import codes, ft1, message, sample
from tests.support.ledger import COUNTS, Company, LedgerStack, clinic_of


@pytest.fixture
async def company(stack: LedgerStack) -> AsyncIterator[Company]:
    """A company for whom the sender of the samples writes; nobody's afterwards."""
    made = await stack.company()
    client_id = await stack.emr_client([made], "EMR|CLINIC")
    yield made
    await stack.owner.execute("update directory_client set active = false where client_id = $1", client_id)


class Sender:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.framer = Framer(1 << 20)
        self.answers: list[bytes] = []

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> bytes:
        """The next answer; b"" when the connection was closed."""
        while not self.answers:
            chunk = await asyncio.wait_for(self.reader.read(1 << 16), 10)
            if not chunk:
                return b""
            self.answers += self.framer.feed(chunk)
        return self.answers.pop(0)

    async def ask(self, content: bytes) -> bytes:
        await self.send(framed(content))
        return await self.answer()


class Line:
    """A listener on a port of its own."""

    def __init__(self, listener: Hl7Listener, port: int) -> None:
        self.listener, self.port = listener, port
        self._open: list[Sender] = []

    async def connect(self) -> Sender:
        self._open.append(Sender(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self._open[-1]

    def close(self) -> None:
        for sender in self._open:
            sender.writer.close()


def framed(*contents: bytes) -> bytes:
    return b"".join(b"\x0b" + content + b"\x1c\r" for content in contents)


@asynccontextmanager
async def listening(ledger: Ledger, *, posting: bool = True) -> AsyncIterator[Line]:
    """With `posting` off it is a process that is killed after each answer."""
    listener, stop = Hl7Listener(ledger), asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    jobs = [asyncio.create_task(serve_mllp(listener.handle, "127.0.0.1", 0, stop, on_listening=port.set_result))]
    if posting:
        jobs.append(asyncio.create_task(listener.post_waiting(stop)))
    line = Line(listener, await port)
    try:
        yield line
    finally:
        line.close()
        stop.set()
        await asyncio.gather(*jobs)


async def posted(company: Company) -> None:
    """Until nothing waits."""
    for _ in range(500):
        if not await company.stack.owner.fetchval(
            "select count(*) from feed_message where company_id = $1 and state = 'received'", company.company_id
        ):
            return
        await asyncio.sleep(0.01)
    pytest.fail("messages are still waiting")


async def counts(company: Company) -> tuple[int, ...]:
    (feed,) = (await company.get("/v1/feeds"))["items"]
    assert feed["received"] == sum(feed[name] for name in COUNTS[1:])
    return tuple(feed[name] for name in COUNTS)


async def test_the_samples_over_a_socket(stack: LedgerStack, company: Company) -> None:
    async with listening(stack.ledger) as line:
        sender = await line.connect()
        first = await sender.ask(sample("01"))
        assert codes(first) == ["AA"]
        assert codes(await sender.ask(sample("02"))) == ["AA"]
        assert codes(await sender.ask(sample("04"))) == ["AA"]
        assert await sender.ask(sample("07")) == first
        assert codes(await sender.ask(sample("08"))) == ["AE"]
        assert codes(await sender.ask(sample("17"))) == ["AA"]
        assert codes(await sender.ask(sample("21"))) == ["CA"]
        assert codes(await sender.ask(sample("22"))) == ["AR"]
        assert codes(await sender.ask(sample("24"))) == ["AE"]
        await posted(company)
    received, *others = await counts(company)
    assert received == sum(others)
    assert (await company.sums())["amount_cents"] == 2_500
    assert await company.reasons() == {"conflict": 1, "hl7_refused": 1}


async def test_frames_doubled_and_cut(stack: LedgerStack, company: Company) -> None:
    payment = message(ft1("PY", "TX1", "5.00", code="CASH"), control_id="M1")
    async with listening(stack.ledger) as line:
        sender = await line.connect()
        await sender.send(framed(payment) * 3)
        answers = [await sender.answer() for _ in range(3)]
        assert len(set(answers)) == 1
        assert codes(answers[0]) == ["AA"]
        cut = await line.connect()
        await cut.send(framed(message(ft1("PY", "TX2", "5.00"), control_id="M2"))[:-40])
        cut.writer.close()
        again = await line.connect()
        stream = framed(message(ft1("PY", "TX2", "5.00"), control_id="M2"))
        for at in range(0, len(stream), 7):
            await again.send(stream[at : at + 7])
        assert codes(await again.answer()) == ["AA"]
        await posted(company)
    assert await counts(company) == (4, 2, 2, 0, 0)
    assert (await company.sums())["amount_cents"] == 1_000
    (feed,) = (await company.get("/v1/feeds"))["items"]
    raw = await company.send("GET", f"/v1/feeds/{feed['feed_id']}/raw")
    assert raw.raw == payment + message(ft1("PY", "TX2", "5.00"), control_id="M2")


async def test_a_message_is_the_same_by_whichever_way_it_comes(stack: LedgerStack, company: Company) -> None:
    """A line and a file differ in what stands around a message and between its segments."""
    payment = message(ft1("PY", "TX1", "5.00", code="CASH"), control_id="M1")
    ways = [
        payment.rstrip(),
        payment.replace(b"\r", b"\n"),
        payment.replace(b"\r", b"\r\n") + b"\x1a",
        b"\xef\xbb\xbf" + payment.replace(b"\r", b"\r\n\r\n"),
    ]
    async with listening(stack.ledger) as line:
        sender = await line.connect()
        first = await sender.ask(payment)
        assert codes(first) == ["AA"]
        assert [await sender.ask(way) for way in ways] == [first] * len(ways)
        await posted(company)
        assert codes(await sender.ask(payment.replace(b"5.00", b"5.01"))) == ["AE"]
    assert await counts(company) == (6, 1, 4, 0, 1)
    # Lost answers are often made good by a file of the day.
    answer = await company.upload("hl7v2", payment)
    assert (answer.status, answer.raw) == (200, first)
    assert await company.reasons() == {"conflict": 1}
    assert (await company.sums())["amount_cents"] == 500


async def test_the_same_message_on_many_connections_at_once(stack: LedgerStack, company: Company) -> None:
    payment = message(ft1("PY", "TX1", "5.00", code="CASH"), control_id="M1")
    other = message(ft1("PY", "TX9", "9.00", code="CASH"), control_id="M1")
    async with listening(stack.ledger) as line:
        senders = [await line.connect() for _ in range(8)]
        answers = await asyncio.gather(*(one.ask(other if n % 2 else payment) for n, one in enumerate(senders)))
        await posted(company)
    evens, odds = {codes(one)[0] for one in answers[::2]}, {codes(one)[0] for one in answers[1::2]}
    assert {frozenset(evens), frozenset(odds)} == {frozenset(("AA",)), frozenset(("AE",))}
    assert len(set(answers)) == 2
    assert (await company.sums())["payments"] == 1


async def test_what_was_answered_is_posted_by_whoever_starts_next(stack: LedgerStack, company: Company) -> None:
    async with listening(stack.ledger, posting=False) as line:
        sender = await line.connect()
        first = await sender.ask(sample("01"))
        assert codes(first) == ["AA"]
        assert codes(await sender.ask(sample("04"))) == ["AA"]
        assert await sender.ask(sample("01")) == first
    assert (await company.rows())["posting"] == 0
    async with listening(stack.ledger):
        await posted(company)
    charges = (await company.get("/v1/charges", status="void"))["items"]
    assert [row["external_id"] for row in charges] == ["EMR|CLINIC|TX1002"]
    before = await company.rows()
    # Killed after posting and before that was noted: it is posted again, and nothing doubles.
    await stack.owner.execute("update feed_message set state = 'received' where company_id = $1", company.company_id)
    async with listening(stack.ledger):
        await posted(company)
    assert await company.rows() == before
    assert await counts(company) == (5, 3, 2, 0, 0)


async def test_an_unknown_sender_is_rejected_and_leaves_no_trace(stack: LedgerStack) -> None:
    before = await stack.rows()
    async with listening(stack.ledger) as line:
        sender = await line.connect()
        assert codes(await sender.ask(sample("01").replace(b"EMR|CLINIC", b"NOBODY|NOWHERE"))) == ["AR"]
        assert codes(await sender.ask(b"hello")) == ["AR"]
    assert await stack.rows() == before


async def test_the_clinic_tells_the_companies_of_a_sender_apart(stack: LedgerStack) -> None:
    one, two = await stack.company(), await stack.company()
    await stack.emr_client([one, two], "SHARED")
    content = message(ft1("PY", "TX1", "5.00", code="CASH"), control_id="M1").replace(b"EMR|CLINIC", b"SHARED|HQ")
    named = content.replace(b"PT^ROOM1", f"PT^ROOM1^^{clinic_of(two.locations[0])}".encode())
    async with listening(stack.ledger) as line:
        sender = await line.connect()
        assert codes(await sender.ask(named)) == ["AA"]
        assert codes(await sender.ask(content.replace(b"|M1|", b"|M2|"))) == ["AA"]
        await posted(two)
    assert [(await company.sums())["amount_cents"] for company in (one, two)] == [0, 500]
    reasons = await stack.owner.fetch("select reason from feed_exception where company_id = $1", NO_COMPANY)
    assert [row["reason"] for row in reasons] == ["unknown_clinic"]


async def test_an_emr_client_sees_what_it_sent(stack: LedgerStack) -> None:
    company = await stack.company()
    mine, other = await stack.emr_client([company], "LAB"), await stack.emr_client([company], "ELSEWHERE")
    content = message(ft1("PY", "TX1", "5.00"), control_id="M1").replace(b"EMR|CLINIC", b"LAB|X")
    async with listening(stack.ledger) as line:
        assert codes(await (await line.connect()).ask(content)) == ["AA"]
        await posted(company)
    seen = [
        len((await company.get("/v1/feeds", company.token(EMR_CLIENT, client_id=client_id)))["items"])
        for client_id in (mine, other)
    ]
    assert seen == [1, 0]


async def test_a_batch_in_a_frame(stack: LedgerStack, company: Company) -> None:
    parts = [message(ft1("PY", f"TX{n}", "5.00"), control_id=f"M{n}") for n in (1, 2)]
    content = b"BHS|^~\\&|EMR|CLINIC|||20260115||||B1\r" + b"".join(parts) + b"BTS|2\r"
    async with listening(stack.ledger) as line:
        assert codes(await (await line.connect()).ask(content)) == ["AA", "AA"]
        await posted(company)
    assert await counts(company) == (2, 2, 0, 0, 0)


async def test_without_a_database_there_is_no_answer(stack: LedgerStack, databases: Databases) -> None:
    async with LedgerStack.fresh(databases) as gone:
        made = await gone.company()
        await gone.emr_client([made], "EMR")
        async with listening(gone.ledger, posting=False) as line:
            sender = await line.connect()
            await gone.owner.execute("alter table feed_message rename to feed_message_away")
            assert await sender.ask(sample("01")) == b"", "closed without an answer"
            await gone.owner.execute("alter table feed_message_away rename to feed_message")
            assert codes(await (await line.connect()).ask(sample("01"))) == ["AA"]


async def test_a_days_messages_over_two_lines_in_any_order(stack: LedgerStack, company: Company) -> None:
    contents = [message(ft1("CG", f"TX{n}", "50.00"), control_id=f"C{n}") for n in range(8)]
    contents += [message(ft1("PY", f"PY{n}", "7.50", code="CASH"), control_id=f"P{n}") for n in range(8)]
    later = "20260115120000"
    contents += [message(ft1("CD", f"TX{n}", "50.00"), control_id=f"V{n}", time=later) for n in range(3)]
    chance = random.Random(7)
    contents += chance.sample(contents, 9)
    chance.shuffle(contents)
    async with listening(stack.ledger) as line:
        senders = [await line.connect() for _ in range(2)]

        async def work(sender: Sender, mine: list[bytes]) -> None:
            for content in mine:
                assert codes(await sender.ask(content)) == ["AA"]

        await asyncio.gather(work(senders[0], contents[::2]), work(senders[1], contents[1::2]))
        await posted(company)
    received, done, duplicates, ignored, quarantined = await counts(company)
    assert (received, duplicates, quarantined) == (28, 9, 0)
    assert done + ignored == 19
    assert (await company.sums())["amount_cents"] == 6_000
    rows = (await company.get("/v1/charges", status="active"))["items"]
    assert {row["external_id"][-3:] for row in rows} == {f"TX{n}" for n in range(3, 8)}


async def test_a_port_that_is_taken_ends_only_a_process_that_is_there_for_it(stack: LedgerStack) -> None:
    async with listening(stack.ledger) as line:
        taken, stop = stack.config.model_copy(update={"mllp_port": line.port}), asyncio.Event()
        with pytest.raises(OSError, match="in use"):
            await Hl7Listener(stack.ledger).listen(taken, stop)
        guest = asyncio.create_task(Hl7Listener(stack.ledger).listen(taken, stop, required=False))
        assert codes(await (await line.connect()).ask(b"hello")) == ["AR"]
        assert not guest.done()
        stop.set()
        await guest
    off = asyncio.Event()
    off.set()
    await Hl7Listener(stack.ledger).listen(taken.model_copy(update={"mllp_port": 0}), off)


async def test_a_message_that_no_check_foresaw_does_not_hold_up_the_others(
    stack: LedgerStack, company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hl7_posting.lines_of

    async def failing(agreed: Agreements, waiting: Waiting) -> Any:
        if waiting.key.endswith("|M1"):
            raise ValueError("a surprise")
        return await real(agreed, waiting)

    monkeypatch.setattr(hl7_posting, "lines_of", failing)
    async with listening(stack.ledger) as line:
        sender = await line.connect()
        for number in (1, 2):
            assert codes(await sender.ask(message(ft1("PY", "TX", "5.00"), control_id=f"M{number}"))) == ["AA"]
        await posted(company)
    assert await counts(company) == (2, 1, 0, 0, 1)
    assert await company.reasons() == {"internal_error": 1}
