"""A check that a person has reversed as a whole (it bounced, or was stopped) and that the payer issues anew: its lines
come again under another trace, and are applied. What repeats a line that stands is a repetition as before.

Decided here where the rules are silent:

* A reversed check has brought no line and taken none back, whatever is counted.
* Its own file, sent again, is a duplicate; and so is the same check as FHIR tells of it, since it is that one.
* What comes of a check after it was reversed is reversed with it: nothing of it is applied.
"""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID

import pytest

from services.ledger.deciding import Verdict
from services.ledger.domain.commands import Command, ReversePayment
from services.ledger.domain.feed_acts import ApplyRemittance, PostRemittance, RemittanceClaim, RemittanceLine
from services.ledger.feeds import remittance_claims
from services.ledger.posting import post_batch
from services.ledger.service import Ledger
from tests.support import posting
from tests.support.feed_work import charge_of, check, claim, remit, retried, service, the_exception, true
from tests.support.fhir_builder import body, detail, reconciliation
from tests.support.ledger import Company, counts
from tests.support.remittances import charges_now, figures
from tests.support.x12_builder import ClaimPayment, Payment, ProviderLevel, x12_file

LINED = pytest.mark.parametrize("lined", [True, False], ids=["lines", "no lines"])
PAID, OPEN = (8_000, 2_000, 0, 0), (0, 0, 10_000, 0)


def paid(account: str = "A", *, lined: bool = True, **fields: Any) -> ClaimPayment:
    """100.00 charged, 80.00 paid, under the number that the payer keeps."""
    fields = {"icn": f"ICN-{account}", **fields}
    if lined:
        return claim(account, service(), **fields)
    return claim(account, charge_only_cents=10_000, adjustments=[("CO", "45", 2_000)], **fields)


def taken_back(account: str = "A") -> Payment:
    """The line taken back, in a remittance that comes to nothing."""
    line = service(charge_cents=-10_000, adjustments=[("CO", "45", -2_000)])
    owed = [ProviderLevel(reason="FB", cents=-8_000)]
    return check(claim(account, line, icn=f"ICN-{account}", status="22"), provider_level=owed, method="NON")


async def receipt(company: Company, trace: str) -> Any:
    (found,) = (await company.get("/v1/payments", check_number=trace))["items"]
    return found


async def reverse(company: Company, trace: str) -> None:
    await company.post(f"/v1/payments/{(await receipt(company, trace))['id']}/reversal", {"memo": "bounced"})


async def now(company: Company, *charges: Any) -> list[tuple[int, int, int, int]]:
    return [figures(one) for one in await charges_now(company, charges)]


async def sent_again(company: Company, payment: Payment) -> tuple[int, ...]:
    answer = await company.upload("x12", x12_file([payment]))
    return counts(answer.body)


@LINED
async def test_the_lines_of_a_reissued_check_are_applied(company: Company, lined: bool) -> None:
    charges = [await charge_of(company, "A"), await charge_of(company, "B")]
    claims = paid("A", lined=lined), paid("B", lined=lined)
    first, reissued = check(*claims, trace="T1"), check(*claims, trace="T1B")
    await remit(company, first)
    await reverse(company, "T1")
    assert await now(company, *charges) == [OPEN, OPEN]
    await remit(company, reissued)
    assert await now(company, *charges) == [PAID, PAID]
    assert await company.exceptions() == []
    assert [await sent_again(company, one) for one in (first, reissued)] == [(1, 0, 1, 0, 0)] * 2
    await remit(company, check(*claims, trace="T1C"))
    assert await company.reasons() == {"duplicate_line": 2}, "the second one stands"
    await reverse(company, "T1B")
    for row in await company.exceptions():
        assert (await retried(company, row))["state"] == "retried"
    assert await now(company, *charges) == [PAID, PAID]
    await true(company)


async def test_what_came_before_the_reversal_is_applied_by_a_retry(company: Company) -> None:
    charge = await charge_of(company, "A")
    await remit(company, check(paid(), trace="T1"))
    await remit(company, check(paid(), trace="T1B"))
    row = await the_exception(company)
    assert (row["reason"], (await retried(company, row))["state"]) == ("duplicate_line", "open")
    await reverse(company, "T1")
    assert (await retried(company, row))["state"] == "retried"
    assert await now(company, charge) == [PAID]
    assert (await receipt(company, "T1B"))["unapplied_cents"] == 0
    await true(company)


async def test_a_check_that_was_only_corrected_or_refunded_in_part_stands(company: Company) -> None:
    charge = await charge_of(company, "A")
    await remit(company, check(paid(), paid("NOBODY"), trace="T1"))
    first = await receipt(company, "T1")
    answer = await company.send("PATCH", f"/v1/payments/{first['id']}", {"memo": "seen", "check_number": "T1-X"})
    assert answer.status == 200
    await company.post(f"/v1/payments/{first['id']}/refund", {"amount_cents": 8_000})
    await remit(company, check(paid(), trace="T1B"))
    assert await company.reasons() == {"unmatched_claim": 1, "duplicate_line": 1}
    assert await now(company, charge) == [PAID]


async def test_the_payer_takes_back_what_he_reissued_once(company: Company) -> None:
    """He keeps his number through all of it. A reversed check has brought nothing that could be taken back."""
    charge = await charge_of(company, "A")
    await remit(company, check(paid(), trace="T1"))
    await reverse(company, "T1")
    await remit(company, taken_back())
    early = await the_exception(company)
    assert early["reason"] == "over_applied", "a person has done it already"
    await company.post(f"/v1/exceptions/{early['id']}/dismiss", {"note": "done"}, status=200)
    await remit(company, check(paid(), trace="T1B"))
    await remit(company, taken_back())
    assert await now(company, charge) == [OPEN]
    await remit(company, taken_back())
    assert await company.reasons(state="open") == {"duplicate_line": 1}
    await remit(company, check(paid(), trace="T2"))
    assert await now(company, charge) == [PAID]
    await remit(company, check(paid(), trace="T3"))
    assert await company.reasons(state="open") == {"duplicate_line": 2}
    await true(company)


async def test_a_remittance_that_took_back_and_was_reversed_has_taken_nothing_back(company: Company) -> None:
    charge = await charge_of(company, "A")
    await remit(company, check(paid(), trace="T1"))
    back = taken_back()
    await remit(company, back)
    assert await now(company, charge) == [OPEN]
    await reverse(company, back.trace)
    assert await now(company, charge) == [PAID]
    await remit(company, check(paid(), trace="T2"))
    assert await company.reasons() == {"duplicate_line": 1}
    await remit(company, taken_back())
    assert await now(company, charge) == [OPEN]
    assert await company.reasons() == {"duplicate_line": 1}
    await true(company)


async def test_reversed_and_reissued_in_one_batch(company: Company) -> None:
    """What shares a commit sees what stands before it there."""
    charges = [await charge_of(company, "A"), await charge_of(company, "B")]
    feed = await remit(company, check(paid("A"), trace="T1"), check(paid("B"), trace="T2"))
    line = RemittanceLine(1, "97110", None, (), None, 10_000, 8_000, None, (("CO", "45", 2_000),))
    again = [RemittanceClaim(name, f"ICN-{name}", "1", 10_000, 8_000, date(2026, 1, 5), (line,)) for name in "AB"]
    words = ("T1B", b"hash", "check", 16_000, company.today, "T1B", "Payer", (), UUID(feed["feed_id"]), "ST 1")
    acts = [ReversePayment(UUID((await receipt(company, "T1"))["id"])), PostRemittance(*words, claims=tuple(again))]
    for verdict in await post_batch(company.stack.ledger.pool, [posting.command(company, act) for act in acts]):
        verdict.unwrap()
    row = await the_exception(company)
    assert (row["reason"], row["detail"]["claim_id"]) == ("duplicate_line", "B"), "the other one stands"
    assert await now(company, *charges) == [PAID, PAID]


async def test_reversed_while_the_rest_of_it_is_posted(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long remittance of three pieces: what comes after the reversal is reversed with it."""
    places = company.locations[0], company.locations[1], company.locations[1]
    charges = [
        await charge_of(company, name, location_id=str(place)) for name, place in zip("ABC", places, strict=True)
    ]
    post, done = Ledger.post, list[str]()

    async def reversed_before(self: Ledger, command: Command, *more: Any, **named: Any) -> Verdict:
        if isinstance(command.act, ApplyRemittance) and not done:
            done.append("reversed")
            await reverse(company, "T1")
        return await post(self, command, *more, **named)

    monkeypatch.setattr(remittance_claims, "LINES_A_PIECE", 1)
    monkeypatch.setattr(Ledger, "post", reversed_before)
    long = check(*map(paid, "ABC"), trace="T1")
    feed = await remit(company, long)
    assert (done, feed["posted"]) == (["reversed"], 1)
    assert await now(company, *charges) == [OPEN] * 3
    assert await company.exceptions() == []
    rows = (await company.get("/v1/payments", check_number="T1"))["items"]
    assert [(row["amount_cents"], row["location_id"]) for row in rows] == [(-24_000, None), (24_000, None)]
    assert await sent_again(company, long) == (1, 0, 1, 0, 0)
    await remit(company, check(*map(paid, "ABC"), trace="T1B"))
    assert await now(company, *charges) == [PAID] * 3
    await true(company)


def told(trace: str, amount: str = "80.00", name: str = "R-1", version: int = 1) -> bytes:
    """The same by FHIR."""
    words = {"paymentIdentifier": {"value": trace}, "paymentIssuer": {"display": "EXAMPLE HEALTH PLAN"}}
    named = {"identifier": [{"value": name}], "id": name, "meta": {"versionId": str(version)}}
    return body(reconciliation(amount, detail(amount, "A"), **words, **named))


async def by_fhir(company: Company, *args: Any, **fields: Any) -> tuple[int, ...]:
    return counts((await company.upload("fhir", told(*args, **fields))).body)


POSTED, DUPLICATE, QUARANTINED = (1, 1, 0, 0, 0), (1, 0, 1, 0, 0), (1, 0, 0, 0, 1)


@pytest.mark.parametrize("first", ["x12", "fhir"])
async def test_a_reversed_check_as_another_format_tells_of_it(company: Company, first: str) -> None:
    """It is that check, which a person has dealt with. Under another number it is the one that was issued anew."""
    await company.stack.emr_client([company])
    charge = await company.charge(await company.patient("A"), external_id="A", date_of_service="2026-01-05")
    before = figures(charge)
    await (remit(company, check(paid(), trace="T1")) if first == "x12" else by_fhir(company, "T1"))
    await reverse(company, "T1")
    again = await (by_fhir(company, "T1") if first == "x12" else sent_again(company, check(paid(), trace="T1")))
    assert again == DUPLICATE
    assert await now(company, charge) == [before]
    anew = by_fhir(company, "T1B", name="R-2") if first == "x12" else sent_again(company, check(paid(), trace="T1B"))
    assert await anew == POSTED
    assert (await now(company, charge))[0][0] == 8_000
    await true(company)


@pytest.mark.parametrize("first", ["x12", "fhir"])
async def test_of_two_totals_a_person_reverses_the_wrong_one(company: Company, first: str) -> None:
    """Then the other one is no conflict any more."""
    await company.stack.emr_client([company])
    charge = await company.charge(await company.patient("A"), external_id="A", date_of_service="2026-01-05")
    tellings = [sent_again(company, check(paid(), trace="T1")), by_fhir(company, "T1", "70.00")]
    assert [await one for one in (tellings if first == "x12" else tellings[::-1])] == [POSTED, QUARANTINED]
    (row,) = await company.exceptions(reason="conflict")
    assert (await retried(company, row))["state"] == "open"
    await reverse(company, "T1")
    assert (await retried(company, row))["state"] == "retried"
    assert (await now(company, charge))[0][0] == (7_000 if first == "x12" else 8_000)
    await true(company)
