"""`/v1/companies` and their locations."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.identity.api.common import document, page, services
from services.identity.documents import CompanyDocument, LocationDocument, Page
from services.identity.wire import CompanyChange, CompanyNew, LocationChange, LocationNew, PageQuery
from shared.access.principal import OPERATOR_ONLY, Guard, area
from shared.web import Call, Endpoint

_VIEW: Final = area("company_constants", "view", operator=True)
_EDIT: Final = area("company_constants", "edit", operator=True)
_MEMBER: Final = Guard(member=True, operator=True)


async def _list(call: Call) -> web.StreamResponse:
    found = await services(call).companies.list(call.principal, call.query.cursor, call.query.limit + 1)
    return page(CompanyDocument, found, call.query.limit)


async def _create(call: Call) -> web.StreamResponse:
    made = await services(call).companies.create(call.principal, call.body.given())
    return document(CompanyDocument, made, 201)


async def _get(call: Call) -> web.StreamResponse:
    return document(CompanyDocument, await services(call).companies.get(call.principal, call.path_id()))


async def _change(call: Call) -> web.StreamResponse:
    changed = await services(call).companies.change(call.principal, call.path_id(), call.body.given())
    return document(CompanyDocument, changed)


async def _list_locations(call: Call) -> web.StreamResponse:
    found = await services(call).companies.list_locations(
        call.principal, call.path_id(), call.query.cursor, call.query.limit + 1
    )
    return page(LocationDocument, found, call.query.limit)


async def _create_location(call: Call) -> web.StreamResponse:
    made = await services(call).companies.create_location(call.principal, call.path_id(), call.body.given())
    return document(LocationDocument, made, 201)


async def _get_location(call: Call) -> web.StreamResponse:
    found = await services(call).companies.get_location(call.principal, call.path_id(), call.path_id("location_id"))
    return document(LocationDocument, found)


async def _change_location(call: Call) -> web.StreamResponse:
    changed = await services(call).companies.change_location(
        call.principal, call.path_id(), call.path_id("location_id"), call.body.given()
    )
    return document(LocationDocument, changed)


_LOCATIONS: Final = "/v1/companies/{id}/locations"

ENDPOINTS: Final = (
    Endpoint("GET", "/v1/companies", _list, _VIEW, "Companies granted", query=PageQuery, answer=Page[CompanyDocument]),
    Endpoint(
        "POST",
        "/v1/companies",
        _create,
        OPERATOR_ONLY,
        "Open a company",
        body=CompanyNew,
        answer=CompanyDocument,
        status=201,
    ),
    Endpoint("GET", "/v1/companies/{id}", _get, _VIEW, "One company's constants", answer=CompanyDocument),
    Endpoint(
        "PATCH",
        "/v1/companies/{id}",
        _change,
        _EDIT,
        "Change company constants",
        body=CompanyChange,
        answer=CompanyDocument,
    ),
    Endpoint(
        "GET",
        _LOCATIONS,
        _list_locations,
        _MEMBER,
        "Locations; the restricted role sees its own",
        query=PageQuery,
        answer=Page[LocationDocument],
    ),
    Endpoint(
        "POST",
        _LOCATIONS,
        _create_location,
        _EDIT,
        "Add a location",
        body=LocationNew,
        answer=LocationDocument,
        status=201,
    ),
    Endpoint("GET", _LOCATIONS + "/{location_id}", _get_location, _MEMBER, "One location", answer=LocationDocument),
    Endpoint(
        "PATCH",
        _LOCATIONS + "/{location_id}",
        _change_location,
        _EDIT,
        "Change a location",
        body=LocationChange,
        answer=LocationDocument,
    ),
)
