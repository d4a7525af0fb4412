"""`/v1/roles`: the catalogue and the matrix, as JSON and CSV (U9, U14)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web
from aiohttp.hdrs import ACCEPT

from services.identity.documents import Document, RoleDocument
from services.identity.wire import RoleQuery, RolesQuery
from shared.access import policy
from shared.access.policy import Role
from shared.access.principal import area
from shared.errors import NotFound
from shared.web import Call, Endpoint, json_response
from shared.web.lists import paged

_GUARD: Final = area("users", "view", operator=True)


class RolePage(Document):
    """`next` is the key of the last role shown, if there are more: there are fifteen."""

    items: tuple[RoleDocument, ...]
    next: str | None


def role_document(role: Role) -> dict[str, Any]:
    return {
        "key": role.key,
        "label": role.label,
        "service_types": role.service_types,
        "user_type": role.user_type,
        "assignable_roles": role.assignable,
        "areas": dict(role.grants),
    }


def _matrix(roles: Sequence[Role]) -> web.Response:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(("area", "role", "level", "scope", "basis"))
    for name in policy.areas():
        for role in roles:
            grant = role.grant(name)
            rows.writerow((name, role.key, grant.level, grant.scope or "", grant.basis))
    return web.Response(
        text=text.getvalue(),
        content_type="text/csv",
        charset="utf-8",
        headers={"Content-Disposition": 'attachment; filename="permissions.csv"'},
    )


def _wants_csv(call: Call) -> bool:
    if call.query.format:
        return bool(call.query.format == "csv")
    accepted = [part.split(";")[0].strip() for part in call.request.headers.get(ACCEPT, "").split(",")]
    return "text/csv" in accepted and "application/json" not in accepted


async def _list(call: Call) -> web.StreamResponse:
    wanted = call.query.service_type
    roles = [role for role in policy.catalogue().values() if wanted is None or wanted in role.service_types]
    if _wants_csv(call):
        return _matrix(roles)
    shown, following = paged(roles, [role.key for role in roles], call.query)
    return json_response({"items": [role_document(role) for role in shown], "next": following})


async def _get(call: Call) -> web.StreamResponse:
    role = policy.catalogue().get(call.request.match_info["key"])
    if role is None:
        raise NotFound()
    return _matrix([role]) if _wants_csv(call) else json_response(role_document(role))


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/roles", _list, _GUARD, "The role catalogue", query=RolesQuery, answer=RolePage, audited=False),
    Endpoint("GET", "/v1/roles/{key}", _get, _GUARD, "One role", query=RoleQuery, answer=RoleDocument, audited=False),
)
