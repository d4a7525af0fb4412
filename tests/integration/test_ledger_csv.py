"""CSV files by HTTP: rows become the events of an EMR, each counted once, whatever is sent again or mixed.

Decided here where the rules are silent:

* A file that does not come to the total that it states posts nothing: each of its rows waits with both numbers. A retry
  reads the stored file again by the profile of that moment, and posts only what then agrees.
* A row that cannot be read waits alone, by its line; its raw form is those lines of the file, byte for byte.
* Without a version the first state of a key stands; the same key with other content is a conflict.
* The same row in another file, or under other columns that the profile does not read, is the same row.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from shared.access.policy import EMR_CLIENT
from tests.support.csv_files import CHARGES, PAYMENTS, TOTALLED, agree, row, sent, table, total_row, upload
from tests.support.feed_work import retried, true
from tests.support.ledger import Company, LedgerStack, clinic_of, counts


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    made = await stack.company(locations=2)
    await agree(made)
    return made


async def test_payments_are_posted_as_an_emr_would_send_them(company: Company) -> None:
    here, there = company.locations
    feed = await sent(
        company,
        table(
            row(here, 1, Amount="25.00"),
            row(there, 2, Amount="7.50", How="chk", Check="1001", Type="deductible"),
            row(here, 3, Type="internal"),
            row(here, 4, Amount="0.00"),
        ),
    )
    assert counts(feed) == (4, 2, 0, 2, 0)
    assert (feed["format"], feed["channel"], feed["state"]) == ("csv", "http", "done")
    assert (feed["control_total_cents"], feed["posted_total_cents"], feed["difference_cents"]) == (3_250, 3_250, 0)
    first, second = sorted((await company.get("/v1/payments"))["items"], key=lambda one: str(one["external_id"]))
    assert (first["external_id"], first["amount_cents"], first["method"], first["location_id"]) == (
        "P-1",
        2_500,
        "credit_card",
        str(here),
    )
    assert (second["check_number"], second["payment_type"], second["location_id"]) == ("1001", "deductible", str(there))
    assert (first["source"], first["affiliation"], first["deposit_date"]) == ("emr", "integration", "2026-01-06")
    await true(company)


async def test_charges_of_a_file_without_a_header(company: Company) -> None:
    await agree(company, CHARGES, "charges")
    clinic = clinic_of(company.locations[0])
    line = f"{clinic};A-1;Jos\xe9;Mu\xf1oz;29.02.1980;05.01.2026;97110;GP;59;1.234,50;M54.50 M25.561"
    feed = await sent(company, f"Export of today\r\n{line}\r\n".encode("windows-1252"), "charges")
    assert counts(feed) == (1, 1, 0, 0, 0)
    (charge,) = (await company.get("/v1/charges"))["items"]
    assert (charge["amount_cents"], charge["units"], charge["modifiers"]) == (123_450, 2, ["GP", "59"])
    assert (charge["diagnosis_codes"], charge["date_of_service"]) == (["M54.50", "M25.561"], "2026-01-05")
    (patient,) = (await company.get("/v1/patients"))["items"]
    assert (patient["first_name"], patient["last_name"]) == ("José", "Muñoz")
    assert charge["external_id"] == "A-1|05.01.2026|97110"


async def test_the_same_file_again_is_duplicates_and_only_added_rows_post(company: Company) -> None:
    rows = [row(company.locations[n % 2], n) for n in range(450)]
    assert counts(await sent(company, table(*rows))) == (450, 450, 0, 0, 0)
    before = await company.totals()
    again = await sent(company, table(*rows))
    assert counts(again) == (450, 0, 450, 0, 0)
    assert await company.totals() == before
    more = await sent(company, table(row(company.locations[0], "new"), *rows, rows[0]))
    assert counts(more) == (452, 1, 451, 0, 0)
    assert (await company.sums())["amount_cents"] == 451 * 2_500
    await true(company)


async def test_shuffled_versions_come_to_the_same_totals(stack: LedgerStack) -> None:
    """States of forty payments: changed, moved, withdrawn, and sent twice; in any order, in one file or in several."""
    draw = random.Random(5)
    states = []
    for number in range(40):
        for version in range(1, draw.randint(2, 5)):
            void = "void" if draw.random() < 0.2 else ""
            place, cents = draw.randrange(2), draw.randrange(1, 9_999)
            states.append((place, number, version, void, f"{cents / 100:.2f}"))
    expected = None
    for _ in range(4):
        company = await stack.company(locations=2)
        await agree(company)
        rows = [
            row(company.locations[place], number, Ver=str(version), State=void, Amount=amount)
            for place, number, version, void, amount in (*states, *draw.sample(states, 20))
        ]
        draw.shuffle(rows)
        cut = draw.randrange(len(rows))
        for part in (rows[:cut], rows[cut:]):
            feed = await sent(company, table(*part))
            assert feed["quarantined"] == 0, await company.exceptions()
        places = {str(location): place for place, location in enumerate(company.locations)}
        totals = {(places[words[0]], *words[1:]): figures for words, figures in (await company.totals()).items()}
        expected = expected or totals
        assert totals == expected
        await true(company)


async def test_without_a_version_the_first_state_of_a_key_stands(company: Company) -> None:
    await agree(company, {name: value for name, value in PAYMENTS.items() if name != "version"})
    here = company.locations[0]
    feed = await sent(company, table(row(here, 1), row(here, 1, Amount="26.00"), row(here, 2)))
    assert counts(feed) == (3, 2, 0, 0, 1)
    assert await company.reasons() == {"conflict": 1}
    gone = await sent(company, table(row(here, 1, State="VOID")))
    assert counts(gone) == (1, 1, 0, 0, 0)
    assert (await company.sums())["amount_cents"] == 2_500
    assert counts(await sent(company, table(row(here, 1)))) == (1, 0, 1, 0, 0)
    assert (await company.sums())["amount_cents"] == 2_500, "what was taken back stays taken back"


async def test_rows_that_cannot_be_read_wait_alone_with_their_lines(company: Company) -> None:
    here = company.locations[0]
    content = table(row(here, 1), row(here, 2, Amount="2,50"), row(here, 3, Last='=cmd|"x"'), row(here, 4))
    content += b'P-5,"1,' + clinic_of(here).encode() + b'"\r\nP-6,1,"two\nlines",A\r\n'
    feed = await sent(company, content)
    assert counts(feed) == (6, 2, 0, 0, 4)
    found = {one["detail"]["line"]: one for one in await company.exceptions()}
    told = {line: (one["reason"], one["detail"]["errors"][0]) for line, one in found.items()}
    assert {line: (reason, error["field"], error["code"]) for line, (reason, error) in told.items()} == {
        3: ("invalid", "Amount", "invalid_amount"),
        4: ("invalid", "Last", "formula"),
        6: ("invalid", "", "ragged"),
        7: ("invalid", "", "ragged"),
    }
    assert "2,50" not in str(found[3]["detail"])
    for line, expected in ((3, content.splitlines(keepends=True)[2]), (7, b'P-6,1,"two\nlines",A\r\n')):
        answer = await company.send("GET", f"/v1/exceptions/{found[line]['id']}/raw")
        assert (answer.status, answer.raw) == (200, expected)
        shown = await company.get(f"/v1/exceptions/{found[line]['id']}")
        assert (shown["decoded"], shown["source"]) == (None, "emr")
    await true(company)


async def test_a_row_is_read_again_by_the_profile_of_now(company: Company) -> None:
    here = company.locations[0]
    await sent(company, table(row(here, 1), row(here, 2, How="Visa"), row(here, 3, Amount="x")))
    by_line = {one["detail"]["line"]: one for one in await company.exceptions()}
    assert (await retried(company, by_line[3]))["state"] == "open"
    words = {"method": {**PAYMENTS["translations"]["method"], "VISA": "credit_card"}}
    await agree(company, {**PAYMENTS, "translations": words})
    assert (await retried(company, by_line[3]))["state"] == "retried"
    still = await retried(company, by_line[4])
    assert (still["state"], still["history"][-1]["reason"]) == ("open", "invalid")
    assert still["history"][-1]["detail"]["errors"][0]["field"] == "Amount"
    (feed,) = (await company.get("/v1/feeds"))["items"]
    assert counts(feed) == (3, 2, 0, 0, 1)
    assert (await company.sums())["amount_cents"] == 5_000
    await company.send("DELETE", "/v1/feeds/csv/profiles/bank")
    assert (await retried(company, by_line[4]))["state"] == "open", "by the profile that the file came with"
    await true(company)


async def test_a_clinic_and_a_procedure_are_mapped_and_tried_again(company: Company) -> None:
    await agree(company, CHARGES, "charges")
    here = company.locations[0]
    feed = await sent(company, table(row("Main St", 1), row("Main St", 2), row(here, 3)))
    assert counts(feed) == (3, 1, 0, 0, 2)
    assert (await company.exceptions())[0]["detail"] == {
        "source": "csv:bank",
        "emr_clinic_id": "Main St",
        "type": "emr.payment.posted.v1",
    }
    line = f"{clinic_of(here)};A-1;Jane;Roe;29.02.1980;05.01.2026;PT-EVAL;;;10,00;M54.50"
    assert counts(await sent(company, f"-\n{line}\n".encode(), "charges")) == (1, 0, 0, 0, 1)
    assert await company.reasons() == {"unknown_clinic": 2, "invalid": 1}
    (waiting,) = await company.exceptions(reason="invalid")
    assert waiting["detail"]["errors"][0]["field"] == "data.procedure_code"
    assert (await company.get(f"/v1/exceptions/{waiting['id']}"))["decoded"]["data"]["procedure_code"] == "PT-EVAL"
    mapped = {
        "clinics": [{"alias": "Main St", "location_id": str(company.locations[1])}],
        "payers": [],
        "procedures": [{"alias": "PT-EVAL", "procedure_code": "97161"}],
    }
    assert (await company.send("PUT", "/v1/feed-mappings", mapped)).status == 200
    for reason in ("unknown_clinic", "invalid"):
        done = await company.post("/v1/exceptions/retry", {"reason": reason}, status=200, key="")
        assert {one["state"] for one in done["items"]} == {"retried"}
    assert counts(await company.get(f"/v1/feeds/{feed['feed_id']}")) == (3, 3, 0, 0, 0)
    assert (await company.get("/v1/charges"))["items"][0]["procedure_code"] == "97161"
    assert counts(await sent(company, table(row("Main St", 1), row("Main St", 4)))) == (2, 1, 1, 0, 0)
    await true(company)


async def test_another_companys_clinic_is_unknown_here(stack: LedgerStack, company: Company) -> None:
    stranger = await stack.company()
    before = await stranger.rows()
    assert counts(await sent(company, table(row(stranger.locations[0])))) == (1, 0, 0, 0, 1)
    assert await company.reasons() == {"unknown_clinic": 1}
    assert await stranger.rows() == before


async def test_an_emr_client_sends_files_and_its_sources_are_still_asked_for(
    stack: LedgerStack, company: Company
) -> None:
    client = await stack.emr_client([company], "https://emr.example/own")
    token = company.token(EMR_CLIENT, client_id=client)
    answer = await upload(company, table(row(company.locations[0])), token=token)
    assert (answer.status, counts(answer.body)) == (200, (1, 1, 0, 0, 0))
    assert [one["feed_id"] for one in (await company.get("/v1/feeds", token))["items"]] == [answer.body["feed_id"]]
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "csv:bank",
        "type": "emr.payment.deleted.v1",
        "data": {"emr_clinic_id": clinic_of(company.locations[0]), "payment_id": "P-1", "payment_version": 9},
    }
    forged = await company.send("POST", "/v1/feeds/emr", [event], token=token, key="")
    assert counts(forged.body) == (1, 0, 0, 0, 1)
    assert await company.reasons() == {"unknown_source": 1}
    assert (await company.sums())["amount_cents"] == 2_500


async def test_a_total_that_agrees(company: Company) -> None:
    await agree(company, TOTALLED)
    here = company.locations[0]
    feed = await sent(company, table(row(here, 1), row(here, 2, State="void", Amount=""), total_row("25.00", 2)))
    assert counts(feed) == (2, 1, 0, 1, 0)


async def test_a_refund_in_a_file_waits_alone(company: Company) -> None:
    """It cannot be posted, but the total that the file states counts it: the other rows are as they should be."""
    await agree(company, TOTALLED)
    here = company.locations[0]
    content = table(row(here, 1), row(here, 2, Amount="-5.00"), total_row("20.00", 2))
    feed = await sent(company, content)
    assert counts(feed) == (2, 1, 0, 0, 1)
    assert (feed["control_total_cents"], feed["posted_total_cents"]) == (2_000, 2_500)
    assert await company.reasons() == {"invalid": 1}


@pytest.mark.parametrize(
    ("last", "stated"),
    [
        ([total_row("50.01", 3)], (5_001, 3)),
        ([total_row("50.00", 2)], (5_000, 2)),
        ([total_row("fifty", 3)], (None, 3)),
        ([], (None, None)),
    ],
)
async def test_a_file_that_does_not_add_up_posts_nothing(company: Company, last: Any, stated: Any) -> None:
    await agree(company, TOTALLED)
    here = company.locations[0]
    rows = [row(here, 1), row(here, 2), row(here, 3, Amount="bad")]
    feed = await sent(company, table(*rows, *last))
    assert counts(feed) == (3, 0, 0, 0, 3)
    assert (feed["control_total_cents"], feed["posted_total_cents"]) == (5_000, 0)
    assert await company.reasons() == {"total_mismatch": 2, "invalid": 1}
    detail = (await company.exceptions(reason="total_mismatch"))[0]["detail"]
    assert (detail["counted_cents"], detail["counted_rows"]) == (5_000, 3)
    assert (detail["stated_cents"], detail["stated_rows"]) == stated
    assert (await company.sums())["payments"] == 0
    refused = await company.post("/v1/exceptions/retry", {"feed_id": feed["feed_id"]}, status=200, key="")
    assert {one["reason"] for one in refused["items"]} == {"total_mismatch", "invalid"}
    await agree(company, PAYMENTS)  # Somebody looked at it, and does without the total.
    done = await company.post("/v1/exceptions/retry", {"feed_id": feed["feed_id"]}, status=200, key="")
    assert sorted(one["state"] for one in done["items"]) == ["open", "retried", "retried"]
    assert counts(await company.get(f"/v1/feeds/{feed['feed_id']}")) == (3, 2, 0, 0, 1)
    assert (await company.sums())["amount_cents"] == 5_000
    await true(company)


async def test_a_mended_file_posts_and_the_refused_rows_are_then_repetitions(company: Company) -> None:
    await agree(company, TOTALLED)
    rows = [row(company.locations[0], n) for n in range(3)]
    bad = await sent(company, table(*rows, total_row("75.01", 3)))
    assert counts(await sent(company, table(*rows, total_row("75.00", 3)))) == (3, 3, 0, 0, 0)
    await agree(company, PAYMENTS)
    await company.post("/v1/exceptions/retry", {"feed_id": bad["feed_id"]}, status=200, key="")
    assert (await company.sums())["amount_cents"] == 7_500
    assert counts(await company.get(f"/v1/feeds/{bad['feed_id']}")) == (3, 0, 3, 0, 0)
    await true(company)
