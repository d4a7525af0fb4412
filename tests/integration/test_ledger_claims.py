"""What became of claims: acknowledgements that come in, claims of remittances, and the answers that we give.

Decided here where the rules are silent:

* A claim is known by its number alone (CLM01): which payer it went to is part of what is said about it.
* Its state is the last word by its own date, not by the time it arrived; on one day the payer's word counts more than
  the receiver's, and a correction more than the reversal it goes with, in whatever order they stand.
* An acknowledgement is the same one again when sender, interchange and content are the same. Two of the same words in
  two interchanges are two.
* A 999 reaches claims only through the number of their batch (BHT03 of a 277CA is ST02 of the 999).
"""

from __future__ import annotations

import asyncio
import re
from datetime import date
from typing import Any
from uuid import uuid4

import pytest

from services.ledger.deciding import Verdict
from services.ledger.domain.commands import Command
from services.ledger.feeds import claim_store, intake, remittances
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.x12.acknowledgements import Acknowledgement, read
from services.ledger.service import Ledger
from tests.support.ledger import Company, LedgerStack
from tests.support.x12_answers import Told, ack_999, closed, interchange, status_277
from tests.support.x12_builder import ClaimPayment, Payment, Service, x12_file


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await stack.company()


async def sent(company: Company, body: bytes) -> Any:
    answer = await company.upload("x12", body)
    assert answer.status == 200, answer
    feed = answer.body
    assert feed["received"] == feed["posted"] + feed["duplicates"] + feed["ignored"] + feed["quarantined"]
    return feed


async def states(company: Company) -> dict[str, str]:
    """The state of every claim by its number."""
    return {one["claim_number"]: one["state"] for one in (await company.get("/v1/claims"))["items"]}


async def history(company: Company, number: str) -> list[tuple[str, str, str]]:
    (found,) = [one for one in (await company.get("/v1/claims"))["items"] if one["claim_number"] == number]
    claim = await company.get(f"/v1/claims/{found['id']}")
    assert {name: claim[name] for name in found} == found
    return [(one["source"], one["state"], one["effective_date"]) for one in claim["history"]]


def paid(number: str, status: str = "1", cents: int = 10_000, *, icn: str = "", less: int = 2_000) -> ClaimPayment:
    service = Service(charge_cents=cents, adjustments=(("CO", "45", less),))
    return ClaimPayment(account=number, services=[service], status=status, icn=icn or f"ICN-{number}-{status}")


def check(*claims: ClaimPayment, on: date = date(2026, 1, 15), **fields: Any) -> bytes:
    return x12_file([Payment(trace=f"T{uuid4().hex[:12]}", claims=claims, on=on, **fields)])


# -- what comes in -----------------------------------------------------------------------------------------------------


async def test_a_277ca_says_what_became_of_each_claim(company: Company) -> None:
    told = status_277(
        Told(claim="C-1", clearing_number="CLR-9", payer_number="ICN-7"),
        Told(claim="C-2", status="A7:562:85", action="U", cents=5_000),
        Told(claim="C-3", status="A0:16"),
        Told(claim="C-4", status="P1:20"),
        batch="BATCH-0001",
    )
    feed = await sent(company, interchange(told))
    assert (feed["received"], feed["posted"], feed["exceptions"]) == (1, 1, 0)
    assert (feed["control_total_cents"], feed["posted_total_cents"]) == (0, 0)
    assert await states(company) == {"C-1": "accepted", "C-2": "rejected", "C-3": "forwarded", "C-4": "pending"}
    (rejected,) = (await company.get("/v1/claims", state="rejected"))["items"]
    expected = {
        "claim_number": "C-2",
        "state": "rejected",
        "effective_date": "2026-01-05",
        "source": "277",
        "codes": ["A7:562:85"],
        "payer": "EXAMPLE HEALTH PLAN",
        "payer_control_number": None,
        "charge_cents": 5_000,
        "paid_cents": 0,
    }
    assert {name: rejected[name] for name in expected} == expected
    (accepted,) = (await company.get("/v1/claims", state="accepted"))["items"]
    (row,) = (await company.get(f"/v1/claims/{accepted['id']}"))["history"]
    assert (row["clearinghouse_number"], row["payer_control_number"]) == ("CLR-9", "ICN-7")
    assert (row["batch_reference"], row["feed_id"], row["item_key"]) == ("BATCH-0001", feed["feed_id"], "ST 1")
    assert (await company.rows())["posting"] == 0, "claims never move money"


async def test_a_claim_goes_from_accepted_to_paid_and_back(company: Company) -> None:
    await sent(company, interchange(status_277(Told(claim="C-1"))))
    await sent(company, check(paid("C-1")))
    await sent(
        company, check(paid("C-1", "22", -10_000, less=-2_000), paid("C-1", "4", less=10_000), on=date(2026, 2, 1))
    )
    assert await history(company, "C-1") == [
        ("277", "accepted", "2026-01-05"),
        ("835", "paid", "2026-01-15"),
        ("835", "reversed", "2026-02-01"),
        ("835", "denied", "2026-02-01"),
    ]
    (claim,) = (await company.get("/v1/claims"))["items"]
    assert (claim["state"], claim["charge_cents"], claim["paid_cents"]) == ("denied", 10_000, 0)
    assert claim["payer_control_number"] == "ICN-C-1-4"


async def test_a_correction_before_its_reversal_is_still_what_holds(company: Company) -> None:
    correction, reversal = paid("C-1", cents=9_000), paid("C-1", "22", -10_000, less=-2_000)
    await sent(company, check(paid("C-1")))
    await sent(company, check(correction, reversal, on=date(2026, 2, 1), provider_level=()))
    assert [state for _, state, _ in await history(company, "C-1")] == ["paid", "reversed", "paid"]
    (claim,) = (await company.get("/v1/claims"))["items"]
    assert (claim["state"], claim["paid_cents"], claim["charge_cents"]) == ("paid", 7_000, 9_000)


async def test_a_reversal_that_arrives_after_its_correction_of_the_same_day_does_not_undo_it(company: Company) -> None:
    """Two files of one day (RFI 227, 791): the correction is what holds, whichever comes last."""
    await sent(company, check(paid("C-1")))
    await sent(company, check(paid("C-1", cents=9_000), on=date(2026, 2, 1)))
    await sent(company, check(paid("C-1", "22", -10_000, less=-2_000), on=date(2026, 2, 1)))
    assert [state for _, state, _ in await history(company, "C-1")] == ["paid", "reversed", "paid"]
    assert await states(company) == {"C-1": "paid"}


@pytest.mark.parametrize(
    ("status", "less", "state"),
    [
        ("1", 2_000, "paid"),
        ("2", 2_000, "paid"),
        ("3", 10_000, "zero_paid"),
        ("4", 10_000, "denied"),
        ("19", 2_000, "forwarded"),
        ("20", 2_000, "forwarded"),
        ("21", 2_000, "forwarded"),
        ("23", 10_000, "forwarded"),
        ("25", 10_000, "predetermined"),
    ],
)
async def test_the_state_of_a_claim_of_a_remittance(company: Company, status: str, less: int, state: str) -> None:
    await sent(company, check(paid("C-1", status, less=less)))
    assert await states(company) == {"C-1": state}


async def test_words_that_come_late_do_not_change_the_state(company: Company) -> None:
    """The 277CA of the fifth arrives after the remittance of the fifteenth."""
    await sent(company, check(paid("C-1")))
    await sent(company, interchange(status_277(Told(claim="C-1"))))
    assert await states(company) == {"C-1": "paid"}
    assert [source for source, *_ in await history(company, "C-1")] == ["277", "835"]
    await sent(
        company, interchange(status_277(Told(claim="C-1", status="A3:21", action="U", on="20260301")), control=43)
    )
    assert await states(company) == {"C-1": "rejected"}


async def test_whatever_comes_again_adds_nothing(company: Company) -> None:
    files = [
        interchange(ack_999(("000000017", "A")), ta1=["TA1*000000005*260105*1200*A*000"]),
        interchange(status_277(Told(claim="C-1"), Told(claim="C-2"), batch="000000017"), control=44),
        check(paid("C-1"), paid("C-2", "4", less=10_000)),
    ]
    first = [await sent(company, body) for body in files]
    assert [feed["posted"] for feed in first] == [2, 1, 1]
    tables = ("claim", "claim_state", "acknowledgement", "acknowledgement_verdict", "posting")
    before = {name: count for name, count in (await company.rows()).items() if name in tables}
    assert before["claim_state"] == 6
    # The same interchanges in one file, with other separators, in another order.
    other = files[1].replace(b"*", b"|").replace(b":", b">").replace(b"~", b"!") + files[0]
    for body in (*files, other):
        feed = await sent(company, body)
        assert (feed["posted"], feed["quarantined"]) == (0, 0)
        assert feed["duplicates"] == feed["received"]
    assert {name: count for name, count in (await company.rows()).items() if name in tables} == before
    # The same words in another interchange are other words: control numbers begin anew every day.
    assert (await sent(company, interchange(ack_999(("000000017", "A")), day="260106")))["posted"] == 1


@pytest.mark.parametrize("first", ["999", "277"])
async def test_a_999_reaches_the_claims_of_its_batch_in_whatever_order_they_come(company: Company, first: str) -> None:
    ack = interchange(ack_999(("000000017", "A"), ("000000018", "R"), ("1", "R")), day="260104")
    status = interchange(
        status_277(Told(claim="C-1"), batch="000000017"),
        status_277(Told(claim="C-2"), batch="000000018", control="0002"),
        status_277(Told(claim="C-3"), batch="1", control="0003"),
        control=50,
    )
    for body in (ack, status) if first == "999" else (status, ack):
        await sent(company, body)
    assert await history(company, "C-1") == [("999", "accepted", "2026-01-04"), ("277", "accepted", "2026-01-05")]
    assert await history(company, "C-2") == [("999", "rejected", "2026-01-04"), ("277", "accepted", "2026-01-05")]
    assert await history(company, "C-3") == [("277", "accepted", "2026-01-05")], "a mere count names no transaction"


async def test_verdicts_on_what_is_not_known_are_kept_all_the_same(company: Company) -> None:
    answers = interchange(ack_999(("0001", "A"), ("0002", "R")), ta1=["TA1*000000005*260105*1200*R*021"])
    feed = await sent(company, answers)
    assert (feed["received"], feed["posted"], (await company.rows())["claim"]) == (2, 2, 0)
    rows = await company.stack.owner.fetch(
        "select kind, accepted, status, codes, interchange_control, group_control, reference"
        " from acknowledgement_verdict where company_id = $1 order by kind, verdict_no",
        company.company_id,
    )
    assert [tuple(row) for row in rows] == [
        ("group", False, "P", [], None, "7", None),
        ("interchange", False, "R", ["021"], "000000005", None, None),
        ("transaction", True, "A", [], None, "7", "0001"),
        ("transaction", False, "R", [], None, "7", "0002"),
    ]


async def test_an_acknowledgement_that_contradicts_itself_is_quarantined(company: Company) -> None:
    good = interchange(status_277(Told(claim="C-1")), status_277(Told(claim="C-2"), control="0002"))
    bad = good.replace(b"SE*", b"SE*9", 1)
    feed = await sent(company, bad)
    assert (feed["posted"], feed["quarantined"]) == (1, 1)
    assert await states(company) == {"C-2": "accepted"}
    (exception,) = await company.exceptions(feed_id=feed["feed_id"])
    assert (exception["reason"], exception["item_key"]) == ("envelope_mismatch", "ST 1")
    again = (await company.send("POST", f"/v1/exceptions/{exception['id']}/retry", {})).body
    assert again["state"] == "open"
    whole = await sent(company, interchange(status_277(Told(claim="C-9"))).replace(b"GE*1*42", b"GE*2*42"))
    assert (whole["quarantined"], "C-9" in await states(company)) == (1, False)


async def test_a_remittance_that_is_not_posted_says_nothing_about_claims(company: Company) -> None:
    feed = await sent(company, check(paid("C-1"), amount_cents=1))
    assert feed["quarantined"] == 1
    assert await states(company) == {}


async def test_the_list_is_cut_and_narrowed(stack: LedgerStack, company: Company) -> None:
    told = [Told(claim=f"C-{n}", on=f"202601{n:02}") for n in range(1, 8)]
    await sent(company, interchange(status_277(*told)))
    numbers, cursor = [], None
    while True:
        page = await company.get("/v1/claims", limit=3, **({"cursor": cursor} if cursor else {}))
        assert set(page) == {"items", "next"}
        numbers += [one["claim_number"] for one in page["items"]]
        if (cursor := page["next"]) is None:
            break
    assert sorted(numbers) == [f"C-{n}" for n in range(1, 8)]
    narrowed = await company.get("/v1/claims", **{"from": "2026-01-03", "to": "2026-01-05", "state": "accepted"})
    assert {one["claim_number"] for one in narrowed["items"]} == {"C-3", "C-4", "C-5"}
    assert (await company.get("/v1/claims", state="denied"))["items"] == []
    for bad in ({"state": "lost"}, {"from": "yesterday"}, {"claim_number": "C-1"}):
        answer = await company.send("GET", "/v1/claims", params=bad)
        assert (answer.status, list(answer.fields)) == (422, list(bad))
    stranger = await stack.company()
    assert (await stranger.get("/v1/claims"))["items"] == []
    (one, *_) = (await company.get("/v1/claims"))["items"]
    assert (await stranger.send("GET", f"/v1/claims/{one['id']}")).status == 404


async def test_a_state_once_left_is_not_found_by_it(company: Company) -> None:
    await sent(company, interchange(status_277(Told(claim="C-1"))))
    await sent(company, check(paid("C-1")))
    assert (await company.get("/v1/claims", state="accepted"))["items"] == []
    assert (await company.get("/v1/claims", to="2026-01-05"))["items"] == []
    assert len((await company.get("/v1/claims", state="paid"))["items"]) == 1


async def test_or_neither_is(company: Company) -> None:
    """A statement that cannot be kept takes its posting back; the feed's item waits for a person."""
    stack = company.stack
    await stack.owner.execute("revoke insert on claim_state from ledger_app")
    try:
        feed = await sent(company, check(paid("C-1")))
    finally:
        await stack.owner.execute("grant insert on claim_state to ledger_app")
    assert (feed["quarantined"], await states(company), (await company.sums())["payments"]) == (1, {}, 0)


class Dying(Ledger):
    """A ledger whose process ends right after a posting."""

    async def post(self, command: Command, then: Command | None = None) -> Verdict:
        await super().post(command, then)
        raise RuntimeError("died")


async def test_what_a_remittance_says_is_kept_with_its_posting(company: Company) -> None:
    stack, body = company.stack, check(paid("C-1"))
    feed = Feed(company.company_id, uuid4(), "x12", "era")
    await intake.open_feed(stack.ledger.pool, feed, channel="http", sender="t", body_hash=b"1", chunks=[body])
    found = await remittances.examine([body])
    with pytest.raises(RuntimeError):
        await remittances.process(Dying(stack.ledger.pool, stack.ledger.directory), feed, [body], "c", found)
    assert (await states(company), (await company.sums())["payments"]) == ({"C-1": "paid"}, 1)
    for _ in range(2):
        await remittances.process(stack.ledger, feed, [body], "c", found)
        assert [state for _, state, _ in await history(company, "C-1")] == ["paid"]


async def test_a_277ca_interrupted_anywhere_is_finished_and_counted_once(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven hundred claims are three pieces; the process dies after each in turn."""
    stack = company.stack
    body = interchange(status_277(*(Told(claim=f"C-{n}") for n in range(700)), batch="000000017"))
    feed = Feed(company.company_id, uuid4(), "x12", "era")
    await intake.open_feed(stack.ledger.pool, feed, channel="http", sender="t", body_hash=b"2", chunks=[body])
    found = await remittances.examine([body])
    keep = claim_store.note
    for survived in range(3):
        left = survived

        async def dying(*arguments: Any) -> None:
            nonlocal left
            if left == 0:
                raise RuntimeError("died")
            left -= 1
            await keep(*arguments)

        monkeypatch.setattr(claim_store, "note", dying)
        with pytest.raises(RuntimeError):
            await remittances.process(stack.ledger, feed, [body], "c", found)
        assert (await company.rows())["feed_item"] == 0
    monkeypatch.setattr(claim_store, "note", keep)
    await remittances.process(stack.ledger, feed, [body], "c", found)
    document = await company.get(f"/v1/feeds/{feed.feed_id}")
    assert (document["state"], document["received"], document["posted"]) == ("done", 1, 1)
    rows = await company.rows()
    assert (rows["claim"], rows["claim_state"]) == (700, 700)


async def test_the_same_words_at_once_are_counted_once(company: Company) -> None:
    body = interchange(status_277(*(Told(claim=f"C-{n}") for n in range(50)))) + check(
        *(paid(f"C-{n}") for n in range(50))
    )
    answers = await asyncio.gather(*(company.upload("x12", body) for _ in range(6)))
    assert {answer.status for answer in answers} == {200}
    feeds = {answer.body["feed_id"] for answer in answers}
    documents = [await company.get(f"/v1/feeds/{feed_id}") for feed_id in feeds]
    assert sum(one["posted"] for one in documents) == 2
    assert all(one["received"] == 2 == one["posted"] + one["duplicates"] for one in documents)
    rows = await company.rows()
    assert (rows["claim"], rows["claim_state"]) == (50, 100)


async def test_claims_without_a_number_and_monstrous_ones(company: Company) -> None:
    long = "9" * 500
    await sent(company, check(paid(""), paid(long), paid("ÄÖÜ ' \" \\ {}")))
    await sent(company, interchange(status_277(Told(claim=long[:300], payer_number="8" * 300), payer="P" * 900)))
    assert set(await states(company)) == {"9" * 80, "ÄÖÜ ' \" \\ {}"}


# -- what we answer ----------------------------------------------------------------------------------------------------


def asking(body: bytes) -> bytes:
    """The same file with ISA14 = 1."""
    return body.replace(b"*0*T*", b"*1*T*")


async def replies(company: Company, feed_id: str) -> bytes:
    answer = await company.send("GET", f"/v1/feeds/{feed_id}/acknowledgements")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/edi-x12"), answer
    return answer.raw


async def test_who_asks_for_answers_gets_them_once(company: Company) -> None:
    feed = await sent(company, asking(check(paid("C-1"))))
    assert feed["acknowledgements"] == ["999", "TA1"]
    first = await replies(company, feed["feed_id"])
    told = [event for event in read([first]) if isinstance(event, Acknowledgement)]
    assert [(one.standard, one.kind, one.status) for one in told] == [
        ("TA1", "interchange", "A"),
        ("999", "transaction", "A"),
        ("999", "group", "A"),
    ]
    assert (told[0].interchange_control, told[1].transaction_control) == ("000000101", "0001")
    assert b"ISA*00*          *00*          *ZZ*PTCLINIC       *ZZ*PAYERID " in first
    numbers = re.findall(rb"IEA\*[01]\*([0-9]{9})~", first)
    assert len(set(numbers)) == len(numbers) == 2, "whoever sees one twice takes the second for a duplicate (TA1 025)"
    assert await replies(company, feed["feed_id"]) == first
    again = await sent(company, asking(check(paid("C-2"))))
    assert await replies(company, again["feed_id"]) != first, "control numbers are new"


async def test_an_answer_says_what_is_wrong_with_the_form_and_nothing_about_money(company: Company) -> None:
    clean = asking(check(paid("C-1")))
    cases = {
        "count": (clean.replace(b"SE*", b"SE*9"), ("TA1 A", "999 transaction R ('4',)", "999 group R ()")),
        "content": (
            clean.replace(b"CLP*C-1*1*100*", b"CLP*C-1*1*1O0*"),
            ("TA1 A", "999 transaction R ('5',)", "999 group R ()"),
        ),
        "money": (asking(check(paid("C-1"), amount_cents=5)), ("TA1 A", "999 transaction A ()", "999 group A ()")),
        "envelope": (clean.replace(b"IEA*1*", b"IEA*2*"), ("TA1 R",)),
    }
    for name, (body, expected) in cases.items():
        feed = await sent(company, body)
        assert feed["quarantined"] == 1, name
        found = tuple(
            f"TA1 {one.status}" if one.standard == "TA1" else f"999 {one.kind} {one.status} {one.codes}"
            for one in read([await replies(company, feed["feed_id"])])
            if isinstance(one, Acknowledgement)
        )
        assert found == expected, name


async def test_nobody_else_is_answered(company: Company) -> None:
    """Not asked; or nothing but a TA1, which is never answered."""
    for body in (check(paid("C-1")), interchange(ta1=["TA1*000000005*260105*1200*A*000"], asks=1)):
        feed = await sent(company, body)
        assert feed["acknowledgements"] == []
        answer = await company.send("GET", f"/v1/feeds/{feed['feed_id']}/acknowledgements")
        assert answer.status == 404
    both = await sent(company, check(paid("C-3")) + asking(check(paid("C-4")).replace(b"000000101", b"000000202")))
    told = [one for one in read([await replies(company, both["feed_id"])]) if isinstance(one, Acknowledgement)]
    assert {one.interchange_control for one in told if one.standard == "TA1"} == {"000000202"}


async def test_a_277_is_answered_with_a_999_and_a_999_with_a_ta1_only(company: Company) -> None:
    status = await sent(company, interchange(status_277(Told(claim="C-1")), asks=1))
    assert status["acknowledgements"] == ["999", "TA1"]
    ack = await sent(company, interchange(ack_999(("0001", "A")), asks=1))
    assert ack["acknowledgements"] == ["TA1"]


async def test_answers_are_made_once_however_often_a_feed_is_worked_off(company: Company) -> None:
    stack, body = company.stack, asking(check(paid("C-1")))
    feed = Feed(company.company_id, uuid4(), "x12", "era")
    await intake.open_feed(stack.ledger.pool, feed, channel="http", sender="t", body_hash=b"3", chunks=[body])
    found = await remittances.examine([body])
    await asyncio.gather(*(remittances.process(stack.ledger, feed, [body], "c", found) for _ in range(4)))
    first = await replies(company, str(feed.feed_id))
    assert (await company.rows())["feed_reply"] == 2
    await remittances.process(stack.ledger, feed, [body], "c", found)
    assert await replies(company, str(feed.feed_id)) == first


async def test_an_emr_client_sees_the_answers_to_its_own_feeds(stack: LedgerStack, company: Company) -> None:
    mine, other = await stack.emr_client([company], "a"), await stack.emr_client([company], "b")
    tokens = [company.token("emr", client_id=client, user_name=client) for client in (mine, other)]
    feed = (await company.upload("x12", asking(check(paid("C-1"))), token=tokens[0])).body
    path = f"/v1/feeds/{feed['feed_id']}/acknowledgements"
    assert [(await company.send("GET", path, token=token)).status for token in tokens] == [200, 404]


async def test_another_transaction_set_in_a_file_of_acknowledgements_is_ignored(company: Company) -> None:
    body = interchange(status_277(Told(claim="C-1")), closed("270", "0002", "BHT*0022*13*1"))
    feed = await sent(company, body)
    assert (feed["received"], feed["posted"], feed["ignored"]) == (2, 1, 1)
