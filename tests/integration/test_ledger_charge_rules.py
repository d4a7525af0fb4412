"""One rule for charges, whichever format they come by: what is nothing is ignored, what is not diagnosed is posted.

Every format sends the same charge in versions; the counts and the books must not tell which one it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shared.access.policy import EMR_CLIENT
from tests.support.csv_files import agree
from tests.support.csv_files import sent as csv_sent
from tests.support.emr import BATCH, Emr
from tests.support.fhir_builder import body, bundle, charge_item, concept, money, patient
from tests.support.hl7_messages import ft1, message
from tests.support.ledger import Company, LedgerStack, clinic_of, fold, patient_body

COUNTS = ("received", "posted", "duplicates", "ignored", "quarantined")
POSTED, DUPLICATE, IGNORED, REFUSED = (1, 1, 0, 0, 0), (1, 0, 1, 0, 0), (1, 0, 0, 1, 0), (1, 0, 0, 0, 1)
PROFILE: dict[str, Any] = {
    "kind": "charge",
    "columns": {
        "emr_clinic_id": "Clinic",
        "account_number": "Account",
        "date_of_service": "Day",
        "procedure_code": "CPT",
        "amount": "Amount",
        "diagnosis_codes": "ICD",
    },
    "constants": {"units": "1", "first_name": "Jane", "last_name": "Roe", "date_of_birth": "1980-02-29"},
    "key": ["Id"],
    "version": "Ver",
}
NO_COLUMN = {**PROFILE, "columns": {name: one for name, one in PROFILE["columns"].items() if name != "diagnosis_codes"}}

Send = Callable[[int, int, str], Awaitable[Any]]
"""A version of the one charge, its cents and its diagnosis (or none): the feed's document."""


async def emr(company: Company) -> Send:
    sender = await Emr.of(company)

    async def send(version: int, cents: int, diagnosis: str) -> Any:
        person = patient_body("ACCT5001")
        codes = [diagnosis] if diagnosis else []
        event = sender.charge("TX1", version, amount_cents=cents, units=1, diagnosis_codes=codes, patient=person)
        return await sender.send(event)

    return send


async def hl7(company: Company) -> Send:
    path = "/v1/feed-profiles/EMR%7CCLINIC"
    assert (await company.send("PUT", path, {"voids": ["replacement"]}, key="")).status == 200

    async def send(version: int, cents: int, diagnosis: str) -> Any:
        line = ft1("CG", "TX1", f"{cents / 100:.2f}", f19=diagnosis)
        content = message(line, control_id=f"M{version}", time=f"202601151030{version:02}")
        answer = await company.upload("hl7v2", content)
        return await company.get(f"/v1/feeds/{answer.headers['X-Feed-Id']}")

    return send


async def table(company: Company, profile: dict[str, Any] = PROFILE) -> Send:
    await agree(company, profile, "charges")

    async def send(version: int, cents: int, diagnosis: str) -> Any:
        cells = "TX1", str(version), clinic_of(company.locations[0]), "ACCT5001", "2026-01-05", "97110"
        row = ",".join((*cells, f"{cents / 100:.2f}", diagnosis))
        return await csv_sent(company, f"Id,Ver,Clinic,Account,Day,CPT,Amount,ICD\n{row}\n".encode(), "charges")

    return send


async def fhir(company: Company) -> Send:
    client = await company.stack.emr_client([company])

    async def send(version: int, cents: int, diagnosis: str) -> Any:
        item = charge_item(
            priceOverride=money(f"{cents / 100:.2f}"),
            meta={"versionId": str(version)},
            performingOrganization={"identifier": {"value": clinic_of(company.locations[0])}},
            reason=[concept(diagnosis, "http://hl7.org/fhir/sid/icd-10-cm")] if diagnosis else None,
        )
        answer = await company.upload(
            "fhir",
            body(bundle(item, patient())),
            token=company.token(EMR_CLIENT, client_id=client),
            **{"Content-Type": "application/fhir+json"},
        )
        assert answer.status == 200, answer
        # The patient beside it is not financial.
        return {**answer.body, **{name: answer.body[name] - 1 for name in ("received", "ignored")}}

    return send


FORMATS = {"emr": emr, "hl7": hl7, "csv": table, "fhir": fhir}


def counts(feed: Any) -> tuple[int, ...]:
    found = tuple(feed[name] for name in COUNTS)
    assert found[0] == sum(found[1:]), feed
    return found


async def standing(company: Company) -> list[tuple[int, list[str]]]:
    rows = (await company.get("/v1/charges"))["items"]
    return [(row["amount_cents"], row["diagnosis_codes"]) for row in rows if row["status"] != "void"]


async def reasons(company: Company, outcome: str) -> list[str]:
    rows = await company.stack.owner.fetch(
        "select reason from feed_item where company_id = $1 and outcome = $2 and reason <> 'not_financial'",
        *(company.company_id, outcome),
    )
    return [row["reason"] for row in rows]


@pytest.mark.parametrize("name", FORMATS)
async def test_a_charge_of_nothing_is_ignored_and_takes_back_what_it_was(stack: LedgerStack, name: str) -> None:
    company = await stack.company()
    send = await FORMATS[name](company)
    assert counts(await send(1, 0, "M54.50")) == IGNORED
    assert await standing(company) == []
    assert counts(await send(2, 12_000, "M54.50")) == POSTED
    assert await standing(company) == [(12_000, ["M54.50"])]
    assert counts(await send(3, 0, "M54.50")) == POSTED, "what it brought is taken back"
    assert await standing(company) == []
    assert counts(await send(4, 0, "M54.50")) in (IGNORED, DUPLICATE)
    assert set(await reasons(company, "ignored")) == {"zero_amount"}
    assert await company.exceptions() == []
    assert fold(await company.events()) == await company.totals()


@pytest.mark.parametrize("name", FORMATS)
async def test_a_charge_without_a_diagnosis_is_posted_and_diagnosed_later(stack: LedgerStack, name: str) -> None:
    company = await stack.company()
    send = await FORMATS[name](company)
    assert counts(await send(1, 12_000, "")) == POSTED
    assert await standing(company) == [(12_000, [])]
    assert counts(await send(2, 12_000, "M54.50")) == POSTED
    assert await standing(company) == [(12_000, ["M54.50"])]
    assert await company.exceptions() == []


async def test_a_file_without_the_column_says_that_there_is_no_diagnosis(stack: LedgerStack) -> None:
    company = await stack.company()
    send = await table(company, NO_COLUMN)
    assert counts(await send(1, 12_000, "M54.50")) == POSTED
    (row,) = (await company.get("/v1/charges"))["items"]
    assert row["diagnosis_codes"] == []
    by_hand = await company.patch(f"/v1/charges/{row['id']}", {"diagnosis_codes": ["M54.50"]})
    assert by_hand["diagnosis_codes"] == ["M54.50"]


async def test_an_event_that_does_not_speak_of_diagnoses_is_not_understood(stack: LedgerStack) -> None:
    """api.md: the field is not optional. That there are none, the sender has to say."""
    sender = await Emr.of(await stack.company())
    event = sender.charge("TX1")
    del event["data"]["diagnosis_codes"]
    assert counts(await sender.send(event, **{"Content-Type": BATCH})) == REFUSED
    assert await sender.company.reasons() == {"invalid": 1}


async def test_a_person_is_asked_for_both(stack: LedgerStack) -> None:
    company = await stack.company()
    person = await company.patient("A")
    good = {
        "patient_id": person["id"],
        "location_id": str(company.locations[0]),
        "date_of_service": "2026-01-05",
        "procedure_code": "97110",
        "units": 1,
        "amount_cents": 12_000,
        "diagnosis_codes": ["M54.50"],
    }
    for name, value in (("amount_cents", 0), ("diagnosis_codes", [])):
        answer = await company.send("POST", "/v1/charges", {**good, name: value}, key="charge")
        assert (answer.status, [error["field"] for error in answer.body["errors"]]) == (422, [name])
