"""Cases of quality.md section 4 that need more than one bad value at one door; by number in docs/hostile-input.md."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import date

import pytest

from shared.web.endpoint import Endpoint
from tests.hostile.test_requests import GUARDED, NEEDED, harmless, refused
from tests.support.csv_files import PAYMENTS
from tests.support.hostile import JSON_BODIES, MARK, Raw
from tests.support.identity import INTERNAL_SECRET, PASSWORD
from tests.support.ledger import patient_body
from tests.support.served import ALL, Served, filled, label
from tests.support.tokens import TokenMaker

Services = dict[str, Served]
PARAMETERS = {(name, e): {f.alias or key for key, f in e.query.model_fields.items()} for name, e in ALL}
PAGED = [one for one, names in PARAMETERS.items() if "limit" in names]
DATED = [one for one, names in PARAMETERS.items() if "from" in names]


# -- JSON within a feed ----------------------------------------------------------------------------------------------

JSON_FEEDS = {
    "/v1/feeds/emr": ("application/cloudevents+json", "application/cloudevents-batch+json"),
    "/v1/feeds/fhir": ("application/fhir+json",),
    "/v1/payments/bulk": ("application/x-ndjson",),
}


@pytest.mark.parametrize("case", [one for one in JSON_BODIES if not one.headers], ids=lambda one: one.name)
@pytest.mark.parametrize("path", JSON_FEEDS)
async def test_cases_1_to_13_in_json_that_is_a_feed(services: Services, path: str, case: Raw) -> None:
    """Refused, or told line by line as an exception; nothing of it becomes money, nothing of it is an error of ours."""
    ledger = services["ledger"]
    before = await ledger.counts()
    for media_type in JSON_FEEDS[path]:
        answer = await ledger.send("POST", path, token=ledger.tokens[0], data=case.body, Content_Type=media_type)
        assert answer.status < 500, answer
        assert MARK.encode() not in answer.raw
        if path.endswith("bulk"):
            assert all(json.loads(line)["status"] in (400, 422) for line in answer.raw.splitlines())
        elif answer.status < 400:
            assert answer.body["posted"] == 0
    after = await ledger.counts()
    for table in ("payment", "charge", "patient", "payer", "event", "outbox"):
        assert after[table] == before[table], table
    await ledger.alive()


# -- texts that look alike -------------------------------------------------------------------------------------------

COMPOSED, APART = "Mu\u00f1oz", "Mun\u0303oz"


async def test_cases_14_and_82_two_spellings_are_one_key(services: Services) -> None:
    """A batch, a patient and an account written in the other composition are found, and are taken."""
    company = services["ledger"].company
    assert company is not None
    payer = await company.payer()
    await company.post("/v1/patients", patient_body(f"{APART}-1", last_name=APART))
    for number in (APART, COMPOSED):
        await company.payment(batch_number=number, payer_id=payer["id"])
    batches = [row["batch_number"] for row in (await company.get("/v1/batches"))["items"]]
    assert (batches.count(COMPOSED), batches.count(APART)) == (1, 0)
    taken = await company.send("POST", "/v1/patients", patient_body(f"{COMPOSED}-1"))
    assert taken.fields == {"account_number": "taken"}
    for spelling in (APART, COMPOSED):
        assert len((await company.get("/v1/payments", batch_number=spelling))["items"]) == 2
        found = await company.send("POST", "/v1/patients/search", {"last_name": spelling})
        assert len(found.body["items"]) == 1


# -- paths, pages and ranges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "a%2fb", "%5c%5chost%5cshare", "x" * 300]
)
async def test_case_22_a_name_that_is_a_path_is_no_name(services: Services, value: str) -> None:
    """Of an agreement about files, also where all else is good."""
    ledger = services["ledger"]
    before = await ledger.counts()
    answer = await ledger.send(
        "PUT",
        f"/v1/feeds/csv/profiles/{value}",
        token=ledger.tokens[0],
        data=json.dumps(PAYMENTS).encode(),
        Content_Type="application/json",
    )
    refused(answer, range(400, 500))
    assert await ledger.counts() == before


@pytest.mark.parametrize(("name", "endpoint"), PAGED, ids=label)
async def test_case_23_a_page_beyond_all_measure(services: Services, name: str, endpoint: Endpoint) -> None:
    service = services[name]
    more = "&".join(NEEDED.get(f"{name} {endpoint.path}", ()))
    for value in ("0", "-1", "1000000000", str(1 << 31), str(1 << 63)):
        refused(await service.ask(endpoint, None, f"limit={value}&{more}".rstrip("&")), 422, field="limit")
    for query, field in (("offset=-1", "offset"), ("sort=password_hash", "sort"), ("page=2", "page")):
        refused(await service.ask(endpoint, None, f"{query}&{more}".rstrip("&")), 422, field=field)


async def test_case_24_of_deposits(services: Services) -> None:
    company = services["ledger"].company
    assert company is not None
    for first, last, status in (("1900-01-01", "2199-12-31", 200), ("2026-02-01", "2026-01-01", 422)):
        answer = await company.send("GET", "/v1/payments", params={"deposit_from": first, "deposit_to": last})
        assert (answer.status, "deposit_to" in answer.raw.decode()) == (status, status == 422), answer


@pytest.mark.parametrize(("name", "endpoint"), DATED, ids=label)
async def test_case_24_the_widest_range_is_answered_and_a_wider_one_refused(
    services: Services, name: str, endpoint: Endpoint
) -> None:
    service = services[name]
    for first, last, field in (
        ("1899-12-31", "2026-12-31", "from"),
        ("1900-01-01", "9999-12-31", "to"),
        ("0001-01-01", "2026-01-01", "from"),
        ("2026-12-31", "1900-01-01", ""),
    ):
        refused(await service.ask(endpoint, None, f"from={first}&to={last}"), 422, field=field or None)
    started = time.monotonic()
    answer = await service.ask(endpoint, None, f"from={date(1900, 1, 1)}&to={date(2199, 12, 31)}")
    harmless(answer)
    assert time.monotonic() - started < 5
    assert answer.status == 200 or answer.fields, answer


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_case_60_what_is_given_to_get_tokens_is_none(services: Services) -> None:
    """A refresh token and a client's secret at every guarded door: each opens identity's token endpoint alone."""
    identity = services["identity"]
    form = f"grant_type=password&username=admin&password={PASSWORD}".replace(" ", "+")
    got = await identity.send("POST", "/v1/token", data=form.encode(), Content_Type="application/x-www-form-urlencoded")
    secrets = [got.body["refresh_token"], INTERNAL_SECRET]
    for name, endpoint in GUARDED:
        for secret in secrets:
            answer = await services[name].send(endpoint.method, filled(endpoint.path), token=secret)
            refused(answer, 401, "unauthenticated")
            assert secret.encode() not in answer.raw


@pytest.mark.parametrize(
    ("name", "path"), [("ledger", "/v1/patients"), ("reporting", "/v1/reports"), ("identity", "/v1/me")]
)
async def test_case_79_a_thousand_guessed_tokens_at_once(services: Services, name: str, path: str) -> None:
    """Each by a key of its own, so that none is known: refused, and the one who has a token is served meanwhile."""
    service, maker = services[name], TokenMaker()
    good = maker.token("operator", None)
    header, claims, signature = good.split(".")
    guesses = [f"{header}.{claims}.{number:04}{signature[4:]}" for number in range(1_000)]
    began = time.monotonic()
    asked = [service.send("GET", path, token=guess) for guess in guesses]
    answers, mine = await asyncio.gather(asyncio.gather(*asked), service.send("GET", path, token=service.tokens[0]))
    assert {answer.status for answer in answers} == {401}
    assert mine.status == 200
    assert time.monotonic() - began < 20
    await service.alive()
