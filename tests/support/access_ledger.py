"""The ledger's routes for the access matrix: who may call them, and a body that is good."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

import orjson

from services.ledger.api import ENDPOINTS
from tests.support.access import FACTS, Row, ServedByNews, World
from tests.support.csv_files import PAYMENTS, agree, row, table
from tests.support.databases import Databases
from tests.support.emr import BATCH, emr_event, emr_payment
from tests.support.fhir_builder import body as fhir_body
from tests.support.fhir_builder import charge_item
from tests.support.hl7_messages import ft1, message
from tests.support.ledger import Company, LedgerStack
from tests.support.news import News
from tests.support.x12_answers import Told, interchange, status_277

_POSTS: Final = "payment_posting edit | emr"
_FEEDS: Final = "exception_reports view | payment_posting view | emr"
_DIFFERENCES: Final = "exception_reports view | payment_posting view"
_CHARGE: Final = "charges_by_patient view | delayed_charges view | active_charges view"
_EITHER: Final = "active_charges edit | delayed_charges edit"
_RECEIPT: Final = "payment_posting view | unassigned_payments view"
_WORKS: Final = "payment_posting edit"
_DAYS: Final = "from=2026-11-01&to=2026-11-30"
_NEW_CHARGE: Final = {
    "patient_id": "{patient}",
    "location_id": "{location}",
    "payer_id": "{payer}",
    "date_of_service": "2026-01-05",
    "procedure_code": "97110",
    "units": 1,
    "amount_cents": 10_000,
    "diagnosis_codes": ["M54.5"],
}
_FEE: Final = {"procedure_code": "97110", "amount_cents": 9_000}
_ADJUSTMENT: Final = {"group_code": "CO", "reason_code": "45", "amount_cents": 1}
_APPLIES: Final = "unassigned_payments partial | payment_posting partial"


def _parties(path: str, area: str, slot: str, new: dict[str, Any], change: dict[str, Any]) -> tuple[Row, ...]:
    return (
        Row(f"GET /v1/{path}", f"{area} view"),
        Row(f"POST /v1/{path}", f"{area} add", 201, new),
        Row(f"POST /v1/{path}/search", f"{area} view", 200, {}),
        Row(f"GET /v1/{path}/{{{slot}}}", f"{area} view"),
        Row(f"PATCH /v1/{path}/{{{slot}}}", f"{area} edit", 200, change),
    )


def _on_charge(action: str, done: int, body: Any = None) -> tuple[Row, ...]:
    """Which of two areas is asked depends on the charge; an absent one is absent for who has either."""
    method, _, path = action.partition(" ")
    slot = path.strip("/") or "patch"
    return (
        Row(f"{method} /v1/charges/{{charge_{slot}}}{path}", "active_charges edit", done, body, told=_EITHER),
        Row(f"{method} /v1/charges/{{delayed_{slot}}}{path}", "delayed_charges edit", done, body, told=_EITHER),
    )


ROWS: Final = (
    *_parties(
        "patients",
        "patients",
        "patient",
        {
            "account_number": "{fresh}",
            "first_name": "A",
            "last_name": "B",
            "date_of_birth": "1980-02-29",
            "payer_id": "{payer}",
        },
        {"payer_id": "{payer}"},
    ),
    *_parties("payers", "insurances", "payer", {"code": "{fresh}", "name": "P"}, {"name": "Other"}),
    *_parties(
        "referring-physicians",
        "referring_physicians",
        "physician",
        {"npi": "1003000126", "first_name": "A", "last_name": "B"},
        {"last_name": "Other"},
    ),
    Row("GET /v1/charges", "active_charges view"),
    Row("GET /v1/charges?location_id={location}", "active_charges view"),
    Row("GET /v1/charges?status=delayed", "delayed_charges view"),
    Row("GET /v1/charges?patient_id={patient}", "charges_by_patient view"),
    Row("GET /v1/charges?patient_id={patient}&status=delayed", "charges_by_patient view"),
    Row("GET /v1/charges?cursor={charge}&limit=1", "active_charges view"),
    Row("GET /v1/charges/{charge}", _CHARGE),
    Row("POST /v1/charges", "active_charges add", 201, _NEW_CHARGE),
    Row("POST /v1/charges", "delayed_charges add", 201, {**_NEW_CHARGE, "delayed": True}),
    *_on_charge("PATCH ", 200, {"units": 2}),
    # What is active cannot be released: who may is told so.
    Row("POST /v1/charges/{charge_release}/release", "active_charges edit", 422, told=_EITHER),
    Row("POST /v1/charges/{delayed_release}/release", "delayed_charges edit", told=_EITHER),
    *_on_charge("POST /void", 200),
    *_on_charge("POST /adjustments", 201, _ADJUSTMENT),
    *_on_charge("POST /transfer", 201, {"to": "patient", "amount_cents": 1}),
    Row(
        "POST /v1/payments",
        "payment_posting add",
        201,
        {
            "location_id": "{location}",
            "patient_id": "{patient}",
            "payer_id": "{payer}",
            "method": "cash",
            "amount_cents": 5,
            "deposit_date": "{today}",
            "applications": [{"charge_id": "{charge}", "amount_cents": 1}],
        },
    ),
    Row("POST /v1/payments/bulk", "payment_posting add", 200, b"", "application/x-ndjson"),
    Row("GET /v1/payments", "payment_posting view"),
    Row("GET /v1/payments?cursor={payment}&limit=1", "payment_posting view"),
    Row("GET /v1/payments?batch_number={batch}", "payment_posting view"),
    Row("GET /v1/payments?unassigned=true", _RECEIPT),
    Row("GET /v1/payments/{payment}", _RECEIPT),
    Row("GET /v1/payments/{payment}/history", _RECEIPT),
    Row("PATCH /v1/payments/{payment}", _WORKS, 200, {"location_id": "{location}", "memo": "m"}),
    Row(
        "POST /v1/payments/{payment_apply}/applications",
        _APPLIES,
        201,
        {"applications": [{"charge_id": "{charge_apply}", "amount_cents": 1}]},
    ),
    Row("POST /v1/payments/{payment_reverse}/reversal", _WORKS, 201, {}),
    Row("POST /v1/payments/{payment_refund}/refund", _WORKS, 201, {"amount_cents": 1}),
    Row("GET /v1/batches", "payment_posting view"),
    Row("POST /v1/batches", "payment_posting add", 201, {"batch_number": "{fresh}"}),
    Row("GET /v1/batches/{batch}", "payment_posting view"),
    Row(
        "POST /v1/feeds/x12", _POSTS, 200, interchange(status_277(Told(claim="C"))), "application/edi-x12"
    ),
    Row("POST /v1/feeds/emr", _POSTS, 200, [emr_event("nobody", "payment", emr_payment(uuid4(), "p"))], BATCH),
    Row(
        "POST /v1/feeds/hl7v2",
        _POSTS,
        200,
        message(ft1("CG", "T1", "120.00"), control_id="M1"),
        "application/hl7-v2",
    ),
    Row("POST /v1/feeds/fhir", _POSTS, 200, fhir_body(charge_item()), "application/fhir+json"),
    Row("GET /v1/feeds/fhir/metadata", _POSTS),
    Row("GET /v1/feed-profiles/{word}", "payment_posting view"),
    Row("PUT /v1/feed-profiles/{word}", _WORKS, 200, {}),
    Row("POST /v1/feeds/csv?profile={profile}", _POSTS, 200, table(row(uuid4())), "text/csv", elsewhere=422),
    Row("GET /v1/feeds/csv/profiles", "payment_posting view"),
    Row("GET /v1/feeds/csv/profiles/{profile}", "payment_posting view"),
    Row("PUT /v1/feeds/csv/profiles/{word}", _WORKS, 200, PAYMENTS),
    Row("DELETE /v1/feeds/csv/profiles/{profile_gone}", _WORKS, 204),
    Row("GET /v1/feeds", _FEEDS),
    Row("GET /v1/feeds?cursor={feed}", _FEEDS),
    Row("GET /v1/feeds/{feed}", _FEEDS),
    Row("GET /v1/feeds/{feed}/raw", _FEEDS),
    Row("GET /v1/feeds/{feed_asks}/acknowledgements", _FEEDS),
    Row("GET /v1/claims", "claims view"),
    Row("GET /v1/claims/{claim}", "claims view"),
    Row("GET /v1/exceptions", _FEEDS),
    Row("GET /v1/exceptions?feed_id={feed}", _FEEDS),
    Row("GET /v1/exceptions/{exception}", _FEEDS),
    Row("GET /v1/exceptions/{exception}/raw", _FEEDS),
    Row("POST /v1/exceptions/retry", _WORKS, 200, {"ids": ["{exception_many}"]}),
    Row("POST /v1/exceptions/retry", _WORKS, 200, {"feed_id": "{feed}"}, elsewhere=200),
    Row("POST /v1/exceptions/{exception_retry}/retry", _WORKS),
    Row("POST /v1/exceptions/{exception_resolve}/resolve", _WORKS, 200, {"note": "seen"}),
    Row("POST /v1/exceptions/{exception_dismiss}/dismiss", _WORKS, 200, {"note": "seen"}),
    Row("GET /v1/feed-mappings", "payment_posting view"),
    Row(
        "PUT /v1/feed-mappings",
        _WORKS,
        200,
        {
            "clinics": [{"alias": "c", "location_id": "{location}"}],
            "payers": [{"alias": "p", "payer_id": "{payer}"}],
            "procedures": [],
        },
    ),
    Row("GET /v1/fee-schedule", "company_constants view"),
    Row("PUT /v1/fee-schedule", "company_constants edit", 200, {"fees": [_FEE]}),
    Row(f"GET /v1/reconciliation?{_DAYS}", _DIFFERENCES),
    Row(f"GET /v1/reconciliation?{_DAYS}&location_id={{location}}", _DIFFERENCES),
    Row("GET /v1/audit", "audit_trail view", echoes=True),
    Row("GET /v1/events?company_id={company}", "internal", unbound=("internal",)),
    Row("GET /v1/events/heads", "internal", unbound=("internal",)),
    Row(
        "GET /v1/control-totals?company_id={company}",
        "payment_balancing view all_locations | internal",
        elsewhere=404,
        unbound=("internal",),
    ),
)  # fmt: skip
_SLOTS: Final = frozenset(slot for one in ROWS for slot in one.slots)


class ServedLedger(ServedByNews):
    """The running ledger, with a company for each caller."""

    rows = ROWS
    endpoints = ENDPOINTS
    outdated = "self_service_admin"

    def __init__(self, stack: LedgerStack, news: News) -> None:
        super().__init__(stack.client, stack.owner, stack.tokens, news)
        self.stack = stack

    @classmethod
    @asynccontextmanager
    async def fresh(cls, databases: Databases) -> AsyncIterator[ServedLedger]:
        news = News()
        async with LedgerStack.fresh(databases, news) as stack:
            yield cls(stack, news)

    async def world(self, caller: str) -> World:
        company = await self.stack.company()
        client = await self.stack.emr_client([company], f"source of {company.company_id}")
        # An EMR client sees its own feeds only, so in its world it is the one who sent them.
        named = {"client_id": client} if caller == "emr" else {}
        bound = None if caller in ("operator", "internal") else company.company_id
        token = self.stack.tokens.token(caller, bound, **named)
        sender = token if caller == "emr" else company.token()
        ids = await _made(company, sender)
        assert ids.keys() >= _SLOTS, _SLOTS - ids.keys()
        secrets = {value.encode() for slot, value in ids.items() if slot not in FACTS}
        return World(ids, token, secrets | {str(company.company_id)[-12:].encode()})


async def _made(company: Company, sender: str) -> dict[str, str]:
    name = f"Secret-{uuid4().hex}"
    patient = await company.patient(f"{name}-account", last_name=name)
    payer = await company.payer(name=name)
    physician = {"npi": "1234567893", "first_name": "A", "last_name": name}
    ids = {
        "company": str(company.company_id),
        "location": str(company.locations[0]),
        "today": str(company.today),
        "word": "mine",
        "patient": patient["id"],
        "payer": payer["id"],
        "physician": (await company.post("/v1/referring-physicians", physician))["id"],
        "batch": f"{name}-batch",
        "profile": f"{name[:20]}.agreed",
        "profile_gone": f"{name[:20]}.gone",
    }
    for slot in sorted(_SLOTS - ids.keys()):
        kind = slot.partition("_")[0]
        if kind in ("charge", "delayed"):
            made = await company.charge(patient, payer_id=payer["id"], delayed=kind == "delayed")
        elif kind == "payment":
            made = await company.payment(patient_id=patient["id"], batch_number=ids["batch"])
        else:
            continue
        ids[slot] = made["id"]
    for slot in ("profile", "profile_gone"):
        await agree(company, name=ids[slot])
    clinic = {"alias": f"{name}-clinic", "location_id": ids["location"]}
    await company.send("PUT", "/v1/feed-mappings", {"clinics": [clinic], "payers": [], "procedures": []})
    return {**ids, **await _fed(company, sender, name)}


async def _fed(company: Company, sender: str, name: str) -> dict[str, str]:
    """Feeds, what waits in their quarantine, and a claim."""
    waiting = sorted(slot for slot in _SLOTS if slot.startswith("exception"))
    source = f"source of {company.company_id}"
    events = [emr_event(source, "payment", emr_payment(uuid4(), f"{name}-{slot}")) for slot in waiting]
    posted = emr_payment(company.locations[0], f"{name}-posted", transaction_date="2026-11-10")
    events.append(emr_event(source, "payment", posted))
    feed = await company.upload("emr", orjson.dumps(events), token=sender, **{"Content-Type": BATCH})
    asks = interchange(status_277(Told(claim=f"{name}-claim")), asks=1)
    asked = await company.upload("x12", asks, token=sender)
    exceptions = await company.exceptions(feed_id=feed.body["feed_id"])
    claims = (await company.get("/v1/claims"))["items"]
    return {
        "feed": feed.body["feed_id"],
        "feed_asks": asked.body["feed_id"],
        "claim": claims[0]["id"],
        **{slot: row["id"] for slot, row in zip(waiting, exceptions, strict=True)},
    }
