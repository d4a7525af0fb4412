"""Every sample 835 over HTTP, each in a company of its own: what the manifest says, twice, without doubling a cent."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from services.ledger.feeds.x12.model import Claim, Header, Transaction
from services.ledger.feeds.x12.remittance import read, survey
from tests.support.ledger import COUNTS, Company, LedgerStack, fold
from tests.support.x12_samples import SAMPLES, Row, manifest, needs_samples


def content(row: Row) -> bytes:
    return (SAMPLES / "835" / row.name).read_bytes()


@needs_samples
@pytest.mark.parametrize("row", manifest(), ids=lambda row: row.name)
async def test_sample(stack: LedgerStack, row: Row) -> None:
    company = await stack.company()
    before = await company.rows()
    answer = await company.upload("x12", content(row))
    if row.unreadable:
        assert (answer.status, answer.code) == (422, "x12_unreadable"), answer
        assert await company.rows() == before
        return
    assert answer.status == 200, answer
    feed = answer.body
    assert feed["state"] == "done"
    assert feed["received"] == sum(feed[name] for name in COUNTS[1:])
    assert feed["difference_cents"] == feed["control_total_cents"] - feed["posted_total_cents"]
    reasons = await company.reasons(feed_id=feed["feed_id"])
    await as_the_head_of_the_manifest_says(company, row, feed, reasons)
    await nothing_is_lost_and_nothing_invented(company, feed)
    await the_same_file_again(company, row, feed)


async def as_the_head_of_the_manifest_says(company: Company, row: Row, feed: Any, reasons: Counter[str]) -> None:
    events = list(read([content(row)]))
    remittances = [event for event in events if isinstance(event, Transaction) and event.set_id == "835"]
    others = [event for event in events if isinstance(event, Transaction) and event.set_id != "835"]
    assert (feed["received"], feed["ignored"]) == (len(remittances) + len(others), len(others))
    if row.rules["env"] != "OK":
        assert reasons["envelope_mismatch"] >= 1
    if row.rules["T"] not in ("OK", "-") and row.rules["env"] == "OK":
        assert reasons["transaction_unbalanced"] == int(row.rules["T"])
    rows = await company.exceptions(feed_id=feed["feed_id"])
    assert len([one for one in rows if one["quarantined"]]) == feed["quarantined"]
    assert feed["exceptions"] == len(rows)
    if feed["quarantined"] == 0 and feed["duplicates"] == 0:
        # A receipt for every BPR02, and an exception for every claim: no charge is known here.
        assert (await company.sums())["amount_cents"] == sum(
            event.amount_cents for event in events if isinstance(event, Header)
        )
        claims = [event for event in events if isinstance(event, Claim)]
        assert len(rows) == len(claims)
        unbalanced = sum(1 for claim in claims if claim.problems)
        assert reasons["claim_unbalanced"] + reasons["line_unbalanced"] == unbalanced
        assert reasons["predetermination"] == sum(
            1 for claim in claims if claim.is_predetermination and not claim.problems
        )
        if row.rules["C"] == row.rules["L"] == "OK":
            assert unbalanced <= (0 if row.rules["c"] in ("OK", "-") else int(row.rules["c"]))


async def nothing_is_lost_and_nothing_invented(company: Company, feed: Any) -> None:
    sums = await company.sums()
    assert sums["payments"] == feed["posted"]
    assert sums["amount_cents"] == feed["posted_total_cents"]
    assert sums["amount_cents"] == sums["applied_cents"] + sums["provider_level_cents"] + sums["unapplied_cents"]
    assert (sums["applied_cents"], sums["adjusted_cents"]) == (0, 0)
    for words in await company.totals():
        assert (words[0], *words[3:]) == ("None", "era", "integration")
    assert fold(await company.events()) == await company.totals()


async def the_same_file_again(company: Company, row: Row, feed: Any) -> None:
    totals, postings = await company.totals(), (await company.rows())["posting"]
    again = (await company.upload("x12", content(row))).body
    assert again["feed_id"] != feed["feed_id"]
    assert {name: again[name] for name in COUNTS} == {
        **{name: feed[name] for name in COUNTS},
        "posted": 0,
        "duplicates": feed["posted"] + feed["duplicates"],
    }
    assert (again["posted_total_cents"], again["control_total_cents"]) == (0, feed["control_total_cents"])
    assert (await company.totals(), (await company.rows())["posting"]) == (totals, postings)


EXPECTED = {
    "01_clean_two_lines.835": ("posted", {"unmatched_claim": 1}),
    "02_reversal_and_correction_same_835.835": ("posted", {"unmatched_claim": 3}),
    "04_reversal_only_forwarding_balance.835": ("posted", {"unmatched_claim": 1}),
    "05_forwarding_balance_applied.835": ("posted", {"unmatched_claim": 2}),
    "07_denial_zero_pay_NON.835": ("posted", {"unmatched_claim": 1}),
    "08_secondary_payer_OA23.835": ("posted", {"unmatched_claim": 1}),
    "09_capitation_only.835": ("posted", {}),
    "12_odd_delimiters_no_newlines.835": ("posted", {"unmatched_claim": 1}),
    "14_crlf_terminator_only.835": ("posted", {"unmatched_claim": 1}),
    "22_bad_SE_count.835": ("quarantined", {"envelope_mismatch": 1}),
    "23_bad_IEA_control.835": ("quarantined", {"envelope_mismatch": 1}),
    "24_bad_ISA_whitespace_collapsed.835": ("quarantined", {"envelope_mismatch": 1}),
    "25_bad_unbalanced_BPR.835": ("quarantined", {"transaction_unbalanced": 1}),
    "27_bad_amount_text.835": ("quarantined", {"envelope_mismatch": 1}),
    "30_bad_utf8_bom_and_accent.835": ("posted", {"unmatched_claim": 1}),
    "31_precision_no_leading_zero.835": ("posted", {"unmatched_claim": 1}),
    "32_split_service_lines_ctl_missing.835": ("posted", {"unmatched_claim": 1}),
}


@needs_samples
@pytest.mark.parametrize("name", EXPECTED)
async def test_derived_sample(stack: LedgerStack, name: str) -> None:
    outcome, reasons = EXPECTED[name]
    company = await stack.company()
    feed = (await company.upload("x12", (SAMPLES / "835/derived" / name).read_bytes())).body
    assert {key: feed[key] for key in COUNTS if feed[key]} == {"received": 1, outcome: 1}
    assert await company.reasons() == reasons


@needs_samples
async def test_one_check_in_two_interchanges_and_two_checks_in_one_group(stack: LedgerStack) -> None:
    company = await stack.company()
    twice = (await company.upload("x12", (SAMPLES / "835/derived/11_same_check_twice_two_ISA.835").read_bytes())).body
    assert {name: twice[name] for name in COUNTS if twice[name]} == {"received": 2, "posted": 1, "duplicates": 1}
    assert (twice["control_total_cents"], twice["posted_total_cents"]) == (2 * 9_836, 9_836)
    both = (await company.upload("x12", (SAMPLES / "835/derived/10_two_ST_two_payers_one_GS.835").read_bytes())).body
    assert {name: both[name] for name in COUNTS if both[name]} == {"received": 2, "posted": 2}
    assert len((await company.get("/v1/payers"))["items"]) == 1, "two checks of the payer that is known by now"


@needs_samples
async def test_all_examples_of_x12_org_in_one_company(stack: LedgerStack) -> None:
    """They share ISA13, and many share trace number, payer, amount and date with other content: such a one is a
    conflict for a person. Nothing is lost silently: every transaction has an outcome."""
    company = await stack.company()
    files = sorted((SAMPLES / "835").glob("x12org_*"))
    received: Counter[str] = Counter()
    posted_cents = 0
    for path in files:
        feed = (await company.upload("x12", path.read_bytes())).body
        assert feed["received"] == sum(feed[name] for name in COUNTS[1:]) == 1, path.name
        received.update({name: feed[name] for name in COUNTS})
        posted_cents += feed["posted_total_cents"]
    assert received["received"] == len(files)
    assert received["quarantined"] == (await company.reasons())["conflict"] > 0
    assert received["posted"] == (await company.sums())["payments"]
    assert posted_cents == (await company.sums())["amount_cents"]
    before = await company.totals()
    for path in files:  # Again: what was posted is a duplicate, what conflicted conflicts.
        feed = (await company.upload("x12", path.read_bytes())).body
        assert feed["posted"] == 0
    assert await company.totals() == before
    assert fold(await company.events()) == before


@needs_samples
async def test_other_sets_are_counted_and_only_acknowledgements_noted(stack: LedgerStack) -> None:
    """999, 997 and 277 are noted once; an 837 is somebody else's. None of them posts anything."""
    company = await stack.company()
    noted = 0
    for path in sorted((SAMPLES / "837").iterdir()):
        sets = [one.set_id for one in survey([path.read_bytes()])]
        taken = sum(one in ("277", "997", "999") for one in sets)
        feed = (await company.upload("x12", path.read_bytes())).body
        assert feed["received"] == len(sets) >= 1, path.name
        assert feed["ignored"] == len(sets) - taken, path.name
        assert feed["posted"] + feed["quarantined"] == taken, path.name
        again = (await company.upload("x12", path.read_bytes())).body
        assert (again["posted"], again["duplicates"]) == (0, feed["posted"]), path.name
        noted += feed["posted"]
    assert noted >= 5
    assert (await company.rows())["posting"] == 0
    assert (await company.get("/v1/claims"))["items"]
