"""Exceptions as a person works them: listed, looked into, tried again by the hundred, settled and dismissed.

Decided here where the rules are silent: what a person closed while it was being retried stays closed, and nothing of
the retry is posted.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from services.ledger.feeds import emr as emr_feed
from tests.support.emr import Emr
from tests.support.feed_work import (
    charge_of,
    check,
    claim,
    feed_now,
    register_clinic,
    remit,
    retried,
    service,
    the_exception,
    true,
    unknown,
)
from tests.support.hl7_messages import ft1
from tests.support.hl7_messages import message as hl7
from tests.support.ledger import Company, LedgerStack
from tests.support.x12_builder import x12_file


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


async def test_a_message_is_shown_as_it_was_understood(stack: LedgerStack) -> None:
    """A line that waits with its patient; a message that was refused with what is wrong, in its own letters."""
    company = await stack.company(locations=2)
    western = (
        hl7(ft1("PY", "TX2", "x"), control_id="M2")
        .replace(b"|2.5.1", b"|2.5.1||||||8859/1")
        .replace(b"PAT", b"PI\xd1A")
    )
    for sent in (hl7(ft1("CG", "TX0", "9.00"), ft1("PY", "TX1", "5.00"), control_id="M1"), western):
        assert (await company.upload("hl7v2", sent)).status == 200
    found = [await company.get(f"/v1/exceptions/{row['id']}") for row in await company.exceptions()]
    shown = {one["item_key"].rpartition("|")[2]: one["decoded"] for one in found}
    assert set(shown) == {"M1 FT1 1", "M1 FT1 2", "M2"}
    (line,) = shown["M1 FT1 2"]["transactions"]
    assert (line["transaction_id"], line["amount_cents"], line["kind"]) == ("TX1", 500, "PY")
    assert shown["M1 FT1 1"]["patient"]["birth_date"] == "1970-01-01"
    assert (shown["M2"]["patient"]["given_name"], shown["M2"]["transactions"]) == ("PI\xd1A", [])
    assert [(one["code"], one["field"]) for one in shown["M2"]["problems"]] == [("bad_amount", 11)]


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
