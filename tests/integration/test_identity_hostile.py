"""Hostile requests (quality cases 1-24): refused by name, nothing stored, nothing published, nothing echoed."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from dataclasses import field as of
from itertools import count
from typing import Any

import asyncpg
import orjson
import pytest

from tests.support.databases import Databases
from tests.support.identity import IdentityStack

CANARY = "ZZPHI7f3a"
_numbers = count(1)


@dataclass
class Case:
    """One request and what it must meet. `field`: named in the answer's `errors`."""

    raw: bytes
    status: int
    code: str | None = None
    field: str | None = None
    headers: dict[str, str] = of(default_factory=dict)


def user(**fields: Any) -> bytes:
    whole = {
        "user_name": f"u{next(_numbers)}",
        "first_name": "Ana",
        "last_name": "Diaz",
        "email": "ana@practice.example",
        "user_type": "customer",
        "role": "front_office",
        **fields,
    }
    return orjson.dumps(whole)


GOOD = user(user_name="never_made")


def with_raw(name: str, value: bytes) -> bytes:
    """The good body with one value written as given, valid JSON or not."""
    document = orjson.loads(GOOD)
    document[name] = "@@"
    return orjson.dumps(document).replace(b'"@@"', value)


def kind(content_type: str) -> dict[str, str]:
    return {"Content-Type": content_type}


BODIES = {
    "1 body over the limit": Case(b'{"first_name": "' + b"x" * (1 << 20) + b'"}', 413),
    "2 gzip": Case(gzip.compress(GOOD), 415, headers={"Content-Encoding": "gzip"}),
    "2 gzip bomb": Case(gzip.compress(bytes(50_000_000)), 415, headers={"Content-Encoding": "gzip"}),
    "3 many gzip members": Case(gzip.compress(b"1") * 10_000, 415, headers={"Content-Encoding": "gzip"}),
    "2 brotli": Case(GOOD, 415, headers={"Content-Encoding": "br"}),
    "4 nested lists": Case(b"[" * 200_000, 400, "malformed"),
    "4 nested objects": Case(b'{"a":' * 100_000, 400, "malformed"),
    "4 nested and closed": Case(b"[" * 50_000 + b"]" * 50_000, 400, "malformed"),
    "5 number of 5,000 digits": Case(with_raw("first_name", b"9" * 5_000), 422),
    "6 NaN": Case(with_raw("first_name", b"NaN"), 422, "not_a_number"),
    "6 Infinity": Case(with_raw("first_name", b"-Infinity"), 422, "not_a_number"),
    "7 a name twice": Case(GOOD[:-1] + b',"role":"practice_admin"}', 422, "duplicate_key"),
    "7 a name twice, escaped": Case(GOOD[:-1] + b',"\\u0072ole":"provider"}', 422, "duplicate_key"),
    "8 unknown field": Case(user(is_admin=True), 422, field="is_admin"),
    "8 unknown field with a secret name": Case(user(**{CANARY + "\u00e9" * 200: 1}), 422),
    "8 __proto__": Case(user(__proto__={"admin": True}), 422, field="__proto__"),
    "9 text": Case(GOOD, 415, headers=kind("text/plain")),
    "9 form": Case(b"user_name=x", 415, headers=kind("application/x-www-form-urlencoded")),
    "9 no type": Case(GOOD, 415, headers=kind("")),
    "9 other charset": Case(GOOD, 415, headers=kind("application/json; charset=iso-8859-1")),
    "9 UTF-16": Case(GOOD.decode().encode("utf-16"), 400, "malformed"),
    "9 BOM": Case(b"\xef\xbb\xbf" + GOOD, 400, "malformed"),
    "9 XML": Case(b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', 400),
    "10 invalid UTF-8": Case(with_raw("first_name", b'"\xff\xfe"'), 400, "malformed"),
    "10 overlong UTF-8": Case(with_raw("first_name", b'"\xc0\xaf"'), 400, "malformed"),
    "11 NUL": Case(user(first_name=f"{CANARY}\u0000"), 422, field="first_name"),
    "11 raw NUL": Case(with_raw("first_name", b'"a\x00b"'), 400, "malformed"),
    "12 escaped NUL in the e-mail": Case(user(email="a\u0000@b.example"), 422, field="email"),
    "13 lone surrogate": Case(with_raw("first_name", b'"\\ud800"'), 422),
    "13 swapped surrogates": Case(with_raw("first_name", b'"\\udc00\\ud800"'), 422),
    "14 right-to-left override": Case(user(last_name=f"{CANARY}\u202exe"), 422, field="last_name"),
    "14 zero width space": Case(user(last_name="Di\u200baz"), 422, field="last_name"),
    "14 control characters": Case(user(last_name="Di\r\naz: x"), 422, field="last_name"),
    "14 blank": Case(user(last_name=" \u00a0 "), 422, field="last_name"),
    "14 unassigned character": Case(user(last_name="a\U000e0fff"), 422, field="last_name"),
    "15 id as number": Case(user(company_ids=[2**63 - 1]), 422, field="company_ids.0"),
    "15 id without hyphens": Case(user(company_ids=["0" * 32]), 422, field="company_ids.0"),
    "15 many ids": Case(user(company_ids=[f"{n:032x}" for n in range(10_000)]), 422, field="company_ids"),
    "16 1 for true": Case(user(active=1), 422, field="active"),
    "16 text for true": Case(user(active="true"), 422, field="active"),
    "16 number for text": Case(user(first_name=1), 422, field="first_name"),
    "16 list for text": Case(user(role=["front_office"]), 422, field="role"),
    "16 object for a list": Case(user(company_ids={"0": "x"}), 422, field="company_ids"),
    "an empty body": Case(b"", 400, "malformed"),
    "a list": Case(b"[]", 422),
    "a text": Case(b'"x"', 422),
    "null": Case(b"null", 422),
    "two documents": Case(GOOD + GOOD, 400, "malformed"),
    "trailing text": Case(GOOD + b" x", 400, "malformed"),
    "a long name": Case(user(first_name=CANARY * 1_000), 422, field="first_name"),
    "a very long name": Case(user(first_name="x" * 500_000), 422, field="first_name"),
}


@pytest.fixture(scope="module")
async def identity(databases: Databases) -> AsyncIterator[IdentityStack]:
    async with IdentityStack.fresh(databases) as stack:
        company = await stack.company("HOST")
        await stack.user("admin", "partner_admin", [company["id"]])
        yield stack


@pytest.fixture
async def unchanged(identity: IdentityStack) -> AsyncIterator[None]:
    """Nothing is stored or waits to be published because of the test."""
    await identity.token("admin")
    before = await counts(identity)
    yield
    assert await counts(identity) == before
    assert (await identity.get("/livez")).status == 200


async def counts(identity: IdentityStack) -> list[int]:
    tables = "company location app_user user_company client event outbox audit refresh_token signing_key"
    connection = await asyncpg.connect(identity.dsn)
    try:
        return [await connection.fetchval(f"select count(*) from {table}") for table in tables.split()]
    finally:
        await connection.close()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("why", BODIES)
async def test_bodies(identity: IdentityStack, why: str) -> None:
    case = BODIES[why]
    headers = {"Content-Type": "application/json", **case.headers}
    answer = await identity.request(
        "POST", "/v1/users", token=await identity.token("admin"), data=io.BytesIO(case.raw), headers=headers
    )
    assert answer.status == case.status, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.body.keys() == {"type", "title", "status", "code", "detail", "request_id", "errors"}
    if case.code:
        assert answer.body["code"] == case.code
    if case.field:
        assert case.field in [error["field"] for error in answer.body["errors"]]
    assert CANARY not in answer.raw.decode()


async def test_case_14_names_are_kept_in_one_form(identity: IdentityStack) -> None:
    """NFC and NFD of one name are one name."""
    token = await identity.token("admin")
    for number, spelling in enumerate(("Jos\u00e9", "Jose\u0301", "  Jos\u00e9 ")):
        body = orjson.loads(user(user_name=f"jose{number}", first_name=spelling))
        assert (await identity.post("/v1/users", body, token)).body["first_name"] == "Jos\u00e9"


@pytest.mark.usefixtures("unchanged")
class TestQueriesAndPaths:
    @pytest.mark.parametrize(
        "query",
        [
            "limit=1000000000",
            "limit=0",
            "limit=-1",
            "limit=x",
            "limit=1.5",
            "limit=1&limit=2",
            "limit=" + "9" * 3_000,
            "cursor=1",
            "cursor=",
            "cursor=' or 1=1--",
            "offset=-1",
            "sort=password_hash",
            "after=1",
            "&".join(f"a{number}=1" for number in range(900)),
            "limit=%00",
            "limit=%ff",
            "access_token=x",
        ],
    )
    async def test_case_23_queries(self, identity: IdentityStack, query: str) -> None:
        answer = await identity.get(f"/v1/users?{query}", await identity.token("admin"))
        assert answer.status == 422, answer

    @pytest.mark.parametrize("after", ["-1", str(1 << 63), "x", "1e3", "0x10"])
    async def test_case_15_positions(self, identity: IdentityStack, after: str) -> None:
        answer = await identity.get(f"/v1/events?after={after}", await identity.internal())
        assert (answer.status, answer.body["errors"][0]["field"]) == (422, "after")

    @pytest.mark.parametrize(
        "tail", ["..%2f..%2fetc%2fpasswd", "%00", "%ff", "x" * 1_000, "1", "' or ''='", "\u0661", "{id}", "%2e%2e"]
    )
    async def test_case_22_paths(self, identity: IdentityStack, tail: str) -> None:
        for kind_of in ("users", "companies"):
            answer = await identity.get(f"/v1/{kind_of}/{tail}", await identity.token("admin"))
            assert answer.status == 404, answer

    async def test_case_20_method_override(self, identity: IdentityStack) -> None:
        token = await identity.token("admin")
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
            answer = await identity.request("POST", "/v1/users", token=token, headers={name: "GET"}, json={})
            assert answer.status == 422
        answer = await identity.request("PUT", "/v1/users", token=token)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,POST")

    async def test_case_64_a_token_in_the_query_is_ignored(self, identity: IdentityStack) -> None:
        token = await identity.token("admin")
        for path in (f"/v1/me?access_token={token}", f"/v1/users?token={token}"):
            answer = await identity.get(path)
            assert (answer.status, answer.body["code"]) == (401, "unauthenticated")
            assert token not in answer.raw.decode()

    @pytest.mark.parametrize(
        "header", ["", "Bearer", "Bearer ", "Basic eDp5", "Token x", "bearer a b", "Bearer \u00e9"]
    )
    async def test_other_authorization(self, identity: IdentityStack, header: str) -> None:
        answer = await identity.get("/v1/me", headers={"Authorization": header} if header else {})
        assert (answer.status, answer.body["code"]) == (401, "unauthenticated")


async def exchange(identity: IdentityStack, raw: bytes, seconds: float = 5) -> bytes:
    """What the server says to these bytes until it closes, or falls silent."""
    host, port = identity.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(raw)
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(seconds):
            return await reader.read()
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        writer.close()


@pytest.mark.usefixtures("unchanged")
class TestTransport:
    @pytest.mark.parametrize(
        "raw",
        [
            b"GET /v1/me HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
            b"GET /v1/me HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1\r\n" * 10_000 + b"\r\n",
            b"GET /v1/me?" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /v1/me?" + b"&".join(b"a%d=1" % n for n in range(10_000)) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET /v1/me HTTP/9.9\r\n\r\n",
            b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            b"POST /v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /v1/users HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        ],
        ids=["header", "headers", "url", "parameters", "tls", "version", "smuggling", "lengths", "negative", "chunk"],
    )
    async def test_cases_18_19_21(self, identity: IdentityStack, raw: bytes) -> None:
        said = await exchange(identity, raw)
        assert said == b"" or said.startswith(b"HTTP/1.1 4") or said.startswith(b"HTTP/1.0 4"), said[:200]
        assert said.count(b"HTTP/1.") <= 1

    async def test_case_1_an_endless_body_without_a_length(self, identity: IdentityStack) -> None:
        async def endless() -> AsyncIterator[bytes]:
            for _ in range(64):
                yield b" " * 65_536

        answer = await identity.request(
            "POST", "/v1/users", token=await identity.token("admin"), data=endless(), headers=kind("application/json")
        )
        assert answer.status == 413

    async def test_case_17_slow_and_half_closed_senders_hold_up_nobody(self, identity: IdentityStack) -> None:
        host, port = identity.url.removeprefix("http://").split(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
        try:
            for number, (_, writer) in enumerate(slow):
                head = b"POST /v1/token HTTP/1.1\r\nHost: x\r\n"
                length = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ngrant"
                writer.write(head + (length if number % 2 else b"X-Slow: "))
                await writer.drain()
            async with asyncio.timeout(2):
                assert (await identity.get("/v1/me", await identity.token("admin"))).status == 200
        finally:
            for _, writer in slow:
                writer.close()
