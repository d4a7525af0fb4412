"""Asks a service everything that the matrix decides, and says what was answered otherwise.

`failures` answers a list instead of failing, so that the same questions can prove the checks (test_mutants.py): with a
check taken away, the list must not be empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any
from uuid import uuid4

from aiohttp import web
from multidict import CIMultiDict

from shared.access.principal import Guard
from shared.web import Endpoint
from tests.access.oracle import AREAS, BREAK_GLASS, LEVELS, MACHINES, admits, meets
from tests.support.access import Reply, Row, Served, World, ask, template

_FORBIDDEN = {
    "type": "urn:billing:problem:forbidden",
    "title": "Your role does not allow this",
    "status": 403,
    "code": "forbidden",
    "detail": "Your role does not allow this",
    "errors": [],
}
_ABSENT = {
    "type": "urn:billing:problem:not_found",
    "title": "There is no such object",
    "status": 404,
    "code": "not_found",
    "detail": "There is no such object",
    "errors": [],
}


async def failures(
    served: Served, caller: str, rows: Iterable[Row], stranger: World, mine: World | None = None
) -> list[str]:
    """Every row as `caller`: of his own company, of the stranger's, and of nobody's. `mine`: a world to be used again,
    where what an earlier row has changed does not matter."""
    rows, mine = tuple(rows), mine or await served.world(caller)
    refused = [row for row in rows if not admits(row.rule, caller)]
    found: list[str] = []

    def note(row: Row, what: str, reply: Reply) -> None:
        found.append(f"{caller}: {row.call} {what}: {reply}")

    before = await served.checksums()
    for row in refused:
        reply = await ask(served, row, mine.token, mine.ids)
        if not _is(reply, _FORBIDDEN):
            note(row, "is not refused", reply)
    nobody = mine.nobody()
    for row in rows:
        for slots, answer in () if caller in row.unbound else row.mixtures:
            may = row not in refused or (row.told and admits(row.told, caller))
            expected = answer if may else 403
            foreign, absent = [
                await ask(served, row, mine.token, {**mine.ids, **{slot: ids[slot] for slot in slots}})
                for ids in (stranger.ids, nobody)
            ]
            what = f"with another company's {', '.join(sorted(slots))}"
            if foreign.status != expected or (expected == 403 and not _is(foreign, _FORBIDDEN)):
                note(row, f"{what} is not {expected}", foreign)
            if expected == 404 and not _is(foreign, _ABSENT):
                note(row, f"{what} says more than that it is absent", foreign)
            # A cursor is a place in the order, also a foreign one: what follows there is the caller's own.
            if foreign.shown != absent.shown and "cursor=" not in row.call:
                note(row, f"{what} differs from {absent}", foreign)
            if leaked := _leaked(row, foreign, stranger):
                note(row, f"{what} shows {leaked!r}", foreign)
    if (after := await served.checksums()) != before:
        changed = sorted(name for name in after if after[name] != before.get(name))
        found.append(f"{caller}: refusals changed {changed}")
    for row in rows:
        if row in refused:
            continue
        reply = await ask(served, row, mine.token, mine.ids)
        if reply.status != row.done and (row.done or reply.status >= 500):
            note(row, f"is not {row.done}", reply)
        if leaked := _leaked(row, reply, stranger) if caller not in row.unbound else None:
            note(row, f"shows another company's {leaked!r}", reply)
    if caller == BREAK_GLASS and await served.checksums() != before:
        found.append(f"{caller}: looking has changed something")
    return found


def _is(reply: Reply, problem: dict[str, Any]) -> bool:
    if reply.status != problem["status"]:
        return False
    body = reply.body
    return bool(body.pop("request_id")) and body == problem


def _leaked(row: Row, reply: Reply, stranger: World) -> bytes | None:
    named = [value.encode() for value in stranger.ids.values()] if row.echoes else []
    shown = (secret for secret in stranger.secrets if secret in reply.raw)
    return next((secret for secret in shown if not any(secret in own for own in named)), None)


async def heads(served: Served, caller: str, rows: Iterable[Row]) -> list[str]:
    """Every GET asked as HEAD: the status and the headers are the same, and no body comes."""
    mine, found = await served.world(caller), []
    for row in rows:
        if row.method != "GET":
            continue
        whole = await ask(served, row, mine.token, mine.ids)
        head = await ask(served, replace(row, call=f"HEAD{row.call.removeprefix('GET')}"), mine.token, mine.ids)
        if head.raw or head.status != whole.status or _lasting(head, row) != _lasting(whole, row):
            found.append(f"{caller}: HEAD of {row.call}: {head}, {_lasting(head, row)}, not {_lasting(whole, row)}")
    return found


def _lasting(reply: Reply, row: Row) -> dict[str, str]:
    """Its headers, but what only a body has, and the size of the audit, which grows by being read."""
    passing = {"date", "x-request-id", "transfer-encoding", *(["content-length"] if "/audit" in row.path else [])}
    return {n.lower(): value for n, value in reply.headers.items() if n.lower() not in passing}


def unserved(app: web.Application, endpoints: Iterable[Endpoint], rows: Iterable[Row]) -> list[str]:
    """What is served without being declared, or declared without being served, or not in order (`undeclared`)."""
    endpoints = tuple(endpoints)
    served = {
        template(route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource and route.resource.canonical not in _TECHNICAL
    }
    declared = {template(one.method, one.path) for one in endpoints}
    declared |= {template("HEAD", one.path) for one in endpoints if one.method == "GET"}
    found = [f"{route} is served and not declared" for route in served - declared]
    found += [f"{route} is declared and not served" for route in declared - served]
    return [*found, *undeclared(endpoints, rows)]


def undeclared(endpoints: Iterable[Endpoint], rows: Iterable[Row]) -> list[str]:
    """Endpoints without a row, rows without an endpoint, and endpoints that declare neither area nor flag."""
    endpoints = tuple(endpoints)
    declared, asked = {template(one.method, one.path) for one in endpoints}, {row.route for row in rows}
    found = [f"{route} has no row in the table" for route in declared - asked]
    found += [f"{route} is in the table and not declared" for route in asked - declared]
    return found + [f"{one.method} {one.path} admits nobody" for one in endpoints if one.guard == Guard()]


def misguarded(endpoints: Iterable[Endpoint], rows: Iterable[Row]) -> list[str]:
    """Endpoints that ask for another level than the table, also where no role of today has just that level: each is
    asked by a caller who has one area at one level and nothing else, and by every caller beside the matrix."""
    rules: dict[str, list[str]] = {}
    for row in rows:
        rules.setdefault(row.route, []).extend(term.strip() for term in row.rule.split("|"))
    found = []
    for endpoint in endpoints:
        terms = rules[template(endpoint.method, endpoint.path)]
        public = terms == ["public"] * len(terms)
        if endpoint.guard.public != public:
            found.append(f"{endpoint.method} {endpoint.path} must {'' if public else 'not '}be public")
        if public:
            continue
        for area, level in product(AREAS, LEVELS):
            caller = OneCell(area, level)
            wanted = "anyone" in terms or any(meets(term, area, level) for term in terms)
            if endpoint.guard.admits(caller) != wanted:  # type: ignore[arg-type]
                found.append(f"{endpoint.method} {endpoint.path}: {level} of {area} must {'' if wanted else 'not '}do")
        for name in MACHINES:
            if (getattr(endpoint.guard, name) or endpoint.guard.authenticated) != (name in terms or "anyone" in terms):
                found.append(f"{endpoint.method} {endpoint.path}: {name}")
    return found


@dataclass(frozen=True, slots=True)
class OneCell:
    """A caller whose role no catalogue has: one area at one level, and nothing else."""

    area: str
    level: str
    role: str = "one_cell"
    is_operator: bool = False
    is_emr: bool = False
    is_internal: bool = False

    def allows(self, area: str, level: str) -> bool:
        return meets(f"{area} {level}", self.area, self.level)


_TECHNICAL = {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs"}
"""Routes of every service without a guard: they show no company's data, and the proxy closes `/metrics`."""


_UNAUTHENTICATED = {
    "type": "urn:billing:problem:unauthenticated",
    "title": "A valid access token is required",
    "status": 401,
    "code": "unauthenticated",
    "detail": "A valid access token is required",
    "errors": [],
}


_STALE = {
    **_UNAUTHENTICATED,
    "type": "urn:billing:problem:token_stale",
    "code": "token_stale",
    "detail": "Your rights have changed: get a new token",
}


async def outdated(served: Served, rows: Iterable[Row], mine: World, stale: Mapping[str, str]) -> list[str]:
    """Every row with every token of `stale` (by whose it is), about objects that are there."""
    before = await served.checksums()
    found: list[str] = []
    for row in rows:
        for whose, token in stale.items():
            reply = await ask(served, row, token, mine.ids)
            if not _is(reply, _STALE):
                found.append(f"{whose}, stale: {row.call}: {reply}")
    if await served.checksums() != before:
        found.append("a request with a stale token changed something")
    return found


async def unlocked(served: Served, rows: Iterable[Row], mine: World, bad: Mapping[str, str]) -> list[str]:
    """Every row with every bad token, with none, with two headers, and with a good token in the address."""
    assert mine.token is not None
    before = await served.checksums()
    found: list[str] = []
    good = f"Bearer {mine.token}"
    ways: dict[str, list[tuple[str, str]]] = {why: [("Authorization", f"Bearer {token}")] for why, token in bad.items()}
    ways["no header"] = []
    ways["two headers"] = [("Authorization", good), ("Authorization", good)]
    ways["another scheme"] = [("Authorization", f"Basic {mine.token}")]
    for row in rows:
        url = row.url(mine.ids)
        in_url = f"{url}{'&' if '?' in url else '?'}access_token={mine.token}"
        for why, headers in (*ways.items(), ("a token in the address", [])):
            payload = row.payload(mine.ids)
            given = CIMultiDict([*headers, ("Idempotency-Key", str(uuid4()))])
            if payload is not None:
                given["Content-Type"] = row.type
            where = in_url if "address" in why else url
            reply = await served.send(row.method, where, None, headers=given, data=payload)
            if not _is(reply, _UNAUTHENTICATED):
                found.append(f"{why}: {row.call}: {reply}")
    if await served.checksums() != before:
        found.append("a request without a valid token changed something")
    return found
