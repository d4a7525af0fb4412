"""Payments: posting one or many, applying, correcting, reversing, refunding."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import orjson
import structlog
from aiohttp import web

from services.ledger import queries, service, wire
from services.ledger.answers import BulkLine, Page, PaymentDocument, WordsDocument
from services.ledger.api.charges import require_edit
from services.ledger.api.common import ledger, post, readers
from services.ledger.deciding import Verdict
from services.ledger.domain import documents
from services.ledger.domain.commands import (
    Adjustment,
    Application,
    ApplyPayment,
    Command,
    CorrectPayment,
    PostPayment,
    RefundPayment,
    ReversePayment,
)
from shared.access.principal import Guard, area
from shared.errors import Invalid, Problem
from shared.web import Call, Endpoint, json_response
from shared.web.app import problem_document
from shared.web.bodies import parse_body

_CHUNK = 200
_MAX_LINE_BYTES = 64 * 1024
_NULLABLE = frozenset({"batch_number", "check_number", "location_id", "memo"})
log = structlog.get_logger("payments")
_VIEW = Guard(any_of=(("payment_posting", "view"), ("unassigned_payments", "view")))
_APPLY = Guard(any_of=(("unassigned_payments", "partial"), ("payment_posting", "partial")))


def _act(body: wire.PaymentIn) -> PostPayment:
    return PostPayment(
        method=body.method,
        amount_cents=body.amount_cents,
        deposit_date=body.deposit_date,
        location_id=body.location_id,
        check_number=body.check_number,
        payer_id=body.payer_id,
        patient_id=body.patient_id,
        batch_number=body.batch_number,
        memo=body.memo,
        external_id=body.external_id,
        applications=_applications(body.applications),
        adjustments=_adjustments(body.adjustments),
    )


def _applications(rows: list[wire.ApplicationIn]) -> tuple[Application, ...]:
    return tuple(Application(row.charge_id, row.amount_cents) for row in rows)


def _adjustments(rows: list[wire.AdjustmentIn]) -> tuple[Adjustment, ...]:
    return tuple(Adjustment(row.charge_id, row.group_code, row.reason_code, row.amount_cents) for row in rows)


async def create(call: Call) -> web.Response:
    return await post(call, _act(call.body))


async def bulk(call: Call) -> web.StreamResponse:
    """One payment a line in, one result a line out, in the same order: `{line, status, id, ...}` or the problem."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(call.request)
    chunk: list[tuple[int, Command | Problem]] = []
    number = 0
    async for raw in _lines(call.request):
        number += 1
        chunk.append((number, _line_command(call, raw)))
        if len(chunk) == _CHUNK:
            await response.write(await _post_chunk(call, chunk))
            chunk = []
    await response.write(await _post_chunk(call, chunk))
    await response.write_eof()
    return response


async def _lines(request: web.Request) -> AsyncIterator[bytes]:
    """Non-empty lines of the body, whatever pieces it comes in; a line that is too long is cut to be refused."""
    rest = b""
    async for piece in request.content.iter_chunked(64 * 1024):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        rest = rest[: _MAX_LINE_BYTES + 1]
    if rest.strip():
        yield rest


def _line_command(call: Call, raw: bytes) -> Command | Problem:
    if len(raw) > _MAX_LINE_BYTES:
        return Invalid.field("line", "too_long", f"At most {_MAX_LINE_BYTES} bytes")
    try:
        body, _ = parse_body(wire.BulkPaymentIn, raw)
    except Problem as problem:
        return problem
    # What was asked, whatever its spelling; the key only names it.
    canonical = orjson.dumps(body.model_dump(mode="json", exclude={"idempotency_key"}), option=orjson.OPT_SORT_KEYS)
    return service.command(
        call.principal.company,
        service.person(call.principal),
        _act(body),
        route="POST /v1/payments/bulk",
        correlation_id=call.correlation_id,
        key=body.idempotency_key,
        body=hashlib.sha256(canonical).digest(),
    )


async def _post_chunk(call: Call, chunk: list[tuple[int, Command | Problem]]) -> bytes:
    refused: Counter[str] = Counter()
    commands = [item for _, item in chunk if isinstance(item, Command)]
    try:
        await call.still_allowed()
        verdicts = iter(await ledger(call).post_many(commands))
    except Problem as away:  # The answer has begun, so each line says it; its key tells when it comes again.
        verdicts = iter([Verdict(problem=away)] * len(commands))
    out = []
    for number, item in chunk:
        verdict = next(verdicts) if isinstance(item, Command) else None
        problem = verdict.problem if verdict else item
        if isinstance(problem, Problem):
            refused[problem.code] += 1
            row = {"line": number, **problem_document(problem, call.request_id)}
        elif verdict is not None:
            document = orjson.loads(verdict.response)
            row = {
                "line": number,
                "status": 201,
                "replayed": verdict.replayed,
                "id": document["id"],
                "payment": document,
            }
        out.append(orjson.dumps(row) + b"\n")
    if refused:
        log.info("lines_refused", route="/v1/payments/bulk", codes=dict(refused))
    return b"".join(out)


async def listing(call: Call) -> web.Response:
    query: wire.PaymentsQuery = call.query
    if not query.unassigned:
        call.principal.require("payment_posting", "view")
    wire.in_order(query.deposit_from, query.deposit_to, "deposit_to")
    filters = (query.batch_number, query.check_number, query.deposit_from, query.deposit_to, query.unassigned)
    company = call.principal.company
    page = await queries.read_page(readers(call), company, "payment", query.cursor, query.limit, *filters)
    return json_response(page)


async def read(call: Call) -> web.Response:
    return json_response(await _shown(call))


async def _shown(call: Call) -> dict[str, Any]:
    """The payment of the path, to whom the list shows it: without payment posting, while it has money to assign."""
    company = call.principal.company
    document = await queries.read_document(readers(call), company, "payment", call.path_id())
    if not documents.is_unassigned(document):
        call.principal.require("payment_posting", "view")
    return document


async def history(call: Call) -> web.Response:
    await _shown(call)
    company = call.principal.company
    items = await queries.read_history(readers(call), company, call.path_id())
    return json_response({"items": items, "next": None})


async def change(call: Call) -> web.Response:
    return await post(call, CorrectPayment(call.path_id(), wire.not_null(call.body, _NULLABLE)))


async def apply(call: Call) -> web.Response:
    body: wire.ApplicationsIn = call.body
    if not call.principal.allows("payment_posting", "add"):
        # D9: to apply existing money is one right; to write off, as can be done here beside it, is another.
        await require_edit(call, (row.charge_id for row in body.adjustments))
    return await post(
        call, ApplyPayment(call.path_id(), _applications(body.applications), _adjustments(body.adjustments))
    )


async def reverse(call: Call) -> web.Response:
    return await post(call, ReversePayment(call.path_id(), call.body.deposit_date, call.body.memo))


async def refund(call: Call) -> web.Response:
    return await post(call, RefundPayment(call.path_id(), **wire.given(call.body)))


_POST, _EDIT = area("payment_posting", "add"), area("payment_posting", "edit")

ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/payments",
        create,
        _POST,
        "Post a payment",
        body=wire.PaymentIn,
        answer=PaymentDocument,
        status=201,
        idempotent=True,
    ),
    Endpoint(
        "POST",
        "/v1/payments/bulk",
        bulk,
        _POST,
        "Post many payments, one JSON line each",
        raw_types=("application/x-ndjson",),
        answer=BulkLine,
        answer_type="application/x-ndjson",
    ),
    Endpoint(
        "GET",
        "/v1/payments",
        listing,
        _VIEW,
        "List payments, newest first",
        query=wire.PaymentsQuery,
        answer=Page[PaymentDocument],
    ),
    Endpoint(
        "GET", "/v1/payments/{id}", read, _VIEW, "One payment with applications and adjustments", answer=PaymentDocument
    ),
    Endpoint(
        "GET",
        "/v1/payments/{id}/history",
        history,
        _VIEW,
        "Every set of words a payment has had, oldest first",
        answer=Page[WordsDocument],
    ),
    Endpoint(
        "PATCH",
        "/v1/payments/{id}",
        change,
        _EDIT,
        "Correct the words of a payment",
        body=wire.PaymentPatch,
        answer=PaymentDocument,
    ),
    Endpoint(
        "POST",
        "/v1/payments/{id}/applications",
        apply,
        _APPLY,
        "Apply existing money to charges",
        body=wire.ApplicationsIn,
        answer=PaymentDocument,
        status=201,
        idempotent=True,
    ),
    Endpoint(
        "POST",
        "/v1/payments/{id}/reversal",
        reverse,
        _EDIT,
        "Reverse a payment",
        body=wire.ReversalIn,
        answer=PaymentDocument,
        status=201,
        idempotent=True,
    ),
    Endpoint(
        "POST",
        "/v1/payments/{id}/refund",
        refund,
        _EDIT,
        "Give unapplied money back",
        body=wire.RefundIn,
        answer=PaymentDocument,
        status=201,
        idempotent=True,
    ),
)
