"""Taking events in: once, in order, whole, whatever the network and the processes do (quality 4: 65-73, P8)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any, ClassVar
from uuid import uuid4

import asyncpg
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.reporting import inbox as inbox_module
from services.reporting.inbox import Inbox
from services.reporting.rebuild import rebuild
from shared.bus import Message, Outcome
from tests.support.databases import Databases
from tests.support.ledger_events import Books, books, message_of
from tests.support.reporting import ReportingStack

DONE, PARK = Outcome.DONE, Outcome.PARK


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[ReportingStack]:
    async with ReportingStack.fresh(databases) as stack:
        yield stack


async def _version(stack: ReportingStack, made: Books) -> int:
    query = "select version from company_progress where company_id = $1"
    return await stack.owner.fetchval(query, made.company_id) or 0


def _changed(message: Message, **changes: Any) -> Message:
    """The message with parts of its event replaced, at the top or in `data`."""
    event = orjson.loads(message.body)
    for name, value in changes.items():
        (event if name in event else event["data"])[name] = value
    return Message(event["id"], event["type"], message.routing_key, orjson.dumps(event))


@given(books(), st.randoms(use_true_random=False))
async def test_order_repetition_and_batching_change_nothing(
    stack: ReportingStack, made: Books, network: random.Random
) -> None:
    """Delivered badly, then rebuilt, then delivered again: always the tables of the plain delivery."""
    await stack.deliver(made, network)
    badly = await stack.tables(made.company_id)
    assert badly["company_progress"][0][1] == made.version
    assert await _plainly(stack, made) == badly
    await stack.deliver(made, network)
    assert await stack.tables(made.company_id) == badly


async def _plainly(stack: ReportingStack, made: Books, longest: int = 4) -> Any:
    """The tables when everything is forgotten and delivered once, in order, one event at a time."""
    async with stack.owner.transaction():
        for table in ("inbox", *(await stack.tables(made.company_id))):
            await stack.owner.execute(f"delete from {table} where company_id = $1", made.company_id)
    for event in made.events(longest=longest):
        assert await stack.inbox.handle([message_of(event)]) == [DONE]
    return await stack.tables(made.company_id)


@given(st.lists(books(most=15), min_size=2, max_size=3), st.randoms(use_true_random=False))
async def test_two_consumers_at_once_fold_each_event_once(
    stack: ReportingStack, many: list[Books], network: random.Random
) -> None:
    """Both get everything, each in another order, at the same time: no deadlock, and every receipt counted once."""
    messages = [message_of(event) for made in many for event in made.events()]
    orders = [network.sample(messages, len(messages)) for _ in range(2)]

    async def consume(order: list[Message]) -> None:
        inbox = Inbox(stack.pool)
        for start in range(0, len(order), 5):
            assert set(await inbox.handle(order[start : start + 5])) == {DONE}

    await asyncio.gather(*map(consume, orders))
    for made in many:
        assert await _version(stack, made) == made.version
        counted = await stack.owner.fetchval(
            "select sum(receipt_count) from balancing_line where company_id = $1", made.company_id
        )
        assert (counted or 0) == len(made.receipts())


async def test_only_what_has_no_gap_before_it_is_folded(stack: ReportingStack) -> None:
    made = Books(random.Random(1)).act(30)
    messages = [message_of(event) for event in made.events(longest=1)]
    assert await stack.inbox.handle(messages[:5]) == [DONE] * 5
    before = await stack.tables(made.company_id)
    assert await stack.inbox.handle(messages[6:20]) == [DONE] * 14
    assert await stack.tables(made.company_id) == before
    await stack.inbox.handle([messages[5]])
    assert await _version(stack, made) == 20


class Counting(asyncpg.Connection):  # type: ignore[misc]
    """Notes every statement that goes to the server."""

    statements: ClassVar[list[str]] = []

    async def _execute(self, query: str, *rest: Any, **more: Any) -> Any:
        self.statements.append(query)
        return await super()._execute(query, *rest, **more)

    async def execute(self, query: str, *rest: Any, **more: Any) -> Any:
        self.statements.append(query)
        return await super().execute(query, *rest, **more)


async def test_a_batch_is_a_constant_number_of_statements(stack: ReportingStack) -> None:
    """At most six, begin and commit among them, for 1 event or 500, one company or many."""
    for companies, events in ((1, 1), (1, 500), (25, 20)):
        many = [Books(random.Random(n)).act(events) for n in range(companies)]
        batch = [message_of(event) for made in many for event in made.events(longest=1)][:500]
        async with asyncpg.create_pool(stack.dsn, min_size=1, max_size=1, connection_class=Counting) as pool:
            await pool.fetchval("select 1")
            Counting.statements.clear()
            assert set(await Inbox(pool).handle(batch)) == {DONE}
            used = [statement.split()[0] for statement in Counting.statements[:5]]
        assert used == ["BEGIN;", "insert", "with", "with", "COMMIT;"]
        assert all("unlock_all" in statement for statement in Counting.statements[5:])  # this pool's own reset


async def test_many_bytes_are_taken_in_several_transactions(
    stack: ReportingStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "_CHUNK_BYTES", 3_000)
    made = Books(random.Random(2)).act(60)
    await stack.deliver(made, random.Random(2))
    assert await _version(stack, made) == made.version


async def test_a_consumer_killed_in_the_middle_leaves_nothing(stack: ReportingStack) -> None:
    """Its back end dies while the fold waits for a table: no inbox row, no line, no progress; then all goes well."""
    made = Books(random.Random(3)).act(20)
    await stack.inbox.handle([message_of(event) for event in made.events(longest=1)][:3])
    before = await stack.tables(made.company_id)
    kept = await stack.owner.fetchval("select count(*) from inbox where company_id = $1", made.company_id)
    for table in ("company_progress", "inbox", "balancing_line", "balancing_deposit_day", "payer"):
        blocker = await asyncpg.connect(stack.dsn)
        async with blocker.transaction():
            await blocker.execute(f"lock table {table} in access exclusive mode")
            task = asyncio.ensure_future(stack.deliver(made))
            await _until_blocked(blocker, table)
            await blocker.execute("select pg_terminate_backend(pid) from pg_locks where not granted")
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await task
        await blocker.close()
        assert await stack.tables(made.company_id) == before
        query = "select count(*) from inbox where company_id = $1"
        assert await stack.owner.fetchval(query, made.company_id) == kept
    # The first three came as single events, so the rest must, too.
    for event in made.events(longest=1):
        assert await stack.inbox.handle([message_of(event)]) == [DONE]
    assert await _version(stack, made) == made.version


async def _until_blocked(connection: asyncpg.Connection, table: str) -> None:
    for _ in range(500):
        if await connection.fetchval(
            "select count(*) from pg_locks where not granted and relation = $1::regclass", table
        ):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing waits for the table")


async def test_what_cannot_be_understood_is_parked_and_the_rest_goes_on(stack: ReportingStack) -> None:
    made = Books(random.Random(4)).act(12)
    good = [message_of(event) for event in made.events(longest=1)]
    nul = good[0].body.replace(b'"Payer 0"', b'"Pay\\u0000er"')
    bad = [
        Message("1", "ledger.posting.v1", "ledger.posting.v1", b"not json"),
        Message("2", "ledger.posting.v1", "ledger.posting.v1", b""),
        Message("3", "ledger.posting.v1", "ledger.posting.v1", b"\xff\xfe"),
        Message("4", "ledger.posting.v1", "ledger.posting.v1", nul),
        Message("5", "ledger.posting.v2", "ledger.posting.v2", good[0].body),
        Message("6", "ledger.unheard_of.v1", "ledger.unheard_of.v1", good[0].body),
        _changed(good[0], type="ledger.posting.v2"),
        _changed(good[0], version=9),
        _changed(good[0], company_id=None),
        _changed(good[0], postings=[{**orjson.loads(good[0].body)["data"]["postings"][0], "version": "NaN"}]),
    ]
    batch = [message for pair in zip(bad, good, strict=False) for message in pair] + good[len(bad) :]
    outcomes = await stack.inbox.handle(batch)
    assert [outcome for outcome, message in zip(outcomes, batch, strict=True) if message in bad] == [PARK] * len(bad)
    assert [outcome for outcome, message in zip(outcomes, batch, strict=True) if message in good] == [DONE] * len(good)
    assert await _version(stack, made) == made.version


async def test_a_row_the_tables_refuse_is_parked_alone(stack: ReportingStack) -> None:
    """The batch's statement fails; each event is tried alone, and only the bad one and its successors wait."""
    poisoned, healthy = Books(random.Random(5)).act(5), Books(random.Random(6)).act(5)
    place = poisoned.version
    poisoned.pay()
    poisoned.pay()
    messages = [message_of(event) for event in poisoned.events(longest=1)]
    (posting,) = orjson.loads(messages[place].body)["data"]["postings"]
    posting["receipts"][0]["receipt_version"] = 2**63  # Fits JSON, not BIGINT.
    good, messages[place] = messages[place], _changed(messages[place], postings=[posting])
    others = [message_of(event) for event in healthy.events(longest=1)]
    outcomes = await stack.inbox.handle([*messages, *others])
    assert outcomes == [DONE] * place + [PARK] + [DONE] * (1 + len(others))
    assert await _version(stack, healthy) == healthy.version
    assert await _version(stack, poisoned) == place
    # Once the event comes as it should, nothing is missing.
    assert await stack.inbox.handle([good]) == [DONE]
    assert await _version(stack, poisoned) == poisoned.version


@pytest.mark.parametrize("early", [False, True])
async def test_other_content_under_a_taken_version_is_an_alarm(stack: ReportingStack, early: bool) -> None:
    """Kept or folded, in another batch or in the same: the first stays, the second is parked."""
    made = Books(random.Random(7))
    made.pay()
    made.act(6)
    messages = [message_of(event) for event in made.events(longest=1)]
    kept = messages[1:] if early else messages
    other = _changed(kept[2], id=str(uuid4()))
    assert await stack.inbox.handle([*kept, other, kept[2]]) == [DONE] * len(kept) + [PARK, DONE]
    before = await stack.tables(made.company_id)
    assert await stack.inbox.handle([other]) == [PARK]
    assert await stack.inbox.handle([_changed(kept[2], source="/other")]) == [PARK]
    if early:
        # Beside the event that closes the gap comes another one for the place of one that waits: it is not folded.
        empty = [{**orjson.loads(messages[1].body)["data"]["postings"][0], "receipts": []}]
        usurper = _changed(messages[1], id=str(uuid4()), postings=empty)
        assert await stack.inbox.handle([messages[0], usurper]) == [DONE, PARK]
        before = await stack.tables(made.company_id)
        assert await _plainly(stack, made, longest=1) == before
    same_id = _changed(kept[3], id=orjson.loads(kept[2].body)["id"])
    assert await stack.inbox.handle([same_id]) == [PARK]
    assert await stack.tables(made.company_id) == before


async def test_versions_that_are_folded_cannot_come_in_other_events(stack: ReportingStack) -> None:
    """Cut otherwise, the same postings are not the same events: nothing of them is kept."""
    made = Books(random.Random(17)).act(12)
    await stack.inbox.handle([message_of(event) for event in made.events(longest=12)])
    before = await stack.tables(made.company_id)
    kept = await stack.owner.fetchval("select count(*) from inbox where company_id = $1", made.company_id)
    known = {event.data.first_version for event in made.events(longest=12)}
    others = [message_of(event) for event in made.events(longest=1) if event.data.first_version not in known]
    assert set(await stack.inbox.handle(others)) == {PARK}
    assert await stack.tables(made.company_id) == before
    assert kept == await stack.owner.fetchval("select count(*) from inbox where company_id = $1", made.company_id)


async def test_what_the_tables_cannot_hold_is_not_kept_until_its_turn(stack: ReportingStack) -> None:
    """An event that comes early is not tried on the tables yet: what would fail there later is refused at the door."""
    made = Books(random.Random(18)).act(5)
    made.pay(check_number="CK1", method="check")
    last = message_of(made.events(longest=1)[-1])
    bad = Message("1", last.type, last.type, last.body.replace(b'"CK1"', b'"CK\\u00001"'))
    assert await stack.inbox.handle([bad]) == [PARK]
    assert not await stack.owner.fetchval("select count(*) from inbox where company_id = $1", made.company_id)


@pytest.mark.parametrize("text", [r"\u0000", r"\\u0000", r"C:\\\u0000", "\\"])
async def test_text_that_looks_like_an_escape_is_text(stack: ReportingStack, text: str) -> None:
    """A batch number of a backslash and "u0000" is no NUL: refused, it would hold up its company for ever."""
    made = Books(random.Random(19)).act(3)
    made.pay(batch_number=text)
    await stack.deliver(made)
    assert await _version(stack, made) == made.version
    report = await stack.balancing(made, group_by="batch", variation="full_access", batch_number=text)
    assert [item["batch_number"] for item in report["items"]] == [text]


async def test_the_same_event_in_other_words_is_the_same(stack: ReportingStack) -> None:
    """The ledger's log gives the same JSON with other spacing."""
    made = Books(random.Random(8)).act(3)
    for event in made.events():
        message = message_of(event)
        spaced = Message(
            message.message_id,
            message.type,
            message.type,
            orjson.dumps(orjson.loads(message.body), option=orjson.OPT_INDENT_2),
        )
        assert await stack.inbox.handle([message, spaced]) == [DONE, DONE]
        assert await stack.inbox.handle([spaced]) == [DONE]


async def test_a_rebuild_changes_nothing(stack: ReportingStack) -> None:
    many = [Books(random.Random(seed)).act(40) for seed in range(3)]
    for made in many:
        await stack.deliver(made, random.Random(1))
    companies = [made.company_id for made in many]
    # One that still waits for an event.
    gap = [message_of(event) for event in many[0].act(6).events(after=41, longest=1)]
    await stack.inbox.handle(gap[1:])
    before = await stack.tables(*companies)
    await stack.owner.execute("update balancing_line set applied_cents = 1 where company_id = $1", companies[0])
    await stack.owner.execute("delete from balancing_posting_day where company_id = $1", companies[1])
    assert await stack.tables(*companies) != before
    assert await rebuild(stack.dsn) >= 3
    assert await stack.tables(*companies) == before
    await stack.inbox.handle(gap[:1])
    assert await _version(stack, many[0]) == many[0].version


async def test_reports_stand_still_while_a_rebuild_runs(stack: ReportingStack) -> None:
    made = Books(random.Random(9)).act(40)
    await stack.load(made)
    before = await stack.balancing(made)
    connection = await asyncpg.connect(stack.dsn)
    async with connection.transaction():
        await Inbox(stack.pool).rebuild(connection, made.company_id)
        assert await stack.balancing(made) == before
    await connection.close()
    assert await stack.balancing(made) == before


@pytest.mark.parametrize(
    "statement",
    [
        "update balancing_line set applied_cents = 0",
        "delete from balancing_line",
        "update inbox set body = ''",
        "delete from inbox",
        "delete from balancing_posting_day",
        "truncate balancing_deposit_day",
        "create table mine (x int)",
        "drop table payer",
    ],
)
async def test_the_service_may_not_change_what_is_kept(stack: ReportingStack, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await stack.pool.execute(statement)
