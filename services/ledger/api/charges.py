"""Charges: active, delayed, by patient; write-offs and moves of a balance."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from aiohttp import web

from services.ledger import queries, wire
from services.ledger.answers import ChargeDocument, Page
from services.ledger.api.common import post, readers
from services.ledger.domain.commands import (
    AdjustCharge,
    Adjustment,
    ChangeCharge,
    PostCharge,
    SetChargeState,
    TransferCharge,
)
from shared.access.principal import Guard
from shared.errors import Forbidden
from shared.web import Call, Endpoint, json_response

_VIEW = Guard(any_of=(("charges_by_patient", "view"), ("delayed_charges", "view"), ("active_charges", "view")))
_ADD = Guard(any_of=(("active_charges", "add"), ("delayed_charges", "add")))
_EDIT = Guard(any_of=(("active_charges", "edit"), ("delayed_charges", "edit")))


def _area_of(status: str) -> str:
    return "delayed_charges" if status == "delayed" else "active_charges"


async def create(call: Call) -> web.Response:
    body: wire.ChargeIn = call.body
    call.principal.require("delayed_charges" if body.delayed else "active_charges", "add")
    return await post(
        call,
        PostCharge(
            patient_id=body.patient_id,
            location_id=body.location_id,
            date_of_service=body.date_of_service,
            procedure_code=body.procedure_code,
            units=body.units,
            amount_cents=body.amount_cents,
            diagnosis_codes=tuple(body.diagnosis_codes),
            modifiers=tuple(body.modifiers),
            payer_id=body.payer_id,
            delayed=body.delayed,
            external_id=body.external_id,
        ),
    )


async def listing(call: Call) -> web.Response:
    """Which area guards a list depends on what is asked: by patient, delayed, or active (api.md)."""
    query: wire.ChargesQuery = call.query
    call.principal.require("charges_by_patient" if query.patient_id else _area_of(query.status or ""), "view")
    wire.in_order(query.from_, query.to)
    # Among all charges the delayed ones are for those who may list them, too.
    with_delayed = query.patient_id is not None or call.principal.allows("delayed_charges", "view")
    filters = (query.patient_id, query.location_id, query.from_, query.to, query.status, with_delayed)
    company = call.principal.company
    page = await queries.read_page(readers(call), company, "charge", query.cursor, query.limit, *filters)
    return json_response(page)


async def read(call: Call) -> web.Response:
    return json_response(await queries.read_document(readers(call), call.principal.company, "charge", call.path_id()))


async def _may_edit(call: Call) -> None:
    """Edit in the area of the charge's own status."""
    document = await queries.read_document(readers(call), call.principal.company, "charge", call.path_id())
    if not call.principal.allows(_area_of(document["status"]), "edit"):
        raise Forbidden()


async def require_edit(call: Call, charge_ids: Iterable[UUID]) -> None:
    """Raises Forbidden unless the caller may edit each of these charges. What is absent, or another company's, is left
    to be refused as such."""
    ids = list(dict.fromkeys(charge_ids))
    for document in await queries.read_documents(readers(call), call.principal.company, "charge", ids):
        call.principal.require(_area_of(document["status"]), "edit")


async def change(call: Call) -> web.Response:
    changes = wire.not_null(call.body, frozenset({"payer_id"}))
    await _may_edit(call)
    for name in ("modifiers", "diagnosis_codes"):
        if name in changes:
            changes[name] = tuple(changes[name])
    return await post(call, ChangeCharge(call.path_id(), changes))


async def release(call: Call) -> web.Response:
    await _may_edit(call)
    return await post(call, SetChargeState(call.path_id(), "active"))


async def void(call: Call) -> web.Response:
    await _may_edit(call)
    return await post(call, SetChargeState(call.path_id(), "void"))


async def adjust(call: Call) -> web.Response:
    await _may_edit(call)
    body: wire.ChargeAdjustmentIn = call.body
    row = Adjustment(call.path_id(), body.group_code, body.reason_code, body.amount_cents)
    return await post(call, AdjustCharge(row))


async def transfer(call: Call) -> web.Response:
    await _may_edit(call)
    return await post(call, TransferCharge(call.path_id(), call.body.to, call.body.amount_cents))


ENDPOINTS = (
    Endpoint(
        "POST",
        "/v1/charges",
        create,
        _ADD,
        "Post a charge",
        body=wire.ChargeIn,
        answer=ChargeDocument,
        status=201,
        idempotent=True,
    ),
    Endpoint(
        "GET",
        "/v1/charges",
        listing,
        _VIEW,
        "List charges, newest first",
        query=wire.ChargesQuery,
        answer=Page[ChargeDocument],
    ),
    Endpoint("GET", "/v1/charges/{id}", read, _VIEW, "One charge with its balance", answer=ChargeDocument),
    Endpoint(
        "PATCH", "/v1/charges/{id}", change, _EDIT, "Correct a charge", body=wire.ChargePatch, answer=ChargeDocument
    ),
    Endpoint("POST", "/v1/charges/{id}/release", release, _EDIT, "Release a delayed charge", answer=ChargeDocument),
    Endpoint(
        "POST",
        "/v1/charges/{id}/void",
        void,
        _EDIT,
        "Void a charge without payments",
        answer=ChargeDocument,
        idempotent=True,
    ),
    Endpoint(
        "POST",
        "/v1/charges/{id}/adjustments",
        adjust,
        _EDIT,
        "Write off part of a charge",
        body=wire.ChargeAdjustmentIn,
        answer=ChargeDocument,
        status=201,
        idempotent=True,
    ),
    Endpoint(
        "POST",
        "/v1/charges/{id}/transfer",
        transfer,
        _EDIT,
        "Move part of the balance between payer and patient",
        body=wire.TransferIn,
        answer=ChargeDocument,
        status=201,
        idempotent=True,
    ),
)
