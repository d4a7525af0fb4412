"""Who may call what: every route with every role, and other companies' objects, which are as if they did not exist."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
import pytest

from services.ledger.api import ENDPOINTS
from shared.access.policy import EMR_CLIENT, INTERNAL_CLIENT, LEVELS, OPERATOR, Grant, areas, catalogue
from tests.support.csv_files import PAYMENTS, agree
from tests.support.databases import Databases
from tests.support.ledger import ADMIN, Answer, Company, LedgerStack, emr_event, emr_payment, patient_body
from tests.support.x12_answers import Told, interchange, status_277

ROLES = [*catalogue(), OPERATOR, EMR_CLIENT, INTERNAL_CLIENT]
Allowed = Callable[[Callable[[str, str], bool]], bool]


def needs(area: str, level: str) -> Allowed:
    return lambda may: may(area, level)


def either(*rows: tuple[str, str]) -> Allowed:
    return lambda may: any(may(area, level) for area, level in rows)


def both(*rows: tuple[str, str]) -> Allowed:
    return lambda may: all(may(area, level) for area, level in rows)


def nobody(_: object) -> bool:
    return False


VIEW_CHARGE = either(("charges_by_patient", "view"), ("delayed_charges", "view"), ("active_charges", "view"))
VIEW_FEEDS = either(("exception_reports", "view"), ("payment_posting", "view"))
APPLY = either(
    ("unassigned_payments", "edit"),
    ("payment_posting", "edit"),
    ("unassigned_payments", "partial"),
    ("payment_posting", "partial"),
)

# The guard table at the end of api.md. `:charge`, `:delayed`, `:payment`, ... are objects of the caller's company.
GUARDS: dict[str, Allowed] = {
    "GET /v1/patients": needs("patients", "view"),
    "POST /v1/patients": needs("patients", "add"),
    "POST /v1/patients/search": needs("patients", "view"),
    "GET /v1/patients/:patient": needs("patients", "view"),
    "PATCH /v1/patients/:patient": needs("patients", "edit"),
    "GET /v1/payers": needs("insurances", "view"),
    "POST /v1/payers": needs("insurances", "add"),
    "POST /v1/payers/search": needs("insurances", "view"),
    "GET /v1/payers/:payer": needs("insurances", "view"),
    "PATCH /v1/payers/:payer": needs("insurances", "edit"),
    "GET /v1/referring-physicians": needs("referring_physicians", "view"),
    "POST /v1/referring-physicians": needs("referring_physicians", "add"),
    "POST /v1/referring-physicians/search": needs("referring_physicians", "view"),
    "GET /v1/referring-physicians/:physician": needs("referring_physicians", "view"),
    "PATCH /v1/referring-physicians/:physician": needs("referring_physicians", "edit"),
    "GET /v1/charges": needs("active_charges", "view"),
    "GET /v1/charges?status=delayed": needs("delayed_charges", "view"),
    "GET /v1/charges?patient_id=:patient": needs("charges_by_patient", "view"),
    "GET /v1/charges?patient_id=:patient&status=delayed": needs("charges_by_patient", "view"),
    "GET /v1/charges/:charge": VIEW_CHARGE,
    "POST /v1/charges": needs("active_charges", "add"),
    "POST /v1/charges +delayed": needs("delayed_charges", "add"),
    "PATCH /v1/charges/:charge": needs("active_charges", "edit"),
    "PATCH /v1/charges/:delayed": needs("delayed_charges", "edit"),
    "POST /v1/charges/:charge/release": needs("active_charges", "edit"),
    "POST /v1/charges/:delayed/release": needs("delayed_charges", "edit"),
    "POST /v1/charges/:charge/void": needs("active_charges", "edit"),
    "POST /v1/charges/:delayed/void": needs("delayed_charges", "edit"),
    "POST /v1/charges/:charge/adjustments": needs("active_charges", "edit"),
    "POST /v1/charges/:delayed/adjustments": needs("delayed_charges", "edit"),
    "POST /v1/charges/:charge/transfer": needs("active_charges", "edit"),
    "POST /v1/charges/:delayed/transfer": needs("delayed_charges", "edit"),
    "POST /v1/payments": needs("payment_posting", "add"),
    "POST /v1/payments/bulk": needs("payment_posting", "add"),
    "GET /v1/payments": needs("payment_posting", "view"),
    "GET /v1/payments?unassigned=true": either(("payment_posting", "view"), ("unassigned_payments", "view")),
    "GET /v1/payments/:payment": either(("payment_posting", "view"), ("unassigned_payments", "view")),
    "GET /v1/payments/:payment/history": either(("payment_posting", "view"), ("unassigned_payments", "view")),
    "PATCH /v1/payments/:payment": needs("payment_posting", "edit"),
    "POST /v1/payments/:payment/applications": APPLY,
    "POST /v1/payments/:payment/reversal": needs("payment_posting", "edit"),
    "POST /v1/payments/:payment/refund": needs("payment_posting", "edit"),
    "GET /v1/batches": needs("payment_posting", "view"),
    "POST /v1/batches": needs("payment_posting", "add"),
    "GET /v1/batches/:batch": needs("payment_posting", "view"),
    "POST /v1/feeds/x12": needs("payment_posting", "edit"),
    "POST /v1/feeds/emr": needs("payment_posting", "edit"),
    "POST /v1/feeds/hl7v2": needs("payment_posting", "edit"),
    "POST /v1/feeds/fhir": needs("payment_posting", "edit"),
    "GET /v1/feeds/fhir/metadata": needs("payment_posting", "edit"),
    "GET /v1/feed-profiles/:source": needs("payment_posting", "view"),
    "PUT /v1/feed-profiles/:source": needs("payment_posting", "edit"),
    "POST /v1/feeds/csv?profile=:profile": needs("payment_posting", "edit"),
    "GET /v1/feeds/csv/profiles": needs("payment_posting", "view"),
    "GET /v1/feeds/csv/profiles/:profile": needs("payment_posting", "view"),
    "PUT /v1/feeds/csv/profiles/:source": needs("payment_posting", "edit"),
    "DELETE /v1/feeds/csv/profiles/:profile": needs("payment_posting", "edit"),
    "GET /v1/feeds": VIEW_FEEDS,
    "GET /v1/feeds/:feed": VIEW_FEEDS,
    "GET /v1/feeds/:feed/raw": VIEW_FEEDS,
    "GET /v1/feeds/:feed/acknowledgements": VIEW_FEEDS,
    "GET /v1/claims": needs("claims", "view"),
    "GET /v1/claims/:claim": needs("claims", "view"),
    "GET /v1/exceptions": VIEW_FEEDS,
    "GET /v1/exceptions/:exception": VIEW_FEEDS,
    "GET /v1/exceptions/:exception/raw": VIEW_FEEDS,
    "POST /v1/exceptions/retry": needs("payment_posting", "edit"),
    "POST /v1/exceptions/:exception/retry": needs("payment_posting", "edit"),
    "GET /v1/feed-mappings": needs("payment_posting", "view"),
    "PUT /v1/feed-mappings": needs("payment_posting", "edit"),
    "GET /v1/reconciliation?from=2026-11-01&to=2026-11-30": VIEW_FEEDS,
    "POST /v1/exceptions/:exception/resolve": needs("payment_posting", "edit"),
    "POST /v1/exceptions/:exception/dismiss": needs("payment_posting", "edit"),
    "GET /v1/events": nobody,
    "GET /v1/events/heads": nobody,
    "GET /v1/control-totals": needs("payment_balancing", "view"),
}
MACHINES = {
    OPERATOR: set[str](),
    EMR_CLIENT: {
        "POST /v1/feeds/x12",
        "POST /v1/feeds/emr",
        "POST /v1/feeds/hl7v2",
        "POST /v1/feeds/fhir",
        "GET /v1/feeds/fhir/metadata",
        "POST /v1/feeds/csv?profile=:profile",
        "GET /v1/feeds",
        "GET /v1/feeds/:feed",
        "GET /v1/feeds/:feed/raw",
        "GET /v1/feeds/:feed/acknowledgements",
        "GET /v1/exceptions",
        "GET /v1/exceptions/:exception",
        "GET /v1/exceptions/:exception/raw",
        "GET /v1/reconciliation?from=2026-11-01&to=2026-11-30",
    },
    INTERNAL_CLIENT: {"GET /v1/events", "GET /v1/events/heads", "GET /v1/control-totals"},
}


def admitted(role: str, call: str) -> bool:
    """What api.md and the matrix say."""
    if role in MACHINES:
        return call in MACHINES[role]
    grants = catalogue()[role]
    if call == "GET /v1/control-totals" and grants.grant("payment_balancing").scope != "all_locations":
        return False
    return GUARDS[call](grants.allows)


@dataclass(slots=True)
class World:
    """A company with one object of each kind."""

    company: Company
    ids: dict[str, str]

    @classmethod
    async def made(cls, stack: LedgerStack) -> World:
        company = await stack.company()
        patient, payer = await company.patient(), await company.payer()
        source = f"source of {company.company_id}"
        await stack.emr_client([company], source)
        event = emr_event(source, "payment", {**emr_payment(uuid4(), "p-1")})
        feed = (await company.upload("emr", b"[" + orjson.dumps(event) + b"]", **{"Content-Type": BATCH})).body
        await company.upload("x12", interchange(status_277(Told(claim="CLAIM-1"))))
        await agree(company, name="bank")
        physician = {"npi": "1234567893", "first_name": "A", "last_name": "B"}
        ids = {
            "patient": patient["id"],
            "payer": payer["id"],
            "physician": (await company.post("/v1/referring-physicians", physician))["id"],
            "charge": (await company.charge(patient, payer_id=payer["id"]))["id"],
            "delayed": (await company.charge(patient, payer_id=payer["id"], delayed=True))["id"],
            "payment": (await company.payment(patient_id=patient["id"], batch_number="B"))["id"],
            "batch": "B",
            "feed": feed["feed_id"],
            "source": "EMR",
            "profile": "bank",
            "exception": (await company.exceptions())[0]["id"],
            "claim": (await company.get("/v1/claims"))["items"][0]["id"],
        }
        return cls(company, ids)

    async def ask(self, call: str, token: str | None, ids: dict[str, str] | None = None, **more: Any) -> Answer:
        """Send a call of the table, with a body that is good as far as it can be."""
        route, _, variant = call.partition(" +")
        method, _, path = route.partition(" ")
        for name, value in (ids or self.ids).items():
            path = path.replace(f":{name}", value)
        kind = route.partition("?")[0].replace("delayed", "charge")
        if "data" not in more and method != "GET":
            body, content_type = self.body(kind, variant)
            if body is not None:
                more = {"data": body, "headers": {"Content-Type": content_type}, **more}
        more.setdefault("headers", {}).setdefault("Idempotency-Key", str(uuid4()))
        return await self.company.stack.request(method, path, token, **more)

    def body(self, call: str, variant: str) -> tuple[bytes | None, str]:
        if call.endswith("/bulk"):
            return b"", "application/x-ndjson"
        if call.endswith("/x12"):
            return b"no x12", "application/edi-x12"
        if call.endswith("/hl7v2"):
            return b"no hl7", "application/hl7-v2"
        if call.endswith("/csv"):
            return b"no csv", "text/csv"
        if call.endswith("/fhir"):
            return b"no fhir", "application/fhir+json"
        if call.endswith("/emr"):
            return b"[]", BATCH
        charge = self.company.charge_body({"id": self.ids["patient"]}, delayed=bool(variant))
        bodies: dict[str, Any] = {
            "POST /v1/patients": patient_body(str(uuid4())),
            "POST /v1/payers": {"code": uuid4().hex[:20], "name": "Payer"},
            "POST /v1/referring-physicians": {
                "npi": f"{uuid4().int % 10**10:010}",
                "first_name": "A",
                "last_name": "B",
            },
            "POST /v1/patients/search": {},
            "POST /v1/payers/search": {},
            "POST /v1/referring-physicians/search": {},
            "PATCH /v1/patients/:patient": {"last_name": "Roe"},
            "PATCH /v1/payers/:payer": {"name": "Other"},
            "PATCH /v1/referring-physicians/:physician": {"last_name": "Other"},
            "POST /v1/charges": charge,
            "PATCH /v1/charges/:charge": {"units": 2},
            "POST /v1/charges/:charge/adjustments": {"group_code": "CO", "reason_code": "45", "amount_cents": 1},
            "POST /v1/charges/:charge/transfer": {"to": "patient", "amount_cents": 1},
            "POST /v1/payments": self.company.payment_body(patient_id=self.ids["patient"]),
            "PATCH /v1/payments/:payment": {"memo": "m"},
            "POST /v1/payments/:payment/applications": {
                "applications": [{"charge_id": self.ids["charge"], "amount_cents": 1}]
            },
            "POST /v1/payments/:payment/reversal": {},
            "POST /v1/payments/:payment/refund": {"amount_cents": 1},
            "POST /v1/batches": {"batch_number": "B"},
            "POST /v1/exceptions/retry": {"reason": "unknown_clinic"},
            "PUT /v1/feeds/csv/profiles/:source": PAYMENTS,
            "PUT /v1/feed-mappings": {"clinics": [], "payers": [], "procedures": []},
            "POST /v1/exceptions/:exception/resolve": {"note": "seen"},
            "POST /v1/exceptions/:exception/dismiss": {"note": "seen"},
        }
        found = bodies.get(call)
        return (None, "") if found is None else (orjson.dumps(found), "application/json")


def _npi() -> str:
    return f"{uuid4().int % 10**10:010}"


BATCH = "application/cloudevents-batch+json"


@pytest.fixture(scope="module")
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


@pytest.fixture(scope="module")
async def world(stack: LedgerStack) -> World:
    return await World.made(stack)


def token_of(world: World, role: str, **claims: Any) -> str:
    company_id = None if role in (OPERATOR, INTERNAL_CLIENT) else world.company.company_id
    return world.company.stack.tokens.token(role, company_id, **claims)


def test_the_table_names_every_route() -> None:
    """A route that is added without a line in the table fails here."""
    named = {re.sub(r":\w+", "{}", re.sub(r"[?].*| [+].*", "", call)) for call in GUARDS}
    assert named == {re.sub(r"{\w+}", "{}", f"{endpoint.method} {endpoint.path}") for endpoint in ENDPOINTS}


@dataclass(frozen=True, slots=True)
class OneCell:
    """A caller whose role has one area at one level, and nothing else: roles that the matrix may have tomorrow."""

    area: str
    level: str
    role: str = "practice_admin"
    is_operator: bool = False
    is_emr: bool = False
    is_internal: bool = False

    def allows(self, area: str, level: str) -> bool:
        return area == self.area and Grant(self.level).allows(level)


@pytest.mark.parametrize("call", [call for call in GUARDS if "charges" not in call and "unassigned" not in call])
def test_the_guard_of_a_route_asks_for_the_level_that_is_needed(call: str) -> None:
    """Also where no role of today has just that level. Charges and unassigned lists are decided in their handlers."""
    template = re.sub(r":\w+", "{}", call.partition("?")[0])
    (endpoint,) = [one for one in ENDPOINTS if re.sub(r"{\w+}", "{}", f"{one.method} {one.path}") == template]
    for area in areas():
        for level in LEVELS:
            caller = OneCell(area, level)
            expected = GUARDS[call](caller.allows)
            if call == "GET /v1/payments" and area == "unassigned_payments":
                continue  # The guard admits, the handler asks what is listed.
            assert endpoint.guard.admits(caller) == expected, (call, area, level)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ROLES)
async def test_every_route_with_every_role(stack: LedgerStack, role: str) -> None:
    world = await World.made(stack)
    token = token_of(world, role)
    for call in GUARDS:
        before = await world.company.rows() if not admitted(role, call) else None
        answer = await world.ask(call, token)
        if admitted(role, call):
            assert answer.status not in (401, 403), (role, call, answer)
            assert answer.status < 500, (role, call, answer)
        else:
            assert (answer.status, answer.code) == (403, "forbidden"), (role, call, answer)
            assert await world.company.rows() == before


@pytest.mark.parametrize("call", GUARDS)
async def test_without_a_token_nothing_is_said(world: World, call: str) -> None:
    for token in (None, "", "x.y.z", world.company.token()[:-2]):
        answer = await world.ask(call, token)
        assert (answer.status, answer.code) == (401, "unauthenticated"), answer


async def test_a_token_of_another_time_or_audience_is_none(world: World) -> None:
    now = int(time.time())
    for claims in (
        {"exp": now - 1},
        {"nbf": now + 600},
        {"aud": "elsewhere"},
        {"iss": "elsewhere"},
        {"locations": "all"},
    ):
        answer = await world.ask("GET /v1/patients", token_of(world, ADMIN, **claims))
        assert answer.status == 401, claims


@pytest.mark.parametrize("call", [call for call in GUARDS if not call.startswith("GET")])
async def test_a_role_is_refused_before_its_body_is_read(world: World, call: str) -> None:
    """403 comes before 404, 415 and 422: who may not call learns nothing of what is there or what would be wrong."""
    role = next(role for role in ROLES if not admitted(role, call))
    absent = {name: str(uuid4()) for name in world.ids}
    if call.endswith(("+delayed", ":delayed")) or ":delayed/" in call or ":charge" in call:
        return  # Which of two areas is asked depends on the charge; see below.
    for more in ({"data": b"{", "headers": {"Content-Type": "application/json"}}, {"data": b"x"}):
        answer = await world.ask(call, token_of(world, role), absent, **more)
        assert answer.status == 403, answer


async def test_the_charge_decides_which_area_is_asked(world: World) -> None:
    """Front Office edits active charges and only views delayed ones; an absent charge is absent for it."""
    world = await World.made(world.company.stack)
    token = token_of(world, "front_office")
    assert (await world.ask("PATCH /v1/charges/:charge", token)).status == 200
    assert (await world.ask("PATCH /v1/charges/:delayed", token)).status == 403
    absent = {"charge": str(uuid4())}
    assert (await world.ask("PATCH /v1/charges/:charge", token, absent)).status == 404
    assert (await world.ask("PATCH /v1/charges/:charge", token_of(world, "provider"), absent)).status == 403


async def test_what_the_matrix_says_of_partial(world: World) -> None:
    """D9: the AR Specialist views and applies existing money; no receipt, no reversal, no refund, no correction."""
    outcomes = {
        "GET /v1/payments": 200,
        "GET /v1/payments/:payment": 200,
        "POST /v1/payments/:payment/applications": 201,
        "POST /v1/payments": 403,
        "POST /v1/payments/bulk": 403,
        "PATCH /v1/payments/:payment": 403,
        "POST /v1/payments/:payment/reversal": 403,
        "POST /v1/payments/:payment/refund": 403,
    }
    fresh = await World.made(world.company.stack)
    token = token_of(fresh, "self_service_ar_specialist")
    assert {call: (await fresh.ask(call, token)).status for call in outcomes} == outcomes


OBJECT_CALLS = [call for call in GUARDS if re.search(r":(?!batch|source)", call) and "?" not in call]


@pytest.mark.parametrize("call", OBJECT_CALLS)
async def test_another_companys_object_is_absent_byte_for_byte(world: World, stack: LedgerStack, call: str) -> None:
    stranger = await stack.company()
    token = stranger.token()
    before = await stack.rows()
    foreign = await world.ask(call, token)
    absent = await world.ask(call, token, {name: str(uuid4()) for name in world.ids})
    no_id = await world.ask(call, token, dict.fromkeys(world.ids, "not-an-id"))
    assert foreign.status == 404, foreign
    assert same(foreign, absent)
    assert same(foreign, no_id)
    assert await stack.rows() == before


def same(one: Answer, other: Answer) -> bool:
    """Whether nobody could tell them apart."""
    bodies = [{**answer.body, "request_id": None} for answer in (one, other)]
    headers = [
        {name: value for name, value in answer.headers.items() if name.lower() not in ("date", "x-request-id")}
        for answer in (one, other)
    ]
    return (one.status, bodies[0], headers[0]) == (other.status, bodies[1], headers[1])


async def test_what_a_body_names_of_another_company_is_unknown(world: World, stack: LedgerStack) -> None:
    """A foreign id in a body is refused as one that never was, and the answer does not tell which."""
    stranger = await stack.company()
    patient = await stranger.patient()
    payer = await stranger.payer()
    paid = await stranger.payment(patient_id=patient["id"])
    theirs, nobodys = world.ids, {name: str(uuid4()) for name in world.ids}
    for make in (
        lambda ids: ("POST", "/v1/patients", patient_body("foreign", payer_id=ids["payer"])),
        lambda ids: ("PATCH", f"/v1/patients/{patient['id']}", {"payer_id": ids["payer"]}),
        lambda ids: ("POST", "/v1/charges", stranger.charge_body({"id": ids["patient"]})),
        lambda ids: ("POST", "/v1/charges", stranger.charge_body(patient, payer_id=ids["payer"])),
        lambda ids: ("POST", "/v1/payments", stranger.payment_body(patient_id=ids["patient"])),
        lambda ids: ("POST", "/v1/payments", stranger.payment_body(payer_id=ids["payer"])),
        lambda ids: (
            "POST",
            "/v1/payments",
            stranger.payment_body(payer_id=payer["id"], applications=[{"charge_id": ids["charge"], "amount_cents": 1}]),
        ),
        lambda ids: (
            "POST",
            f"/v1/payments/{paid['id']}/applications",
            {"applications": [{"charge_id": ids["charge"], "amount_cents": 1}]},
        ),
    ):
        before = await stack.rows()
        foreign = await stranger.send(*make(theirs))
        absent = await stranger.send(*make(nobodys))
        assert foreign.status == 422, foreign
        assert same(foreign, absent)
        assert await stack.rows() == before


async def test_lists_and_searches_hold_only_the_callers_company(world: World, stack: LedgerStack) -> None:
    stranger = await stack.company()
    for path in ("patients", "payers", "referring-physicians", "charges", "payments", "batches", "feeds", "exceptions"):
        assert (await stranger.get(f"/v1/{path}"))["items"] == [], path
    assert (await stranger.post("/v1/patients/search", {"last_name": "D"}, status=200))["items"] == []
    assert (await stranger.get("/v1/control-totals"))["items"] == []
    assert (await stranger.get("/v1/payments", cursor=world.ids["payment"]))["items"] == []
    for params in ({"patient_id": world.ids["patient"]}, {"location_id": str(world.company.locations[0])}):
        assert (await stranger.get("/v1/charges", **params))["items"] == []
    other = {"company_id": str(world.company.company_id)}
    answer = await stranger.send("GET", "/v1/control-totals", params=other)
    absent = await stranger.send("GET", "/v1/control-totals", params={"company_id": str(uuid4())})
    assert answer.status == 404
    assert same(answer, absent)


async def test_an_emr_client_sees_its_own_feeds_and_nothing_else(world: World, stack: LedgerStack) -> None:
    company = await stack.company()
    mine, other = [await stack.emr_client([company], f"{name} {company.company_id}") for name in ("mine", "other")]
    tokens = {client: company.token(EMR_CLIENT, client_id=client) for client in (mine, other)}
    feeds = {}
    for client, token in tokens.items():
        source = f"{'mine' if client == mine else 'other'} {company.company_id}"
        event = emr_event(source, "payment", emr_payment(uuid4(), "p"))
        answer = await company.upload("emr", b"[" + orjson.dumps(event) + b"]", token=token, **{"Content-Type": BATCH})
        assert (answer.status, answer.body["quarantined"]) == (200, 1)
        feeds[client] = answer.body["feed_id"]
    for client, token in tokens.items():
        foreign = feeds[other if client == mine else mine]
        assert [row["feed_id"] for row in (await company.get("/v1/feeds", token))["items"]] == [feeds[client]]
        assert (await company.get(f"/v1/feeds/{feeds[client]}", token))["quarantined"] == 1
        for path in (f"/v1/feeds/{foreign}", f"/v1/feeds/{foreign}/raw"):
            assert (await company.send("GET", path, token=token)).status == 404
        rows = (await company.get("/v1/exceptions", token))["items"]
        assert {row["feed_id"] for row in rows} == {feeds[client]}
        assert (await company.get("/v1/exceptions", token, feed_id=foreign))["items"] == []
    assert len((await company.get("/v1/feeds"))["items"]) == 2
    # A client may send only what is registered as its own.
    stolen = emr_event(f"mine {company.company_id}", "payment", emr_payment(company.locations[0], "p"))
    answer = await company.upload("emr", orjson.dumps(stolen), token=tokens[other])
    assert (answer.body["quarantined"], answer.body["posted"]) == (1, 0)
    assert (await company.reasons(feed_id=answer.body["feed_id"])) == {"unknown_source": 1}
