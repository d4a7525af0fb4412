"""The routes of reporting: who may run which report, over which locations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
from aiohttp import web
from pydantic import BaseModel, ConfigDict

from services.reporting import formats
from services.reporting.reports import my_payment_activity, payment_balancing, reader
from services.reporting.reports.reader import Plan, Reach
from services.reporting.wire import MyPaymentActivityQuery, PaymentBalancingQuery, ReportQuery
from shared.access.principal import ANYONE_SIGNED_IN, Principal, area
from shared.db import reading
from shared.directory import Directory
from shared.errors import Forbidden, LocationForbidden, NotFound, TooManyRequests, Unavailable
from shared.web import Call, Endpoint, json_response
from shared.web.audit import audit_endpoint
from shared.web.limits import AtOnce
from shared.web.lists import WholeList, paged

READERS: Final = web.AppKey("readers", asyncpg.Pool)
"""Connections of the reader's role: they show what `reading` says that the caller may see, and nothing else."""
DIRECTORY: Final = web.AppKey("directory", Directory)

EXPORTS: Final = web.AppKey("exports", asyncio.Semaphore)
"""Exports under way. A slow reader holds a connection all the while, so they may not take all of them."""
MOST_EXPORTS: Final = 4
MOST_OF_ONE: Final = 2
EXPORTERS: Final = web.AppKey("exporters", AtOnce)
"""Exports by caller, who may not have all of them."""

_NAMES_SECONDS: Final = 1.0


class Figures(BaseModel):
    """`amount_cents` = applied + provider level + unapplied; `payments` counts receipts."""

    payments: int
    amount_cents: int
    applied_cents: int
    adjusted_cents: int
    provider_level_cents: int
    unapplied_cents: int


class ReportRow(Figures):
    """The figures, and the columns of the level or grouping that was asked for."""

    model_config = ConfigDict(extra="allow")


class ReportAnswer(BaseModel):
    """A page of a report. `totals` are of the whole result; `facets` only when asked for."""

    report: str
    parameters: dict[str, Any]
    items: list[ReportRow]
    totals: Figures
    next: str | None
    as_of_version: int
    as_of_time: datetime | None
    verified_through: str | None
    facets: dict[str, list[dict[str, Any]]] | None = None


class ReportEntry(BaseModel):
    """`variations`: which of them the caller may ask for, of a report that has several."""

    name: str
    title: str
    menu: str
    path: str
    variations: list[str] | None = None


class ReportList(BaseModel):
    """The reports that the caller may run."""

    items: list[ReportEntry]
    next: str | None


async def list_reports(call: Call) -> web.Response:
    """M2, B10: what the Payments menu shows to this caller."""
    caller, items = call.principal, []
    if caller.allows("my_payment_activity", "view"):
        items.append(_entry(my_payment_activity.NAME, my_payment_activity.TITLE))
    if caller.allows("payment_balancing", "view"):
        full = caller.allows("payment_balancing_full_access", "view")
        variations = ["base", "full_access"] if full else ["base"]
        items.append({**_entry(payment_balancing.NAME, payment_balancing.TITLE), "variations": variations})
    shown, following = paged(items, [item["name"] for item in items], call.query)
    return json_response({"items": shown, "next": following})


def _entry(name: str, title: str) -> dict[str, Any]:
    return {"name": name, "title": title, "menu": "Payments", "path": f"/v1/reports/{name}"}


async def get_my_payment_activity(call: Call) -> web.StreamResponse:
    """M1-M11."""
    query: MyPaymentActivityQuery = call.query
    reach = _reach(call.principal, "my_payment_activity")
    plan = my_payment_activity.plan(call.principal.company, call.principal.subject, query)
    return await _answer(call, reach, plan, query)


async def get_payment_balancing(call: Call) -> web.StreamResponse:
    """B1-B10, and R1-R7 for the restricted role."""
    query: PaymentBalancingQuery = call.query
    locations = await _locations(call, query)
    plan = payment_balancing.plan(call.principal.company, query, locations)
    reach = _reach(call.principal, "payment_balancing")
    return await _answer(call, reach, plan, query, with_facets=query.facets == "true")


def _reach(caller: Principal, name: str) -> Reach:
    """What the caller may see by the token and his scope in the area, whatever he asks and however it is planned: the
    second fence. Locations that a token does not list are none."""
    scope, company_id = caller.grant(name).scope, caller.company
    if scope == "all_locations":
        return Reach(company_id)
    if scope == "own_postings":
        return Reach(company_id, poster=caller.subject)
    return Reach(company_id, caller.locations if isinstance(caller.locations, frozenset) else ())


async def _locations(call: Call, query: PaymentBalancingQuery) -> Sequence[UUID | None] | None:
    """The locations that the report is limited to, by the caller's wish or his rights; None: no limit. D10."""
    caller = call.principal
    asked = sorted({value for value in query.location_id if value is not None})
    without = None in query.location_id
    if caller.grant("payment_balancing").scope != "all_locations":
        granted = caller.locations if isinstance(caller.locations, frozenset) else frozenset()
        if query.variation == "full_access":
            raise Forbidden()
        if without or not granted.issuperset(asked):
            raise LocationForbidden()
        return asked or sorted(granted)
    if query.variation == "full_access":
        caller.require("payment_balancing_full_access", "view")
    await _require_known(call, caller, asked)
    if not asked and not without:
        return None
    return [None, *asked] if without else asked


async def _require_known(call: Call, caller: Principal, locations: Sequence[UUID]) -> None:
    """404 for a location that the company does not have, after asking identity once."""
    if await _unknown(call, caller.company, locations):
        await call.app[DIRECTORY].catch_up()
        if await _unknown(call, caller.company, locations):
            raise NotFound("There is no such location")


async def _unknown(call: Call, company_id: UUID, locations: Sequence[UUID]) -> bool:
    if not locations:
        return False
    async with reading(call.app[READERS], company_id) as connection:
        known: int = await connection.fetchval(
            "select count(*) from directory_location where company_id = $1 and location_id = any ($2)",
            company_id,
            locations,
        )
    return known < len(locations)


async def _answer(
    call: Call, reach: Reach, plan: Plan, query: ReportQuery, *, with_facets: bool = False
) -> web.StreamResponse:
    form = formats.choose(query.format, ",".join(call.request.headers.getall("Accept", [])))
    pool = call.app[READERS]
    if query.min_version:
        await reader.wait_for(pool, reach, query.min_version)
    if form == "csv":
        return await _export(call, reach, plan, query)
    answer = await reader.read_page(pool, reach, plan, query, with_facets=with_facets)
    if _nameless(answer["items"]):
        # A poster or location that we have not heard of: ask identity, but do not let the report wait for it.
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_NAMES_SECONDS):
                await call.app[DIRECTORY].catch_up()
                answer = await reader.read_page(pool, reach, plan, query, with_facets=with_facets)
    return json_response(answer)


async def _export(call: Call, reach: Reach, plan: Plan, query: ReportQuery) -> web.StreamResponse:
    """Every row, not a page: `limit` and `cursor` do not apply."""
    exports = call.app[EXPORTS]
    if exports.locked():
        raise TooManyRequests("Too many exports are being read, try again")
    with call.app[EXPORTERS].holding(call.principal.subject, 1):
        async with exports, reader.snapshot(call.app[READERS], reach, query, None) as books:
            headers = {"X-As-Of-Version": str(books.version)}
            rows = reader.read_rows(books, plan)
            return await formats.stream_csv(call, plan.report, plan.shape.columns, rows, headers)


def _nameless(items: Sequence[dict[str, Any]]) -> bool:
    return any(
        item.get(f"{kind}_name", "") is None and item[f"{kind}_id"] is not None
        for item in items
        for kind in ("poster", "location")
    )


ENDPOINTS: Final = (
    Endpoint(
        "GET",
        "/v1/reports",
        list_reports,
        ANYONE_SIGNED_IN,
        "Reports the caller may run",
        query=WholeList,
        answer=ReportList,
    ),
    Endpoint(
        "GET",
        "/v1/reports/my-payment-activity",
        get_my_payment_activity,
        area("my_payment_activity"),
        "What the caller posted: batch, check, patient, CPT",
        query=MyPaymentActivityQuery,
        answer=ReportAnswer,
    ),
    Endpoint(
        "GET",
        "/v1/reports/payment-balancing",
        get_payment_balancing,
        area("payment_balancing"),
        "All payments posted, with filters, grouping, sorting and drill-down",
        query=PaymentBalancingQuery,
        answer=ReportAnswer,
    ),
    audit_endpoint(area("audit_trail"), lambda call: reading(call.app[READERS], call.principal.company)),
)
