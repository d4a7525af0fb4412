"""A quarantine that a person can work: see it, try it again, settle or dismiss it, and nothing is posted twice.

Decided here where the rules are silent:

* A retry posts under the keys of the first delivery, so an item that came again and was posted meanwhile becomes a
  `duplicate`. What was delivered several times while it waited is one exception: one delivery is posted, the others
  are repetitions.
* A failed retry answers 200 with the exception still open; its history has the reason and the numbers of that attempt.
  The exception keeps the reason that it was made for.
* A claim of which a part can be applied is applied that far; each rest is an exception of its own.
* A claim is applied only within what its receipt still has unapplied: a person may have used that money meanwhile.
* What a person closed while it was being retried stays closed, and nothing of the retry is posted.
* An event that nobody owned (unknown source, over the bus) is shown to nobody; a retry by reason posts it for the
  company that it turns out to belong to.
* A mapped clinic counts only where no company has a clinic of that name: nobody can draw another's events to himself.
* An event that breaks its handler is tried alone after the first failure, so that only the culprit is put aside.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.ledger.feeds import emr as emr_feed
from services.ledger.feeds import remittances
from services.ledger.feeds.attempts import MAX_ATTEMPTS
from services.ledger.feeds.consumer import SUBSCRIPTION, EmrConsumer
from services.ledger.posting import Verdict
from services.ledger.succession import Succession
from shared.amqp import AmqpBus
from shared.amqp.dead_letters import dead_letters
from shared.bus import EMR_FEED, Message, Outcome
from shared.errors import Unavailable
from shared.ids import INTEGRATION_POSTER_ID, NO_COMPANY
from tests.support.databases import Databases
from tests.support.feed_work import (
    BATCH,
    PAID,
    Emr,
    charge_of,
    check,
    claim,
    message,
    remit,
    retried,
    service,
    the_exception,
    true,
)
from tests.support.ledger import Company, LedgerStack, emr_event, emr_payment, together
from tests.support.x12_builder import ClaimPayment, Service, x12_file


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await stack.company(locations=2)


@pytest.fixture
async def emr(company: Company) -> Emr:
    return await Emr.of(company)


async def register_clinic(company: Company, clinic: str, place: int = 0) -> None:
    await company.stack.owner.execute(
        "update directory_location set emr_location_id = $3 where company_id = $1 and location_id = $2",
        company.company_id,
        company.locations[place],
        clinic,
    )


async def set_npis(company: Company, *npis: str) -> None:
    await company.stack.owner.execute(
        "update directory_company set npis = $2 where company_id = $1", company.company_id, list(npis)
    )


async def map_words(company: Company, **rows: Any) -> Any:
    answer = await company.send(
        "PUT", "/v1/feed-mappings", {"clinics": [], "payers": [], "procedures": [], **rows}, key=""
    )
    assert answer.status == 200, answer
    return answer.body


async def feed_now(company: Company, feed: Any) -> dict[str, int]:
    """The counts of a feed that are not zero."""
    document = await company.get(f"/v1/feeds/{feed['feed_id']}")
    return {name: document[name] for name in ("posted", "duplicates", "ignored", "quarantined") if document[name]}


def unknown(emr: Emr, clinic: str, payment_id: str = "p-1", **fields: Any) -> dict[str, Any]:
    """A payment at a clinic that nobody has."""
    return emr.payment(payment_id, emr_clinic_id=clinic, **fields)


# -- EMR events ------------------------------------------------------------------------------------------------------


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


# -- mappings --------------------------------------------------------------------------------------------------------


async def test_a_clinic_by_another_name(stack: LedgerStack, emr: Emr) -> None:
    company, other = emr.company, await stack.company()
    await stack.owner.execute(
        "update directory_client set company_ids = company_ids || $2::uuid where client_id = $1",
        emr.client,
        other.company_id,
    )
    feed = await emr.send(unknown(emr, "Old Mill"), unknown(emr, "Old Mill", "p-2"))
    await map_words(company, clinics=[{"alias": "Old Mill", "location_id": str(company.locations[1])}])
    for row in await company.exceptions():
        assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"posted": 2}
    assert (await emr.send(unknown(emr, "Old Mill", "p-3")))["posted"] == 1
    assert await emr.deliver(unknown(emr, "Old Mill", "p-4")) == [Outcome.DONE]
    receipts = (await company.get("/v1/payments"))["items"]
    assert {one["location_id"] for one in receipts} == {str(company.locations[1])}
    assert len(receipts) == 4
    # The clinic opens at another company of the same EMR: it is that one's, whatever was mapped here.
    await register_clinic(other, "Old Mill")
    await emr.deliver(unknown(emr, "Old Mill", "p-5"))
    assert ((await company.sums())["payments"], (await other.sums())["payments"]) == (4, 1)
    await true(company)


async def test_a_procedure_by_the_code_of_its_source(emr: Emr) -> None:
    company = emr.company
    odd, plain = emr.charge("c-1", procedure_code="PT-EVAL LOW"), emr.charge("c-2", procedure_code="EVAL1")
    refused = await company.upload("emr", json.dumps(odd).encode(), token=emr.token)
    assert (refused.status, list(refused.fields)) == (422, ["data.procedure_code"])
    feed = await emr.send(odd)
    assert feed["quarantined"] == 1
    row = await the_exception(company)
    failed = await retried(company, row)
    assert failed["history"][-1]["detail"]["errors"][0]["field"] == "data.procedure_code"
    codes = [{"alias": "PT-EVAL LOW", "procedure_code": "97161"}, {"alias": "EVAL1", "procedure_code": "97162"}]
    await map_words(company, procedures=codes)
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"posted": 1}
    assert (await emr.send(odd))["duplicates"] == 1
    alone = await company.upload("emr", json.dumps(emr.charge("c-3", procedure_code="PT-EVAL LOW")).encode())
    assert (alone.status, alone.body["posted"]) == (200, 1), alone
    await emr.deliver(plain)
    charges = {one["external_id"]: one["procedure_code"] for one in (await company.get("/v1/charges"))["items"]}
    assert charges == {"c-1": "97161", "c-2": "97162", "c-3": "97161"}
    # An event is the same whatever is mapped; but without the mapping this code is none at all.
    await map_words(company)
    again = await emr.send(odd, plain)
    assert (again["duplicates"], again["quarantined"]) == (1, 1)
    await map_words(company, procedures=codes)
    assert (await retried(company, await the_exception(company, state="open")))["state"] == "retried"
    assert await feed_now(company, again) == {"duplicates": 2}
    await true(company)


async def test_a_payer_by_another_name(company: Company) -> None:
    payers = [await company.payer() for _ in range(2)]
    rows = [
        {"alias": "EXAMPLE Health plan", "payer_id": payers[0]["id"]},
        {"alias": "99999", "payer_id": payers[1]["id"]},
    ]
    await map_words(company, payers=rows)
    await remit(company, check(claim("A", service())))
    await remit(company, check(claim("A", service()), payer_id="99999", payer="EXAMPLE HEALTH PLAN"))
    found = [one["payer_id"] for one in (await company.get("/v1/payments"))["items"]]
    assert found == [payers[1]["id"], payers[0]["id"]]
    assert len((await company.get("/v1/payers"))["items"]) == 2


async def test_mappings_are_replaced_whole_and_remembered(company: Company) -> None:
    location, payer = str(company.locations[0]), (await company.payer())["id"]
    users = [uuid4(), uuid4()]
    first = {"clinics": [{"alias": "x", "location_id": location}], "payers": [], "procedures": []}
    second = {**first, "payers": [{"alias": "P", "payer_id": payer}]}
    for user, body in zip(users, (first, second), strict=True):
        token = company.token("self_service_admin", subject=user)
        assert (await company.send("PUT", "/v1/feed-mappings", body, key="", token=token)).status == 200
    now = await company.get("/v1/feed-mappings")
    assert [(row["alias"], row["location_id"], row["changed_by"]) for row in now["clinics"]] == [
        ("x", location, str(users[0]))
    ]
    assert [(row["alias"], row["changed_by"]) for row in now["payers"]] == [("P", str(users[1]))]
    await map_words(company)
    assert await company.get("/v1/feed-mappings") == {"clinics": [], "payers": [], "procedures": []}
    kept = await company.stack.owner.fetch(
        "select alias, target from feed_mapping where company_id = $1 order by change_no", company.company_id
    )
    assert [(row["alias"], row["target"]) for row in kept] == [("x", location), ("P", payer), ("P", None), ("x", None)]


async def test_mappings_that_are_refused(stack: LedgerStack, company: Company) -> None:
    stranger = await stack.company()
    foreign = (await stranger.payer())["id"]
    location = str(company.locations[0])
    for field, rows in (
        ("clinics.0.location_id", {"clinics": [{"alias": "a", "location_id": str(stranger.locations[0])}]}),
        ("payers.0.payer_id", {"payers": [{"alias": "a", "payer_id": foreign}]}),
        ("payers.0.payer_id", {"payers": [{"alias": "a", "payer_id": str(uuid4())}]}),
        ("clinics.1.alias", {"clinics": [{"alias": "a", "location_id": location}] * 2}),
        ("procedures.0.procedure_code", {"procedures": [{"alias": "a", "procedure_code": "9711"}]}),
        ("procedures.0.alias", {"procedures": [{"alias": "", "procedure_code": "97110"}]}),
        ("extra", {"extra": []}),
    ):
        body = {"clinics": [], "payers": [], "procedures": [], **rows}
        answer = await company.send("PUT", "/v1/feed-mappings", body, key="")
        assert answer.status == 422, (field, answer)
        assert field in answer.fields, answer
    assert (await company.rows())["feed_mapping"] == 0


# -- remittances -----------------------------------------------------------------------------------------------------


async def test_a_remittance_for_an_npi_that_was_added_later(stack: LedgerStack) -> None:
    company = await stack.company(npis=["1999999999"])
    charge = await charge_of(company, "A")
    ours = check(claim("X", service()), payee_npi="1999999999")
    feed = await remit(company, ours, check(claim("A", service()), claim("nobody", service()), trace="LATE"))
    row = await the_exception(company, reason="wrong_payee")
    before = await company.rows()
    failed = await retried(company, row)
    assert failed["history"][-1]["detail"]["problems"][0]["code"] == "wrong_payee"
    assert await company.rows() == {**before, "exception_history": before["exception_history"] + 1}
    await set_npis(company, "1999999999", "1234567893")
    answers = await together(*(retried(company, row) for _ in range(4)))
    assert {answer["state"] for answer in answers} == {"retried"}
    assert await feed_now(company, feed) == {"posted": 2}
    receipt = next(one for one in (await company.get("/v1/payments"))["items"] if one["check_number"] == "LATE")
    assert (receipt["amount_cents"], receipt["applied_cents"]) == (16_000, 8_000)
    assert (await company.get(f"/v1/charges/{charge['id']}"))["balance_cents"] == 0
    assert await company.reasons(state="open") == {"unmatched_claim": 2}
    again = await company.upload("x12", x12_file([ours]))
    assert again.body["duplicates"] == 1
    await true(company)


async def test_the_same_check_in_a_good_file_makes_the_retry_a_duplicate(stack: LedgerStack) -> None:
    company = await stack.company(npis=["1999999999"])
    payment = check(claim("A", service()))
    feed = await remit(company, payment)
    await set_npis(company)
    assert (await remit(company, payment))["posted"] == 1
    row = await the_exception(company, reason="wrong_payee")
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"duplicates": 1}
    assert (await company.sums())["payments"] == 1
    await true(company)


async def test_what_is_wrong_with_a_remittance_stays_wrong(company: Company) -> None:
    await remit(company, check(claim("A", service()), trace="CHK"))
    await remit(company, check(claim("B", service()), trace="CHK"))
    await remit(company, check(claim("A", service()), amount_cents=1))
    before = await company.totals()
    expected = {"conflict": "message", "transaction_unbalanced": "problems"}
    rows = [row for row in await company.exceptions() if row["quarantined"]]
    assert {row["reason"] for row in rows} == set(expected)
    for row in rows:
        failed = await retried(company, row)
        assert (failed["state"], failed["history"][-1]["reason"]) == ("open", row["reason"])
        assert expected[row["reason"]] in failed["history"][-1]["detail"]
    assert await company.totals() == before
    await true(company)


class ProcessDied(Exception):
    """Stands for the end of a process between two postings."""


async def test_a_large_remittance_interrupted_while_it_is_retried(
    stack: LedgerStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pieces: after the first the receipt is posted and counted, and the exception waits for the rest."""
    monkeypatch.setattr(remittances, "_LINES_PER_CHUNK", 2)
    company = await stack.company(npis=["1999999999"])
    for name in "ABC":
        await charge_of(company, name)
    feed = await remit(company, check(*(claim(name, service()) for name in "ABC")))
    row = await the_exception(company)
    await set_npis(company)
    post = Succession.post

    async def dies_at_the_second(self: Succession, command: Any, following: Any) -> Verdict:
        if command.key.endswith(":1"):
            raise ProcessDied()
        return await post(self, command, following)

    with monkeypatch.context() as patch:
        patch.setattr(Succession, "post", dies_at_the_second)
        answer = await company.send("POST", f"/v1/exceptions/{row['id']}/retry", key="")
        assert answer.status == 500
    assert (await the_exception(company))["state"] == "open"
    assert await feed_now(company, feed) == {"posted": 1}
    assert (await company.sums())["applied_cents"] == 16_000
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"posted": 1}
    assert (await company.sums())["applied_cents"] == 24_000
    await true(company)


# -- claims and lines of posted receipts -----------------------------------------------------------------------------


async def the_receipt(company: Company) -> Any:
    (receipt,) = (await company.get("/v1/payments"))["items"]
    return receipt


async def test_a_claim_whose_charge_was_posted_later(company: Company) -> None:
    await remit(company, check(claim("A", service())))
    row = await the_exception(company)
    assert (row["reason"], row["quarantined"]) == ("unmatched_claim", False)
    before = await company.rows()
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "unmatched_claim")
    assert failed["history"][-1]["detail"]["paid_cents"] == 8_000
    assert await company.rows() == {**before, "exception_history": before["exception_history"] + 1}
    charge = await charge_of(company, "A", location_id=str(company.locations[1]))
    answers = await together(*(retried(company, row) for _ in range(6)))
    assert {answer["state"] for answer in answers} == {"retried"}
    now = await company.get(f"/v1/charges/{charge['id']}")
    assert (now["applied_cents"], now["adjusted_cents"], now["balance_cents"]) == (8_000, 2_000, 0)
    receipt = await the_receipt(company)
    assert (receipt["unapplied_cents"], receipt["location_id"]) == (0, str(company.locations[1]))
    assert receipt["poster_id"] == str(INTEGRATION_POSTER_ID)
    # The line counts as applied: another check cannot repeat it.
    assert await company.stack.owner.fetchval(
        "select count(*) from remittance_line where company_id = $1", company.company_id
    )
    await true(company)


async def test_a_claim_of_which_a_part_can_be_applied(company: Company) -> None:
    await remit(company, check(claim("A", service(), service(code="97140"), service(code="97530"))))
    row = await the_exception(company)
    await charge_of(company, "A")
    done = await retried(company, row)
    assert done["state"] == "retried"
    rest = await company.exceptions(state="open")
    assert [(one["reason"], one["detail"]["line"]) for one in sorted(rest, key=lambda one: one["detail"]["line"])] == [
        ("unmatched_claim", 2),
        ("unmatched_claim", 3),
    ]
    assert (await the_receipt(company))["applied_cents"] == 8_000
    await charge_of(company, "A", procedure_code="97140", location_id=str(company.locations[1]))
    states = {one["detail"]["line"]: (await retried(company, one))["state"] for one in rest}
    assert states == {2: "retried", 3: "open"}
    receipt = await the_receipt(company)
    assert (receipt["applied_cents"], receipt["location_id"]) == (16_000, None)
    await true(company)


async def test_lines_that_were_told_apart_later(company: Company) -> None:
    services = [service(control_number=number) for number in ("LINE-1", "LINE-2")]
    charges = [await charge_of(company, "A") for _ in services]
    await remit(company, check(claim("A", *services)))
    rows = await company.exceptions()
    assert [row["reason"] for row in rows] == ["ambiguous_line"] * 2
    for charge in charges:
        await company.post(f"/v1/charges/{charge['id']}/void", status=200)
    named = [await charge_of(company, "A", external_id=number) for number in ("LINE-1", "LINE-2")]
    for row in rows:
        assert (await retried(company, row))["state"] == "retried"
    for charge in named:
        assert (await company.get(f"/v1/charges/{charge['id']}"))["balance_cents"] == 0
    assert (await the_receipt(company))["unapplied_cents"] == 0
    await true(company)


async def test_a_balance_that_was_corrected_later(company: Company) -> None:
    """What took the balance was a mistake, and is reversed: the line can be applied."""
    charge = await charge_of(company, "A")
    application = {"charge_id": charge["id"], "amount_cents": 9_000}
    wrong = await company.payment(payer_id=charge["payer_id"], amount_cents=9_000, applications=[application])
    await remit(company, check(claim("A", service())))
    row = await the_exception(company)
    assert row["reason"] == "over_applied"
    failed = await retried(company, row)
    assert failed["history"][-1]["detail"]["open_balance_cents"] == 1_000
    await company.post(f"/v1/payments/{wrong['id']}/reversal", {})
    assert (await retried(company, row))["state"] == "retried"
    now = await company.get(f"/v1/charges/{charge['id']}")
    assert (now["applied_cents"], now["adjusted_cents"], now["balance_cents"]) == (8_000, 2_000, 0)
    await true(company)


async def test_an_adjustment_that_was_above_the_balance(company: Company) -> None:
    charge = await charge_of(company, "A")
    written_off = {"charge_id": charge["id"], "group_code": "CO", "reason_code": "45", "amount_cents": 1_500}
    wrong = await company.payment(payer_id=charge["payer_id"], amount_cents=0, adjustments=[written_off])
    await remit(company, check(claim("A", service())))
    row = await the_exception(company)
    assert (row["reason"], row["detail"]["adjustment_cents"]) == ("over_applied", 2_000)
    assert (await company.get(f"/v1/charges/{charge['id']}"))["applied_cents"] == 8_000
    failed = await retried(company, row)
    assert failed["history"][-1]["detail"]["open_balance_cents"] == 500
    await company.post(f"/v1/payments/{wrong['id']}/reversal", {})
    answers = await together(*(retried(company, row) for _ in range(4)))
    assert {answer["state"] for answer in answers} == {"retried"}
    now = await company.get(f"/v1/charges/{charge['id']}")
    assert (now["applied_cents"], now["adjusted_cents"], now["balance_cents"]) == (8_000, 2_000, 0)
    await true(company)


async def test_money_that_a_person_used_meanwhile_is_not_used_again(company: Company) -> None:
    await remit(company, check(claim("A", service())))
    row, receipt = await the_exception(company), await the_receipt(company)
    other = await charge_of(company, "other")
    by_hand = {"applications": [{"charge_id": other["id"], "amount_cents": 1_000}]}
    await company.post(f"/v1/payments/{receipt['id']}/applications", by_hand)
    charge = await charge_of(company, "A")
    before = await company.totals()
    failed = await retried(company, row)
    assert failed["history"][-1]["reason"] == "over_applied"
    assert failed["history"][-1]["detail"] == {"paid_cents": 8_000, "unapplied_cents": 7_000}
    assert await company.totals() == before
    await company.post(f"/v1/payments/{receipt['id']}/reversal", {})
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "already_reversed")
    assert (await company.get(f"/v1/charges/{charge['id']}"))["applied_cents"] == 0
    await true(company)


async def test_what_is_taken_back_frees_the_money_for_what_is_paid(company: Company) -> None:
    """A check over nothing: a reversal of one claim pays another. Neither charge was known when it came."""
    taken = ClaimPayment(
        account="B",
        services=[Service(charge_cents=-10_000, adjustments=(("CO", "45", -2_000),))],
        status="22",
        icn="I-B",
    )
    paid = await charge_of(company, "B")
    wrong = {"charge_id": paid["id"], "amount_cents": 8_000}
    by_hand = await company.payment(payer_id=paid["payer_id"], amount_cents=8_000)
    await remit(company, check(claim("A", service()), taken))
    assert await company.reasons() == {"unmatched_claim": 1, "over_applied": 1}
    charge = await charge_of(company, "A")
    await company.post(f"/v1/payments/{by_hand['id']}/applications", {"applications": [wrong]})
    await company.post(
        f"/v1/charges/{paid['id']}/adjustments", {"group_code": "CO", "reason_code": "45", "amount_cents": 2_000}
    )
    answer = await company.post(
        "/v1/exceptions/retry", {"ids": [row["id"] for row in await company.exceptions()]}, status=200
    )
    assert answer["retried"] == 2, answer
    assert (await company.get(f"/v1/charges/{charge['id']}"))["balance_cents"] == 0
    assert (await company.get(f"/v1/charges/{paid['id']}"))["balance_cents"] == 10_000
    await true(company)


async def test_charges_that_come_late_end_in_the_same_books(stack: LedgerStack) -> None:
    """The same check before and after its charges: denials, deductibles, several lines, places; retried all at once."""
    visit = [
        service(),
        service(code="97140", adjustments=(("CO", "45", 3_000), ("PR", "2", 1_000))),
        service(code="97530", adjustments=(("PR", "1", 10_000),)),
        service(code="97112", adjustments=(("CO", "16", 10_000),)),
    ]
    claims = [claim(f"N{n}", *visit[: 1 + n % 4], status="4" if n == 5 else "1") for n in range(8)]
    body = [check(*claims), check(*(replace(one, icn="", account=f"M{n}") for n, one in enumerate(claims)))]

    async def charges(company: Company) -> None:
        for n, one in enumerate(claims):
            for name in (f"N{n}", f"M{n}"):
                for line in one.services:
                    place = str(company.locations[n % 2 if name[0] == "N" else 0])
                    await charge_of(company, name, procedure_code=line.code, location_id=place)

    async def books(company: Company) -> Any:
        receipts = (await company.get("/v1/payments"))["items"]
        places = {
            one["check_number"]: company.locations.index(UUID(at)) if (at := one["location_id"]) else None
            for one in receipts
        }
        rows = (await company.get("/v1/charges", limit=500))["items"]
        names = ("procedure_code", "applied_cents", "adjusted_cents", "payer_balance_cents", "patient_balance_cents")
        return places, sorted([row[name] for name in names] for row in rows), await company.sums()

    clean, late = [await stack.company(locations=2) for _ in range(2)]
    await charges(clean)
    await remit(clean, *body)
    await remit(late, *body)
    await charges(late)
    answer = await late.post("/v1/exceptions/retry", {"reason": "unmatched_claim"}, status=200)
    assert answer["retried"] == len(answer["items"]) == 16
    assert await books(late) == await books(clean)
    await true(late)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"status": "25"}, "predetermination"), ({"charge_only_cents": 1}, "claim_unbalanced")],
)
async def test_claims_that_can_never_be_applied(company: Company, fields: Any, reason: str) -> None:
    await charge_of(company, "A")
    if reason == "claim_unbalanced":
        body = x12_file([check(claim("A", service(), adjustments=PAID))]).replace(b"CLP*A*1*100*", b"CLP*A*1*101*")
        assert (await company.upload("x12", body)).status == 200
    else:
        await remit(company, check(claim("A", service(), **fields)))
    row = await the_exception(company)
    assert row["reason"] == reason
    assert (await retried(company, row))["history"][-1]["reason"] == reason
    assert (await company.sums())["applied_cents"] == 0


async def test_claims_with_the_same_numbers_are_told_apart_by_their_place(company: Company) -> None:
    same = {"icn": "SAME"}
    await remit(company, check(claim("A", service(), **same), claim("A", service(code="97140"), **same)))
    first, second = sorted(await company.exceptions(), key=lambda row: row["detail"]["claim"])
    assert (first["detail"]["claim"], second["detail"]["claim"]) == (1, 2)
    await charge_of(company, "A", procedure_code="97140")
    assert (await retried(company, first))["state"] == "open"
    assert (await retried(company, second))["state"] == "retried"
    await charge_of(company, "A")
    assert (await retried(company, first))["state"] == "retried"
    await true(company)


# -- many at once ----------------------------------------------------------------------------------------------------


async def test_many_by_filter_page_by_page(emr: Emr, monkeypatch: pytest.MonkeyPatch) -> None:
    company = emr.company
    feed = await emr.send(*(unknown(emr, "clinic-many", f"p-{n}") for n in range(25)), unknown(emr, "other", "x"))
    await register_clinic(company, "clinic-many")
    monkeypatch.setattr("services.ledger.api.exceptions._AT_ONCE", 10)
    body: dict[str, Any] = {"feed_id": feed["feed_id"], "reason": "unknown_clinic"}
    seen: list[Any] = []
    while True:
        answer = await company.post("/v1/exceptions/retry", body, status=200)
        seen += answer["items"]
        if answer["next"] is None:
            break
        body["cursor"] = answer["next"]
    assert len({row["id"] for row in seen}) == 26
    left = [(row["state"], row["reason"]) for row in seen if row["state"] != "retried"]
    assert left == [("open", "unknown_clinic")]
    assert await feed_now(company, feed) == {"posted": 25, "quarantined": 1}
    await true(company)


async def test_many_by_id_of_all_kinds(emr: Emr) -> None:
    company = emr.company
    await emr.send(unknown(emr, "clinic-kinds"), unknown(emr, "clinic-never", "p-2"))
    await remit(company, check(claim("A", service())), check(claim("B", service())))
    await register_clinic(company, "clinic-kinds")
    await charge_of(company, "A")
    rows = await company.exceptions()
    dismissed = rows[0]
    await company.post(f"/v1/exceptions/{dismissed['id']}/dismiss", {"note": "not ours"}, status=200)
    answer = await company.post("/v1/exceptions/retry", {"ids": [row["id"] for row in rows]}, status=200)
    states = {row["id"]: row["state"] for row in answer["items"]}
    assert states == {row["id"]: row["state"] for row in await company.exceptions()}
    assert states[dismissed["id"]] == "dismissed"
    assert sorted(states.values()) == ["dismissed", "open", "retried", "retried"]
    assert answer["retried"] == 2
    await true(company)


async def test_bad_requests_for_many(stack: LedgerStack, emr: Emr) -> None:
    company, stranger = emr.company, await Emr.of(await stack.company())
    await stranger.send(unknown(stranger, "nowhere"))
    foreign = (await the_exception(stranger.company))["id"]
    for body, field in (
        ({}, "ids"),
        ({"ids": []}, "ids"),
        ({"ids": [foreign]}, "ids.0"),
        ({"ids": [str(uuid4())]}, "ids.0"),
        ({"ids": [foreign], "reason": "unknown_clinic"}, "ids"),
        ({"ids": ["x"]}, "ids.0"),
        ({"reason": 7}, "reason"),
    ):
        answer = await company.send("POST", "/v1/exceptions/retry", body)
        assert answer.status == 422, (body, answer)
        assert field in answer.fields, (body, answer)
    assert (await the_exception(stranger.company))["state"] == "open"


# -- looking, and closing by hand ------------------------------------------------------------------------------------


async def test_an_exception_shows_its_item_and_who_did_what(emr: Emr) -> None:
    company, users = emr.company, [uuid4(), uuid4()]
    event = unknown(emr, "nowhere")
    await emr.send(event)
    row = await the_exception(company)
    await company.stack.owner.execute(
        "insert into directory_user (user_id, version, user_name, display_name, affiliation)"
        " values ($1, 1, $2, 'Ada Biller', 'practice')",
        users[0],
        str(users[0]),
    )
    await retried(company, row, token=company.token("self_service_admin", subject=users[0]))
    token = company.token("self_service_admin", subject=users[1])
    closed = await company.post(
        f"/v1/exceptions/{row['id']}/resolve", {"note": "posted by hand"}, status=200, token=token
    )
    assert (closed["state"], closed["state_by"], closed["state_note"]) == ("resolved", str(users[1]), "posted by hand")
    again = await company.post(f"/v1/exceptions/{row['id']}/dismiss", {"note": "late"}, status=200)
    assert (again["state"], again["state_note"]) == ("resolved", "posted by hand")
    document = await company.get(f"/v1/exceptions/{row['id']}")
    told = [(e["action"], e["actor_id"], e["actor_name"], e["note"]) for e in document["history"]]
    assert told == [
        ("retry_failed", str(users[0]), "Ada Biller", None),
        ("resolved", str(users[1]), None, "posted by hand"),
    ]
    assert document["decoded"]["data"] == event["data"]
    assert {name: document["decoded"][name] for name in ("id", "source", "type", "time")} == {
        name: event[name] for name in ("id", "source", "type", "time")
    }
    raw = await company.send("GET", f"/v1/exceptions/{row['id']}/raw")
    assert json.loads(raw.raw) == document["decoded"]
    assert "raw" not in document
    # Closed by hand, it is not tried again.
    await register_clinic(company, "nowhere")
    assert (await retried(company, row))["state"] == "resolved"
    assert (await company.sums())["payments"] == 0


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b""], ids=["lf", "crlf", "none"])
async def test_a_transaction_is_cut_out_of_its_file_byte_for_byte(stack: LedgerStack, newline: bytes) -> None:
    company = await stack.company(npis=["1999999999"])
    payments = [check(claim("A", service()), trace=f"T{n}", payee_npi="1234567893") for n in range(3)]
    files = [x12_file(payments, control=f"00000010{n}").replace(b"\n", newline) for n in range(2)]
    files[1] = files[1].replace(b"T0", b"T7").replace(b"T1", b"T8").replace(b"T2", b"T9")
    body = b"".join(files)
    assert (await company.upload("x12", body)).status == 200
    rows = await company.exceptions()
    assert [row["reason"] for row in rows] == ["wrong_payee"] * 6
    traces = {row["item_key"].rpartition(" ")[2].encode(): row for row in rows}
    assert set(traces) == {b"T0", b"T1", b"T2", b"T7", b"T8", b"T9"}
    for trace, row in traces.items():
        raw = (await company.send("GET", f"/v1/exceptions/{row['id']}/raw")).raw
        start = body.rindex(b"ST*835", 0, body.index(b"TRN*1*" + trace))
        stop = body.index(b"~", body.index(b"SE*", start)) + 1
        assert raw == body[start:stop]
        decoded = (await company.get(f"/v1/exceptions/{row['id']}"))["decoded"]
        assert (decoded["header"]["trace_number"], decoded["claims"], decoded["paid_cents"]) == (
            trace.decode(),
            1,
            8_000,
        )


async def test_a_claim_is_shown_as_it_was_understood(company: Company) -> None:
    await remit(company, check(claim("A", service())), check(claim("B", service(), service(code="97140"))))
    row = next(one for one in await company.exceptions() if one["detail"]["claim_id"] == "B")
    document = await company.get(f"/v1/exceptions/{row['id']}")
    assert (document["decoded"]["account"], len(document["decoded"]["lines"])) == ("B", 2)
    assert (await company.send("GET", f"/v1/exceptions/{row['id']}/raw")).raw.startswith(b"ST*835*0002~")


async def test_an_emr_client_sees_its_own_exceptions_only(emr: Emr) -> None:
    other = await Emr.of(emr.company)
    await emr.send(unknown(emr, "nowhere"))
    row = await the_exception(emr.company)
    for suffix in ("", "/raw"):
        path = f"/v1/exceptions/{row['id']}{suffix}"
        assert (await emr.company.send("GET", path, token=emr.token)).status == 200
        assert (await emr.company.send("GET", path, token=other.token)).status == 404
    for suffix in ("retry", "resolve"):
        answer = await emr.company.send("POST", f"/v1/exceptions/{row['id']}/{suffix}", {"note": "x"}, token=emr.token)
        assert answer.status == 403


async def test_another_companys_exception_is_absent(stack: LedgerStack, emr: Emr) -> None:
    await emr.send(unknown(emr, "nowhere"))
    row, stranger = await the_exception(emr.company), await stack.company()
    for method, suffix in (("GET", ""), ("GET", "/raw"), ("POST", "/retry")):
        assert (await stranger.send(method, f"/v1/exceptions/{row['id']}{suffix}", key="")).status == 404
    assert (await the_exception(emr.company))["state"] == "open"


async def test_what_is_closed_while_it_is_retried_is_not_posted(emr: Emr, monkeypatch: pytest.MonkeyPatch) -> None:
    company = emr.company
    feed = await emr.send(unknown(emr, "clinic-race"))
    row = await the_exception(company)
    await register_clinic(company, "clinic-race")
    route = emr_feed.route_all

    async def meanwhile(*arguments: Any, **more: Any) -> Any:
        await company.post(f"/v1/exceptions/{row['id']}/resolve", {"note": "did it by hand"}, status=200)
        return await route(*arguments, **more)

    monkeypatch.setattr(emr_feed, "route_all", meanwhile)
    after = await retried(company, row)
    assert (after["state"], [entry["action"] for entry in after["history"]]) == ("resolved", ["resolved"])
    assert (await company.sums())["payments"] == 0
    assert await feed_now(company, feed) == {"quarantined": 1}
    await true(company)


async def test_ordering_by_age(emr: Emr) -> None:
    await emr.send(*(unknown(emr, "nowhere", f"p-{n}") for n in range(5)))
    newest = [row["id"] for row in await emr.company.exceptions()]
    page = await emr.company.get("/v1/exceptions", sort="created_at", limit=3)
    rest = await emr.company.get("/v1/exceptions", sort="created_at", limit=3, cursor=page["next"])
    assert [row["id"] for row in (*page["items"], *rest["items"])] == newest[::-1]


# -- messages that break their handler -------------------------------------------------------------------------------


class Died(BaseException):
    """Stands for the end of the process: nothing after it runs."""


def breaking(monkeypatch: pytest.MonkeyPatch, culprit: str, error: BaseException) -> list[Sequence[str]]:
    """Handling this payment raises; what was handled, batch by batch."""
    take, seen = emr_feed.take, []

    async def broken(ledger: Any, feed: Any, events: Sequence[Any], correlation_id: str) -> None:
        names = [event.document.external_id for event in events]
        seen.append(names)
        if culprit in names:
            raise error
        await take(ledger, feed, events, correlation_id)

    monkeypatch.setattr(emr_feed, "take", broken)
    return seen


async def attempts(company: Company) -> dict[int, int]:
    rows = await company.stack.owner.fetch(
        "select attempts, count(*) as n from feed_attempt where company_id = $1 group by 1", company.company_id
    )
    return {row["attempts"]: row["n"] for row in rows}


async def test_an_event_that_breaks_its_handler_is_put_aside_and_holds_nobody_up(
    emr: Emr, monkeypatch: pytest.MonkeyPatch
) -> None:
    company, consumer = emr.company, EmrConsumer(emr.company.stack.ledger)
    events = [emr.payment(f"p-{n}") for n in range(5)]
    with monkeypatch.context() as patch:
        breaking(patch, "p-2", ValueError("boom"))
        assert await emr.deliver(*events, consumer=consumer) == [Outcome.RETRY] * 5
        assert await attempts(company) == {1: 5}
        outcomes = await emr.deliver(*events, consumer=consumer)
        assert [outcome for outcome in outcomes if outcome is not Outcome.DONE] == [Outcome.RETRY]
        assert (await company.sums())["payments"] == 4
        for n in range(2, MAX_ATTEMPTS):
            assert await attempts(company) == {n: 1}
            assert await emr.deliver(events[2], emr.payment(f"q-{n}"), consumer=consumer) == [
                Outcome.RETRY,
                Outcome.DONE,
            ]
        assert await emr.deliver(events[2], consumer=consumer) == [Outcome.DONE]
    row = await the_exception(company)
    assert (row["reason"], row["detail"]["attempts"], row["detail"]["last_error_type"]) == (
        "poison",
        MAX_ATTEMPTS,
        "ValueError",
    )
    assert await attempts(company) == {}
    await true(company)
    # What broke it was mended.
    assert (await retried(company, row))["state"] == "retried"
    assert (await company.sums())["payments"] == 5 + MAX_ATTEMPTS - 2
    await true(company)


async def test_an_event_that_ends_the_process_is_found_by_counting_before(
    emr: Emr, monkeypatch: pytest.MonkeyPatch
) -> None:
    company = emr.company
    events = [emr.payment(f"p-{n}") for n in range(6)]
    deaths = 0
    with monkeypatch.context() as patch:
        breaking(patch, "p-3", Died())
        while True:
            try:
                outcomes = await emr.deliver(*events, consumer=EmrConsumer(company.stack.ledger))
                break
            except Died:
                deaths += 1
    assert outcomes == [Outcome.DONE] * 6
    assert deaths == MAX_ATTEMPTS
    assert (await company.sums())["payments"] == 5
    assert (await the_exception(company))["reason"] == "poison"
    assert await attempts(company) == {}


async def test_a_database_that_is_away_is_nobodys_fault(emr: Emr, monkeypatch: pytest.MonkeyPatch) -> None:
    company, consumer = emr.company, EmrConsumer(emr.company.stack.ledger)
    events = [emr.payment(f"p-{n}") for n in range(3)]
    with monkeypatch.context() as patch:
        breaking(patch, "p-1", Unavailable())
        for _ in range(3 * MAX_ATTEMPTS):
            with pytest.raises(Unavailable):
                await emr.deliver(*events, consumer=consumer)
    assert await emr.deliver(*events, consumer=consumer) == [Outcome.DONE] * 3
    assert await company.exceptions() == []
    assert (await company.sums())["payments"] == 3
    assert await attempts(company) == {}


async def test_poison_of_nobody(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose event it is cannot be told: it is quarantined without a company."""
    owner = Emr(company, f"nobody {uuid4()}", "")
    event = owner.payment()
    refuse = emr_feed.refuse

    async def broken(*arguments: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(emr_feed, "refuse", broken)
    consumer = EmrConsumer(company.stack.ledger)
    for _ in range(MAX_ATTEMPTS):
        assert await owner.deliver(event, consumer=consumer) == [Outcome.RETRY]
    assert await owner.deliver(event, consumer=consumer) == [Outcome.DONE]
    monkeypatch.setattr(emr_feed, "refuse", refuse)
    parked = await company.stack.owner.fetchval(
        "select reason from feed_exception where company_id = $1 and item_key = $2",
        NO_COMPANY,
        f"{owner.source} {event['id']}",
    )
    assert parked == "poison"


async def test_one_broken_company_does_not_hold_up_another(stack: LedgerStack, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = [await Emr.of(await stack.company()) for _ in range(2)]
    breaking(monkeypatch, "bad", RuntimeError())
    consumer = EmrConsumer(stack.ledger)
    assert await good.deliver(bad.payment("bad"), good.payment("good"), consumer=consumer) == [
        Outcome.RETRY,
        Outcome.DONE,
    ]
    assert (await good.company.sums())["payments"] == 1


async def test_over_rabbitmq_poison_ends_in_the_quarantine_and_rubbish_in_the_dead_letters(
    emr: Emr, amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    company, bus, stop = emr.company, AmqpBus(amqp_url), asyncio.Event()
    await bus.declare([SUBSCRIPTION])
    rubbish = Message("rubbish", "emr.x", "emr.payment.posted.v1", b"rubbish")
    sent = [message(emr.payment("bad")), rubbish, *(message(emr.payment(f"p-{n}")) for n in range(20))]
    assert all(await bus.publish(EMR_FEED, sent))
    breaking(monkeypatch, "bad", KeyError("amount"))
    consuming = asyncio.create_task(EmrConsumer(company.stack.ledger).run(bus, stop))
    async with asyncio.timeout(60):
        while not await company.exceptions():
            await asyncio.sleep(0.05)
    assert (await the_exception(company))["detail"]["last_error_type"] == "KeyError"
    assert (await company.sums())["payments"] == 20
    stop.set()
    await consuming
    assert [letter.message_id for letter in await dead_letters(amqp_url, SUBSCRIPTION.queue)] == ["rubbish"]
    for expected in (["rubbish"], []):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.ledger", "replay", SUBSCRIPTION.queue),
            env={**os.environ, "AMQP_URL": amqp_url},
            stdout=subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        assert [json.loads(line)["message_id"] for line in output.splitlines()] == expected
    await bus.close()
    await true(company)
