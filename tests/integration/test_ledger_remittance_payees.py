"""Whose money a remittance is, where the company says by which NPIs it goes and the payee is named by something else.

Decided here where the rules are silent: what names an NPI is judged by that alone, and never posts unless every one is
ours. Only where N1*PE names none do the claims' renderer and what a person has agreed (`payees`) tell.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support.feed_work import charge_of, check, claim, feed_now, retried, service, the_exception, true
from tests.support.ledger import Company, LedgerStack
from tests.support.x12_builder import Payment, ProviderLevel, x12_file

OURS, OTHERS, SECOND = "1234567893", "1999999999", "1888888888"
TAX_ID = "987654321"
CAPITATION = [ProviderLevel(reason="CT", cents=-420_000)]
BY_TAX_ID = f"N1*PE*EXAMPLE PHYSICAL THERAPY LLC*FI*{TAX_ID}"
NEEDLE = f"N1*PE*EXAMPLE PHYSICAL THERAPY LLC*XX*{OURS}~\nREF*TJ*{TAX_ID}~\n"


def body_of(payment: Payment, *, payee: str = BY_TAX_ID, then: str = "", level: str = "", renders: str = "") -> bytes:
    """The file with another N1*PE, and more after it, after LX, or in every claim."""
    text = x12_file([payment]).decode()
    assert NEEDLE in text
    text = text.replace(NEEDLE, f"{payee}~\n{then}").replace("LX*1~\n", f"LX*1~\n{level}")
    text = re.sub(r"(NM1\*QC[^~]*~\n)", rf"\g<1>{renders}", text)
    inside = text[text.index("ST*835") :]
    count = inside[: inside.index("SE*")].count("~") + 1
    return re.sub(r"SE\*\d+", f"SE*{count}", text).encode()


def rendered(npi: str) -> str:
    return f"NM1*82*1*KIM*SUN****XX*{npi}~\n"


async def outcome(company: Company, body: bytes) -> Any:
    """Posted, or the reason."""
    answer = await company.upload("x12", body)
    assert answer.status == 200, answer
    if answer.body["posted"]:
        assert (answer.body["posted"], answer.body["exceptions"]) == (1, 0), await company.exceptions()
        return "posted"
    assert (answer.body["quarantined"], answer.body["posted_total_cents"]) == (1, 0)
    return (await company.exceptions(feed_id=answer.body["feed_id"]))[0]["reason"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "unknown_payee"),
        ({"payee": "N1*PE*EXAMPLE PHYSICAL THERAPY LLC"}, "unknown_payee"),
        ({"payee": f"N1*PE*EXAMPLE PHYSICAL THERAPY LLC*XX*{OURS}"}, "posted"),
        ({"payee": f"N1*PE*EXAMPLE PHYSICAL THERAPY LLC*XX*{OTHERS}"}, "wrong_payee"),
        # REF of N1*PE: an NPI that is called one, and a number of the payer's own that may be one.
        ({"then": f"REF*HPI*{OURS}~\n"}, "posted"),
        ({"then": f"REF*HPI*{OTHERS}~\n"}, "wrong_payee"),
        ({"then": f"REF*HPI*{OURS}~\nREF*HPI*{OTHERS}~\n"}, "wrong_payee"),
        ({"then": f"REF*PQ*{OURS}~\n"}, "posted"),
        ({"then": f"REF*PQ*{OTHERS}~\n"}, "unknown_payee"),
        ({"payee": f"N1*PE*A*XX*{OURS}", "then": f"REF*HPI*{OTHERS}~\n"}, "wrong_payee"),
        # TS3: the provider that the claims under it are of.
        ({"level": f"TS3*{OURS}*11*20261231*1*100~\n"}, "posted"),
        ({"level": f"TS3*{OTHERS}*11*20261231*1*100~\n"}, "wrong_payee"),
        ({"level": f"TS3*{OURS}*11*20261231*1*50~\nTS3*{OTHERS}*11*20261231*1*50~\n"}, "wrong_payee"),
        ({"level": "TS3*OLD-77*11*20261231*1*100~\n"}, "unknown_payee"),
        # Who treated is not who is paid: only where all of it is ours.
        ({"renders": rendered(OURS)}, "posted"),
        ({"renders": rendered(OTHERS)}, "unknown_payee"),
        ({"renders": rendered(OURS), "then": f"REF*HPI*{OTHERS}~\n"}, "wrong_payee"),
        ({"payee": f"N1*PE*A*XX*{OTHERS}", "renders": rendered(OURS)}, "wrong_payee"),
    ],
)
async def test_a_payee_is_known_by_the_npis_that_the_file_names(
    stack: LedgerStack, more: dict[str, str], expected: str
) -> None:
    company = await stack.company(npis=[SECOND, OURS])
    await charge_of(company, "A")
    await charge_of(company, "B")
    payment = check(claim("A", service()), claim("B", service()))
    assert await outcome(company, body_of(payment, **more)) == expected
    assert (await company.sums())["amount_cents"] == (16_000 if expected == "posted" else 0)


async def test_one_claim_that_another_rendered_is_enough_not_to_know(stack: LedgerStack) -> None:
    company = await stack.company(npis=[OURS])
    payment = check(claim("A", service()), claim("B", service()))
    for second in (rendered(OTHERS), ""):
        body = body_of(payment, renders=rendered(OURS)).decode()
        place = body.rindex(rendered(OURS))
        body = body[:place] + second + body[place + len(rendered(OURS)) :]
        if not second:
            body = re.sub(r"SE\*(\d+)", lambda found: f"SE*{int(found[1]) - 1}", body)
        assert await outcome(company, body.encode()) == "unknown_payee"


async def test_the_provider_of_a_plb_is_named_too(stack: LedgerStack) -> None:
    """A capitation payment has no claim that anybody could have rendered."""
    company = await stack.company(npis=[OURS])
    for npi, expected in ((OURS, "posted"), (OTHERS, "wrong_payee")):
        text = x12_file([check(provider_level=CAPITATION, payee_npi=npi)]).decode()
        text = text.replace(f"N1*PE*EXAMPLE PHYSICAL THERAPY LLC*XX*{npi}", BY_TAX_ID)
        assert await outcome(company, text.encode()) == expected


async def test_a_company_without_npis_takes_every_payee(company: Company) -> None:
    await charge_of(company, "A")
    assert await outcome(company, body_of(check(claim("A", service())))) == "posted"


async def put(company: Company, *rows: dict[str, str]) -> Any:
    body = {"clinics": [], "payers": [], "procedures": [], "payees": list(rows)}
    return await company.send("PUT", "/v1/feed-mappings", body, key="")


@pytest.mark.parametrize("alias", [TAX_ID, "Example Physical Therapy LLC"])
async def test_a_payee_that_a_person_knows_posts_at_the_retry(stack: LedgerStack, alias: str) -> None:
    company = await stack.company(npis=[SECOND, OURS])
    charge = await charge_of(company, "A")
    feed = (await company.upload("x12", body_of(check(claim("A", service()), trace="EFT-7")))).body
    row = await the_exception(company)
    assert (row["reason"], row["quarantined"], row["detail"]["bpr02_cents"]) == ("unknown_payee", True, 8_000)
    (problem,) = row["detail"]["problems"]
    assert (problem["code"], problem["field"]) == ("unknown_payee", "N1*PE")
    assert problem["names"] == [TAX_ID, "EXAMPLE PHYSICAL THERAPY LLC"]
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "unknown_payee")
    assert (await put(company, {"alias": alias, "npi": OURS})).status == 200
    (kept,) = (await company.get("/v1/feed-mappings"))["payees"]
    assert (kept["alias"], kept["npi"]) == (alias, OURS)
    assert (await retried(company, row))["state"] == "retried"
    assert await feed_now(company, feed) == {"posted": 1}
    assert (await company.get(f"/v1/charges/{charge['id']}"))["balance_cents"] == 0
    assert (await company.upload("x12", body_of(check(trace="EFT-8", provider_level=CAPITATION)))).body["posted"] == 1
    await true(company)


async def test_a_mapping_never_lets_an_npi_of_somebody_else_in(stack: LedgerStack) -> None:
    company = await stack.company(npis=[OURS])
    assert (await put(company, {"alias": TAX_ID, "npi": OURS})).status == 200
    for more in ({"then": f"REF*HPI*{OTHERS}~\n"}, {"level": f"TS3*{OTHERS}*11*20261231*1*1~\n"}):
        assert await outcome(company, body_of(check(claim("A", service())), **more)) == "wrong_payee"
    foreign = f"N1*PE*EXAMPLE PHYSICAL THERAPY LLC*XX*{OTHERS}"
    assert await outcome(company, body_of(check(claim("A", service())), payee=foreign)) == "wrong_payee"
    row = (await company.exceptions())[0]
    (problem,) = row["detail"]["problems"]
    assert (problem["code"], problem["field"], problem["npis"]) == ("wrong_payee", "N1*PE", [OTHERS])
    # It stands for an NPI of the company, as long as that is one.
    await company.stack.owner.execute(
        "update directory_company set npis = $2 where company_id = $1", company.company_id, [SECOND]
    )
    assert await outcome(company, body_of(check(claim("A", service())))) == "unknown_payee"


async def test_payees_are_mapped_to_npis_of_the_company_only(stack: LedgerStack) -> None:
    company = await stack.company(npis=[OURS])
    rows = [{"alias": TAX_ID, "npi": OTHERS}, {"alias": "a", "npi": OURS}, {"alias": "A", "npi": OURS}]
    refused = await put(company, *rows)
    assert refused.status == 422
    found = [(error["field"], error["code"]) for error in refused.body["errors"]]
    assert sorted(found) == [("payees.0.npi", "unknown_npi"), ("payees.2.alias", "repeated")]
    assert (await put(company, {"alias": "x", "npi": "12"})).status == 422


@pytest.mark.parametrize("tax_id_first", [True, False])
async def test_one_payment_by_tax_id_and_by_npi_is_posted_once(stack: LedgerStack, tax_id_first: bool) -> None:
    """A payer names the payee by tax id, the clearinghouse by NPI (beside REF*TJ): one check, two names."""
    company = await stack.company(npis=[SECOND, OURS])
    assert (await put(company, {"alias": TAX_ID, "npi": OURS})).status == 200
    await charge_of(company, "A")
    payment = check(claim("A", service()), trace="EFT-7")
    files = [body_of(payment), x12_file([payment])][:: 1 if tax_id_first else -1]
    assert await outcome(company, files[0]) == "posted"
    assert await outcome(company, files[1]) == "conflict"
    row = await the_exception(company)
    assert (row["quarantined"], row["detail"]["bpr02_cents"]) == (True, 8_000)
    failed = await retried(company, row)
    assert (failed["state"], failed["history"][-1]["reason"]) == ("open", "conflict")
    for body, (duplicates, quarantined) in zip(files, [(1, 0), (0, 1)], strict=True):
        again = (await company.upload("x12", body)).body
        assert (again["posted"], again["duplicates"], again["quarantined"]) == (0, duplicates, quarantined)
    assert (await company.sums())["amount_cents"] == 8_000
    # Another day, and another trace, are other payments, whatever they call the payee.
    later = check(claim("B", service()), trace="EFT-8")
    assert (await company.upload("x12", body_of(later))).body["posted"] == 1
    await true(company)


async def test_both_in_one_file_are_one_payment(stack: LedgerStack) -> None:
    company = await stack.company(npis=[SECOND, OURS])
    assert (await put(company, {"alias": TAX_ID, "npi": OURS})).status == 200
    await charge_of(company, "A")
    payment = check(claim("A", service()), trace="EFT-7")
    both = body_of(payment) + x12_file([payment])
    for posted, duplicates in ((1, 0), (0, 1)):
        feed = (await company.upload("x12", both)).body
        assert (feed["posted"], feed["duplicates"], feed["quarantined"]) == (posted, duplicates, 1)
    assert await company.reasons() == {"conflict": 2}
    assert (await company.sums())["amount_cents"] == 8_000
    await true(company)


async def test_two_payees_of_the_company_are_paid_by_two_payments(stack: LedgerStack) -> None:
    """Named by NPI, and by nothing that could be the other's name."""
    company = await stack.company(npis=[SECOND, OURS])
    for npi in (OURS, SECOND):
        await charge_of(company, f"A{npi}")
        payment = check(claim(f"A{npi}", service(), icn="I1"), trace="EFT-7", payee_npi=npi, payee_tax_id="")
        body = x12_file([payment]).replace(b"REF*TJ~\n", b"REF*TJ*~\n")
        assert await outcome(company, body) == "posted"
    assert (await company.sums())["amount_cents"] == 16_000
