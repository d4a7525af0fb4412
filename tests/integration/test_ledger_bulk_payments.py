"""Payments by the line: each is posted or says why not, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from services.ledger.service import Ledger
from shared.errors import Unavailable
from tests.support.ledger import Company


async def send_lines(company: Company, *lines: Any) -> list[Any]:
    raw = b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    answer = await company.send(
        "POST", "/v1/payments/bulk", data=raw, headers={"Content-Type": "application/x-ndjson"}, key=""
    )
    assert answer.status == 200, answer
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    return answer.lines


async def test_good_lines_post_and_bad_lines_say_why_in_order(company: Company) -> None:
    patient = await company.patient()
    charge = await company.charge(patient, amount_cents=1_000)
    good = {**company.payment_body(patient_id=patient["id"]), "idempotency_key": "line-1"}
    lines: list[tuple[Any, int, str]] = [
        (good, 201, ""),
        (b"not json", 400, "malformed"),
        ({**good, "idempotency_key": "line-3", "amount_cents": -1}, 422, "amount_cents"),
        ({**good, "idempotency_key": "line-4", "unknown": 1}, 422, "unknown"),
        ({name: value for name, value in good.items() if name != "idempotency_key"}, 422, "idempotency_key"),
        (good, 201, ""),
        ({**good, "amount_cents": 5}, 422, "Idempotency-Key"),
        (b'{"idempotency_key": "line-8", "memo": "' + b"x" * 70_000 + b'"}', 422, "line"),
        (
            {**good, "idempotency_key": "l9", "applications": [{"charge_id": charge["id"], "amount_cents": 1_000}]},
            201,
            "",
        ),
        (
            {**good, "idempotency_key": "l10", "applications": [{"charge_id": charge["id"], "amount_cents": 1}]},
            422,
            "applications.0.amount_cents",
        ),
        (b"[]", 422, "body"),
        ({**good, "idempotency_key": "x" * 201}, 422, "idempotency_key"),
        (b'{"idempotency_key": "l13", "idempotency_key": "l13"}', 422, ""),
        ({**good, "idempotency_key": "l14", "posting_date": str(company.today)}, 422, "posting_date"),
    ]
    results = await send_lines(company, *(line for line, _, _ in lines))
    assert [row["line"] for row in results] == list(range(1, len(lines) + 1))
    assert [row["status"] for row in results] == [status for _, status, _ in lines]
    for row, (_, status, field) in zip(results, lines, strict=True):
        if status == 422 and field:
            assert field in {error["field"] for error in row["errors"]}, row
    assert [row["replayed"] for row in results if row["status"] == 201] == [False, True, False]
    assert results[0]["payment"] == results[5]["payment"]
    assert results[0]["id"] == results[0]["payment"]["id"]
    assert (await company.sums())["payments"] == 2
    again = await send_lines(company, *(line for line, _, _ in lines))
    assert [row["status"] for row in again] == [row["status"] for row in results]
    assert (await company.sums())["payments"] == 2


async def test_bulk_of_nothing_and_of_many_pieces(company: Company) -> None:
    assert await send_lines(company) == []
    assert await send_lines(company, b"", b"  ", b"") == []
    patient = await company.patient()
    lines = [
        {**company.payment_body(patient_id=patient["id"], memo="m" * 300), "idempotency_key": f"p{n}"}
        for n in range(450)
    ]
    raw = b"\r\n".join(orjson.dumps(line) for line in lines)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), 777):
            yield raw[start : start + 777]

    answer = await company.send(
        "POST", "/v1/payments/bulk", data=pieces(), headers={"Content-Type": "application/x-ndjson"}, key=""
    )
    assert [row["status"] for row in answer.lines] == [201] * 450
    numbers = [row["payment"]["company_version"] for row in answer.lines]
    assert numbers == sorted(numbers)


async def test_books_that_are_away_in_the_middle_are_told_line_by_line(
    company: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has begun, so it cannot become a 503: the lines that were not posted say so, and may come again."""
    patient = await company.patient()
    lines = [{**company.payment_body(patient_id=patient["id"]), "idempotency_key": f"away-{n}"} for n in range(450)]
    real, calls = Ledger.post_many, 0

    async def sometimes(self: Ledger, commands: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable("The database is away")
        return await real(self, commands)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "post_many", sometimes)
        results = await send_lines(company, *lines)
    assert [row["status"] for row in results] == [201] * 200 + [503] * 200 + [201] * 50
    assert (await company.sums())["payments"] == 250
    again = await send_lines(company, *lines)
    assert [row["replayed"] for row in again] == [True] * 200 + [False] * 200 + [True] * 50
