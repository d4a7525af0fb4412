"""Patients, payers and referring physicians: the same six calls each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from services.ledger import queries, wire
from services.ledger.answers import Page, PatientDocument, PayerDocument, PhysicianDocument
from services.ledger.api.common import post, readers
from services.ledger.domain.commands import Act, ChangeParty, NewPatient, NewPayer, NewPhysician
from shared.access.principal import area
from shared.web import Call, Endpoint, json_response


def _new_patient(body: wire.PatientIn) -> Act:
    return NewPatient(body.account_number, body.first_name, body.last_name, body.date_of_birth, body.payer_id)


def _new_payer(body: wire.PayerIn) -> Act:
    return NewPayer(body.code, body.name, body.payer_class, tuple(body.era_payer_ids))


def _new_physician(body: wire.PhysicianIn) -> Act:
    return NewPhysician(body.npi, body.first_name, body.last_name)


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of party: where it is served, who may, and how its bodies become acts and filters."""

    kind: str
    path: str
    area: str
    name: str
    body: type[BaseModel]
    patch: type[BaseModel]
    search: type[BaseModel]
    answer: type[BaseModel]
    page: type[BaseModel]
    act: Any
    filters: tuple[str, ...]
    nullable: frozenset[str] = frozenset()


_KINDS = (
    _Kind(
        "patient",
        "/v1/patients",
        "patients",
        "patient",
        wire.PatientIn,
        wire.PatientPatch,
        wire.PatientSearch,
        PatientDocument,
        Page[PatientDocument],
        _new_patient,
        ("account_number", "last_name", "first_name", "date_of_birth"),
        frozenset({"payer_id"}),
    ),
    _Kind(
        "payer",
        "/v1/payers",
        "insurances",
        "payer",
        wire.PayerIn,
        wire.PayerPatch,
        wire.PayerSearch,
        PayerDocument,
        Page[PayerDocument],
        _new_payer,
        ("code", "name"),
        frozenset({"payer_class"}),
    ),
    _Kind(
        "physician",
        "/v1/referring-physicians",
        "referring_physicians",
        "referring physician",
        wire.PhysicianIn,
        wire.PhysicianPatch,
        wire.PhysicianSearch,
        PhysicianDocument,
        Page[PhysicianDocument],
        _new_physician,
        ("npi", "last_name"),
    ),
)


def _endpoints(kind: _Kind) -> list[Endpoint]:
    async def create(call: Call) -> web.Response:
        return await post(call, kind.act(call.body))

    async def listing(call: Call) -> web.Response:
        blank = [None] * len(kind.filters)
        company, query = call.principal.company, call.query
        page = await queries.read_page(readers(call), company, kind.kind, query.cursor, query.limit, *blank)
        return json_response(page)

    async def search(call: Call) -> web.Response:
        body = call.body
        values = [getattr(body, name) for name in kind.filters]
        company = call.principal.company
        page = await queries.read_page(readers(call), company, kind.kind, body.cursor, body.limit, *values)
        return json_response(page)

    async def read(call: Call) -> web.Response:
        return json_response(
            await queries.read_document(readers(call), call.principal.company, kind.kind, call.path_id())
        )

    async def change(call: Call) -> web.Response:
        changes = wire.not_null(call.body, kind.nullable)
        if "era_payer_ids" in changes:
            changes["era_payer_ids"] = tuple(changes["era_payer_ids"])
        return await post(call, ChangeParty(kind.kind, call.path_id(), changes))

    view, name = area(kind.area), kind.name
    return [
        Endpoint("GET", kind.path, listing, view, f"List {name}s, newest first", query=wire.Page, answer=kind.page),
        Endpoint(
            "POST",
            kind.path,
            create,
            area(kind.area, "add"),
            f"Add a {name}",
            body=kind.body,
            answer=kind.answer,
            status=201,
        ),
        Endpoint("POST", f"{kind.path}/search", search, view, f"Find {name}s", body=kind.search, answer=kind.page),
        Endpoint("GET", f"{kind.path}/{{id}}", read, view, f"One {name}", answer=kind.answer),
        Endpoint(
            "PATCH",
            f"{kind.path}/{{id}}",
            change,
            area(kind.area, "edit"),
            f"Change a {name}",
            body=kind.patch,
            answer=kind.answer,
        ),
    ]


ENDPOINTS = tuple(endpoint for kind in _KINDS for endpoint in _endpoints(kind))
