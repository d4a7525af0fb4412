"""The audit in every service: who saw what, by which filters, from where; nothing of a patient but ids; and what
happens while it cannot be written."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from services.ledger.api import ENDPOINTS as LEDGER
from services.reporting.api import ENDPOINTS as REPORTING
from shared import recorder
from shared.audit import AuditEntry, insert, listing
from shared.db import create_pool
from shared.errors import Unavailable
from shared.ids import uuid7
from shared.recorder import Recorder
from tests.support.databases import Databases
from tests.support.identity import PASSWORD, IdentityStack
from tests.support.ledger import Company, LedgerStack
from tests.support.ledger_events import Books
from tests.support.reporting import REPORTS, ReportingStack
from tests.support.x12_answers import Told, interchange, status_277

CANARY = "ZZPHI"


@pytest.fixture(scope="module")
async def ledger(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as stack:
        yield stack


@pytest.fixture(scope="module")
async def reporting(databases: Databases) -> AsyncIterator[ReportingStack]:
    async with ReportingStack.fresh(databases) as stack:
        yield stack


async def until(look: Callable[[], Awaitable[list[Any]]], count: int = 1) -> list[Any]:
    """What `look` finds, once it is so many; the queue is written within a second."""
    async with asyncio.timeout(2):
        while len(found := await look()) < count:
            await asyncio.sleep(0.02)
    return found


async def entries(company: Company, count: int = 1, **query: str) -> list[Any]:
    """The company's audit, newest first, without what looking at it adds."""

    async def look() -> list[Any]:
        found = (await company.get("/v1/audit", limit=500, **query))["items"]
        return [one for one in found if one["action"] != "GET /v1/audit"]

    return await until(look, count)


class TestLedger:
    async def test_what_was_read_by_whom_and_how(self, ledger: LedgerStack) -> None:
        company = await ledger.company()
        patient = await company.patient(CANARY + "1", first_name=CANARY, last_name=CANARY)
        reader = uuid7()
        token = company.token(subject=reader)
        path = f"/v1/charges?patient_id={patient['id']}&status=active&from=2026-01-01"
        answer = await company.send("GET", path, token=token, headers={"X-Request-Id": "request-of-the-test"})
        assert answer.status == 200
        (one,) = await entries(company, actor=str(reader))
        assert one["action"] == "GET /v1/charges"
        assert one["details"] == {
            "filters": {"from": "2026-01-01", "patient_id": patient["id"], "status": "active"},
            "rows": 0,
        }
        assert (one["actor_role"], one["status"], one["address"]) == ("self_service_admin", 200, "127.0.0.1")
        assert one["request_id"] == "request-of-the-test"
        await company.get(f"/v1/patients/{patient['id']}", token=token)
        found = await entries(company, 2, actor=str(reader))
        assert (found[0]["action"], found[0]["subject_id"]) == ("GET /v1/patients/{id}", patient["id"])

    async def test_whom_a_search_showed(self, ledger: LedgerStack) -> None:
        """The question of an accounting of disclosures: who has seen this patient?"""
        company = await ledger.company()
        patients = [await company.patient(last_name=CANARY + "Same") for _ in range(3)]
        other = await company.patient(last_name="Else")
        await company.post("/v1/patients/search", {"last_name": CANARY + "Same"}, status=200, key="")
        (one,) = [row for row in await entries(company, 5) if row["action"] == "POST /v1/patients/search"]
        assert set(one["shown"]) == {patient["id"] for patient in patients}
        assert (one["changed"], one["details"]) == (["last_name"], {"rows": 3})
        seen = [row["action"] for row in await entries(company, subject=patients[0]["id"])]
        assert "POST /v1/patients/search" in seen
        seen = [row["action"] for row in (await company.get("/v1/audit", subject=other["id"]))["items"]]
        assert "POST /v1/patients/search" not in seen

    async def test_feeds_raw_forms_and_exceptions(self, ledger: LedgerStack) -> None:
        company = await ledger.company()
        feed = (await company.upload("x12", interchange(status_277(Told(claim="C-1"))))).body["feed_id"]
        answer = await company.send("GET", f"/v1/feeds/{feed}/raw")
        assert answer.status == 200
        await company.get("/v1/exceptions", state="open")
        found = {row["action"]: row for row in await entries(company, 3)}
        assert found["GET /v1/feeds/{id}/raw"]["subject_id"] == feed
        assert found["GET /v1/feeds/{id}/raw"]["details"]["type"] == answer.headers["Content-Type"].split(";")[0]
        assert "POST /v1/feeds/x12" in found
        assert "GET /v1/exceptions" in found

    async def test_nothing_of_a_patient_but_ids(self, ledger: LedgerStack) -> None:
        """Free text of a query, of a body and of a path is not kept, only that it was there."""
        company = await ledger.company()
        await company.patient(CANARY, first_name=CANARY, last_name=CANARY)
        await company.get("/v1/payments", batch_number=CANARY, check_number=CANARY)
        await company.send("GET", f"/v1/batches/{CANARY}")
        await company.send("GET", f"/v1/patients/{CANARY}")
        rows = await until(
            lambda: ledger.owner.fetch(
                "select a.*, a::text as whole from audit a where company_ids @> array[$1::uuid]", company.company_id
            ),
            2,
        )
        assert all(CANARY not in row["whole"] for row in rows)
        (one,) = [row for row in await entries(company) if row["action"] == "GET /v1/payments"]
        assert one["details"]["filters"] == {"batch_number": None, "check_number": None}

    async def test_money_that_moves_is_told_by_its_posting_alone(self, ledger: LedgerStack) -> None:
        company = await ledger.company()
        patient = await company.patient()
        poster = uuid7()
        token = company.token(subject=poster)
        body = company.payment_body(patient_id=patient["id"])
        assert (await company.send("POST", "/v1/payments", body, token=token)).status == 201
        await company.get("/v1/payments", token=token)
        found = await entries(company, 1, actor=str(poster))
        assert [row["action"] for row in found] == ["GET /v1/payments"]
        posted = await ledger.owner.fetch("select kind from posting where actor_id = $1", poster)
        assert len(posted) == 1

    async def test_refusals_are_written_and_bad_requests_are_not(self, ledger: LedgerStack) -> None:
        company = await ledger.company()
        stranger, clerk = uuid7(), uuid7()
        provider = company.token("provider", subject=stranger)
        assert (await company.send("GET", "/v1/payments", token=provider)).status == 403
        assert (await company.send("POST", "/v1/payments", {}, token=provider)).status == 403
        token = company.token(subject=clerk)
        assert (await company.send("GET", "/v1/payments?limit=0", token=token)).status == 422
        assert (await company.send("GET", f"/v1/payments/{uuid4()}", token=token)).status == 404
        found = await entries(company, 2, actor=str(stranger))
        assert [(row["action"], row["status"]) for row in found] == [
            ("POST /v1/payments", 403),
            ("GET /v1/payments", 403),
        ]
        assert (await company.get("/v1/audit", actor=str(clerk)))["items"] == []

    async def test_another_companys_audit_is_not_there(self, ledger: LedgerStack) -> None:
        mine, other = await ledger.company(), await ledger.company()
        for company in (mine, other):
            await company.get("/v1/payments")
        (row,) = await entries(other, action="GET /v1/payments")
        (own,) = await entries(mine, action="GET /v1/payments")
        assert row["id"] != own["id"]
        assert (await mine.get("/v1/audit", cursor=row["id"], actor=row["actor_id"]))["items"] == []

    async def test_pages_and_days(self, ledger: LedgerStack) -> None:
        company = await ledger.company()
        for _ in range(7):
            await company.get("/v1/payments")
        await entries(company, 7, action="GET /v1/payments")
        found: list[Any] = []
        page: Any = {"next": None}
        while True:
            query = {"cursor": page["next"]} if page["next"] else {}
            page = await company.get("/v1/audit", action="GET /v1/payments", limit=3, **query)
            found += page["items"]
            if page["next"] is None:
                break
        assert len({row["id"] for row in found}) == 7
        assert [row["id"] for row in found] == sorted((row["id"] for row in found), reverse=True)
        day = found[0]["at"][:10]
        same = (await company.get("/v1/audit", action="GET /v1/payments", **{"from": day, "to": day}))["items"]
        assert [row["id"] for row in same] == [row["id"] for row in found if row["at"][:10] == day]
        assert (await company.get("/v1/audit", to="2020-01-01"))["items"] == []
        assert (await company.send("GET", "/v1/audit?from=2026-02-01&to=2026-01-01")).fields == {"to": "range"}


class TestReporting:
    async def test_which_report_over_what_and_how_much(self, reporting: ReportingStack) -> None:
        made = Books(random.Random(5)).act(40)
        await reporting.load(made)
        subject = uuid7()
        token = reporting.tokens.token("practice_admin", made.company_id, subject=subject)
        query = {"from": "2026-01-01", "to": "2026-12-31", "location_id": [made.locations[0]], "batch_number": CANARY}
        page = await reporting.get(f"{REPORTS}payment-balancing", token, query)
        export = await reporting.get(
            f"{REPORTS}payment-balancing", token, {"from": "2026-01-01", "to": "2026-12-31", "format": "csv"}
        )
        assert (page.status, export.status) == (200, 200)

        async def look() -> list[Any]:
            answer = await reporting.get("/v1/audit", token, {"actor": subject})
            return [one for one in answer.body["items"] if one["action"] != "GET /v1/audit"]

        exported, shown = await until(look, 2)
        assert shown["action"] == exported["action"] == "GET /v1/reports/payment-balancing"
        assert shown["details"]["filters"] == {
            "batch_number": None,
            "from": "2026-01-01",
            "location_id": [str(made.locations[0])],
            "to": "2026-12-31",
        }
        assert shown["details"]["rows"] == len(page.body["items"])
        assert exported["details"]["type"] == "text/csv"
        assert exported["details"]["rows"] == len(export.raw.splitlines()) - 1 > 0


class TestIdentity:
    async def test_sign_ins_have_their_method_and_address(self, identity: IdentityStack) -> None:
        company = (await identity.company("SIGN"))["id"]
        user = await identity.user("signer", "partner_admin", [company])
        await identity.ask_token(grant_type="password", username="signer", password="wrong one")
        token = (await identity.sign_in("signer"))["access_token"]
        emr = await identity.client("EMR of signers", [company])
        await identity.client_token(emr["client_id"], emr["client_secret"])
        wrong = {"grant_type": "client_credentials", "client_id": emr["client_id"], "client_secret": PASSWORD}
        assert (await identity.ask_token(**wrong)).status == 401
        assert (await identity.ask_token(**{**wrong, "client_id": "nobody\0"})).status == 401
        found = {row["action"]: row for row in (await identity.get("/v1/audit?limit=500", token)).body["items"]}
        assert found["sign_in"]["details"] == {"methods": ["pwd"]}
        assert found["sign_in"]["actor_id"] == user["id"]
        assert found["sign_in_failed"]["details"] == {"methods": ["pwd"]}
        assert found["client_sign_in"]["details"] == {"methods": ["client_secret"]}
        failed = found["client_sign_in_failed"]
        assert (failed["subject_id"], failed["details"]) == (emr["id"], {"methods": ["client_secret"]})
        assert {found[name]["address"] for name in ("sign_in", "sign_in_failed", "client_sign_in")} == {"127.0.0.1"}
        assert PASSWORD not in str(found)

    async def test_reads_of_the_operator_are_told_to_the_company(self, identity: IdentityStack) -> None:
        company = (await identity.company("READ"))["id"]
        await identity.user("reader_admin", "partner_admin", [company])
        await identity.get(f"/v1/companies/{company}/locations", await identity.operator())
        token = await identity.token("reader_admin")

        async def look() -> list[Any]:
            rows = (await identity.get("/v1/audit?limit=500", token)).body["items"]
            return [row for row in rows if row["action"] == "GET /v1/companies/{id}/locations"]

        (row,) = await until(look)
        assert (row["actor_role"], row["subject_id"]) == ("operator", company)

    async def test_the_proxys_word_is_taken_only_behind_it(self, databases: Databases) -> None:
        for settings, expected in (
            ({"behind_proxy": True}, "203.0.113.9"),
            ({"behind_proxy": True, "trusted_proxies": "203.0.113.0/24"}, "198.51.100.1"),
            ({"trusted_proxies": "203.0.113.0/24"}, "127.0.0.1"),
            ({}, "127.0.0.1"),
        ):
            async with IdentityStack.fresh(databases, **settings) as stack:
                form = {"grant_type": "password", "username": "operator", "password": "operator of the tests"}
                headers = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}
                token = (await stack.request("POST", "/v1/token", data=form, headers=headers)).body["access_token"]
                rows = (await stack.get("/v1/audit?action=sign_in", token)).body["items"]
                assert {row["address"] for row in rows} == {expected}


def test_every_get_of_a_companys_data_is_in_the_audit() -> None:
    left_out = {one.path for one in (*LEDGER, *REPORTING) if not one.in_audit}
    assert left_out == {"/v1/events", "/v1/events/heads"}


class TestQueue:
    """The queue itself, on a database that is away or refuses."""

    @pytest.fixture
    async def dsn(self, ledger: LedgerStack) -> str:
        return ledger.dsn

    def entry(self, action: str = "test", **fields: Any) -> AuditEntry:
        facts: dict[str, Any] = {
            "actor_id": None,
            "actor_name": "x",
            "subject_id": None,
            "company_ids": (self.company,),
        }
        return AuditEntry(uuid7(), datetime.now(UTC), action, **{**facts, **fields})

    company = UUID(int=77)

    async def test_while_it_cannot_be_written_nothing_more_is_shown(
        self, dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder, "_PATIENCE_SECONDS", 0.3)
        monkeypatch.setattr(recorder, "_RETRY_SECONDS", 0.05)
        queue = Recorder(CollectorRegistry())
        async with await create_pool(dsn, name="tests", role="ledger_app", size=1) as pool:
            queue.start(pool)
            owner = await asyncpg.connect(dsn)
            await owner.execute("begin; lock table audit in access exclusive mode")
            monkeypatch.setattr(recorder.audit, "insert", _in_time)
            queue.admit()
            mine = self.entry()
            queue._add(mine)
            await asyncio.sleep(0.6)
            with pytest.raises(Unavailable):
                queue.admit()
            await owner.execute("rollback")
            async with asyncio.timeout(5):
                while queue.waiting_seconds():
                    await asyncio.sleep(0.02)
            queue.admit()
            await queue.close()
            found = await listing(owner, self.company, before=None, limit=10)
            assert [one.id for one in found].count(mine.id) == 1
            await owner.close()

    async def test_a_full_queue_refuses_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorder, "_MOST_WAITING", 3)
        queue = Recorder(CollectorRegistry())
        for _ in range(3):
            queue.admit()
            queue._add(self.entry())
        with pytest.raises(Unavailable):
            queue.admit()

    async def test_one_entry_that_cannot_be_written_holds_back_no_other(self, dsn: str) -> None:
        queue = Recorder(CollectorRegistry())
        async with await create_pool(dsn, name="tests", role="ledger_app", size=1) as pool:
            good = [self.entry(f"good {number}") for number in range(20)]
            for one in (*good[:10], self.entry("bad", actor_name=None), *good[10:]):
                queue._add(one)
            queue.start(pool)
            await queue.close()
            found = {one.id for one in await listing(pool, self.company, before=None, limit=100)}
            assert {one.id for one in good} <= found

    async def test_closing_writes_what_waits(self, dsn: str) -> None:
        queue = Recorder(CollectorRegistry())
        async with await create_pool(dsn, name="tests", role="ledger_app", size=1) as pool:
            queue.start(pool)
            many = [self.entry("closing") for _ in range(2_500)]
            for one in many:
                queue._add(one)
            await queue.close()
            assert queue.waiting_seconds() == 0
            count = await pool.fetchval("select count(*) from audit where action = 'closing'")
            assert count == len(many)
            unsealed = (
                "select count(*) from audit_unsealed u join audit a on a.id = u.audit_id where action = 'closing'"
            )
            assert await pool.fetchval(unsealed) == len(many)


async def _in_time(connection: Any, batch: list[AuditEntry]) -> None:
    async with asyncio.timeout(0.2):
        await insert(connection, batch)
