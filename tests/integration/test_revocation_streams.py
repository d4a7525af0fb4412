"""Answers that take long end when the caller's token becomes stale on the way (quality.md 3.2)."""

from __future__ import annotations

import random
from typing import Any, Final

import aiohttp
import orjson
import pytest

from services.reporting import formats
from shared.access.revocation import Revocations, stale
from shared.web.endpoint import VERIFIER
from tests.support.databases import Databases
from tests.support.ledger import LedgerStack
from tests.support.ledger_events import Books
from tests.support.reporting import ALL, REPORTS, ReportingStack, pairs
from tests.support.x12_builder import Payment, x12_file

STALE: Final = (401, "token_stale")


class Until(Revocations):
    """Believes a token so often, and no longer."""

    def __init__(self, times: int) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.times = times

    async def check(self, principal: Any, token: str) -> None:
        self.times -= 1
        if self.times < 0:
            raise stale()


async def test_a_download_stops_when_the_token_becomes_stale(databases: Databases) -> None:
    async with LedgerStack.fresh(databases) as stack:
        company = await stack.company()
        sent = await company.upload("x12", x12_file([Payment(trace="T1")]))
        feed = sent.body["feed_id"]
        await stack.owner.execute(
            "insert into feed_chunk (company_id, feed_id, chunk_no, bytes)"
            " select company_id, feed_id, n, $2 from feed, generate_series(0, 3) n where feed_id = $1"
            " on conflict (company_id, feed_id, chunk_no) do update set bytes = excluded.bytes",
            feed,
            b"x" * 100_000,
        )
        verifier = stack.client.app[VERIFIER]  # type: ignore[union-attr]
        verifier.revocations = Until(100)
        headers = {"Authorization": f"Bearer {company.token()}"}
        path = f"/v1/feeds/{feed}/raw"
        async with stack.client.get(path, headers=headers) as response:
            assert len(await response.read()) == 400_000
        verifier.revocations = Until(3)
        async with stack.client.get(path, headers=headers) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()


async def test_a_bulk_posts_nothing_after_the_token_became_stale(databases: Databases) -> None:
    async with LedgerStack.fresh(databases) as stack:
        company = await stack.company()
        patient = await company.patient()
        count_postings = "select count(*) from posting where company_id = $1"
        before = await stack.owner.fetchval(count_postings, company.company_id)
        stack.client.app[VERIFIER].revocations = Until(2)  # type: ignore[union-attr]
        lines = [{**company.payment_body(patient_id=patient["id"]), "idempotency_key": f"k{n}"} for n in range(450)]
        raw = b"\n".join(orjson.dumps(line) for line in lines)
        answer = await company.send(
            "POST", "/v1/payments/bulk", data=raw, headers={"Content-Type": "application/x-ndjson"}, key=""
        )
        statuses = [row["status"] for row in answer.lines]
        assert len(statuses) == 450
        posted = statuses.index(401)
        assert statuses == [201] * posted + [401] * (450 - posted)
        assert 0 < posted < 450
        assert {row["code"] for row in answer.lines[posted:]} == {"token_stale"}
        assert await stack.owner.fetchval(count_postings, company.company_id) == before + posted


async def test_an_export_stops_when_the_token_becomes_stale(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ReportingStack.fresh(databases) as stack:
        books = Books(random.Random(3)).act(40)
        await stack.load(books)
        monkeypatch.setattr(formats, "_FLUSH_BYTES", 200)
        path, params = REPORTS + "payment-balancing", pairs({**ALL, "format": "csv"})
        headers = {"Authorization": f"Bearer {stack.admin(books)}"}
        verifier = stack.client.app[VERIFIER]  # type: ignore[union-attr]
        async with stack.client.get(path, params=params, headers=headers) as response:
            assert response.status == 200, await response.text()
            assert len((await response.text()).splitlines()) > 5
        verifier.revocations = Until(3)
        async with stack.client.get(path, params=params, headers=headers) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        verifier.revocations = Until(1)
        async with stack.client.get(path, params=params, headers=headers) as response:
            assert (response.status, (await response.json())["code"]) == STALE
