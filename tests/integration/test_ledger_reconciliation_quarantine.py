"""What waits in the quarantine explains its difference, whatever format it came by; what cannot be placed is named.

Decided here where the rules are silent:

* An EMR reports under a name that it is registered by. Of HL7 v2 that is `MSH-3|MSH-4`, or either; of FHIR meta.source,
  else the client's only source; of CSV the profile's name. Where only one name is registered, it is that one's.
* A list calls a payment by the name that the ledger shows (`external_id`).
* What waits and lacks a place, a day, a type or an amount explains nothing, and is told beside the rows.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.csv_files import TOTALLED, agree, row, sent, table, total_row
from tests.support.emr import BATCH, Emr
from tests.support.feed_work import register_clinic, true
from tests.support.fhir_builder import body, bundle, notice, patient
from tests.support.hl7_messages import codes, ft1, message
from tests.support.ledger import Company, LedgerStack, clinic_of
from tests.support.reconciliation import DAY, explained, figures, listed, of_list, reconciled, report, rows, told, total

DATED = "20260106"
EUROS = {"value": 3, "currency": "EUR"}
HL7 = "EMR|CLINIC"


async def emr_named(company: Company, *sources: str) -> Emr:
    """An EMR that reports under the first of its sources."""
    return Emr(company, sources[0], await company.stack.emr_client([company], *sources))


async def unplaced(company: Company, **params: Any) -> list[tuple[int | None, list[str]]]:
    document = (await reconciled(company, **params))["unplaced"]
    assert document["payments"] == len(document["items"])
    assert document["amount_cents"] == sum(one["amount_cents"] or 0 for one in document["items"])
    return [(one["amount_cents"], one["unknown"]) for one in document["items"]]


async def the_row(company: Company, payment_type: str = "copay") -> Any:
    return (await rows(company))[payment_type]


async def waiting_ids(company: Company) -> set[str]:
    return {one["id"] for one in await company.exceptions(state="open")}


# -- HL7 v2 ----------------------------------------------------------------------------------------------------------


def copay(name: str, amount: str = "25.00", **more: str) -> str:
    return ft1("CO", name, amount, "COPAY", **{"f4": DATED, **more})


async def hl7(emr: Emr, *lines: str, control_id: str, **more: Any) -> str:
    content = message(*lines, control_id=control_id, **more)
    answer = await emr.company.upload("hl7v2", content, token=emr.token)
    assert answer.status == 200, answer
    return codes(answer.raw)[0]


def nameless(content: bytes) -> bytes:
    """Of a patient whom nobody knows and who cannot be created."""
    return content.replace(b"DOE^PAT||19700101", b"")


@pytest.mark.parametrize("sources", [(HL7, "other"), ("EMR", "other"), ("CLINIC", "other"), ("urn:the-emr",)])
async def test_an_hl7_line_that_waits(company: Company, sources: tuple[str, ...]) -> None:
    emr = await emr_named(company, *sources)
    await register_clinic(company, "CLINIC")
    emr_said = {"emr_clinic_id": "CLINIC"}
    assert await hl7(emr, copay("TX1"), control_id="1") == "AA"
    content = nameless(message(copay("TX2"), copay("TX3", "7.50"), control_id="2", account="NEW"))
    assert codes((await company.upload("hl7v2", content, token=emr.token)).raw) == ["AA"]
    assert await company.reasons() == {"missing": 2}
    await emr.send(report(emr, total("copay", 3, 5_750), **emr_said))
    found = await the_row(company)
    assert (found["source"], found["status"], found["ledger"]) == (emr.source, "explained", figures(1, 2_500))
    assert explained(found) == {"quarantined": (2, 3_250)}
    assert set(found["explained"][0]["exception_ids"]) == await waiting_ids(company)
    # The same by a list; what is lost is not hidden by what waits.
    names = [f"EMR|CLINIC|TX{n}" for n in (1, 2, 3)]
    await emr.send(
        of_list(emr, *(listed(one, cents) for one, cents in zip(names, (2_500, 2_500, 750), strict=True)), **emr_said)
    )
    found = await the_row(company)
    assert told(found) == [("missing_in_ledger", one, "quarantined") for one in names[1:]]
    assert found["status"] == "explained"
    await emr.send(report(emr, total("copay", 4, 6_750), **emr_said))
    assert (await the_row(company))["status"] == "broken"
    assert await unplaced(company) == []
    await true(company)


async def test_a_refused_message_explains_what_could_be_read_of_it(company: Company) -> None:
    emr = await emr_named(company, HL7)
    await register_clinic(company, "CLINIC")
    assert await hl7(emr, copay("TX1"), copay("TX2", "10.00", f4="20260230"), control_id="1") == "AE"
    await emr.send(report(emr, total("copay", 2, 3_500), emr_clinic_id="CLINIC"))
    found = await the_row(company)
    assert (explained(found), found["status"]) == ({"quarantined": (1, 2_500)}, "broken")
    assert await unplaced(company) == [
        (None, ["emr_payment_id", "emr_clinic_id", "date", "payment_type", "amount_cents"])
    ]
    # It is sent again as it should be: what was refused waits no more for anything.
    again = "20260116103000"
    assert await hl7(emr, copay("TX1"), copay("TX2", "10.00"), control_id="2", time=again) == "AA"
    found = await the_row(company)
    assert (found["status"], found["ledger"]) == ("balanced", figures(2, 3_500))
    await true(company)


async def test_a_control_id_used_twice(company: Company) -> None:
    """The second message is whole, and refused for its name only."""
    emr = await emr_named(company, HL7)
    await register_clinic(company, "CLINIC")
    assert await hl7(emr, copay("TX1"), control_id="1") == "AA"
    assert await hl7(emr, copay("TX2", "9.00"), copay("TX3", "8.00"), control_id="1") == "AE"
    await emr.send(report(emr, total("copay", 3, 4_200), emr_clinic_id="CLINIC"))
    found = await the_row(company)
    assert (found["status"], explained(found)) == ("explained", {"quarantined": (2, 1_700)})
    assert found["explained"][0]["exception_ids"] == list(await waiting_ids(company))


async def test_a_clinic_that_nobody_knows(company: Company) -> None:
    """Of two locations it cannot be told which is meant, until a report says so."""
    emr = await emr_named(company, HL7)
    assert await hl7(emr, copay("TX1"), control_id="1") == "AA"
    assert await hl7(emr, ft1("CG", "C1", "60.00", f4=DATED), control_id="2") == "AA"
    await emr.send(report(emr, total("copay", 1, 2_500)))
    assert (await the_row(company))["status"] == "broken"
    assert await unplaced(company) == [(2_500, ["emr_clinic_id"])]
    assert await unplaced(company, **{"from": "2026-01-07", "to": "2026-01-08"}) == []
    await register_clinic(company, "CLINIC")
    found = await the_row(company)
    assert (found["status"], explained(found)) == ("explained", {"quarantined": (1, 2_500)})
    assert await unplaced(company) == []


async def test_the_time_of_a_message_explains_no_amount(company: Company) -> None:
    """Its payments bear it as their version, which is later than any number in a list and says nothing about it."""
    emr = await emr_named(company, HL7)
    await register_clinic(company, "CLINIC")
    assert await hl7(emr, copay("TX1"), control_id="1") == "AA"
    await emr.send(of_list(emr, listed("EMR|CLINIC|TX1", 9_900), emr_clinic_id="CLINIC"))
    found = await the_row(company)
    assert told(found) == [("amount_differs", "EMR|CLINIC|TX1", "listed_differently")]
    assert (found["status"], found["explained"]) == ("broken", [])


async def test_a_later_state_that_stands_elsewhere_outweighs_what_waits(emr: Emr) -> None:
    """The first one waits for this day; the second was taken, for another."""
    await emr.send(emr.payment("p-1", method="shells"), **{"Content-Type": BATCH})
    await emr.send(emr.payment("p-1", 2, transaction_date="2026-01-20"))
    await emr.send(report(emr, total("copay", 1, 2_500)))
    found = await the_row(emr.company)
    assert (found["status"], found["explained"]) == ("broken", [])


async def test_one_payment_in_two_formats_is_not_lost_from_sight(company: Company) -> None:
    """It is in the books twice; the list has it once."""
    emr = await emr_named(company, "the-emr")
    await agree(company)
    await emr.send(emr.payment("P-1"))
    await sent(company, table(row(company.locations[0], 1)))
    await emr.send(of_list(emr, listed("P-1", 2_500)))
    found = await the_row(company)
    assert (found["status"], found["ledger"]) == ("broken", figures(2, 5_000))
    assert told(found) == [("missing_in_emr", "csv:bank P-1", "not_listed")]


# -- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sources", [("csv:bank", "other"), ("bank", "other"), ("urn:the-emr",)])
async def test_rows_that_wait(company: Company, sources: tuple[str, ...]) -> None:
    """In a field that does not matter here, or in one that does."""
    emr, place = await emr_named(company, *sources), company.locations[0]
    await agree(company)
    feed = await sent(
        company,
        table(
            row(place, 1),
            row(place, 2, Born="31.12.1970"),
            row(place, 3, Amount="7.00", How="shells"),
            row(place, 4, Amount="1.00", **{"Paid on": "6.1.2026"}),
            row("nowhere", 5, Amount="2.00"),
            row(place, 6, Amount="two"),
        ),
    )
    assert (feed["posted"], feed["quarantined"]) == (1, 5)
    await emr.send(report(emr, total("copay", 3, 5_700)))
    found = await the_row(company)
    assert (found["source"], found["status"], explained(found)) == (
        emr.source,
        "explained",
        {"quarantined": (2, 3_200)},
    )
    assert sorted(await unplaced(company), key=str) == [
        (100, ["date"]),
        (200, ["emr_clinic_id"]),
        (None, ["amount_cents"]),
    ]
    await emr.send(of_list(emr, *(listed(f"P-{n}", cents) for n, cents in ((1, 2_500), (2, 2_500), (3, 700)))))
    found = await the_row(company)
    assert told(found) == [("missing_in_ledger", f"P-{n}", "quarantined") for n in (2, 3)]
    assert found["status"] == "explained"


async def test_a_file_that_does_not_add_up_explains_all_of_it(company: Company) -> None:
    emr, place = await emr_named(company, "bank"), company.locations[0]
    await agree(company, TOTALLED)
    await sent(company, table(row(place, 1), row(place, 2, Type="other"), total_row("99.00", 2)))
    await emr.send(report(emr, total("copay", 1, 2_500), total("other", 1, 2_500)))
    found = await rows(company)
    assert {one["status"] for one in found.values()} == {"explained"}
    # Charges are in no report.
    charges = {**TOTALLED, "kind": "charge", "constants": {"units": "1", "procedure_code": "97110"}}
    columns = {**TOTALLED["columns"], "date_of_service": "Paid on"}
    for name in ("method", "check_number", "transaction_date", "payment_type"):
        del columns[name]
    await agree(company, {**charges, "columns": columns, "translations": {}}, "services")
    assert (await sent(company, table(row(place, 9), total_row("99.00", 1)), "services"))["quarantined"] == 1
    assert await unplaced(company) == []


async def test_a_profile_by_which_the_file_cannot_be_read_any_more(company: Company) -> None:
    emr = await emr_named(company, "bank")
    await agree(company)
    await sent(company, table(row(company.locations[0], 1, How="shells")))
    await agree(company, {**TOTALLED, "key": ["Number"]})
    await emr.send(report(emr, total("copay", 1, 2_500)))
    assert (await the_row(company))["status"] == "broken"
    assert await unplaced(company) == [(2_500, ["emr_payment_id", "emr_clinic_id", "date", "payment_type"])]


# -- FHIR ------------------------------------------------------------------------------------------------------------


async def fhir(emr: Emr, *resources: Any) -> Any:
    headers = {"Content-Type": "application/fhir+json"}
    content = body(bundle(*resources, patient()))
    answer = await emr.company.stack.request("POST", "/v1/feeds/fhir", emr.token, data=content, headers=headers)
    assert answer.status == 200, answer
    return answer.body


def paid(company: Company, number: int, amount: str = "25.00", **changes: Any) -> Any:
    made = {
        "id": f"pn{number}",
        "identifier": [{"value": f"N-{number}"}],
        "payment": {"identifier": {"value": f"E-{number}"}},
        "request": {"reference": "Patient/p1"},
        "payee": {"identifier": {"value": clinic_of(company.locations[0])}},
        "paymentDate": DAY,
    }
    return notice(amount, **{**made, **changes})


@pytest.mark.parametrize("sources", [("urn:fhir", "other"), ("urn:the-emr",)])
async def test_notices_that_wait(company: Company, sources: tuple[str, ...]) -> None:
    emr = await emr_named(company, *sources)
    meta = {"meta": {"source": sources[0]}} if len(sources) > 1 else {}
    nobody = {"request": {"identifier": {"value": "NOBODY"}, "type": "Patient"}}
    feed = await fhir(
        emr,
        paid(company, 1, **meta),
        paid(company, 2, **nobody, **meta),
        paid(company, 3, "7.00", request={"display": "somebody"}, **meta),
        paid(company, 4, "1.00", paymentDate=None, created="2026-01", **meta),
        paid(company, 5, "2.00", payee={"identifier": {"value": "nowhere"}}, **meta),
        paid(company, 6, "3.00", **meta) | {"amount": EUROS},
    )
    assert (feed["posted"], feed["quarantined"]) == (1, 5)
    await emr.send(report(emr, total("other", 3, 5_700)))
    found = await the_row(company, "other")
    assert (found["source"], found["status"], explained(found)) == (
        emr.source,
        "explained",
        {"quarantined": (2, 3_200)},
    )
    assert sorted(amount or 0 for amount, _ in await unplaced(company)) == [0, 100, 200]
    keys = [("PaymentNotice/E-1", 2_500), ("PaymentNotice/E-2", 2_500), ("PaymentNotice/E-3", 700)]
    await emr.send(of_list(emr, *(listed(one, cents, payment_type="other") for one, cents in keys)))
    found = await the_row(company, "other")
    assert told(found) == [("missing_in_ledger", one, "quarantined") for one, _ in keys[1:]]


async def test_a_client_of_several_names_and_a_notice_of_none(stack: LedgerStack, company: Company) -> None:
    """Nobody can tell under which of them it is reported; it stands for itself."""
    emr = await emr_named(company, "urn:one", "urn:two")
    await fhir(emr, paid(company, 1))
    await emr.send(report(emr, total("other", 1, 2_500)))
    found = {one["source"]: one["status"] for one in (await reconciled(company))["items"]}
    assert found == {"urn:one": "broken", f"fhir:client {emr.client}": "unreported"}


async def test_claims_and_payers_payments_are_in_no_report(company: Company) -> None:
    emr = await emr_named(company, "urn:the-emr")
    claim = {"resourceType": "Claim", "id": "c", "status": "active", "use": "claim"}
    await fhir(emr, claim)
    assert await company.exceptions()
    assert await unplaced(company) == []
    await fhir(emr, paid(company, 7) | {"amount": EUROS})
    assert len(await unplaced(company)) == 1
