"""FHIR R4 by HTTP on a real database: the charges that each resource leaves in the books, and whose they are."""

from __future__ import annotations

from tests.support.fhir_builder import bundle, concept, invoice, invoice_line, patient
from tests.support.fhir_sender import Sender, line
from tests.support.ledger import COUNTS, LedgerStack

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
