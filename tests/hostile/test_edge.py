"""What every answer says to browsers, whatever it answers (ASVS 5.0 3.4, 4.1.1); and callers who want too much of us
(ASVS 5.0 2.4.1, 15.2.2). The proxy's own answers are looked at in `test_deploy_proxy`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from deploy.processes import free_port
from services.ledger.api.feeds import _MOST_BEHIND, BACKGROUND
from shared.web.headers import SECURITY_HEADERS, STRICT_TRANSPORT
from shared.web.serve import health_app, listening
from tests.support.databases import Databases
from tests.support.hostile import MANGLED, MARK
from tests.support.identity import IdentityStack
from tests.support.ledger import LedgerStack
from tests.support.served import Served, said

Services = dict[str, Served]
NAMES = ("identity", "ledger", "reporting")
SPOKEN = ("text/", "application/xml")
"""Types of which the charset has to be said; JSON is UTF-8 and has no such parameter (RFC 8259)."""


def dressed(headers: Mapping[str, str], body: bytes) -> None:
    """The whole contract of an answer's head."""
    for name, value in SECURITY_HEADERS.items():
        assert headers[name] == (value if name != "Cache-Control" else headers[name]), name
    assert headers["Cache-Control"] in ("no-store", "public, max-age=60")
    assert headers["Server"] == "billing"
    assert "Strict-Transport-Security" not in headers, "nobody spoke TLS"
    if body:
        kind = headers["Content-Type"]
        assert "charset=utf-8" in kind if kind.startswith(SPOKEN) else "/" in kind, kind


@pytest.mark.parametrize("name", NAMES)
async def test_every_kind_of_answer_is_dressed(services: Services, name: str) -> None:
    service = services[name]
    seen: dict[int, set[str]] = {}
    body = {"identity": "/v1/companies", "ledger": "/v1/payments", "reporting": "/v1/reports/payment-balancing"}[name]
    report = "/v1/reports/payment-balancing?from=2026-01-01&to=2026-01-31"
    typed = {"Content_Type": "application/json"}
    for method, target, data, headers in [
        ("GET", "/livez", None, {}),
        ("GET", "/readyz", None, {}),
        ("GET", "/metrics", None, {}),
        ("GET", "/openapi.json", None, {}),
        ("GET", "/docs", None, {}),
        ("GET", "/.well-known/jwks.json", None, {}),
        ("GET", "/v1/audit", None, {}),
        ("GET", report, None, {}),
        ("GET", f"{report}&format=csv", None, {}),
        ("GET", "/v1/roles/matrix?format=csv", None, {}),
        ("POST", "/v1/token", b"grant_type=password", {"Content_Type": "application/x-www-form-urlencoded"}),
        ("POST", "/v1/revoke", b"token=x", {"Content_Type": "application/x-www-form-urlencoded"}),
        ("POST", "/v1/fhir", b"{}", {"Content_Type": "application/fhir+json"}),
        ("GET", "/v1/nothing", None, {}),
        ("PUT", "/livez", b"", {}),
        ("TRACE", "/livez", None, {}),
        ("HEAD", "/livez", None, {}),
        ("POST", body, b"{", typed),
        ("POST", body, b"{}", typed),
        ("POST", body, b"x" * (2 << 20), typed),
        ("POST", body, b"{}", {"Content_Type": "image/png"}),
    ]:
        for token in (service.tokens[0], None):
            answer = await service.send(method, target, token=token, data=data, **headers)
            dressed(answer.headers, answer.raw)
            seen.setdefault(answer.status, set()).add(answer.headers.get("Content-Type", ""))
    assert {200, 401, 404, 405} <= set(seen)
    assert len(set().union(*seen.values())) >= 4, seen
    for case in MANGLED.values():
        heard = await said(service.port, case, 0.3)
        for part in heard.split(b"HTTP/1.")[1:]:
            head, _, rest = part.partition(b"\r\n\r\n")
            dressed(dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:]), rest)


async def test_the_health_port_is_dressed_too() -> None:
    port = free_port()
    async with (
        listening(health_app({}, CollectorRegistry()), "127.0.0.1", port, shutdown_seconds=1),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        for path in ("/livez", "/readyz", "/metrics", "/nothing"):
            async with session.get(path) as response:
                dressed(response.headers, await response.read())


async def test_tls_is_said_to_be_kept_where_the_proxy_speaks_it(databases: Databases) -> None:
    for behind, proto, expected in (
        (True, "https", STRICT_TRANSPORT),
        (True, "http", None),
        (True, "HTTPS, x", None),
        (False, "https", None),
    ):
        async with IdentityStack.fresh(databases, behind_proxy=behind) as identity:
            for path in ("/livez", "/v1/me", "/v1/nothing"):
                answer = await identity.request("GET", path, headers={"X-Forwarded-Proto": proto})
                assert answer.headers.get("Strict-Transport-Security") == expected, (behind, proto, path)


class TestCalls:
    @pytest.fixture
    async def identity(self, databases: Databases) -> AsyncIterator[IdentityStack]:
        # Slow enough to refill that no test sees it happen.
        slow: dict[str, Any] = {"calls_per_second": 1, "calls_burst": 50, "behind_proxy": True}
        async with IdentityStack.fresh(databases, **slow) as stack:
            yield stack

    async def test_a_caller_in_excess_waits_and_others_do_not(self, identity: IdentityStack) -> None:
        company = (await identity.company("LIMIT"))["id"]
        for name in ("busy", "calm"):
            await identity.user(name, "partner_admin", [company])
        busy, calm = await identity.token("busy"), await identity.token("calm")
        with capture_logs() as logs:
            answers = [await identity.get("/v1/me", busy) for _ in range(60)]
        refused = [one for one in answers if one.status == 429]
        assert {one.status for one in answers} == {200, 429}
        assert 5 <= len(refused) <= 10
        for one in refused:
            assert one.headers["Content-Type"] == "application/problem+json"
            assert one.headers["Retry-After"] == "1"
            assert one.body["code"] == "too_many_requests"
        assert sum(row.get("code") == "too_many_requests" for row in logs) == len(refused), "and the log says so"
        again = await identity.token("busy", fresh=True)
        assert (await identity.get("/v1/me", again)).status == 429, "another token is the same caller"
        assert (await identity.get("/v1/me", calm)).status == 200
        await asyncio.sleep(1.1)
        assert (await identity.get("/v1/me", busy)).status == 200

    async def test_a_refused_call_does_nothing(self, identity: IdentityStack) -> None:
        token = await identity.operator()
        while (await identity.get("/v1/me", token)).status == 200:
            pass
        code = f"C{uuid4().hex[:6]}".upper()
        assert (await identity.post("/v1/companies", {"code": code, "name": "x"}, token)).status == 429
        await asyncio.sleep(1.1)
        assert code not in (await identity.get("/v1/companies?limit=500", token)).raw.decode()

    async def test_strangers_are_counted_by_the_address_that_the_proxy_saw(self, identity: IdentityStack) -> None:
        async def call(path: str, forwarded: str, **headers: str) -> int:
            sent = {"X-Forwarded-For": forwarded, **headers}
            return (await identity.request("GET", path, headers=sent)).status

        for number in range(60):
            last = await call("/.well-known/jwks.json", f"10.0.0.{number}, 9.9.9.9")
        assert last == 429, "what the caller writes there himself is no other address"
        assert await call("/.well-known/jwks.json", "9.9.9.8") == 200
        for _ in range(60):
            last = await call("/v1/me", "8.8.8.8", Authorization="Bearer none")
        assert last == 429, "bad tokens are not tried for ever"
        assert await call("/v1/me", "9.9.9.8", Authorization="Bearer none") == 401

    async def test_our_own_services_are_not_counted(self, identity: IdentityStack) -> None:
        internal = await identity.internal()
        token = await identity.operator()
        for _ in range(60):
            assert (await identity.get("/v1/access-versions?after=0&limit=1", internal)).status == 200
            answer = await identity.request("POST", "/v1/introspect", token=internal, data={"token": token})
            assert answer.body["active"] is True

    async def test_a_thousand_parallel_calls_of_one_caller(self, identity: IdentityStack) -> None:
        """The answer of those in excess is quick: nobody else waits behind them."""
        token = await identity.operator()
        answers = await asyncio.gather(*(identity.get("/v1/me", token) for _ in range(1_000)))
        assert sum(one.status == 200 for one in answers) <= 60
        assert (await identity.request("GET", "/livez")).status == 200


def test_the_numbers_of_production_are_beyond_what_a_practice_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.config import Config

    monkeypatch.delenv("CALLS_PER_SECOND")
    config = Config()
    assert (config.calls_per_second, config.calls_burst, config.upload_bytes) == (200, 2_000, 1 << 30)


class TestUploads:
    @pytest.fixture
    async def stack(self, databases: Databases) -> AsyncIterator[LedgerStack]:
        async with LedgerStack.fresh(databases, upload_bytes=100_000) as running:
            yield running

    async def test_one_caller_holds_so_much_at_once(self, stack: LedgerStack) -> None:
        company, other = await stack.company(), await stack.company()
        more = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield MARK.encode()
            await more.wait()

        before = await company.rows()
        first = asyncio.create_task(company.upload("x12", slow()))  # type: ignore[arg-type]
        await asyncio.sleep(0.3)
        refused = await company.upload("x12", b"x" * 50_000)
        assert (refused.status, refused.body["code"]) == (429, "too_many_requests")
        assert int(refused.headers["Retry-After"]) > 0
        assert (await other.upload("x12", b"x" * 50_000)).status == 422, "it was read, and is no X12"
        assert (await company.send("GET", "/v1/payments")).status == 200, "only uploads wait"
        more.set()
        assert (await first).status == 422
        assert (await company.upload("x12", b"x" * 200_000)).status == 422, "one alone may be larger"
        assert await company.rows() == before

    async def test_files_behind_a_callers_back_are_bounded(self, stack: LedgerStack) -> None:
        company = await stack.company()
        app: web.Application | None = stack.client.app
        assert app is not None
        token = company.token()
        subject = (await stack.tokens.verifier.verify(token)).subject
        waiting = [asyncio.create_task(asyncio.sleep(3600), name=str(subject)) for _ in range(_MOST_BEHIND)]
        app[BACKGROUND].update(waiting)  # type: ignore[arg-type]
        large = b"x" * (9 << 20)
        assert (await company.upload("x12", large, token=token)).status == 429
        assert (await company.upload("x12", b"x", token=token)).status == 422, "small ones are answered at once"
        waiting.pop().cancel()
        await asyncio.sleep(0)
        app[BACKGROUND].intersection_update(waiting)
        assert (await company.upload("x12", large, token=token)).status == 422


async def test_refusals_are_logged_by_rule_and_never_by_value(services: Services) -> None:
    """ASVS 5.0 16.3.3"""
    service = services["ledger"]
    token = service.tokens[0]
    typed = {"Content_Type": "application/json", "Idempotency_Key": "k-1"}
    with capture_logs() as logs:
        bad = b'{"method": "%s", "amount_cents": -1, "%s": 1}' % (MARK.encode(), MARK.encode())
        assert (await service.send("POST", "/v1/payments", token=token, data=bad, **typed)).status == 422
        assert (await service.send("GET", "/v1/payments", token="none")).status == 401
        assert (await service.send("GET", "/v1/payments", token=token)).status == 200
        lines = b'{"amount_cents": 1}\n{}\n'
        bulk = await service.send(
            "POST", "/v1/payments/bulk", token=token, data=lines, Content_Type="application/x-ndjson"
        )
        assert bulk.status == 200
    wrong, stranger, good, _ = [row for row in logs if row["event"] == "request"]
    assert (wrong["route"], wrong["code"]) == ("/v1/payments", "invalid")
    assert {"extra_forbidden", "missing", "greater_than"} & set(wrong["rules"])
    assert (stranger["route"], stranger["code"]) == ("/v1/payments", "unauthenticated")
    assert "code" not in good
    (refused,) = [row for row in logs if row["event"] == "lines_refused"]
    assert refused["codes"] == {"invalid": 2}
    assert MARK not in str(logs)
