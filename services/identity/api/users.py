"""`/v1/users`, and what a user can see and do."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from services.identity.api.common import document, page, services
from services.identity.documents import AccessDocument, Page, UserDocument
from services.identity.service.users import Access
from services.identity.wire import AccessQuery, PageQuery, UserChange, UserNew
from shared.access import policy
from shared.access.policy import Grant, Role
from shared.access.principal import area
from shared.web import Call, Endpoint

_VIEW: Final = area("users", "view", operator=True)


async def _list(call: Call) -> web.StreamResponse:
    found = await services(call).users.list(call.principal, call.query.cursor, call.query.limit + 1)
    return page(UserDocument, found, call.query.limit)


async def _create(call: Call) -> web.StreamResponse:
    fields = call.body.given()
    password = fields.pop("password", None)
    return document(UserDocument, await services(call).users.create(call.principal, fields, password), 201)


async def _get(call: Call) -> web.StreamResponse:
    return document(UserDocument, await services(call).users.get(call.principal, call.path_id()))


async def _change(call: Call) -> web.StreamResponse:
    fields = call.body.given()
    password = fields.pop("password", None)
    changed = await services(call).users.change(call.principal, call.path_id(), fields, password)
    return document(UserDocument, changed)


async def _access(call: Call) -> web.StreamResponse:
    found = await services(call).users.access(call.principal, call.path_id(), call.query.role)
    return document(AccessDocument, _access_facts(found))


def _access_facts(found: Access) -> dict[str, Any]:
    user, role = found.user, policy.catalogue()[found.user.role]
    return {
        "user_id": user.id,
        "user_name": user.user_name,
        "user_type": user.user_type,
        "role": role.key,
        "role_label": role.label,
        "active": user.active,
        "companies": list(found.companies),
        "emr_locations": list(found.locations) if role.limited_to_locations else "*",
        "areas": [
            {"area": name, "level": grant.level, "scope": grant.scope, "rule": _rule(role, name)}
            for name, grant in role.grants.items()
        ],
        "preview": _preview(found, role) if found.preview else None,
    }


def _preview(found: Access, role: Role) -> dict[str, Any]:
    other = policy.catalogue()[found.preview.role] if found.preview else role
    pairs: dict[str, tuple[Grant, Grant]] = {name: (role.grant(name), other.grant(name)) for name in policy.areas()}
    return {
        "role": other.key,
        "role_label": other.label,
        "refused": found.refusal.detail if found.refusal else None,
        "differences": [
            {
                "area": name,
                "level": old.level,
                "scope": old.scope,
                "new_level": new.level,
                "new_scope": new.scope,
                "rule": _rule(other, name),
            }
            for name, (old, new) in pairs.items()
            if (old.level, old.scope) != (new.level, new.scope)
        ],
    }


_SCOPES: Final = {
    "own_postings": " for what the user posted himself",
    "all_locations": " for every location of the company",
    "own_emr_locations": " for the EMR locations granted to the user",
}


def _rule(role: Role, name: str) -> str:
    """The cell of the matrix that decides, in words."""
    grant = role.grant(name)
    return f"{role.label} has {grant.level} in {name}{_SCOPES.get(grant.scope or '', '')} ({grant.basis})"


ENDPOINTS: Final = (
    Endpoint(
        "GET", "/v1/users", _list, _VIEW, "Users of the active company", query=PageQuery, answer=Page[UserDocument]
    ),
    Endpoint(
        "POST",
        "/v1/users",
        _create,
        area("users", "add", operator=True),
        "Create a user",
        body=UserNew,
        answer=UserDocument,
        status=201,
    ),
    Endpoint("GET", "/v1/users/{id}", _get, _VIEW, "One user", answer=UserDocument),
    Endpoint(
        "PATCH",
        "/v1/users/{id}",
        _change,
        area("users", "edit", operator=True),
        "Change a user",
        body=UserChange,
        answer=UserDocument,
    ),
    Endpoint(
        "GET",
        "/v1/users/{id}/access",
        _access,
        _VIEW,
        "What a user can see and do, and why",
        query=AccessQuery,
        answer=AccessDocument,
    ),
)
