"""What waits of an EMR's events: tried again when its cause is gone, and posted once.

Decided here where the rules are silent:

* A retry posts under the keys of the first delivery, so an item that came again and was posted meanwhile becomes a
  `duplicate`. What was delivered several times while it waited is one exception: one delivery is posted, the others
  are repetitions.
* A failed retry answers 200 with the exception still open; its history has the reason and the numbers of that attempt.
  The exception keeps the reason that it was made for.
* An event that nobody owned (unknown source, over the bus) is shown to nobody; a retry by reason posts it for the
  company that it turns out to belong to.
"""

from __future__ import annotations

import json
from uuid import uuid4

from shared.bus import Outcome
from shared.ids import INTEGRATION_POSTER_ID, NO_COMPANY
from tests.support.emr import BATCH, Emr, emr_event, emr_payment
from tests.support.feed_work import feed_now, register_clinic, retried, the_exception, true, unknown
from tests.support.ledger import Company, LedgerStack, together


async def test_a_clinic_that_was_registered_later(emr: Emr) -> None:
    company = emr.company
    feed = await emr.send(unknown(emr, "clinic-late"), emr.payment("p-2"))
    row = await the_exception(company)
    assert (row["reason"], row["state"]) == ("unknown_clinic", "open")
    before = await company.rows()
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["action"]) == ("open", "retry_failed")
    assert failed["history"][-1]["detail"]["emr_clinic_id"] == "clinic-late"
    assert await company.rows() == {**before, "exception_history": before["exception_history"] + 1}
    await register_clinic(company, "clinic-late", 1)
    user = uuid4()
    done = await retried(company, row, token=company.token("self_service_admin", subject=user))
    assert (done["state"], done["state_by"], done["reason"]) == ("retried", str(user), "unknown_clinic")
    assert [entry["action"] for entry in done["history"]] == ["retry_failed", "retried"]
    assert done["history"][-1]["actor_id"] == str(user)
    assert await feed_now(company, feed) == {"posted": 2}
    receipt = next(one for one in (await company.get("/v1/payments"))["items"] if one["external_id"] == "p-1")
    assert (receipt["location_id"], receipt["poster_id"]) == (str(company.locations[1]), str(INTEGRATION_POSTER_ID))
    assert done["payment_id"] == receipt["id"]
    stands = await company.rows()
    assert await retried(company, row) == done
    assert await company.rows() == stands
    await true(company)


async def test_many_retries_at_once_post_once(emr: Emr) -> None:
    company = emr.company
    feed = await emr.send(unknown(emr, "clinic-together"))
    row = await the_exception(company)
    await register_clinic(company, "clinic-together")
    answers = await together(*(retried(company, row) for _ in range(8)))
    assert {answer["state"] for answer in answers} == {"retried"}
    document = await company.get(f"/v1/exceptions/{row['id']}")
    assert [entry["action"] for entry in document["history"]] == ["retried"]
    assert await feed_now(company, feed) == {"posted": 1}
    assert (await company.sums())["payments"] == 1
    await true(company)


async def test_retries_and_new_deliveries_at_once_post_once(emr: Emr) -> None:
    company = emr.company
    event = unknown(emr, "clinic-crowd")
    feed = await emr.send(event)
    row = await the_exception(company)
    await register_clinic(company, "clinic-crowd")
    work = [retried(company, row) for _ in range(4)] + [emr.send(event) for _ in range(4)] + [emr.deliver(event)]
    await together(*work)
    assert (await the_exception(company))["state"] == "retried"
    assert (await company.sums())["payments"] == 1
    feeds = (await company.get("/v1/feeds"))["items"]
    assert sum(one["posted"] for one in feeds) == 1
    assert sum(one["posted_total_cents"] for one in feeds) == 2_500
    assert await feed_now(company, feed) in ({"posted": 1}, {"duplicates": 1})
    await true(company)


async def test_what_came_again_and_was_posted_meanwhile_is_a_duplicate(emr: Emr) -> None:
    company = emr.company
    event = unknown(emr, "clinic-again")
    feed = await emr.send(event)
    row = await the_exception(company)
    await register_clinic(company, "clinic-again")
    await emr.send(event)
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"duplicates": 1}
    assert (await company.sums())["payments"] == 1
    await true(company)


async def test_an_older_version_is_ignored_and_a_conflict_stays(emr: Emr) -> None:
    company = emr.company
    feed = await emr.send(unknown(emr, "clinic-old", "p-1"), unknown(emr, "clinic-old", "p-2"))
    await emr.send(emr.payment("p-1", 2), emr.payment("p-2", 1, amount_cents=1))
    await register_clinic(company, "clinic-old", 1)
    rows = {row["item_key"]: row for row in await company.exceptions()}
    before = await company.sums()
    states = [(await retried(company, row))["state"] for row in rows.values()]
    assert sorted(states) == ["open", "retried"]
    assert await feed_now(company, feed) == {"ignored": 1, "quarantined": 1}
    left = await the_exception(company, state="open")
    document = await company.get(f"/v1/exceptions/{left['id']}")
    assert (document["reason"], document["history"][-1]["reason"]) == ("unknown_clinic", "conflict")
    assert await company.sums() == before
    await true(company)


async def test_what_was_delivered_often_while_it_waited_is_posted_once(emr: Emr) -> None:
    company = emr.company
    event = unknown(emr, "clinic-often")
    assert await emr.deliver(event, event, emr.payment("p-2"), event) == [Outcome.DONE] * 4
    row = await the_exception(company)
    feed = {"feed_id": row["feed_id"]}
    assert await feed_now(company, feed) == {"posted": 1, "quarantined": 3}
    await register_clinic(company, "clinic-often", 1)
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"posted": 2, "duplicates": 2}
    await true(company)


async def test_one_name_with_two_contents_is_two_exceptions(emr: Emr) -> None:
    """The first to be retried is posted, the other one has become a conflict, and each item is counted for itself."""
    company = emr.company
    first = unknown(emr, "clinic-two")
    other = {**first, "data": {**first["data"], "amount_cents": 77}}
    feed = await emr.send(first, other)
    await register_clinic(company, "clinic-two")
    rows = await company.exceptions()
    assert [(await retried(company, row))["state"] for row in rows] == ["retried", "open"]
    assert await feed_now(company, feed) == {"posted": 1, "quarantined": 1}
    assert (await company.sums())["payments"] == 1
    await true(company)


async def test_a_source_that_was_registered_later(company: Company) -> None:
    """Sent by a person, for whom any source of the company's clients counts."""
    source = f"late {uuid4()}"
    event = emr_event(source, "payment", emr_payment(company.locations[0], "p-1"))
    answer = await company.upload("emr", json.dumps([event]).encode(), **{"Content-Type": BATCH})
    assert answer.body["quarantined"] == 1
    row = await the_exception(company)
    assert (await retried(company, row))["history"][-1]["reason"] == "unknown_source"
    await company.stack.emr_client([company], source)
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, answer.body) == {"posted": 1}


async def test_a_client_cannot_have_another_ones_events_posted_by_a_retry(emr: Emr) -> None:
    other = await Emr.of(emr.company)
    await other.send(emr.payment())
    row = await the_exception(emr.company)
    assert row["reason"] == "unknown_source"
    assert (await retried(emr.company, row))["state"] == "open"
    assert (await emr.company.sums())["payments"] == 0


async def test_events_that_nobody_owned_go_to_whom_they_belong(stack: LedgerStack, company: Company) -> None:
    stranger, source = await stack.company(), f"unowned {uuid4()}"
    owner = Emr(company, source, "")
    assert await owner.deliver(owner.payment("p-1"), owner.payment("p-2")) == [Outcome.DONE] * 2
    assert await company.exceptions() == []
    await stack.emr_client([company], source)
    nil = "select count(*) from feed_exception where company_id = $1 and state = 'open' and raw like '%' || $2 || '%'"
    for asker, settled, left in ((stranger, 0, 2), (company, 2, 0), (company, 0, 0)):
        answer = await asker.post("/v1/exceptions/retry", {"reason": "unknown_source"}, status=200)
        assert len(answer["items"]) == answer["retried"] == settled
        assert await stack.owner.fetchval(nil, NO_COMPANY, source) == left
    assert ((await company.sums())["payments"], (await stranger.sums())["payments"]) == (2, 0)
    counts = await stack.owner.fetch(
        "select outcome, count(*) as n from feed_item where company_id = $1 and item_key like $2 || '%' group by 1",
        NO_COMPANY,
        source,
    )
    assert {row["outcome"]: row["n"] for row in counts} == {"posted": 2}


async def test_the_unforeseen_can_be_tried_again(emr: Emr) -> None:
    company = emr.company
    await company.stack.owner.execute(
        "alter table payment_revision add constraint unforeseen check (amount_cents <> 66611)"
    )
    try:
        feed = await emr.send(emr.payment("p-1", amount_cents=66_611), emr.payment("p-2"))
        row = await the_exception(company)
        assert (await retried(company, row))["history"][-1]["reason"] == "internal_error"
    finally:
        await company.stack.owner.execute("alter table payment_revision drop constraint unforeseen")
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"posted": 2}
    await true(company)
