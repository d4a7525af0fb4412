"""A canary in every text field of every endpoint and feed, in good input and in bad: it is in the books and in what the
caller himself reads there, and nowhere else: no log, metric, problem, database log or header of a dead letter."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog
from pydantic import BaseModel

from deploy.postgres import PrivatePostgres
from services.ledger.feeds.consumer import SUBSCRIPTION, EmrConsumer
from shared import logs
from shared.amqp import AmqpBus
from shared.amqp.dead_letters import dead_letters
from shared.bus import EMR_FEED, Message
from tests.support.csv_files import agree, row, table, upload
from tests.support.emr import emr_charge, emr_event, emr_payment
from tests.support.fhir_builder import body as fhir
from tests.support.fhir_builder import bundle, charge_item, notice, patient, reconciliation
from tests.support.hl7_messages import ft1, message
from tests.support.hostile import BAD, MARK, leaves
from tests.support.ledger import Company
from tests.support.served import ALL, SOME_ID, Answer, Served, filled
from tests.support.x12_builder import ClaimPayment, Payment, Service, x12_file

Services = dict[str, Served]
SHORT = MARK[:8]
NAMED = {"last_name": MARK, "first_name": MARK, "account_number": MARK}


@pytest.fixture(scope="module", autouse=True)
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that is logged, as a process logs it, down to debug."""
    file = tmp_path_factory.mktemp("logs") / "log"
    handlers, level = logging.root.handlers[:], logging.root.level
    logs.configure("debug")
    with file.open("ab", buffering=0) as out:
        # Loggers made meanwhile must not keep this file for the tests of other modules.
        structlog.configure(logger_factory=structlog.BytesLoggerFactory(out), cache_logger_on_first_use=False)
        yield file
        structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
async def nowhere(services: Services, logged: Path, postgres: PrivatePostgres) -> AsyncIterator[None]:
    """After each test."""
    began = postgres.log.stat().st_size
    yield
    for service in services.values():
        answer = await service.send("GET", "/metrics")
        assert answer.status == 200
        assert MARK.encode() not in answer.raw
    for name in ("ledger", "reporting"):
        audit = await services[name].owner.fetch("select t::text as text from audit t")
        assert not [row["text"] for row in audit if SHORT in row["text"]]
    assert b'"event":"request"' in logged.read_bytes()
    lines = logged.read_bytes().splitlines()
    assert not [line for line in lines if SHORT.encode() in line]
    with postgres.log.open("rb") as server:
        server.seek(began)
        assert not [line for line in server.read().splitlines() if SHORT.encode() in line]


def silent(answer: Answer | Any) -> None:
    """A refusal does not repeat what it refuses."""
    assert answer.status < 500, answer
    if answer.status >= 400:
        assert MARK.encode() not in answer.raw, answer
    assert MARK not in str(answer.headers)


@pytest.fixture
def company(services: Services) -> Company:
    found = services["ledger"].company
    assert found is not None
    return found


async def test_every_field_of_every_endpoint(services: Services) -> None:
    """The canary, also beside what may not stand there."""
    for name, endpoint in ALL:
        if endpoint.body is None:
            continue
        for place in leaves(endpoint.body):
            for value in (MARK, f"{MARK}\x00", *BAD[place.kind]):
                silent(await services[name].ask(endpoint, place.body(value)))


async def test_every_parameter_and_path(services: Services) -> None:
    for name, endpoint in ALL:
        service, token = services[name], await services[name].token_for(endpoint)
        fields = [field.alias or key for key, field in endpoint.query.model_fields.items()]
        for field in (*fields, MARK):
            answer = await service.ask(endpoint, b"{}" if endpoint.body else None, f"{field}={MARK}")
            assert answer.status < 500, answer
            assert answer.status < 400 or f'"{MARK}"'.encode() not in answer.raw.replace(
                f'"field":"{MARK}"'.encode(), b""
            )
        if "{" in endpoint.path:
            silent(await service.send(endpoint.method, filled(endpoint.path, MARK), token=token, data=b"[]"))


async def test_every_header(services: Services) -> None:
    for name, endpoint in ALL:
        for value in (f"{MARK} {MARK}", f"{MARK};\t{MARK}"):
            headers = dict.fromkeys(
                ("X_Request_Id", "X_Correlation_Id", "User_Agent", "Accept", "Referer", "Cookie", "X_Forwarded_For"),
                value,
            )
            silent(await services[name].ask(endpoint, b"{" if endpoint.body else None, **headers))
        for value in (MARK, f"Bearer {MARK}", f"Bearer {MARK}.{MARK}.{MARK}", f"Basic {MARK}"):
            silent(await services[name].send(endpoint.method, filled(endpoint.path), Authorization=value))


async def test_people_and_secrets_of_identity(services: Services) -> None:
    identity = services["identity"]
    operator, admin = identity.tokens[:2]
    company = (await identity.send("GET", "/v1/companies", token=operator)).body["items"][0]["id"]
    user = {
        "user_name": "canary",
        "first_name": MARK,
        "last_name": MARK,
        "email": f"{MARK}@practice.example",
        "password": f"{MARK} of the user",
        "user_type": "customer",
        "role": "front_office",
        "company_ids": [company],
    }
    typed = {"Content_Type": "application/json"}
    made = await identity.send("POST", "/v1/users", token=operator, data=json.dumps(user).encode(), **typed)
    assert made.status == 201, made
    silent(await identity.send("POST", "/v1/users", token=admin, data=json.dumps(user).encode(), **typed))
    forms = (
        f"grant_type=password&username=canary&password={MARK}",
        f"grant_type=password&username={MARK}&password={MARK}",
        f"grant_type=password&username=canary&password={MARK}%20of%20the%20user",
        f"grant_type=password&username=canary&password={MARK}%20of%20the%20user&company_id={MARK}&totp={MARK}",
        f"grant_type=refresh_token&refresh_token={MARK}",
        f"grant_type=client_credentials&client_id={MARK}&client_secret={MARK}",
        f"grant_type={MARK}&{MARK}={MARK}",
        f"{MARK}=%ff%fe",
        f"token={MARK}&client_id=internal&client_secret={MARK}",
    )
    for path in ("/v1/token", "/v1/introspect", "/v1/revoke"):
        for form in forms:
            silent(
                await identity.send("POST", path, data=form.encode(), Content_Type="application/x-www-form-urlencoded")
            )
    for column in ("audit", "event"):
        rows = await identity.owner.fetch(f"select t::text as text from {column} t")
        assert not [row["text"] for row in rows if f"{MARK} of the user" in row["text"]], "secrets are in neither"


async def test_documents_of_the_ledger(company: Company) -> None:
    patient_of = await company.patient(MARK, first_name=MARK, last_name=MARK)
    payer = await company.payer(name=MARK, payer_class=MARK, era_payer_ids=[MARK])
    texts = dict.fromkeys(("check_number", "batch_number", "memo", "external_id"), MARK)
    payment = await company.payment(patient_id=patient_of["id"], **texts)
    charge = await company.charge(patient_of, payer_id=payer["id"], external_id=MARK)
    for path, body in (
        ("/v1/patients", NAMED),
        ("/v1/patients", {**NAMED, "date_of_birth": "1980-02-29"}),  # Taken: a unique key of the database.
        ("/v1/payments", company.payment_body(external_id=MARK)),
        ("/v1/charges", company.charge_body({"id": SOME_ID}, external_id=MARK)),
        ("/v1/patients/search", {"last_name": MARK}),
        (f"/v1/payments/{payment['id']}/reversal", {"memo": MARK}),
        (f"/v1/charges/{charge['id']}/adjustments", {"reason_code": MARK, "group_code": MARK}),
    ):
        silent(await company.send("POST", path, body, key=MARK))
    silent(await company.send("PATCH", f"/v1/patients/{patient_of['id']}", {"last_name": f"{MARK}2"}))
    lines = [
        json.dumps({**company.payment_body(memo=MARK), "idempotency_key": key}) for key in (MARK, MARK, f"{MARK}\x00")
    ]
    bulk = await company.send("POST", "/v1/payments/bulk", data="\n".join([*lines, MARK]).encode(), headers=NDJSON)
    assert MARK not in "".join(json.dumps(line.get("errors", "")) for line in bulk.lines)


NDJSON = {"Content-Type": "application/x-ndjson"}


async def test_feeds(company: Company, services: Services) -> None:
    """Each as its sender would write it, cut at many places, and with what no reader expects."""
    claim = ClaimPayment(
        account=MARK, services=[Service(charge_cents=10_000)], last_name=MARK, first_name=MARK, icn=MARK
    )
    x12 = x12_file([Payment(trace=MARK, claims=[claim], payer=MARK, payee=MARK)])
    hl7 = message(ft1("CG", MARK, "120.00"), control_id=MARK, account=MARK).replace(
        b"DOE^PAT", f"{MARK}^{MARK}".encode()
    )
    emr = f"https://emr.example/{MARK}"
    await company.stack.emr_client([company], emr)
    place = company.locations[0]
    events = [
        emr_event(
            emr, "payment", emr_payment(place, MARK, patient={**NAMED, "date_of_birth": "1980-02-29"}), event_id=MARK
        ),
        emr_event(
            emr, "charge", emr_charge(place, MARK, patient={**NAMED, "date_of_birth": MARK}), event_id=f"{MARK}1"
        ),
        emr_event(MARK, "charge", {MARK: MARK}),
    ]
    named = patient(name=[{"use": "official", "family": MARK, "given": [MARK]}], identifier=[{"value": MARK}])
    fhir_bundle = bundle(named, charge_item(), reconciliation(paymentIdentifier={"value": MARK}), notice(id=MARK))
    await agree(company)
    csv = table(row(place, MARK, First=MARK, Last=MARK, Account=MARK, Check=MARK), row(MARK, 2, Amount=MARK, How=MARK))
    feeds = {
        "application/edi-x12": ("/v1/feeds/x12", x12),
        "application/hl7-v2": ("/v1/feeds/hl7v2", hl7),
        "application/cloudevents-batch+json": ("/v1/feeds/emr", json.dumps(events).encode()),
        "application/fhir+json": ("/v1/feeds/fhir", fhir(fhir_bundle)),
        "text/csv": ("/v1/feeds/csv?profile=bank", csv),
    }
    ledger = services["ledger"]
    for media_type, (path, content) in feeds.items():
        assert content.count(MARK.encode()) > 2
        steps = range(0, len(content), max(1, len(content) // 12))
        cut = [content[:at] for at in steps]
        broken = [content[:at] + b"\x00\xff" + content[at:] for at in steps]
        for one in (content, *cut, *broken, MARK.encode()):
            silent(await ledger.send("POST", path, token=company.token(), data=one, Content_Type=media_type))
    assert (await upload(company, csv)).body["quarantined"] > 0
    found = await company.get("/v1/exceptions", limit=500)
    assert MARK in json.dumps(found), "the canaries did come in"
    for item in found["items"][:20]:
        silent(await company.send("POST", f"/v1/exceptions/{item['id']}/dismiss", {"note": MARK}))


async def test_messages(company: Company, amqp_url: str) -> None:
    """Over AMQP: what cannot be read is parked, and neither the log nor what is shown of a dead letter has it."""
    consumer, bus, stop = EmrConsumer(company.stack.ledger), AmqpBus(amqp_url), asyncio.Event()
    await bus.declare([SUBSCRIPTION])
    source = f"https://emr.example/amqp/{MARK}"
    await company.stack.emr_client([company], source)
    good = emr_event(source, "payment", emr_payment(company.locations[0], f"{MARK}-amqp"))
    bodies = [json.dumps(good).encode(), MARK.encode(), f'{{"{MARK}": "{MARK}"}}'.encode(), b'{"id": "' + MARK.encode()]
    structured = "application/cloudevents+json"
    messages = [
        Message(f"message-{n}", "emr.payment.posted.v1", "emr.payment.posted.v1", body, {"ce-source": MARK}, structured)
        for n, body in enumerate(bodies)
    ]
    assert all(await bus.publish(EMR_FEED, messages))
    running = asyncio.create_task(consumer.run(bus, stop))
    try:
        async with asyncio.timeout(20):
            while len(letters := await dead_letters(amqp_url, SUBSCRIPTION.queue)) < 3:
                await asyncio.sleep(0.1)
    finally:
        stop.set()
        await running
        await bus.close()
    assert {letter.message_id for letter in letters} == {"message-1", "message-2", "message-3"}
    assert MARK not in str(letters)


async def test_the_database_itself_writes_no_keys(services: Services, postgres: PrivatePostgres) -> None:
    """The DETAIL of a broken key holds the key."""
    before = postgres.log.read_bytes().count(b"duplicate key value")
    owner = services["ledger"].owner
    await owner.execute("create table canary (name text primary key)")
    try:
        with pytest.raises(asyncpg.UniqueViolationError) as error:
            await owner.executemany("insert into canary values ($1)", [(MARK,), (MARK,)])
    finally:
        await owner.execute("drop table canary")
    assert MARK in str(error.value.detail)
    assert postgres.log.read_bytes().count(b"duplicate key value") > before


def test_messages_of_models_do_not_quote() -> None:
    """pydantic's own messages hold the input unless they are asked not to; ours are made without it."""
    from shared.web.bodies import field_errors

    class Model(BaseModel):
        name: int

    with pytest.raises(ValueError, match=MARK) as error:
        Model.model_validate({"name": MARK})
    assert MARK not in str(field_errors(error.value))  # type: ignore[arg-type]
