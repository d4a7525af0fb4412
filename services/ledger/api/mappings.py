"""What the company's feeds mean by their words; for the person who works the quarantine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from aiohttp import web

from services.ledger import queries, wire_feeds
from services.ledger.answers_feeds import MappingsDocument
from services.ledger.api.common import ledger, readers
from services.ledger.feeds import mappings, payees
from shared.access.principal import area
from shared.errors import FieldError, Invalid
from shared.web import Call, Endpoint, json_response

_TARGETS = {
    "clinic": ("clinics", "location_id"),
    "payer": ("payers", "payer_id"),
    "procedure": ("procedures", "procedure_code"),
    "payee": ("payees", "npi"),
}
_IN_ANY_CASE = ("payers", "payees")
"""Known by name or id, however it is written; clinics and codes are the sender's own words."""


async def read(call: Call) -> web.Response:
    return json_response(await _document(call))


async def replace(call: Call) -> web.Response:
    """What is sent holds from now on, for what comes and for what is tried again; what was posted stays."""
    body: wire_feeds.MappingsIn = call.body
    company = call.principal.company
    await ledger(call).learn({company})
    faults = [*_repeated(body), *await _unknown(call, body)]
    if faults:
        raise Invalid(errors=faults)
    wanted = [
        (kind, row.alias, str(getattr(row, target)))
        for kind, (rows, target) in _TARGETS.items()
        for row in getattr(body, rows)
    ]
    await mappings.replace_all(ledger(call).pool, company, call.principal.subject, wanted)
    return json_response(await _document(call))


def _repeated(body: wire_feeds.MappingsIn) -> Iterable[FieldError]:
    for rows, _ in _TARGETS.values():
        seen: set[str] = set()
        for place, row in enumerate(getattr(body, rows)):
            alias = row.alias.upper() if rows in _IN_ANY_CASE else row.alias
            if alias in seen:
                yield FieldError(f"{rows}.{place}.alias", "repeated", "The alias is mapped above")
            seen.add(alias)


async def _unknown(call: Call, body: wire_feeds.MappingsIn) -> list[FieldError]:
    """Targets that the company does not have: another's are as if they did not exist."""
    pool, company = readers(call), call.principal.company
    faults = []
    for rows, kind, name in (("clinics", "location", "location_id"), ("payers", "payer", "payer_id")):
        ids: list[UUID] = [getattr(row, name) for row in getattr(body, rows)]
        books = await queries.read_books(pool, company, kind, ids)
        known = getattr(books, f"{kind}s") if books else {}
        faults += [
            FieldError(f"{rows}.{place}.{name}", f"unknown_{kind}", f"There is no such {kind}")
            for place, one in enumerate(ids)
            if one not in known or not getattr(known[one], "active", True)
        ]
    npis = (await payees.read(ledger(call).pool, company)).npis if body.payees else frozenset()
    return faults + [
        FieldError(f"payees.{place}.npi", "unknown_npi", "It is no NPI of the company")
        for place, row in enumerate(body.payees)
        if row.npi not in npis
    ]


async def _document(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = {rows: [] for rows, _ in _TARGETS.values()}
    for row in await mappings.read_rows(readers(call), call.principal.company):
        rows, target = _TARGETS[row["kind"]]
        who = {"changed_by": row["changed_by"], "changed_at": row["changed_at"]}
        found[rows].append({"alias": row["alias"], target: row["target"], **who})
    return found


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/feed-mappings",
        read,
        area("payment_posting"),
        "What feeds mean by their words",
        answer=MappingsDocument,
    ),
    Endpoint(
        "PUT",
        "/v1/feed-mappings",
        replace,
        area("payment_posting", "edit"),
        "Replace all mappings of clinics, payers, procedure codes and payees",
        body=wire_feeds.MappingsIn,
        answer=MappingsDocument,
    ),
)
