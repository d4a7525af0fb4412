"""FHIR R4 by HTTP on a real database: what each resource leaves in the books, in whatever order and however often."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome

from services.ledger.feeds.fhir.facts import outcomes
from services.ledger.feeds.fhir.reader import ACCEPTED
from shared.access.policy import EMR_CLIENT
from tests.support.databases import Databases
from tests.support.fhir_builder import (
    Raw,
    body,
    bundle,
    charge_item,
    claim,
    claim_item,
    concept,
    detail,
    invoice,
    invoice_line,
    money,
    notice,
    patient,
    reconciliation,
)
from tests.support.ledger import COUNTS, Answer, Company, LedgerStack, clinic_of, fold, patient_body, together
from tests.support.x12_builder import ClaimPayment, Payment, Service, x12_file

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples" / "fhir"
FHIR = "application/fhir+json"


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


@dataclass(slots=True)
class Sender:
    """An EMR that sends FHIR for one company."""

    company: Company
    client_id: str

    @classmethod
    async def made(cls, stack: LedgerStack, *, locations: int = 1, sources: tuple[str, ...] = ()) -> Sender:
        company = await stack.company(locations=locations)
        return cls(company, await stack.emr_client([company], *sources))

    @property
    def place(self) -> Raw:
        """The first location, by identifier."""
        return {"identifier": {"value": clinic_of(self.company.locations[0])}}

    def charge_item(self, price: str | None = "120.00", **changes: Any) -> Raw:
        return charge_item(price, **{"performingOrganization": self.place, **changes})

    def claim(self, *items: Raw, version: int = 1, **changes: Any) -> Raw:
        return claim(*items, **{"facility": self.place, "meta": {"versionId": str(version)}, **changes})

    def notice(self, amount: str = "25.00", **changes: Any) -> Raw:
        return notice(amount, **{"payee": self.place, **changes})

    async def answer(self, content: bytes, *, token: str | None = None, **headers: str) -> Answer:
        headers.setdefault("Content-Type", FHIR)
        token = token or self.company.token(EMR_CLIENT, client_id=self.client_id)
        stack = self.company.stack
        return await stack.request("POST", "/v1/feeds/fhir", token, data=content, headers=headers)

    async def feed(self, value: Raw | bytes, **more: Any) -> Any:
        """The feed's document, which counts everything once."""
        answer = await self.answer(value if isinstance(value, bytes) else body(value), **more)
        assert answer.status == 200, answer
        feed = answer.body
        assert (feed["state"], feed["format"]) == ("done", "fhir")
        assert feed["received"] == sum(feed[name] for name in COUNTS[1:])
        assert feed == await self.company.get(f"/v1/feeds/{feed['feed_id']}")
        return feed

    async def send(self, *resources: Raw) -> tuple[int, ...]:
        """The counts of a Bundle of these, with what they refer to beside them."""
        feed = await self.feed(bundle(*resources, patient()))
        assert feed["received"] == len(resources) + 1
        return tuple(feed[name] - (name in ("received", "ignored")) for name in COUNTS)

    async def charges(self) -> dict[str, list[tuple[str, int, int]]]:
        """Code, amount and balance of what stands, by what payers call it."""
        rows = (await self.company.get("/v1/charges", limit=500))["items"]
        found: dict[str, list[tuple[str, int, int]]] = {}
        standing = [row for row in rows if row["status"] != "void"]
        for row in sorted(standing, key=lambda row: (row["procedure_code"], row["amount_cents"])):
            found.setdefault(row["external_id"], []).append(
                (row["procedure_code"], row["amount_cents"], row["balance_cents"])
            )
        return found

    async def payments(self) -> list[Any]:
        rows: list[Any] = (await self.company.get("/v1/payments", limit=500))["items"]
        return [row for row in rows if row["amount_cents"]]

    async def retried(self, reason: str, *, done: bool = True) -> Any:
        (row,) = await self.company.exceptions(reason=reason, state="open")
        tried = await self.company.send("POST", f"/v1/exceptions/{row['id']}/retry", key="")
        assert tried.status == 200, tried
        assert tried.body["state"] == ("retried" if done else "open"), tried
        return tried.body

    async def consistent(self) -> None:
        """What is told to the reports is what stands in the books."""
        assert fold(await self.company.events()) == await self.company.totals()


def line(number: int, net: str = "120.00", code: str = "97110", **changes: Any) -> Raw:
    return claim_item(number, net, productOrService=concept(code), **changes)


# ---- charges


async def test_a_page_of_a_search_is_counted_entry_by_entry(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    page = bundle(sender.charge_item(), patient(), sender.claim(), kind="searchset")
    page["entry"][1]["search"] = page["entry"][2]["search"] = {"mode": "include"}
    feed = await sender.feed(page)
    assert [feed[name] for name in COUNTS] == [3, 1, 0, 2, 0]
    assert await sender.charges() == {"C-77": [("97110", 12_000, 12_000)]}
    again = await sender.feed(bundle(sender.charge_item(), patient(), kind="collection"))
    assert [again[name] for name in COUNTS] == [2, 0, 1, 1, 0]


async def test_a_charge_item(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    assert await sender.send(sender.charge_item()) == (1, 1, 0, 0, 0)
    (row,) = (await sender.company.get("/v1/charges"))["items"]
    person = (await sender.company.get(f"/v1/patients/{row['patient_id']}"))["account_number"]
    assert (row["external_id"], row["location_id"], person) == ("C-77", str(sender.company.locations[0]), "ABC-1001")
    assert (row["amount_cents"], row["units"], row["modifiers"], row["diagnosis_codes"]) == (
        120_00,
        2,
        ["GP"],
        ["M54.50"],
    )
    assert (row["date_of_service"], row["procedure_code"]) == ("2026-01-05", "97110")
    assert await sender.send(sender.charge_item()) == (1, 0, 1, 0, 0)
    changed = sender.charge_item("90.00", meta={"versionId": "4"})
    assert await sender.send(changed) == (1, 1, 0, 0, 0)
    assert await sender.send(sender.charge_item()) == (1, 0, 0, 1, 0)
    assert await sender.send(sender.charge_item("91.00", meta={"versionId": "4"})) == (1, 0, 0, 0, 1)
    assert await sender.company.reasons() == {"conflict": 1}
    assert await sender.charges() == {"C-77": [("97110", 90_00, 90_00)]}
    gone = sender.charge_item(meta={"versionId": "4"}, status="entered-in-error")
    assert await sender.send(gone) == (1, 1, 0, 0, 0)
    assert await sender.send(gone) == (1, 0, 1, 0, 0)
    assert await sender.charges() == {}
    await sender.consistent()


async def test_a_void_that_comes_before_its_charge_wins(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    gone = sender.claim(line(1), line(2, "45.00"), version=2, status="cancelled")
    assert await sender.send(gone) == (1, 0, 0, 1, 0)
    assert await sender.send(sender.claim(line(1), line(2, "45.00"))) == (1, 0, 0, 1, 0)
    assert await sender.charges() == {}
    assert await sender.send(sender.claim(line(1), version=3)) == (1, 1, 0, 0, 0)
    assert await sender.charges() == {"CLM-5": [("97110", 120_00, 120_00)]}


async def test_a_line_that_a_later_claim_no_longer_has_is_taken_back(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    assert await sender.send(sender.claim(line(1), line(2, "45.00", "97140"), line(7, "30.00", "97530"))) == (
        1,
        1,
        0,
        0,
        0,
    )
    other = sender.claim(
        line(1, "11.00"), line(12, "12.00"), identifier=[{"system": "urn:emr:claim", "value": "CLM-50"}]
    )
    hashed = sender.claim(line(1, "13.00"), identifier=[{"system": "urn:emr:claim", "value": "CLM-5#2"}])
    assert await sender.send(other, hashed) == (2, 2, 0, 0, 0)
    assert await sender.send(sender.claim(line(2, "50.00", "97140"), version=2)) == (1, 1, 0, 0, 0)
    left = {"CLM-50": [("97110", 11_00, 11_00), ("97110", 12_00, 12_00)], "CLM-5#2": [("97110", 13_00, 13_00)]}
    assert await sender.charges() == {"CLM-5": [("97140", 50_00, 50_00)], **left}
    assert await sender.send(sender.claim(line(1), line(2, "50.00", "97140"), version=3)) == (1, 1, 0, 0, 0)
    assert (await sender.charges())["CLM-5"] == [("97110", 120_00, 120_00), ("97140", 50_00, 50_00)]
    # Nothing at all is left of it; and a state that says the same changes nothing but the version.
    assert await sender.send(sender.claim(version=4) | {"item": []} | {"item": [line(1)]}) == (1, 1, 0, 0, 0)
    before = await sender.company.rows()
    assert await sender.send(sender.claim(line(1), version=9)) == (1, 0, 1, 0, 0)
    assert (await sender.company.rows())["posting"] == before["posting"]
    assert await sender.send(sender.claim(line(1), line(2), version=8)) == (1, 0, 0, 1, 0)
    empty = {name: value for name, value in sender.claim(version=10).items() if name != "item"}
    assert await sender.send(empty) == (1, 1, 0, 0, 0)
    assert await sender.charges() == left
    await sender.consistent()


async def test_a_claim_is_posted_whole_or_not_at_all(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.claim(line(1), line(2, "45.00", "97140")))
    (row,) = [one for one in (await sender.company.get("/v1/charges"))["items"] if one["procedure_code"] == "97140"]
    payer = await sender.company.payer()
    paid = await sender.company.payment(payer_id=payer["id"], amount_cents=20_00)
    applications = {"applications": [{"charge_id": row["id"], "amount_cents": 20_00}]}
    await sender.company.post(f"/v1/payments/{paid['id']}/applications", applications)
    before = await sender.company.rows()
    # The first line may change, the second must not go: money is applied to it.
    assert await sender.send(sender.claim(line(1, "99.00"), version=2)) == (1, 0, 0, 0, 1)
    assert await sender.company.reasons() == {"charge_has_payments": 1}
    assert (await sender.company.rows())["posting"] == before["posting"]
    assert [amount for _, amount, _ in (await sender.charges())["CLM-5"]] == [120_00, 45_00]
    await sender.company.post(f"/v1/payments/{paid['id']}/reversal", {})
    await sender.retried("charge_has_payments")
    assert await sender.charges() == {"CLM-5": [("97110", 99_00, 99_00)]}
    await sender.consistent()


async def test_charges_of_nothing_are_none(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    assert await sender.send(sender.charge_item("0.00")) == (1, 0, 0, 1, 0)
    assert await sender.send(sender.claim(line(1, "0"), line(2, "0.00"))) == (1, 0, 0, 1, 0)
    assert await sender.charges() == {}
    assert await sender.send(sender.claim(line(1, "0"), line(2, "5.00"), version=2)) == (1, 1, 0, 0, 0)
    assert await sender.charges() == {"CLM-5": [("97110", 5_00, 5_00)]}
    assert await sender.send(sender.claim(line(1, "0"), line(2, "0"), version=3)) == (1, 1, 0, 0, 0)
    assert await sender.charges() == {}


async def test_an_invoice_bills_its_own_lines_and_charge_items(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    by_item = invoice_line("80.00", 2, chargeItemReference={"reference": "ChargeItem/ci1"})
    del by_item["chargeItemCodeableConcept"]
    item = sender.charge_item(None)
    first = invoice(invoice_line("20.00"), by_item, issuer=sender.place)
    assert await sender.send(first, item) == (2, 1, 0, 1, 0)
    assert await sender.charges() == {"INV-8": [("97110", 20_00, 20_00)], "C-77": [("97110", 80_00, 80_00)]}
    # The line is now billed by its charge item alone, so the invoice's own one is gone.
    later = invoice(by_item, issuer=sender.place, meta={"versionId": "2"})
    assert await sender.send(later, item) == (2, 1, 0, 1, 0)
    assert await sender.charges() == {"C-77": [("97110", 80_00, 80_00)]}
    twice = invoice(by_item, {**by_item, "sequence": 3}, issuer=sender.place, meta={"versionId": "3"})
    assert await sender.send(twice, item) == (2, 0, 0, 1, 1)
    assert await sender.company.reasons() == {"duplicate_charge_item": 1}


# ---- who, where, from whom


async def test_a_patient_that_nobody_knows_waits(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    alone = sender.charge_item(subject={"reference": "Patient/77"})
    feed = await sender.feed(alone)
    assert [feed[name] for name in COUNTS] == [1, 0, 0, 0, 1]
    (row,) = await sender.company.exceptions()
    assert row["detail"]["errors"][0]["field"] == "patient.first_name"
    await sender.retried("missing", done=False)
    await sender.company.patient("77")
    await sender.retried("missing")
    assert await sender.charges() == {"C-77": [("97110", 120_00, 120_00)]}
    feed = await sender.company.get(f"/v1/feeds/{feed['feed_id']}")
    assert [feed[name] for name in COUNTS] == [1, 1, 0, 0, 0]
    again = await sender.feed(alone)
    assert [again[name] for name in COUNTS] == [1, 0, 1, 0, 0]


async def test_a_clinic_that_is_mapped_afterwards(stack: LedgerStack) -> None:
    sender = await Sender.made(stack, locations=2)
    unknown = {"reference": "Organization/elsewhere"}
    nowhere = sender.charge_item(performingOrganization=None, id="ci2", identifier=None)
    assert await sender.send(sender.claim(line(1), facility=unknown, provider=unknown), nowhere) == (2, 0, 0, 0, 2)
    rows = await sender.company.exceptions()
    assert {tuple(row["detail"]["emr_clinic_ids"]) for row in rows} == {("elsewhere",), ()}
    mapping = {"alias": "elsewhere", "location_id": str(sender.company.locations[1])}
    agreed = {"clinics": [mapping], "payers": [], "procedures": []}
    assert (await sender.company.send("PUT", "/v1/feed-mappings", agreed)).status == 200
    tried = await sender.company.post("/v1/exceptions/retry", {"reason": "unknown_clinic"}, status=200, key="")
    assert tried["retried"] == 1
    (row,) = (await sender.company.get("/v1/charges"))["items"]
    assert (row["external_id"], row["location_id"]) == ("CLM-5", str(sender.company.locations[1]))


async def test_the_only_location_is_meant_when_none_is_named(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    assert await sender.send(sender.charge_item(performingOrganization=None)) == (1, 1, 0, 0, 0)
    other = sender.charge_item(performingOrganization={"identifier": {"value": "X"}}, identifier=None)
    assert await sender.send(other) == (1, 0, 0, 0, 1)


async def test_a_procedure_that_is_mapped_afterwards(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    code = concept("410620009", "http://snomed.info/sct")
    sent = sender.charge_item(code=code)
    assert await sender.send(sent) == (1, 0, 0, 0, 1)
    mapping = {"alias": "410620009", "procedure_code": "97161"}
    agreed = {"clinics": [], "payers": [], "procedures": [mapping]}
    assert (await sender.company.send("PUT", "/v1/feed-mappings", agreed)).status == 200
    await sender.retried("invalid_procedure_code")
    assert await sender.charges() == {"C-77": [("97161", 120_00, 120_00)]}
    assert await sender.send(sent) == (1, 0, 1, 0, 0)


async def test_the_source_is_registered_or_the_clients_own(stack: LedgerStack) -> None:
    sender = await Sender.made(stack, sources=("https://emr.example/fhir",))
    named = {"versionId": "3", "source": "https://emr.example/fhir#request-1"}
    assert await sender.send(sender.charge_item(meta=named)) == (1, 1, 0, 0, 0)
    named["source"] = "https://emr.example/fhir#request-2"
    assert await sender.send(sender.charge_item(meta=named)) == (1, 0, 1, 0, 0)
    # Without a source it is another document: the client's own.
    assert await sender.send(sender.charge_item(meta={"versionId": "3", "source": "#request-3"})) == (1, 1, 0, 0, 0)
    named["source"] = "https://other.example"
    assert await sender.send(sender.charge_item(meta=named)) == (1, 0, 0, 0, 1)
    assert (await sender.company.exceptions())[0]["detail"] == {"source": "https://other.example"}
    await sender.retried("unknown_source", done=False)
    await stack.owner.execute(
        "update directory_client set sources = sources || '{https://other.example}' where client_id = $1",
        sender.client_id,
    )
    await sender.retried("unknown_source")
    assert len((await sender.charges())["C-77"]) == 3


async def test_a_person_sends_for_the_only_client_or_names_the_source(stack: LedgerStack) -> None:
    sender = await Sender.made(stack, sources=("urn:a",))
    person = sender.company.token()
    assert (await sender.feed(sender.charge_item(subject={"reference": "Patient/77"}), token=person))["quarantined"]
    await sender.company.patient("77")
    await sender.retried("missing")
    same = await sender.feed(sender.charge_item(subject={"reference": "Patient/77"}))
    assert same["duplicates"] == 1
    await stack.emr_client([sender.company], "urn:b")
    item = sender.charge_item(subject={"reference": "Patient/77"}, identifier=None)
    assert (await sender.feed(item, token=person))["quarantined"] == 1
    assert await sender.company.reasons(state="open") == {"unknown_source": 1}
    assert (await sender.feed({**item, "meta": {"source": "urn:b"}}, token=person))["posted"] == 1
    # A client has only the sources that are its own.
    assert (await sender.feed({**item, "meta": {"source": "urn:b"}}))["quarantined"] == 1


# ---- payments


def at_clinic(sender: Sender) -> list[Raw]:
    """A claim with the patient that a notice is for."""
    return [sender.claim(line(1))]


async def test_a_notice_is_a_payment_of_its_patient(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    assert await sender.send(sender.notice(), *at_clinic(sender)) == (2, 2, 0, 0, 0)
    (row,) = await sender.payments()
    assert (row["amount_cents"], row["source"], row["deposit_date"], row["check_number"]) == (
        25_00,
        "emr",
        "2026-01-05",
        "EFT-901",
    )
    assert (row["payer_id"], row["location_id"]) == (None, str(sender.company.locations[0]))
    assert await sender.send(sender.notice(), *at_clinic(sender)) == (2, 0, 2, 0, 0)
    more = sender.notice("30.00", meta={"versionId": "2"})
    assert await sender.send(more, *at_clinic(sender)) == (2, 1, 1, 0, 0)
    assert (await sender.company.sums())["amount_cents"] == 30_00
    gone = sender.notice("30.00", meta={"versionId": "2"}, status="cancelled")
    assert await sender.send(gone) == (1, 1, 0, 0, 0)
    assert (await sender.company.sums())["amount_cents"] == 0
    assert await sender.send(
        sender.notice("0.00", id="n2", payment={"reference": "PaymentReconciliation/x"}), *at_clinic(sender)
    ) == (2, 0, 1, 1, 0)
    await sender.consistent()


async def test_a_payers_payment_is_applied_where_its_claim_is_one_charge(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    two = sender.claim(line(1), line(2, "45.00"), identifier=[{"value": "CLM-2"}], id="cl2")
    await sender.send(sender.claim(line(1)), two)
    sent = reconciliation(
        "170.00", detail("80.00"), detail("100.00", "CLM-2"), detail("5.00", "CLM-X"), detail("-15.00", None, "advance")
    )
    feed = await sender.feed(sent)
    assert [feed[name] for name in COUNTS] == [1, 1, 0, 0, 0]
    assert (feed["control_total_cents"], feed["posted_total_cents"], feed["exceptions"]) == (170_00, 170_00, 2)
    (row,) = await sender.payments()
    assert (row["source"], row["check_number"], row["method"]) == ("era", "EFT-900", "other")
    payer = await sender.company.get(f"/v1/payers/{row['payer_id']}")
    assert (payer["name"], payer["code"]) == ("Example Health", "PAYER-1")
    sums = await sender.company.sums()
    assert (sums["amount_cents"], sums["applied_cents"], sums["provider_level_cents"], sums["unapplied_cents"]) == (
        170_00,
        80_00,
        -15_00,
        105_00,
    )
    assert await sender.company.reasons() == {"ambiguous_line": 1, "unmatched_claim": 1}
    assert (await sender.charges())["CLM-5"] == [("97110", 120_00, 40_00)]
    assert row["location_id"] == str(sender.company.locations[0])
    assert (await sender.feed(sent))["duplicates"] == 1
    # The claim that was missing comes, and the part of it is tried again.
    await sender.retried("unmatched_claim", done=False)
    await sender.send(sender.claim(line(1, "9.00"), identifier=[{"value": "CLM-X"}], id="cl3"))
    await sender.retried("unmatched_claim")
    await sender.retried("ambiguous_line", done=False)
    assert (await sender.company.sums())["applied_cents"] == 85_00
    await sender.consistent()


async def test_a_reconciliation_may_change_and_be_taken_back(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.claim(line(1)))
    versions = [
        reconciliation("80.00", detail("80.00"), detail("-9.00", "CLM-X"), detail("9.00", "CLM-Y")),
        reconciliation("70.00", detail("70.00"), meta={"versionId": "2"}),
        reconciliation("70.00", detail("70.00"), meta={"versionId": "3"}),
    ]
    assert [(await sender.feed(one))["posted"] for one in versions] == [1, 1, 0]
    assert [(await sender.feed(one))["ignored"] for one in versions] == [1, 1, 0]
    sums = await sender.company.sums()
    assert (sums["payments"], sums["amount_cents"], sums["applied_cents"]) == (1, 70_00, 70_00)
    rows = await sender.company.exceptions(reason="unmatched_claim")
    assert len(rows) == 2
    answer = await sender.company.send("POST", f"/v1/exceptions/{rows[0]['id']}/retry", key="")
    assert answer.body["history"][-1]["reason"] == "stale_version"
    other = reconciliation("71.00", detail("71.00"), meta={"versionId": "3"})
    assert (await sender.feed(other))["quarantined"] == 1
    gone = reconciliation("70.00", detail("70.00"), meta={"versionId": "4"}, status="cancelled")
    assert (await sender.feed(gone))["posted"] == 1
    assert (await sender.company.sums())["amount_cents"] == 0
    assert (await sender.charges())["CLM-5"] == [("97110", 120_00, 120_00)]
    assert (await sender.feed(gone))["duplicates"] == 1
    await sender.consistent()


async def test_a_payer_may_take_money_back_from_a_claim(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.claim(line(1)), sender.claim(line(1, "60.00"), identifier=[{"value": "CLM-2"}], id="cl2"))
    await sender.feed(reconciliation("80.00", detail("80.00")))
    moved = reconciliation(
        "0.00", detail("50.00", "CLM-2"), detail("-50.00"), identifier=[{"value": "R-2"}], paymentIdentifier=None
    )
    assert (await sender.feed(moved))["posted"] == 1
    assert await sender.charges() == {"CLM-5": [("97110", 120_00, 90_00)], "CLM-2": [("97110", 60_00, 10_00)]}
    # More than is open, unless what is taken back is taken back first.
    anew = reconciliation("80.00", detail("110.00"), detail("-30.00"), identifier=[{"value": "R-4"}])
    assert (await sender.feed({**anew, "paymentIdentifier": {"value": "EFT-902"}}))["exceptions"] == 0
    assert (await sender.charges())["CLM-5"] == [("97110", 120_00, 10_00)]
    nothing = reconciliation("0.00", identifier=[{"value": "R-3"}], paymentIdentifier=None)
    assert (await sender.feed(nothing))["ignored"] == 1
    await sender.consistent()


async def test_the_name_of_a_claim_is_no_account_number(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.claim(line(1), identifier=[{"value": "CLM-2"}]))
    await sender.feed(reconciliation("80.00", detail("80.00", "ABC-1001")))
    assert await sender.company.reasons() == {"unmatched_claim": 1}
    assert (await sender.company.sums())["unapplied_cents"] == 80_00


async def test_an_835_finds_the_lines_of_a_claim(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.claim(line(1), line(2, "45.00", "97140")))
    services = (Service(charge_cents=120_00), Service(charge_cents=45_00, code="97140"))
    answer = await sender.company.upload(
        "x12", x12_file([Payment(trace="T1", claims=(ClaimPayment(account="CLM-5", services=services),))])
    )
    assert (answer.body["posted"], answer.body["exceptions"]) == (1, 0), answer
    assert [balance for _, _, balance in (await sender.charges())["CLM-5"]] == [0, 0]


async def test_a_payer_that_was_mapped(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    payer = await sender.company.payer()
    mapping = {"alias": "example health", "payer_id": payer["id"]}
    agreed = {"clinics": [], "payers": [mapping], "procedures": []}
    assert (await sender.company.send("PUT", "/v1/feed-mappings", agreed)).status == 200
    await sender.feed(reconciliation("80.00"))
    (row,) = await sender.payments()
    assert (row["payer_id"], row["unapplied_cents"]) == (payer["id"], 80_00)


async def test_what_does_not_add_up_waits_for_a_person(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    feed = await sender.feed(reconciliation("80.00", detail("79.99")))
    assert (feed["quarantined"], feed["control_total_cents"], feed["difference_cents"]) == (1, 80_00, 80_00)
    (row,) = await sender.company.exceptions()
    assert (row["reason"], row["source"]) == ("unbalanced", "era")
    assert row["detail"]["errors"][0]["difference_cents"] == 1
    await sender.retried("unbalanced", done=False)


async def test_a_notice_for_a_patient_waits_for_him_and_is_then_his(stack: LedgerStack) -> None:
    """As an EMR sends it that knows no number of the payment (Canvas): alone, for a patient who may be unknown here."""
    sender = await Sender.made(stack)
    told = sender.notice(
        request={"reference": "Patient/p77"}, payment={"display": "Unused"}, paymentDate=None, identifier=None
    )
    assert await sender.send(told) == (1, 0, 0, 0, 1)
    await sender.company.patient("p77")
    (waits,) = await sender.company.exceptions()
    await sender.company.post(f"/v1/exceptions/{waits['id']}/retry", status=200)
    (row,) = await sender.payments()
    assert (row["amount_cents"], row["deposit_date"]) == (25_00, "2026-01-05")
    assert await sender.send(told) == (1, 0, 1, 0, 0)
    await sender.consistent()


@pytest.mark.parametrize("notice_first", [True, False])
async def test_the_same_money_under_two_names_is_posted_once(stack: LedgerStack, notice_first: bool) -> None:
    sender = await Sender.made(stack)
    told = sender.notice("80.00", payment={"identifier": {"system": "urn:payer:eft", "value": "EFT-900"}})
    inputs = [bundle(told, *at_clinic(sender), patient()), reconciliation("80.00")]
    for value in inputs if notice_first else reversed(inputs):
        await sender.feed(value)
    sums = await sender.company.sums()
    assert (sums["payments"], sums["amount_cents"]) == (1, 80_00)
    for value in inputs:
        feed = await sender.feed(value)
        assert feed["posted"] == feed["quarantined"] == 0
    assert await sender.company.sums() == sums


async def test_the_same_name_with_other_money_waits(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    told = sender.notice("25.00", payment={"identifier": {"system": "urn:payer:eft", "value": "EFT-900"}})
    assert await sender.send(told, *at_clinic(sender), reconciliation("80.00")) == (3, 2, 0, 0, 1)
    assert await sender.company.reasons() == {"conflict": 1}
    assert (await sender.company.sums())["amount_cents"] == 80_00


async def test_a_notice_that_was_withdrawn_hides_no_payment(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    payment = {"identifier": {"system": "urn:payer:eft", "value": "EFT-900"}}
    await sender.send(sender.notice("80.00", payment=payment), *at_clinic(sender))
    sent = reconciliation("80.00")
    assert (await sender.feed(sent))["ignored"] == 1
    await sender.send(sender.notice("80.00", payment=payment, status="cancelled"))
    assert (await sender.feed(sent))["posted"] == 1
    assert (await sender.company.sums())["amount_cents"] == 80_00


# ---- counting, in any order


def beside(sender: Sender) -> list[Raw]:
    """What the others refer to: a patient, and a draft that posts nothing."""
    return [patient(), sender.claim(line(1), id="draft", status="draft")]


def a_day(sender: Sender) -> list[Raw]:
    """Versions and voids of several documents, and the payments for them."""
    claims = [
        sender.claim(*lines, version=version, identifier=[{"value": f"CLM-{number}"}], id=f"cl{number}", status=status)
        for number in (1, 2, 3)
        for version, lines, status in (
            (1, [line(1), line(2, "45.00", "97140")], "active"),
            (2, [line(2, "50.00", "97140"), line(3, "10.00", "97530")], "active"),
            (3, [line(1, "70.00")], "active" if number < 3 else "cancelled"),
        )
    ]
    items = [
        sender.charge_item(price, identifier=[{"value": f"C-{number}"}], meta={"versionId": str(version)})
        for number in (1, 2)
        for version, price in ((1, "10.00"), (2, "20.00"), (5, "0.00" if number == 2 else "33.00"))
    ]
    notices = [
        sender.notice(
            amount,
            payment={"identifier": {"value": "CASH-1"}},
            meta={"versionId": str(version)},
            request={"reference": "Claim/draft"},
        )
        for version, amount in ((1, "25.00"), (2, "15.00"))
    ]
    paid = [
        reconciliation(amount, meta={"versionId": str(version)}, identifier=[{"value": "R-1"}])
        for version, amount in ((1, "80.00"), (2, "70.00"))
    ]
    return [*claims, *items, *notices, *paid]


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_and_any_packing_comes_to_the_same_books(stack: LedgerStack, seed: int) -> None:
    draw = random.Random(seed)
    plain, mixed = await Sender.made(stack), await Sender.made(stack)
    for resource in a_day(plain):
        assert (await plain.feed(bundle(resource, *beside(plain))))["quarantined"] == 0
    sent = [*a_day(mixed), *a_day(mixed)]
    draw.shuffle(sent)
    total: Counter[str] = Counter()
    while sent:
        some, sent = sent[: (size := draw.randint(1, 12))], sent[size:]
        feed = await mixed.feed(bundle(*some, *beside(mixed)))
        total.update({name: feed[name] for name in COUNTS})
        assert feed["quarantined"] == 0, await mixed.company.exceptions()
    assert total["received"] == sum(total[name] for name in COUNTS[1:])
    assert await mixed.charges() == await plain.charges() != {}
    assert await mixed.company.sums() == await plain.company.sums()
    assert (await mixed.company.sums())["amount_cents"] == 85_00
    await mixed.consistent()


async def test_states_that_come_at_the_same_moment(stack: LedgerStack) -> None:
    sender, other = await Sender.made(stack), await Sender.made(stack)
    states = [
        sender.claim(
            *(line(n, "10.00") for n in range(version, version + 3)),
            version=version,
            facility=None,
            provider={"display": "PT"},
        )
        for version in range(1, 9)
    ]
    sent = [bundle(one, patient()) for one in states]
    draw = random.Random(1)
    for _ in range(3):
        draw.shuffle(sent)
        answers = await together(*(sender.answer(body(one)) for one in sent))
        assert {answer.status for answer in answers} <= {200, 503}
    assert (await sender.feed(bundle(*states, patient())))["posted"] == 0
    # And in one Bundle where nothing was before.
    assert await other.send(*states) == (8, 8, 0, 0, 0)
    assert await other.charges() == await sender.charges()
    assert await sender.charges() == {"CLM-5": [("97110", 10_00, 10_00)] * 3}
    assert await sender.company.reasons() == {}
    await sender.consistent()


async def test_an_interrupted_feed_is_finished_when_it_comes_again(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    content = body(
        bundle(sender.claim(line(1)), sender.charge_item(), patient(), reconciliation("80.00", detail("79.00")))
    )
    first = await sender.feed(content)
    await stack.owner.execute("update feed set state = 'processing' where feed_id = $1", first["feed_id"])
    await stack.owner.execute("delete from feed_item where feed_id = $1 and item_key like '1 %'", first["feed_id"])
    again = await sender.feed(content)
    assert again["feed_id"] == first["feed_id"]
    assert again["received"] == 4
    assert await sender.charges() == {"CLM-5": [("97110", 120_00, 120_00)], "C-77": [("97110", 120_00, 120_00)]}
    assert await sender.company.reasons() == {"unbalanced": 1}


async def test_an_item_can_be_looked_at(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    await sender.send(sender.charge_item("1.005"))
    (row,) = await sender.company.exceptions()
    one = await sender.company.get(f"/v1/exceptions/{row['id']}")
    assert (one["reason"], one["decoded"]["issues"][0]["code"]) == ("three_decimals", "three_decimals")
    raw = await sender.company.send("GET", f"/v1/exceptions/{row['id']}/raw")
    assert b'"value":1.005' in raw.raw
    assert raw.body["resourceType"] == "ChargeItem"
    assert sender.company.stack is stack


# ---- what cannot be read


def deep(levels: int) -> bytes:
    return b'{"resourceType":"ChargeItem","x":' + b'{"a":' * levels + b"1" + b"}" * levels + b"}"


UNREADABLE = {
    "empty": (b"", 400, "not_json"),
    "text": (b"hello", 400, "not_json"),
    "not UTF-8": (b'{"resourceType":"\xff"}', 400, "not_json"),
    "cut off": (b'{"resourceType":"ChargeItem"', 400, "not_json"),
    "bottomless": (deep(100_000), 400, "not_json"),
    "NaN": (b'{"resourceType":"ChargeItem","priceOverride":{"value":NaN}}', 400, "not_a_number"),
    "infinity": (b'{"resourceType":"ChargeItem","priceOverride":{"value":-Infinity}}', 400, "not_a_number"),
    "long integer": (b'{"resourceType":"ChargeItem","x":' + b"9" * 5_000 + b"}", 400, "not_a_number"),
    "exponent": (b'{"resourceType":"ChargeItem","x":1e99999999999999999999}', 400, "not_a_number"),
    "repeated name": (b'{"resourceType":"ChargeItem","id":"1","id":"2"}', 400, "duplicate_key"),
    "list": (b"[]", 422, "not_fhir"),
    "no resource": (b'{"a":1}', 422, "not_fhir"),
    "type that is a number": (b'{"resourceType":5}', 422, "not_fhir"),
    "unknown type": (b'{"resourceType":"Chargeitem"}', 422, "unknown_resource"),
    "only a patient": (body(patient()), 422, "unsupported_resource"),
    "empty bundle": (body(bundle()), 422, "nothing_known"),
    "history": (body(bundle(patient(), kind="history")), 422, "unsupported_bundle"),
    "bundle of nothing known": (body(bundle({"resourceType": "Chargeitem"})), 422, "unknown_resource"),
    "entry that is a number": (b'{"resourceType":"Bundle","type":"batch","entry":[1,null]}', 422, "missing_resource"),
    "too many": (
        b'{"resourceType":"Bundle","type":"batch","entry":[' + b",".join([b"{}"] * 10_001) + b"]}",
        422,
        "too_many",
    ),
    "too large": (b" " * ((8 << 20) + 1), 413, "too_large"),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_cannot_be_read_is_answered_as_fhir_and_leaves_nothing(stack: LedgerStack, name: str) -> None:
    sender = await Sender.made(stack)
    content, status, code = UNREADABLE[name]
    before = await sender.company.rows()
    for headers in ({}, {"Accept": FHIR}, {"Content-Type": "application/json"}):
        answer = await sender.answer(content, **headers)
        assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (status, FHIR), answer
        outcome = answer.body
        OperationOutcome.model_validate(outcome)
        assert outcome["issue"][0]["details"]["coding"][0]["code"] == code
    assert await sender.company.rows() == before


async def test_who_may_not_send_gets_a_problem(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    content = body(sender.charge_item())
    assert (await sender.answer(content, **{"Content-Type": "text/plain"})).code == "unsupported_media_type"
    answer = await stack.request("POST", "/v1/feeds/fhir", None, data=content, headers={"Accept": FHIR})
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert answer.headers["Content-Type"].startswith("application/problem+json")


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "three decimals": ({"priceOverride": money("1.005")}, "three_decimals"),
    "huge": ({"priceOverride": money("1e300")}, "amount_out_of_range"),
    "tiny": ({"priceOverride": money("1e-300")}, "three_decimals"),
    "negative": ({"priceOverride": money("-5.00")}, "negative_amount"),
    "euro": ({"priceOverride": money("5.00", "EUR")}, "currency"),
    "unknown field": ({"priceoverride": 1}, "unknown_field"),
    "status": ({"status": "banana"}, "unknown_status"),
    "deep": ({"extension": [json.loads(deep(60))["x"]]}, "too_deep"),
    "modifier extension": ({"modifierExtension": [{"url": "urn:x", "valueBoolean": True}]}, "modifier_extension"),
    "control character": ({"identifier": [{"value": "a\u0000b"}]}, "invalid_identifier"),
    "long name": ({"identifier": [{"value": "x" * 300}]}, "invalid_identifier"),
    "units": ({"quantity": {"value": 1.5}}, "invalid_units"),
    "day": ({"occurrenceDateTime": "2026-01"}, "invalid_date"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_bad_resource_does_not_hold_up_the_others(stack: LedgerStack, name: str) -> None:
    sender = await Sender.made(stack)
    changes, reason = HOSTILE[name]
    assert await sender.send(sender.charge_item(**changes), sender.claim(line(1))) == (2, 1, 0, 0, 1)
    (row,) = await sender.company.exceptions()
    assert row["reason"] == reason or reason in {error["code"] for error in row["detail"]["errors"]}, row
    assert (await sender.company.rows())["charge"] == 1


async def test_a_bundle_of_the_largest_size(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    entries = [{"resource": {"resourceType": "Basic"}}] * 9_000 + [{"resource": {"resourceType": "Bsaic"}}] * 1_000
    feed = await sender.feed(body({"resourceType": "Bundle", "type": "collection", "entry": entries}))
    assert [feed[name] for name in COUNTS] == [10_000, 0, 0, 9_000, 1_000]


async def test_hundreds_of_claims_in_one_bundle(stack: LedgerStack) -> None:
    """More than one chunk, with two states of each claim."""
    sender = await Sender.made(stack)
    claims = [
        sender.claim(*lines, version=version, id=f"c{number}", identifier=[{"value": f"N{number}"}])
        for number in range(230)
        for version, lines in ((2, [line(1, "10.00")]), (1, [line(1, "11.00"), line(2, "5.00")]))
    ]
    assert await sender.send(*claims) == (460, 230, 0, 230, 0)
    rows = (await sender.company.rows())["charge"]
    assert rows == 230
    again = await sender.send(*claims[:40])
    assert again == (40, 0, 20, 20, 0)


async def test_metadata(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    token = sender.company.token(EMR_CLIENT, client_id=sender.client_id)
    answer = await stack.request("GET", "/v1/feeds/fhir/metadata", token)
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, FHIR)
    statement = answer.body
    CapabilityStatement.model_validate(statement)
    assert {row["type"] for row in statement["rest"][0]["resource"]} == set(ACCEPTED)
    assert statement["fhirVersion"] == "4.0.1"


# ---- the samples


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
async def test_sample(stack: LedgerStack, path: Path) -> None:
    """Every resource is posted, ignored or quarantined as its reader says; sent again, nothing changes."""
    sender = await Sender.made(stack)
    content = path.read_bytes()
    states = Counter(outcome.state for outcome in outcomes(content))
    # The samples name providers of their own as places, and patients by number only.
    mapped = [{"alias": name, "location_id": str(sender.company.locations[0])} for name in ("1", "2")]
    agreed = {"clinics": mapped, "payers": [], "procedures": []}
    assert (await sender.company.send("PUT", "/v1/feed-mappings", agreed)).status == 200
    await sender.company.post("/v1/patients", patient_body("1"))
    if not states["facts"] and not states["ignored"] and not any(o.kind in ACCEPTED for o in outcomes(content)):
        assert (await sender.answer(content)).status == 422
        return
    feed = await sender.feed(content)
    expected = [states.total(), states["facts"], 0, states["ignored"], states["refused"]]
    assert [feed[name] for name in COUNTS] == expected, await sender.company.exceptions()
    sums, charges = await sender.company.sums(), await sender.charges()
    again = await sender.feed(content)
    assert [again[name] for name in COUNTS] == [
        states.total(),
        0,
        states["facts"],
        states["ignored"],
        states["refused"],
    ]
    assert (await sender.company.sums(), await sender.charges()) == (sums, charges)
    raw = await sender.company.send("GET", f"/v1/feeds/{feed['feed_id']}/raw")
    assert raw.raw == content
