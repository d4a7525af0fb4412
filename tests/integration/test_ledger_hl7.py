"""HL7 v2 by HTTP on a real database: every answer that the samples call for, and what is then in the books."""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import quote

import pytest

from shared.access.policy import EMR_CLIENT
from tests.support.hl7_messages import codes, ft1, message, sample
from tests.support.ledger import COUNTS, Answer, Company, LedgerStack, clinic_of

SOURCE = "EMR|CLINIC"


async def send(company: Company, content: bytes, **more: Any) -> Answer:
    answer = await company.upload("hl7v2", content, **more)
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"].startswith("application/hl7-v2")
    if feed_id := answer.headers.get("X-Feed-Id"):
        await balanced(company, feed_id)
    return answer


async def balanced(company: Company, feed_id: str) -> Any:
    feed = await company.get(f"/v1/feeds/{feed_id}")
    assert feed["state"] == "done"
    assert feed["received"] == sum(feed[name] for name in COUNTS[1:])
    return feed


async def counts(company: Company, answer: Answer) -> tuple[int, ...]:
    feed = await balanced(company, answer.headers["X-Feed-Id"])
    return tuple(feed[name] for name in COUNTS)


async def charges(company: Company) -> dict[str, Any]:
    """By the last part of the sender's name for it."""
    rows = (await company.get("/v1/charges", limit=500))["items"]
    rows += (await company.get("/v1/charges", limit=500, status="void"))["items"]
    return {row["external_id"].rpartition("|")[2]: row for row in rows}


# ---- the samples

ANSWERS = {
    "01": ("AA", (2, 2, 0, 0, 0)),
    "02": ("AA", (1, 1, 0, 0, 0)),
    "03": ("AA", (1, 0, 0, 0, 1)),  # its charge is not here
    "04": ("AA", (1, 0, 0, 1, 0)),  # nor is this one's
    "06": ("AA", (1, 1, 0, 0, 0)),
    "08": ("AA", (1, 1, 0, 0, 0)),
    "10": ("AE", (1, 0, 0, 0, 1)),
    "11": ("AE", (1, 0, 0, 0, 1)),
    "12": ("AE", (1, 0, 0, 0, 1)),
    "13": ("AE", (1, 0, 0, 0, 1)),
    "14": ("AA", None),
    "15": ("AA", None),
    "16": ("AA", None),
    "17": ("AA", None),
    "21": ("CA", None),
    "22": ("AR", None),
    "23": ("AA", None),
    "24": ("AE", (3, 0, 0, 0, 3)),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_sample(stack: LedgerStack, name: str) -> None:
    company = await stack.company()
    before = await company.rows()
    answer = await send(company, sample(name))
    expected, counted = ANSWERS[name]
    assert codes(answer.raw) == [expected], answer
    if expected == "AR":
        assert await company.rows() == before
        return
    found = await counts(company, answer)
    assert counted is None or found == counted, (found, await company.exceptions())
    if expected in ("AA", "CA") and counted is None:
        assert found[1] == found[0] > 0, await company.exceptions()
    if expected == "AE":
        assert (await company.rows())["posting"] == 0, "nothing of a refused message is posted"
        assert await company.reasons() == {"hl7_refused": 1}
    again = await send(company, sample(name))
    assert again.raw == answer.raw, "the same answer, byte for byte"
    assert (await counts(company, again))[2] == found[0]


async def test_a_day_of_samples(stack: LedgerStack) -> None:
    company = await stack.company()
    first = await send(company, sample("01"))
    posted = await charges(company)
    assert {name: row["amount_cents"] for name, row in posted.items()} == {"TX1001": 12_000, "TX1002": 6_000}
    assert posted["TX1002"]["modifiers"] == ["GP", "59"]
    await send(company, sample("02"))
    assert (await company.sums())["amount_cents"] == 2_500
    payment = (await company.get("/v1/payments"))["items"][0]
    assert (payment["method"], payment["source"], payment["batch_number"]) == ("credit_card", "emr", "B20260115")
    assert payment["deposit_date"] == "2026-01-05"
    await send(company, sample("04"))
    assert (await charges(company))["TX1002"]["status"] == "void"
    await send(company, sample("03"))  # of the two charges of that day one is void, so it is the other's
    adjusted = (await charges(company))["TX1001"]
    assert (adjusted["adjusted_cents"], adjusted["balance_cents"]) == (4_000, 8_000)
    before = await company.rows()
    repeated = await send(company, sample("07"))
    assert repeated.raw == first.raw
    after = await company.rows()
    assert {name for name in after if after[name] != before[name]} == {"feed", "feed_chunk", "feed_item"}
    conflict = await send(company, sample("08"))
    assert codes(conflict.raw) == ["AE"]
    assert await company.reasons() == {"conflict": 1}
    assert "TX8001" not in await charges(company)


# ---- voids, repetitions, adjustments


async def test_a_void_that_comes_before_its_charge_wins(stack: LedgerStack) -> None:
    company = await stack.company()
    early = await send(company, message(ft1("CD", "TX1", "120.00"), control_id="V1", time="20260115110000"))
    assert await counts(company, early) == (1, 0, 0, 1, 0)
    late = await send(company, message(ft1("CG", "TX1", "120.00"), control_id="C1"))
    assert await counts(company, late) == (1, 0, 0, 1, 0)
    assert await charges(company) == {}
    again = await send(company, message(ft1("CG", "TX1", "120.00"), control_id="C2", time="20260115120000"))
    assert await counts(company, again) == (1, 1, 0, 0, 0)
    assert (await charges(company))["TX1"]["balance_cents"] == 12_000


async def test_a_negative_charge_is_a_void_and_must_be_of_all_of_it(stack: LedgerStack) -> None:
    company = await stack.company()
    await send(company, message(ft1("CG", "TX1", "120.00", quantity=2), control_id="C1"))
    part = message(ft1("CG", "TX1", "-60.00", quantity=-1), control_id="V1")
    assert await counts(company, await send(company, part)) == (1, 0, 0, 0, 1)
    assert await company.reasons() == {"partial_void": 1}
    whole = message(ft1("CG", "TX1", "-120.00", quantity=-2), control_id="V2")
    assert await counts(company, await send(company, whole)) == (1, 1, 0, 0, 0)
    assert (await charges(company))["TX1"]["status"] == "void"


async def test_a_line_sent_again_repeats_or_conflicts_unless_replacement_is_agreed(stack: LedgerStack) -> None:
    company = await stack.company()
    await send(company, message(ft1("CG", "TX1", "120.00"), control_id="C1"))
    same = message(ft1("CG", "TX1", "120.00"), control_id="C2", time="20260116000000")
    assert await counts(company, await send(company, same)) == (1, 0, 1, 0, 0)
    other = message(ft1("CG", "TX1", "90.00"), control_id="C3", time="20260117000000")
    assert await counts(company, await send(company, other)) == (1, 0, 0, 0, 1)
    assert await company.reasons() == {"conflict": 1}
    path = f"/v1/feed-profiles/{quote(SOURCE)}"
    agreed = await company.send("PUT", path, {"voids": ["cd_same_id", "replacement"]}, key="")
    assert agreed.status == 200, agreed
    assert (await company.get(path))["voids"] == ["cd_same_id", "replacement"]
    more = message(ft1("CG", "TX1", "90.00"), control_id="C4", time="20260118000000")
    assert await counts(company, await send(company, more)) == (1, 1, 0, 0, 0)
    assert (await charges(company))["TX1"]["amount_cents"] == 9_000
    refused = message(ft1("CG", "TX1", "-90.00", quantity=-1), control_id="C5", time="20260119000000")
    answer = await send(company, refused)
    assert codes(answer.raw) == ["AE"]
    await company.send("PUT", path, {}, key="")
    taken = await send(company, refused)
    assert codes(taken.raw) == ["AA"], "what was refused is taken once it is agreed"
    assert (await charges(company))["TX1"]["status"] == "void"


async def test_equal_copays_of_one_message_are_two_and_are_posted_once(stack: LedgerStack) -> None:
    """Nothing tells them apart but their order: of a sender who neither numbers nor names his transactions."""
    company = await stack.company()
    copay, other = ft1("CO", "", "25.00", "COPAY"), ft1("CO", "", "10.00", "COPAY")
    content = message(copay, copay, other, control_id="MSG1")
    answer = await send(company, content)
    assert codes(answer.raw) == ["AA"]
    assert await counts(company, answer) == (3, 3, 0, 0, 0)
    payments = (await company.get("/v1/payments"))["items"]
    assert sorted(one["amount_cents"] for one in payments) == [1_000, 2_500, 2_500]
    assert await counts(company, await send(company, content)) == (3, 0, 3, 0, 0)
    # The same said anew repeats them, one line of it the first.
    again = message(copay, copay, other, control_id="MSG2", time="20260115113000")
    assert await counts(company, await send(company, again)) == (3, 0, 3, 0, 0)
    alone = message(copay, control_id="MSG3", time="20260115123000")
    assert await counts(company, await send(company, alone)) == (1, 0, 1, 0, 0)
    assert len((await company.get("/v1/payments"))["items"]) == 3


async def test_line_breaks_inside_a_value_keep_no_payment_from_being_posted(stack: LedgerStack) -> None:
    company = await stack.company()
    payment = ft1("PY", "TX1", "25.00", "CHECK", f3="B\\.br\\7", f30="12\\X0D0A\\34")
    content = message(payment, control_id="MSG1").replace(b"DOE^PAT", b"DOE\\.br\\JR^PAT")
    assert await counts(company, await send(company, content)) == (1, 1, 0, 0, 0)
    (found,) = (await company.get("/v1/payments"))["items"]
    assert (found["check_number"], found["batch_number"]) == ("12 34", "B 7")
    assert (await company.get(f"/v1/patients/{found['patient_id']}"))["last_name"] == "DOE JR"


async def test_a_senders_own_transaction_types_are_agreed_with_him(stack: LedgerStack) -> None:
    company = await stack.company()
    content = message(ft1("C", "TX1", "120.00"), ft1("P", "TX2", "20.00", code="CASH"), control_id="K1")
    refused = await send(company, content)
    assert codes(refused.raw) == ["AE"]
    assert await counts(company, refused) == (2, 0, 0, 0, 2)
    path = f"/v1/feed-profiles/{quote(SOURCE)}"
    for kinds in ({"C": "XX"}, {"": "CG"}, {"C": ""}, ["CG"]):
        answer = await company.send("PUT", path, {"kinds": kinds}, key="")
        assert (answer.status, [e["field"].split(".")[0] for e in answer.body["errors"]]) == (422, ["kinds"])
    agreed = await company.send("PUT", path, {"kinds": {"C": "CG", "P": "PY"}}, key="")
    assert (agreed.status, (await company.get(path))["kinds"]) == (200, {"C": "CG", "P": "PY"})
    assert await counts(company, await send(company, content)) == (2, 2, 0, 0, 0)
    assert (await charges(company))["TX1"]["amount_cents"] == 12_000
    (payment,) = (await company.get("/v1/payments"))["items"]
    assert payment["amount_cents"] == 2_000


async def test_adjustments_find_their_charge(stack: LedgerStack) -> None:
    company = await stack.company()
    early = message(ft1("AJ", "AJ1", "-40.00", code="CO45", f31="TX1"), control_id="A1")
    assert await counts(company, await send(company, early)) == (1, 0, 0, 0, 1)
    assert await company.reasons() == {"unknown_charge": 1}
    both = message(ft1("CG", "TX1", "120.00"), ft1("AJ", "AJ2", "-40.00", code="45", f31="TX1"), control_id="A2")
    assert await counts(company, await send(company, both)) == (2, 2, 0, 0, 0)
    same = message(ft1("AJ", "AJ2", "-40.00", code="45", f31="TX1"), control_id="A3")
    assert await counts(company, await send(company, same)) == (1, 0, 1, 0, 0)
    other = message(ft1("AJ", "AJ2", "-41.00", code="45", f31="TX1"), control_id="A4")
    assert await counts(company, await send(company, other)) == (1, 0, 0, 0, 1)
    by_day = message(ft1("AJ", "AJ3", "-10.00", code="Courtesy discount"), control_id="A5")
    assert await counts(company, await send(company, by_day)) == (1, 1, 0, 0, 0)
    for number, amount in enumerate(("-80.00", "5.00", "0.00"), 6):
        await send(company, message(ft1("AJ", f"AJ{number}", amount, f31="TX1"), control_id=f"A{number}"))
    charge = (await charges(company))["TX1"]
    assert (charge["adjusted_cents"], charge["balance_cents"]) == (9_000, 3_000), "the early one came with its charge"
    await send(company, message(ft1("CG", "TX2", "50.00", code="97140"), control_id="A9"))
    await send(company, message(ft1("AJ", "AJ9", "-1.00"), control_id="A10"))
    assert await company.reasons(state="open") == {
        "conflict": 1,
        "over_applied": 1,
        "negative_adjustment": 1,
        "ambiguous_charge": 1,
    }


# ---- values


async def test_values_must_pass_the_rules_of_every_other_body(stack: LedgerStack) -> None:
    company = await stack.company()
    content = message(
        ft1("CG", "TX1", "10.00", code="9711"),
        ft1("CG", "TX2", "10.00", f19="not a code"),
        ft1("CG", "TX3", "10.00", f26="GPX"),
        ft1("CG", "TX4", "0.00"),
        ft1("PY", "TX5", "-5.00", code="CASH"),
        ft1("PY", "TX6", "0.00", code="CASH"),
        ft1("PY", "TX7", "5.00", code="CHK", f30="1234"),
        ft1("CG", "TX8", "10.00"),
        control_id="M1",
    )
    answer = await send(company, content)
    assert codes(answer.raw) == ["AA"]
    assert await counts(company, answer) == (8, 2, 0, 2, 4)
    rows = await company.exceptions()
    assert {tuple(e["field"] for e in row["detail"]["errors"]) for row in rows if row["reason"] == "invalid"} == {
        ("procedure_code",),
        ("diagnosis_codes.0",),
        ("modifiers.0",),
    }
    assert await company.reasons() == {"invalid": 3, "negative_payment": 1}
    payment = (await company.get("/v1/payments"))["items"][0]
    assert (payment["method"], payment["check_number"], payment["amount_cents"]) == ("check", "1234", 500)


async def test_a_person_is_told_what_keeps_an_amount_from_being_posted(stack: LedgerStack) -> None:
    company = await stack.company()
    await company.send("PUT", f"/v1/feed-profiles/{quote(SOURCE)}", {"missing_amount": "fee_schedule"}, key="")
    lines = ft1("CG", "TX1", "20.00"), ft1("CG", "TX2", ""), ft1("PY", "TX3", "-5.00"), ft1("AJ", "TX4", "5.00")
    assert await counts(company, await send(company, message(*lines, control_id="M1"))) == (4, 1, 0, 0, 3)
    details = {row["reason"]: row["detail"] for row in await company.exceptions()}
    assert {reason: detail["errors"] for reason, detail in details.items()} == {
        "missing_amount": [{"field": "FT1[2]-11", "code": "missing_amount"}],
        "negative_payment": [{"field": "FT1[3]-11", "code": "negative_payment"}],
        "negative_adjustment": [{"field": "FT1[4]-11", "code": "negative_adjustment"}],
    }
    assert "fee schedule" in details["missing_amount"]["message"]
    assert all(detail["message"] for detail in details.values())


async def test_a_price_from_the_fee_schedule(stack: LedgerStack) -> None:
    company = await stack.company()
    await company.send("PUT", f"/v1/feed-profiles/{quote(SOURCE)}", {"missing_amount": "fee_schedule"}, key="")
    fees = [{"procedure_code": "97140", "amount_cents": 1}, {"procedure_code": "97110", "amount_cents": 1}]
    assert (await company.send("PUT", "/v1/fee-schedule", {"fees": fees}, key="")).status == 200
    fees = [{"procedure_code": "97110", "amount_cents": 4_500}]
    assert (await company.send("PUT", "/v1/fee-schedule", {"fees": fees}, key="")).body == {"fees": fees}
    assert await company.get("/v1/fee-schedule") == {"fees": fees}
    twice = await company.send("PUT", "/v1/fee-schedule", {"fees": fees * 2}, key="")
    assert (twice.status, list(twice.fields)) == (422, ["fees.1.procedure_code"])
    content = message(ft1("CG", "TX1", "", quantity=2), ft1("CG", "TX2", "", code="97140"), control_id="M1")
    assert await counts(company, await send(company, content)) == (2, 1, 0, 0, 1)
    assert (await charges(company))["TX1"]["amount_cents"] == 9_000
    assert await company.reasons() == {"missing_amount": 1}


async def test_a_new_patient_needs_what_every_patient_has(stack: LedgerStack) -> None:
    company = await stack.company()
    unborn = message(ft1("CG", "TX1", "10.00"), control_id="M1").replace(b"19700101", b"")
    assert await counts(company, await send(company, unborn)) == (1, 0, 0, 0, 1)
    assert (await company.exceptions())[0]["detail"]["errors"][0]["field"] == "patient.date_of_birth"
    await company.patient("ACCT5001")
    known = message(ft1("CG", "TX1", "10.00"), control_id="M2").replace(b"19700101", b"")
    assert await counts(company, await send(company, known)) == (1, 1, 0, 0, 0)


async def test_the_clinic_decides_the_location(stack: LedgerStack) -> None:
    company = await stack.company(locations=2)
    unknown = message(ft1("CG", "TX1", "10.00"), control_id="M1")
    answer = await send(company, unknown)
    assert codes(answer.raw) == ["AA"]
    assert await counts(company, answer) == (1, 0, 0, 0, 1)
    assert await company.reasons() == {"unknown_clinic": 1}
    named = message(ft1("CG", "TX1", "10.00"), control_id="M2").replace(
        b"PT^ROOM1", f"PT^ROOM1^^{clinic_of(company.locations[1])}".encode()
    )
    assert await counts(company, await send(company, named)) == (1, 1, 0, 0, 0)
    assert (await charges(company))["TX1"]["location_id"] == str(company.locations[1])


# ---- files, and what is no message


def batch(*messages: bytes, count: int | None = None) -> bytes:
    trailer = f"BTS|{len(messages) if count is None else count}\r".encode()
    return b"BHS|^~\\&|EMR|CLINIC|LEDGER|BILLING|20260115||||B77\r" + b"".join(messages) + trailer


async def test_a_batch_is_answered_as_a_batch_and_posts_whole_or_not_at_all(stack: LedgerStack) -> None:
    company = await stack.company()
    parts = [message(ft1("PY", f"TX{n}", "5.00", code="CASH"), control_id=f"M{n}") for n in (1, 2)]
    ignored = message(control_id="M3").replace(b"DFT^P03^DFT_P03", b"BAR^P01^BAR_P01")
    short = await send(company, batch(*parts, ignored, count=4))
    assert codes(short.raw) == ["AE"] * 3
    assert (await company.sums())["amount_cents"] == 0
    mended = await send(company, batch(*parts, ignored))
    assert codes(mended.raw) == ["AA"] * 3
    assert mended.raw.startswith(b"BHS|")
    assert mended.raw.endswith(b"BTS|3\r")
    assert await counts(company, mended) == (3, 2, 0, 1, 0)
    assert (await company.sums())["amount_cents"] == 1_000
    sample_20 = await send(company, sample("20"))
    assert set(codes(sample_20.raw)) == {"AE"}


async def test_what_is_no_message(stack: LedgerStack) -> None:
    company = await stack.company()
    before = await company.rows()
    for content in (b"", b"hello", b"\x00\x01\x02", b"ISA*00*", b'{"a": 1}'):
        answer = await company.upload("hl7v2", content)
        assert (answer.status, answer.fields) == (422, {"body": "hl7_unreadable"}), answer
    assert (await company.upload("hl7v2", sample("01"), **{"Content-Type": "text/plain"})).status == 415
    assert await company.rows() == before
    torn = await send(company, sample("01") + b"garbage\r")
    assert codes(torn.raw) == ["AE"]
    assert await company.reasons() == {"hl7_refused": 1}
    assert (await company.rows())["posting"] == 0


async def test_bar_is_answered_and_passed_over(stack: LedgerStack) -> None:
    company = await stack.company()
    answer = await send(company, message(control_id="B1").replace(b"DFT^P03^DFT_P03", b"BAR^P01^BAR_P01"))
    assert codes(answer.raw) == ["AA"]
    assert await counts(company, answer) == (1, 0, 0, 1, 0)


async def test_over_http_the_token_says_who_sends(stack: LedgerStack) -> None:
    """The names in MSH need no registration there: the upload goes into the company of the token and no other."""
    company = await stack.company()
    client = await stack.emr_client([company], "SOMETHING|ELSE")
    taken = await send(company, sample("01"), token=company.token(EMR_CLIENT, client_id=client))
    assert codes(taken.raw) == ["AA"]
    assert (await company.rows())["charge"] == 2


# ---- a day in any order


def a_day() -> list[bytes]:
    """Charges, voids, payments and adjustments of several patients; each correction later than what it corrects."""
    found = []
    for n in range(1, 7):
        account = f"ACCT{n % 3}"
        found.append(message(ft1("CG", f"TX{n}", "100.00"), control_id=f"C{n}", account=account))
        found.append(message(ft1("PY", f"PY{n}", f"{n}.25", code="CASH"), control_id=f"P{n}", account=account))
        if n % 2:
            time = "20260115120000"
            found.append(message(ft1("CD", f"TX{n}", "100.00"), control_id=f"V{n}", time=time, account=account))
        if n % 3 == 0:
            time = "20260115130000"
            found.append(message(ft1("CG", f"TX{n}", "100.00"), control_id=f"R{n}", time=time, account=account))
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_a_day_shuffled_and_doubled_gives_the_same_books(stack: LedgerStack, seed: int) -> None:
    plain, mixed = await stack.company(), await stack.company()
    for one in a_day():
        await send(plain, one)
    chance = random.Random(seed)
    doubled = a_day() + chance.sample(a_day(), 8)
    chance.shuffle(doubled)
    received = {"posted": 0, "received": 0}
    for one in doubled:
        answer = await send(mixed, one)
        feed = await balanced(mixed, answer.headers["X-Feed-Id"])
        received = {name: received[name] + feed[name] for name in received}
        assert feed["quarantined"] == 0, await mixed.exceptions()
    assert received["received"] == len(doubled)
    assert await mixed.sums() == await plain.sums()

    def books(rows: dict[str, Any]) -> dict[str, Any]:
        live = {name: row for name, row in rows.items() if row["status"] != "void"}
        return {name: (row["amount_cents"], row["balance_cents"]) for name, row in live.items()}

    assert books(await charges(mixed)) == books(await charges(plain)) != {}


# ---- what waited for a person


async def retried(company: Company, reason: str) -> Any:
    (row,) = await company.exceptions(reason=reason, state="open")
    answer = await company.send("POST", f"/v1/exceptions/{row['id']}/retry", key="")
    assert answer.status == 200, answer
    return answer.body


async def test_an_adjustment_whose_charge_is_not_here_is_retried_in_vain(stack: LedgerStack) -> None:
    company = await stack.company()
    early = await send(company, message(ft1("AJ", "AJ1", "-40.00", f31="TX1"), control_id="A1"))
    assert (await retried(company, "unknown_charge"))["state"] == "open"
    await send(company, message(ft1("CG", "TX1", "120.00"), control_id="C1"))
    assert await company.reasons(state="open") == {}
    assert (await charges(company))["TX1"]["adjusted_cents"] == 4_000
    assert await counts(company, early) == (1, 1, 0, 0, 0)
    same = await send(company, message(ft1("AJ", "AJ1", "-40.00", f31="TX1"), control_id="A2"))
    assert await counts(company, same) == (1, 0, 1, 0, 0)


async def test_a_clinic_that_becomes_known_is_retried_and_a_refusal_is_not(stack: LedgerStack) -> None:
    company = await stack.company(locations=2)
    early = await send(company, message(ft1("PY", "TX1", "5.00"), control_id="M1"))
    await send(company, message(ft1("PY", "TX2", "x"), control_id="M2"))
    assert (await retried(company, "unknown_clinic"))["state"] == "open"
    await stack.owner.execute(
        "update directory_location set emr_location_id = 'CLINIC' where location_id = $1", company.locations[1]
    )
    assert (await retried(company, "unknown_clinic"))["state"] == "retried"
    assert (await retried(company, "hl7_refused"))["state"] == "open"
    assert await counts(company, early) == (1, 1, 0, 0, 0)
    assert (await company.sums())["amount_cents"] == 500
