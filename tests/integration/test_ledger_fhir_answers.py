"""What a sender of FHIR is answered: outcomes, problems, the capability statement; bad resources beside good ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome

from services.ledger.feeds.fhir.reader import ACCEPTED
from shared.access.policy import EMR_CLIENT
from tests.support.fhir_builder import body, bundle, money, patient
from tests.support.fhir_sender import FHIR, Sender, line
from tests.support.ledger import LedgerStack


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


async def test_metadata(stack: LedgerStack) -> None:
    sender = await Sender.made(stack)
    token = sender.company.token(EMR_CLIENT, client_id=sender.client_id)
    answer = await stack.request("GET", "/v1/feeds/fhir/metadata", token)
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, FHIR)
    statement = answer.body
    CapabilityStatement.model_validate(statement)
    assert {row["type"] for row in statement["rest"][0]["resource"]} == set(ACCEPTED)
    assert statement["fhirVersion"] == "4.0.1"
