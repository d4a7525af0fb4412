"""The corpus of bad input over every endpoint of the three services (quality.md section 4, cases 1-16, 20-24, 55-64):
refused by name, nothing stored, nothing repeated, and the service lives on."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from shared.web.endpoint import Endpoint
from tests.support import hostile
from tests.support.hostile import BAD, BAD_QUERY, MARK, leaves
from tests.support.served import ALL, SOME_ID, Answer, Served, filled, label
from tests.support.tokens import TokenMaker

Services = dict[str, Served]
WITH_BODY = [(name, endpoint) for name, endpoint in ALL if endpoint.body is not None]
WITHOUT_BODY = [
    (name, endpoint)
    for name, endpoint in ALL
    if endpoint.method != "GET" and endpoint.body is None and not endpoint.raw_types
]
WITH_RAW = [(name, endpoint) for name, endpoint in ALL if endpoint.raw_types]
WITH_PATH = [(name, endpoint) for name, endpoint in ALL if "{" in endpoint.path]
GUARDED = [(name, endpoint) for name, endpoint in ALL if not endpoint.guard.public]
NEEDED: dict[str, tuple[str, ...]] = {
    "ledger /v1/events": (f"company_id={SOME_ID}",),
    "reporting /v1/reports/payment-balancing": ("from=2026-01-01", "to=2026-01-31"),
    "reporting /v1/reports/my-payment-activity": ("from=2026-01-01", "to=2026-01-31"),
}
"""Parameters without which the others are not looked at."""
FREE_NAMES = ("/v1/feed-profiles/", "/v1/feeds/csv/profiles/", "/v1/batches/", "/v1/roles/")
"""Paths that end in a name, which anybody may ask for."""


def refused(answer: Answer, status: int | range, code: str | None = None, field: str | None = None) -> None:
    """The whole contract of a refusal."""
    said = f"{answer} {answer.headers}"
    assert answer.status == status if isinstance(status, int) else answer.status in status, said
    assert answer.headers["Content-Type"] == "application/problem+json", said
    body = answer.body
    assert set(body) == {"type", "title", "status", "code", "detail", "request_id", "errors"}
    assert (body["status"], body["request_id"]) == (answer.status, answer.headers["X-Request-Id"])
    assert code is None or body["code"] == code, said
    named = [f"{name}." for name in answer.fields]  # Or what the field is part of, as of a set.
    assert field is None or any(n.startswith(f"{field}.") or f"{field}.".startswith(n) for n in named), (field, said)
    harmless(answer)


def harmless(answer: Answer) -> None:
    """What holds of every answer to bad input, refused or not."""
    assert answer.status < 500, answer
    assert MARK.encode() not in answer.raw, answer
    assert "X-Injected" not in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.headers["Cache-Control"] in ("no-store", "public, max-age=60")


@pytest.mark.parametrize(("name", "endpoint"), [*WITH_BODY, *WITHOUT_BODY], ids=label)
async def test_a_body_that_is_no_body(services: Services, name: str, endpoint: Endpoint) -> None:
    """1-10"""
    service = services[name]
    await service.token_for(endpoint)
    before = await service.counts()
    for case in hostile.JSON_BODIES:
        headers = {"Content_Type": "application/json", **case.headers}
        field = "body" if case.status == 422 and case.code != "invalid" else None
        refused(await service.ask(endpoint, case.body, **headers), case.status, case.code, field)
    assert await service.counts() == before
    await service.alive()


@pytest.mark.parametrize(("name", "endpoint"), WITHOUT_BODY, ids=label)
async def test_a_body_where_none_is_taken(services: Services, name: str, endpoint: Endpoint) -> None:
    """8: a field there is refused as any unknown one is, and not passed over; an empty object says nothing."""
    service = services[name]
    await service.token_for(endpoint)
    before = await service.counts()
    typed = {"Content_Type": "application/json", "Idempotency_Key": str(uuid4())}
    answer = await service.ask(endpoint, b'{"reason": "x", "memo": null}', **typed)
    refused(answer, 422, "invalid")
    assert answer.fields == dict.fromkeys(("reason", "memo"), "extra_forbidden")
    assert {error["message"] for error in answer.body["errors"]} == {"There is no such field here"}
    refused(await service.ask(endpoint, b"[]", **typed), 422, "invalid", "body")
    refused(await service.ask(endpoint, b"x", Content_Type="text/plain"), 415, "unsupported_media_type")
    assert await service.counts() == before
    empty, none = await service.ask(endpoint, b"{}", **typed), await service.ask(endpoint, **typed)
    assert empty.status == none.status not in (400, 415, 422), (empty, none)


@pytest.mark.parametrize(("name", "endpoint"), WITH_BODY, ids=label)
async def test_a_field_that_is_none(services: Services, name: str, endpoint: Endpoint) -> None:
    """11-16, 25-34: whatever may not stand in a field is refused under the field's name."""
    service = services[name]
    await service.token_for(endpoint)
    before = await service.counts()
    assert endpoint.body is not None
    places = leaves(endpoint.body)
    assert places
    for place in places:
        for value in BAD[place.kind]:
            answer = await service.ask(endpoint, place.body(value))
            # A lone surrogate is found before there is a field.
            field = None if isinstance(value, str) and not value.isprintable() and "\ud800" in value else place.name
            refused(answer, 422, field=field)
    assert await service.counts() == before


@pytest.mark.parametrize(("name", "endpoint"), WITH_RAW, ids=label)
async def test_a_feed_that_is_none(services: Services, name: str, endpoint: Endpoint) -> None:
    """2, 3, 9, and bytes that are nothing at all: never an error of ours, never an echo; what is refused as a whole
    leaves no trace. (What is taken as a feed is kept with its exceptions: `test_ledger_exceptions`.)"""
    service = services[name]
    query = "profile=none" if "csv" in endpoint.path else ""
    await service.token_for(endpoint)
    for headers in ({"Content_Type": "image/png"}, {"Content_Type": ""}):
        if headers["Content_Type"] or "application/octet-stream" not in endpoint.raw_types:  # What no type means.
            refused(await service.ask(endpoint, b"x", query, **headers), 415, "unsupported_media_type")
    for media_type in endpoint.raw_types:
        typed = {"Content_Type": media_type}
        for coding in ("gzip", "deflate", "br", "zstd", "x-gzip, identity"):
            refused(await service.ask(endpoint, b"x", query, Content_Encoding=coding, **typed), 415)
        for charset in ("utf-16", "x-none"):
            refused(await service.ask(endpoint, b"x", query, Content_Type=f"{media_type}; charset={charset}"), 415)
        for body in (
            b"",
            b"\x00",
            b"\xff\xfe" * 50,
            MARK.encode() * 50,
            b"[" * 200_000,
            b"\n" * 10_000,
            b"MSH",
            b"ISA",
        ):
            before = await service.counts()
            answer = await service.ask(endpoint, body, query, **typed)
            harmless(answer)
            if answer.status >= 400:
                assert await service.counts() == before, (body[:20], answer)
    await service.alive()


def _parameters(endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    """Every parameter of a query that has values it does not take, with each of them."""
    for name, schema in endpoint.query.model_json_schema(by_alias=True).get("properties", {}).items():
        options = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
        schema = options[0].get("items", options[0])
        if len(options) > 1 or "$ref" in schema or "anyOf" in schema:
            continue
        kind = "enum" if "enum" in schema else schema.get("format", schema.get("type"))
        for value in BAD_QUERY[{"string": "line", "date-time": "date"}.get(kind, kind)]:
            if value != "-1" or not name.endswith("_cents"):
                yield name, value


@pytest.mark.parametrize(("name", "endpoint"), ALL, ids=label)
async def test_parameters_that_are_none(services: Services, name: str, endpoint: Endpoint) -> None:
    """21, 23, 24"""
    service = services[name]
    await service.token_for(endpoint)
    before = await service.counts()
    body = b"[]" if endpoint.body else None
    for query in hostile.BAD_QUERIES:
        refused(await service.ask(endpoint, body, query), 422)
    for parameter, value in _parameters(endpoint):
        others = "&".join(
            one for one in NEEDED.get(f"{name} {endpoint.path}", ()) if not one.startswith(f"{parameter}=")
        )
        for query in (f"{parameter}={value}", f"{parameter}={value}&{parameter}={value}"):
            refused(await service.ask(endpoint, body, f"{query}&{others}" if others else query), 422, field=parameter)
    assert await service.counts() == before


@pytest.mark.parametrize(("name", "endpoint"), WITH_PATH, ids=label)
async def test_paths_that_lead_nowhere(services: Services, name: str, endpoint: Endpoint) -> None:
    """15, 22"""
    service = services[name]
    token = await service.token_for(endpoint)
    before = await service.counts()
    headers = {"Content_Type": "application/json"} if endpoint.body else {}
    for value in hostile.BAD_PATHS:
        answer = await service.send(
            endpoint.method, filled(endpoint.path, value), token=token, data=b"[]" if endpoint.body else None, **headers
        )
        if endpoint.path.startswith(FREE_NAMES) and answer.status < 300:
            assert "X-Injected" not in answer.headers
        else:
            refused(answer, range(400, 500))
    assert await service.counts() == before


@pytest.mark.parametrize("name", ["identity", "ledger", "reporting"])
async def test_methods_that_are_none(services: Services, name: str) -> None:
    """20: a method counts as it is sent, and an address answers those that it has."""
    service = services[name]
    before = await service.counts()
    served: dict[str, set[str]] = {}
    for owner, endpoint in ALL:
        if owner == name:
            served.setdefault(endpoint.path, set()).add(endpoint.method)
    for path, methods in served.items():
        for method in set(hostile.METHODS) - methods:
            answer = await service.send(method, filled(path), token=service.tokens[0], data=b"")
            other = any(method in more and _leads(template, path) for template, more in served.items())
            refused(answer, range(400, 500) if other else 405)
            if answer.status == 405:
                assert methods <= set(answer.headers["Allow"].split(","))
                assert answer.body["detail"] == f"This address takes {answer.headers['Allow'].replace(',', ', ')}"
        for header in hostile.OVERRIDES:
            answer = await service.send("TRACE", filled(path), token=service.tokens[0], **{header: "GET"})
            assert answer.status == 405
    assert await service.counts() == before


def _leads(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), filled(path)) is not None


@pytest.mark.parametrize(("name", "endpoint"), GUARDED, ids=label)
async def test_tokens_that_are_none(services: Services, name: str, endpoint: Endpoint) -> None:
    """55-64, at every door: the verifier's own corpus is in `test_identity_token_corpus`."""
    service = services[name]
    good = await service.token_for(endpoint)
    assert good is not None
    before = await service.counts()
    target = filled(endpoint.path)
    for value in hostile.BAD_AUTHORIZATION:
        headers = {"Authorization": value} if value else {}
        refused(await service.send(endpoint.method, target, **headers), 401, "unauthenticated")
    for forged in _forgeries(good):
        answer = await service.send(endpoint.method, target, token=forged)
        refused(answer, 401)
        assert forged.encode() not in answer.raw
    answer = await service.send(endpoint.method, f"{target}?access_token={good}")
    refused(answer, 401, "unauthenticated")
    assert good.encode() not in answer.raw
    assert await service.counts() == before


def _forgeries(good: str) -> list[str]:
    header, claims, signature = good.split(".")
    stranger = TokenMaker().token("operator", None, client_id="internal")

    def headed(**changes: Any) -> str:
        return ".".join((_encoded({**_decoded(header), **changes}), claims, signature))

    def claimed(**changes: Any) -> str:
        return ".".join((header, _encoded({**_decoded(claims), **changes}), signature))

    return [
        f"{_encoded({'alg': 'none', 'typ': 'at+jwt'})}.{claims}.",  # 55
        headed(alg="HS256"),  # 56
        headed(kid="../../etc/passwd"),  # 57
        headed(kid="' or 1=1--"),
        headed(jku="http://127.0.0.1:1/jwks.json"),  # 58
        claimed(exp=1),  # 59
        claimed(exp=int(time.time()) + 10**9),
        claimed(aud="other"),  # 60
        claimed(role="operator"),
        claimed(company_id=str(uuid4())),  # 62
        f"{header}.{claims}.{signature[:-4]}",  # 63
        f"{header}.{claims}.{signature}=",
        f"{good}.{signature}",
        f"{header}.{claims}.{signature[:10]}{'A' * (len(signature) - 10)}",
        stranger,
    ]


def _decoded(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def _encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize("name", ["identity", "ledger", "reporting"])
async def test_ids_of_requests_are_ours_unless_they_are_plain(services: Services, name: str) -> None:
    for given in ("short", "x" * 500, "semi;colon here", f"{MARK}\u00e9\u00e9\u00e9", "{{7*7}}<script>"):
        answer = await services[name].send("GET", "/livez", X_Request_Id=given, X_Correlation_Id=given)
        assert (answer.status, answer.headers["X-Request-Id"] == given) == (200, False)
    assert (await services[name].send("GET", "/livez", X_Request_Id=SOME_ID)).headers["X-Request-Id"] == SOME_ID
