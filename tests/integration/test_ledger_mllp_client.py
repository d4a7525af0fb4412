"""A sender that was not written here: python-hl7's own client and parser, as oracle of the listener and the reader."""

from __future__ import annotations

import asyncio
import random

import hl7
from hl7.client import MLLPClient

from services.ledger.feeds.hl7.reader import read
from tests.integration.test_ledger_mllp import listening, posted
from tests.support.hl7_messages import ft1, message
from tests.support.hl7_samples import COPIED
from tests.support.ledger import LedgerStack


def a_days_messages(rng: random.Random) -> list[bytes]:
    return [
        message(
            ft1("CG", f"TX{n}", f"{rng.randrange(4_000, 15_000) / 100:.2f}"),
            ft1("PY", f"PAY{n}", f"{rng.randrange(500, 4_000) / 100:.2f}", code="CASH"),
            control_id=f"M{n}",
            account=f"ACCT{n % 5}",
        )
        for n in range(40)
    ]


def cents(messages: list[bytes], kind: str) -> int:
    """The money of one type of transaction, as the other parser reads it."""
    lines = [line for raw in messages for line in hl7.parse(raw.decode()).segments("FT1")]
    return sum(round(float(str(line[11])) * 100) for line in lines if str(line[6]) == kind)


async def test_its_client_loses_and_doubles_nothing(stack: LedgerStack) -> None:
    """Every message twice, over three connections that are cut in between."""
    company = await stack.company()
    await stack.emr_client([company], "EMR|CLINIC")
    rng = random.Random(3)
    messages = a_days_messages(rng)
    deliveries = [*messages, *messages]
    rng.shuffle(deliveries)

    def send(part: list[bytes], port: int) -> list[str]:
        said = []
        while part:
            with MLLPClient("127.0.0.1", port) as client:
                for _ in range(min(len(part), 7)):
                    sent = hl7.parse(part.pop().decode())
                    answer = hl7.parse(client.send_message(sent).strip(b"\x0b\x1c\r").decode())
                    assert str(answer.segment("MSA")[2]) == str(sent.segment("MSH")[10])
                    said.append(str(answer.segment("MSA")[1]))
                # And goes away in the middle of the next one.
                if part:
                    client.socket.send(b"\x0b" + part[-1][:50])
        return said

    async with listening(stack.ledger) as line:
        parts = [deliveries[place::3] for place in range(3)]
        answers = await asyncio.gather(*(asyncio.to_thread(send, part, line.port) for part in parts))
        assert {said for one in answers for said in one} == {"AA"}
        await posted(company)
    (feed,) = (await company.get("/v1/feeds"))["items"]
    assert (feed["received"], feed["posted"], feed["duplicates"]) == (160, 80, 80)
    assert (await company.sums())["amount_cents"] == cents(messages, "PY")
    charges = (await company.get("/v1/charges", limit=500))["items"]
    assert sum(one["amount_cents"] for one in charges) == cents(messages, "CG")


def test_both_readers_see_the_same_fields() -> None:
    """Of every faultless sample of one message: the same segments, the same fields as sent."""
    compared = 0
    for path in sorted(COPIED.glob("*")):
        raw = path.read_bytes().strip(b"\x0b\x1c\r\n")
        if not raw.startswith(b"MSH|^~\\&|") or raw.count(b"MSH|") != 1 or not raw.isascii():
            continue
        ours, theirs = read(raw), hl7.parse("\r".join(raw.decode().splitlines()))
        assert [one.name for one in ours.segments] == [str(one[0]) for one in theirs]
        for one, other in zip(ours.segments, theirs, strict=True):
            fields = [str(field) for field in other]
            assert one.fields + [""] * (len(fields) - len(one.fields)) == fields
        compared += 1
    assert compared > 10
