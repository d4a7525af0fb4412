"""Access in an emergency: opened with a reason, for minutes, read-only, in one company, seen by everybody."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest
from structlog.testing import capture_logs

from services.identity.api import ENDPOINTS as IDENTITY
from services.ledger.api import ENDPOINTS as LEDGER
from services.reporting.api import ENDPOINTS as REPORTING
from shared.access.policy import BREAK_GLASS, areas, break_glass, catalogue
from shared.access.principal import Principal
from shared.db import create_pool
from tests.support.databases import Databases
from tests.support.identity import INTERNAL_SECRET, OPERATOR_PASSWORD, IdentityStack
from tests.support.second_factor import run_sql

REASON = "The practice's own administrators cannot be reached"


@pytest.fixture
async def identity(databases: Databases) -> AsyncIterator[IdentityStack]:
    async with IdentityStack.fresh(databases) as stack:
        yield stack


async def opened(identity: IdentityStack, company_id: str, **fields: Any) -> dict[str, Any]:
    body = {"company_id": company_id, "reason": REASON, "minutes": 5, **fields}
    answer = await identity.post("/v1/break-glass", body, await identity.operator())
    assert answer.status == 201, answer
    found: dict[str, Any] = answer.body
    return found


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


async def introspected(identity: IdentityStack, token: str) -> bool:
    answer = await identity.form("/v1/introspect", token=token, client_id="internal", client_secret=INTERNAL_SECRET)
    return bool(answer.body["active"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reason": None}, "reason"),
        ({"reason": "too short"}, "reason"),
        ({"reason": " " * 20}, "reason"),
        ({"reason": "x" * 501}, "reason"),
        ({"minutes": 4}, "minutes"),
        ({"minutes": 61}, "minutes"),
        ({"company_id": str(uuid4())}, "company_id"),
        ({"role": "operator"}, "role"),
    ],
)
async def test_what_is_refused_leaves_nothing(identity: IdentityStack, change: dict[str, Any], field: str) -> None:
    company = (await identity.company("C"))["id"]
    body = {"company_id": company, "reason": REASON, "minutes": 5, **change}
    body = {name: value for name, value in body.items() if value is not None}
    answer = await identity.post("/v1/break-glass", body, await identity.operator())
    assert (answer.status, answer.body["errors"][0]["field"]) == (422, field)
    assert await run_sql(identity, "select * from break_glass") == []


async def test_it_takes_a_fresh_sign_in(identity: IdentityStack) -> None:
    """Whoever finds the operator's screen unlocked, or his token, reads no company's patients."""

    async def signed_in() -> str:
        return str((await identity.sign_in("operator", OPERATOR_PASSWORD))["access_token"])

    async def a_while_later() -> None:
        await run_sql(identity, "update refresh_token set started_at = started_at - interval '16 minutes'")

    body = {"company_id": (await identity.company("C"))["id"], "reason": REASON, "minutes": 5}
    token = await signed_in()
    await a_while_later()
    answer = await identity.post("/v1/break-glass", body, token)
    assert (answer.status, answer.body["code"]) == (403, "sign_in_again")
    assert (await identity.get("/v1/break-glass", token)).body["items"] == []
    token = await signed_in()
    grant = (await identity.post("/v1/break-glass", body, token)).body
    await a_while_later()
    answer = await identity.post(f"/v1/break-glass/{grant['id']}/token", None, token)
    assert answer.status == 200, "what is open goes on"


async def test_the_token_is_for_one_company_for_a_while_and_for_reading(identity: IdentityStack) -> None:
    company = (await identity.company("C"))["id"]
    grant = await opened(identity, company)
    said = claims(grant["access_token"])
    assert (said["role"], said["company_id"], said["locations"]) == (BREAK_GLASS, company, "*")
    assert said["exp"] <= time.time() + 5 * 60 + 1
    assert "refresh_token" not in grant
    me = (await identity.get("/v1/me", grant["access_token"])).body
    assert [one["id"] for one in me["companies"]] == [company]
    assert await introspected(identity, grant["access_token"])
    for refused in ("/v1/users", "/v1/companies", f"/v1/companies/{company}/locations", "/v1/me/sessions"):
        assert (await identity.get(refused, grant["access_token"])).status == 403
    assert (await identity.post("/v1/break-glass", {}, grant["access_token"])).status == 403


def test_its_role_reads_what_any_role_reads_and_writes_nothing() -> None:
    role = break_glass()
    assert BREAK_GLASS not in catalogue()
    for area in areas():
        assert role.grant(area).level in ("none", "view")
    assert {area for area in areas() if role.allows(area, "view")} == set(areas()) - {
        "users",
        "company_constants",
        "my_payment_activity",
    }
    caller = Principal(uuid4(), "c", "u", "operator", BREAK_GLASS, "practice", uuid4(), "*", 1, str(uuid4()), 1 << 33)
    for endpoint in (*IDENTITY, *LEDGER, *REPORTING):
        if not endpoint.guard.public and endpoint.guard.admits(caller):
            assert endpoint.method == "GET" or endpoint.path.endswith("/search"), endpoint.path


async def test_the_last_token_ends_with_the_grant_and_none_follows(identity: IdentityStack) -> None:
    company = (await identity.company("C"))["id"]
    grant = await opened(identity, company)
    path, operator = f"/v1/break-glass/{grant['id']}/token", await identity.operator()
    await run_sql(identity, "update break_glass set expires_at = now() + interval '30 seconds'")
    answer = await identity.request("POST", path, token=operator)
    assert answer.status == 200
    assert claims(answer.body["access_token"])["exp"] <= time.time() + 30
    await run_sql(identity, "update break_glass set expires_at = now()")
    assert (await identity.request("POST", path, token=operator)).status == 404
    assert not await introspected(identity, answer.body["access_token"])
    assert (await identity.get("/v1/break-glass", operator)).body["items"] == []
    assert (await identity.request("POST", path, token=answer.body["access_token"])).status == 403


async def test_the_company_sees_it_and_may_end_it(identity: IdentityStack) -> None:
    mine, other = [(await identity.company(code))["id"] for code in ("C1", "C2")]
    await identity.user("admin", "partner_admin", [mine])
    await identity.user("foreign", "partner_admin", [other])
    await identity.user("poster", "partner_payment_poster", [mine])
    grant = await opened(identity, mine)
    admin, foreign, poster = [await identity.token(name) for name in ("admin", "foreign", "poster")]
    (shown,) = (await identity.get("/v1/break-glass", admin)).body["items"]
    assert (shown["id"], shown["reason"]) == (grant["id"], REASON)
    assert "access_token" not in shown
    assert (await identity.get("/v1/break-glass", foreign)).body["items"] == []
    path = f"/v1/break-glass/{grant['id']}"
    assert (await identity.request("DELETE", path, token=foreign)).status == 404
    assert (await identity.request("DELETE", path, token=poster)).status == 403
    assert await introspected(identity, grant["access_token"])
    assert (await identity.request("DELETE", path, token=admin)).status == 204
    assert (await identity.request("DELETE", path, token=admin)).status == 404
    assert not await introspected(identity, grant["access_token"])
    operator = (await identity.sign_in("operator", "operator of the tests"))["access_token"]
    assert (await identity.request("POST", path + "/token", token=operator)).status == 404
    actions = [row["action"] for row in (await identity.get("/v1/audit", admin)).body["items"]]
    assert {"break_glass_opened", "break_glass_ended"} <= set(actions)


async def test_opening_and_every_use_is_an_alert(identity: IdentityStack) -> None:
    company = (await identity.company("C"))["id"]
    with capture_logs() as logs:
        grant = await opened(identity, company)
        assert (await identity.get("/v1/audit", grant["access_token"])).status == 200
        assert (await identity.get("/v1/users", grant["access_token"])).status == 403
    alerts = [line for line in logs if line["event"] == "alert"]
    assert {line["log_level"] for line in alerts} == {"warning"}
    kinds = [line["kind"] for line in alerts]
    assert kinds.count("break_glass_opened") == 1
    assert [line["action"] for line in alerts if line["kind"] == "break_glass_used"] == [
        "GET /v1/audit",
        "GET /v1/users",
    ]
    assert REASON not in orjson.dumps(logs, default=str).decode()
    metrics = (await identity.get("/metrics")).raw.decode()
    assert 'security_alerts_total{kind="break_glass_used"}' in metrics


async def test_the_role_can_only_append(identity: IdentityStack) -> None:
    await opened(identity, (await identity.company("C"))["id"])
    async with await create_pool(identity.dsn, name="test", role="identity_app") as pool:
        for table in ("break_glass", "break_glass_end", "audit", "audit_seal"):
            for statement in (
                f"delete from {table}",
                f"truncate {table}",
                f"update {table} set {_COLUMN[table]} = null",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await pool.execute(statement)


_COLUMN = {"break_glass": "reason", "break_glass_end": "ended_by", "audit": "actor_name", "audit_seal": "hash"}
