"""Rules of feeds.md 1.2 and 1.3 that concern several claims, several files or several payers at once."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from itertools import permutations
from typing import Any
from uuid import uuid4

import pytest

from tests.support.ledger import Company, LedgerStack, fold
from tests.support.x12_builder import ClaimPayment, Payment, ProviderLevel, Service, Syntax, x12_file

DAY = "2026-01-05"


@pytest.fixture
async def company(stack: LedgerStack) -> Company:
    return await stack.company()


async def sent(company: Company, *payments: Payment, syntax: Syntax | None = None) -> Any:
    answer = await company.upload("x12", x12_file(payments, syntax=syntax))
    assert answer.status == 200, answer
    return answer.body


def check(*claims: ClaimPayment, **fields: Any) -> Payment:
    return Payment(**{"trace": f"T{uuid4().hex[:12]}", "claims": claims, **fields})


def claim(number: str, paid: int, *, charge: int = 10_000, status: str = "1", **fields: Any) -> ClaimPayment:
    """A claim of one line; what is not paid is written off."""
    line = Service(charge_cents=charge, adjustments=(("CO", "45", charge - paid),) if charge != paid else ())
    return ClaimPayment(account=number, services=[line], status=status, icn=f"I{uuid4().hex[:8]}", **fields)


async def charge_of(company: Company, number: str, **fields: Any) -> Any:
    patient = await company.patient(number)
    payer = await company.payer()
    return await company.charge(patient, date_of_service=DAY, payer_id=payer["id"], **fields)


async def figures(company: Company, charge: Any) -> tuple[int, int, int]:
    """Applied, adjusted, still open."""
    now = await company.get(f"/v1/charges/{charge['id']}")
    return now["applied_cents"], now["adjusted_cents"], now["balance_cents"]


async def receipts(company: Company) -> list[Any]:
    """Oldest first."""
    found: list[Any] = (await company.get("/v1/payments"))["items"]
    return found[::-1]


async def proven(company: Company) -> None:
    assert fold(await company.events()) == await company.totals()


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_reversal_and_correction_in_any_order(company: Company, order: tuple[int, ...]) -> None:
    """The line stands fully paid: nothing of the correction fits before the reversal has made room (RFI 791)."""
    charge, other = await charge_of(company, "A"), await charge_of(company, "B")
    await sent(company, check(claim("A", 8_000)))
    reversal = claim("A", -8_000, charge=-10_000, status="22")
    rows = [reversal, claim("A", 6_500), claim("B", 8_000)]
    feed = await sent(company, check(*(rows[place] for place in order)))
    assert (feed["posted"], feed["exceptions"]) == (1, 0), await company.exceptions()
    assert await figures(company, charge) == (6_500, 3_500, 0)
    assert await figures(company, other) == (8_000, 2_000, 0)
    receipt = (await receipts(company))[-1]
    assert (receipt["amount_cents"], receipt["unapplied_cents"]) == (6_500, 0)
    await proven(company)


async def test_a_reversal_chunks_after_its_correction(company: Company) -> None:
    """The correction is the first of seven hundred claims, the reversal the last; and begun twice it is done once."""
    charge = await charge_of(company, "A")
    await sent(company, check(claim("A", 8_000)))
    between = [claim(f"N{n}", 8_000) for n in range(700)]
    late = check(claim("A", 6_500), *between, claim("A", -8_000, charge=-10_000, status="22"))
    early = check(*between[:2], trace="BEHIND")
    feed = await sent(company, late, early)
    assert (feed["posted"], feed["quarantined"], feed["exceptions"]) == (2, 0, 702)
    assert set(await company.reasons()) == {"unmatched_claim"}
    assert await figures(company, charge) == (6_500, 3_500, 0)
    states = await company.get("/v1/claims", state="reversed")
    assert states["items"] == [], "a reversal and its correction of one day leave the correction"
    again = await sent(company, late, early)
    assert (again["duplicates"], again["posted"]) == (2, 0)
    await proven(company)


async def test_paid_reversed_and_corrected_in_one_remittance_is_left_to_a_person(company: Company) -> None:
    """Reversals go first, so this one finds nothing to take back; what cannot be settled is told."""
    charge = await charge_of(company, "A")
    rows = [claim("A", 8_000), claim("A", -8_000, charge=-10_000, status="22"), claim("A", 6_500)]
    await sent(company, check(*rows))
    assert await company.reasons() == {"over_applied": 2}
    assert await figures(company, charge) == (8_000, 2_000, 0)
    sums = await company.sums()
    assert (sums["amount_cents"], sums["applied_cents"], sums["unapplied_cents"]) == (6_500, 8_000, -1_500)
    await proven(company)


async def test_a_reversal_without_room_is_left_to_a_person_and_its_money_counts(company: Company) -> None:
    """Reversed twice: the second time there is nothing left to take back."""
    charge = await charge_of(company, "A")
    await sent(company, check(claim("A", 8_000)))
    for _ in range(2):
        reversal = claim("A", -8_000, charge=-10_000, status="22")
        await sent(company, check(reversal, provider_level=[ProviderLevel(reason="FB", cents=-8_000)]))
    assert await company.reasons() == {"over_applied": 1}
    assert await figures(company, charge) == (0, 0, 10_000)
    last = (await receipts(company))[-1]
    assert (last["amount_cents"], last["applied_cents"], last["provider_level_cents"]) == (0, 0, 8_000)
    assert last["unapplied_cents"] == -8_000
    await proven(company)


async def test_a_forwarded_balance_comes_back_to_nothing_over_three_files(company: Company) -> None:
    """PLB FB: negative for the debt that is carried on, positive where it is collected, in part and then in full
    (RFI 1756, 1114). In the end the payer's account is even and every charge is what it should be."""
    first, second, third = [await charge_of(company, name) for name in "ABC"]
    await sent(company, check(claim("A", 8_000)))
    debt = [ProviderLevel(reason="FB", cents=-8_000, reference="DEBT")]
    await sent(company, check(claim("A", -8_000, charge=-10_000, status="22"), provider_level=debt, method="NON"))
    part = [ProviderLevel(reason="FB", cents=8_000), ProviderLevel(reason="FB", cents=-3_000, reference="REST")]
    await sent(company, check(claim("B", 5_000), provider_level=part))
    rest = [ProviderLevel(reason="FB", cents=3_000)]
    await sent(company, check(claim("C", 9_000), provider_level=rest))
    assert [one["amount_cents"] for one in await receipts(company)] == [8_000, 0, 0, 6_000]
    assert [one["provider_level_cents"] for one in await receipts(company)] == [0, 8_000, -5_000, -3_000]
    assert [await figures(company, one) for one in (first, second, third)] == [
        (0, 0, 10_000),
        (5_000, 5_000, 0),
        (9_000, 1_000, 0),
    ]
    sums = await company.sums()
    assert (sums["amount_cents"], sums["applied_cents"], sums["provider_level_cents"]) == (14_000, 14_000, 0)
    assert await company.reasons() == {}
    await proven(company)


async def test_interest_is_money_of_the_payer_and_of_no_claim(company: Company) -> None:
    """PLB L6 = -sum(AMT*I) (RFI 2123); AMT never balances, whatever it says (RFI 1324, 2601)."""
    charge = await charge_of(company, "A")
    paid = check(claim("A", 8_000), provider_level=[ProviderLevel(reason="L6", cents=-125)])
    body = x12_file([paid]).replace(b"SVC*", b"AMT*I*1.25~\nAMT*AU*99999~\nSVC*", 1)
    body = re.sub(rb"SE\*(\d+)", lambda found: b"SE*%d" % (int(found[1]) + 2), body)
    feed = (await company.upload("x12", body)).body
    assert (feed["posted"], feed["exceptions"]) == (1, 0), await company.exceptions()
    (receipt,) = await receipts(company)
    assert (receipt["amount_cents"], receipt["applied_cents"], receipt["unapplied_cents"]) == (8_125, 8_000, 0)
    assert receipt["provider_level"] == [{"reason_code": "L6", "amount_cents": 125}]
    assert await figures(company, charge) == (8_000, 2_000, 0)
    await proven(company)


async def test_capitation_with_the_encounters_it_pays_for(company: Company) -> None:
    """CT is the money; the claims beside it are paid nothing, and their contractual part is written off."""
    charge = await charge_of(company, "A")
    levels = [ProviderLevel(reason="CT", cents=-420_000, reference="CAP")]
    feed = await sent(company, check(claim("A", 0), provider_level=levels))
    assert (feed["posted_total_cents"], feed["exceptions"]) == (420_000, 0)
    (receipt,) = await receipts(company)
    assert (receipt["applied_cents"], receipt["provider_level_cents"], receipt["unapplied_cents"]) == (0, 420_000, 0)
    assert await figures(company, charge) == (0, 10_000, 0)
    assert [one["state"] for one in (await company.get("/v1/claims"))["items"]] == ["zero_paid"]
    await proven(company)


async def test_primary_and_secondary_payer_of_one_claim(company: Company) -> None:
    """Each remittance by its own payer; OA 23 repeats what the first one did, and is not posted again."""
    charge = await charge_of(company, "A")
    shared = (("CO", "45", 3_000), ("PR", "2", 2_000))
    first = ClaimPayment(
        account="A", status="19", services=[Service(charge_cents=10_000, adjustments=shared)], icn="P1"
    )
    second = ClaimPayment(
        account="A",
        status="2",
        services=[Service(charge_cents=10_000, adjustments=(("OA", "23", 8_000),))],
        icn="S1",
    )
    await sent(company, check(first, payer="FIRST PLAN", payer_id="11111", payer_ein="111111111"))
    assert await figures(company, charge) == (5_000, 3_000, 2_000)
    await sent(company, check(second, payer="SECOND PLAN", payer_id="22222", payer_ein="222222222"))
    assert await figures(company, charge) == (7_000, 3_000, 0)
    assert await company.reasons() == {}
    payers = {one["payer_id"] for one in await receipts(company)}
    assert len(payers) == 2
    (now,) = (await company.get("/v1/claims"))["items"]
    assert (now["paid_cents"], now["charge_cents"]) == (7_000, 10_000)
    await proven(company)


async def test_one_payer_under_many_names_by_what_the_company_has_agreed(company: Company) -> None:
    """Names and numbers that a payer goes by are mapped to one payer, whatever it writes and however it writes it."""
    payer = await company.payer(name="Blue Cross", code="BC")
    aliases = ["BCBS OF NC", "00123", "1560894904"]
    rows = {"clinics": [], "procedures": [], "payers": [{"alias": one, "payer_id": payer["id"]} for one in aliases]}
    assert (await company.send("PUT", "/v1/feed-mappings", rows, key="")).status == 200
    variants = [
        {"payer": "bcbs of nc", "payer_id": "X1", "payer_ein": "999999991"},
        {"payer": "Blue Cross Blue Shield", "payer_id": "00123", "payer_ein": "999999992"},
        {"payer": "Somebody", "payer_id": "", "payer_ein": "560894904"},
        {"payer": "BLUE CROSS", "payer_id": "", "payer_ein": "999999993"},
    ]
    for fields in variants:
        await sent(company, check(claim("A", 8_000), **fields))
    assert {one["payer_id"] for one in await receipts(company)} == {payer["id"]}
    assert len((await company.get("/v1/payers"))["items"]) == 1


async def test_a_predetermination_leaves_nothing_but_a_notice(company: Company) -> None:
    """CLP02 = 25 is an estimate: what it says would be paid is not, and BPR02 is zero."""
    charge = await charge_of(company, "A")
    estimate = claim("A", 0, status="25")
    feed = await sent(company, check(estimate, handling="H", method="NON"))
    assert (feed["posted"], await company.reasons()) == (1, {"predetermination": 1})
    assert await figures(company, charge) == (0, 0, 10_000)
    assert [one["state"] for one in (await company.get("/v1/claims"))["items"]] == ["predetermined"]
    await sent(company, check(claim("A", 8_000)))
    assert await figures(company, charge) == (8_000, 2_000, 0)


@pytest.mark.parametrize(
    ("charges", "line", "found"),
    [
        # REF*6R comes before code and day ...
        ([{"external_id": "L-700"}, {}], {"control_number": "L-700", "code": "99999", "on": date(2025, 3, 3)}, 0),
        ([{}, {"external_id": "A-2"}], {"control_number": "2", "code": "99999"}, 1),
        # ... then code and day, of several the one with the same modifiers ...
        ([{"procedure_code": "97140"}, {}], {}, 1),
        ([{"date_of_service": "2026-01-06"}, {}], {}, 1),
        ([{"modifiers": ["GP"]}, {"modifiers": ["GP", "59"]}], {"modifiers": ("GP", "59")}, 1),
        # ... and where that leaves two, a person.
        ([{"modifiers": ["GP"]}, {"modifiers": ["GP"]}], {"modifiers": ("GP",)}, None),
        ([{"modifiers": ["KX"]}, {"modifiers": ["59"]}], {"modifiers": ("GP",)}, None),
    ],
)
async def test_what_a_line_means_comes_in_this_order(
    company: Company, charges: list[dict[str, Any]], line: dict[str, Any], found: int | None
) -> None:
    patient, payer = await company.patient("A"), await company.payer()
    made = [
        await company.charge(patient, **{"date_of_service": DAY, "payer_id": payer["id"], **one}) for one in charges
    ]
    service = replace(Service(charge_cents=10_000, adjustments=(("CO", "45", 2_000),)), **line)
    await sent(company, check(ClaimPayment(account="A", services=[service], icn="I1")))
    applied = [(await figures(company, one))[0] for one in made]
    assert applied == [8_000 if place == found else 0 for place in range(len(made))]
    assert await company.reasons() == ({} if found is not None else {"ambiguous_line": 1})
    assert (await company.sums())["amount_cents"] == 8_000


async def test_interchanges_and_transactions_of_several_syntaxes_in_one_file(company: Company) -> None:
    """Separators are those of each interchange; a fault in one ST keeps only that one from posting."""
    syntaxes = [
        Syntax(),
        Syntax(element="|", component=">", terminator="!", newline=""),
        Syntax(terminator="'", newline="\r\n"),
        Syntax(element="\x1d", component="\x1f", terminator="\x1e", newline=""),
    ]
    charges = [await charge_of(company, f"C{n}") for n in range(8)]
    body = b""
    for n, syntax in enumerate(syntaxes):
        pair = [check(claim(f"C{2 * n}", 8_000)), check(claim(f"C{2 * n + 1}", 8_000))]
        if n == 2:
            pair[0] = replace(pair[0], amount_cents=7_999)
        body += x12_file(pair, syntax=syntax, control=f"{n + 1:09}") + (b"\n\n" if n % 2 else b"")
    feed = (await company.upload("x12", body)).body
    assert (feed["received"], feed["posted"], feed["quarantined"]) == (8, 7, 1)
    assert await company.reasons() == {"transaction_unbalanced": 1}
    applied = [(await figures(company, one))[0] for one in charges]
    assert applied == [0 if n == 4 else 8_000 for n in range(8)]
    assert feed["difference_cents"] == 7_999
    await proven(company)
