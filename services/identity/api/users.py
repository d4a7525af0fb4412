"""`/v1/users`, and what a user can see and do."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from services.identity import explain
from services.identity.access_documents import AccessDocument, ViewerDocument
from services.identity.api.common import document, page, services
from services.identity.documents import Page, UserDocument
from services.identity.service.users import Access
from services.identity.wire import AccessQuery, PageQuery, UserChange, UserNew
from shared.access import policy
from shared.access.policy import Grant, Role
from shared.access.principal import area
from shared.recorder import tell_rows
from shared.web import Call, Endpoint

_VIEW: Final = area("users", "view", operator=True)


async def _list(call: Call) -> web.StreamResponse:
    found = await services(call).users.list(call.principal, call.query.cursor, call.query.limit + 1)
    return page(UserDocument, found, call.query.limit)


async def _create(call: Call) -> web.StreamResponse:
    fields, password, initial = _body(call)
    made = await services(call).users.create(call.principal, fields, password, initial=initial)
    return document(UserDocument, made, 201)


async def _get(call: Call) -> web.StreamResponse:
    return document(UserDocument, await services(call).users.get(call.principal, call.path_id()))


async def _change(call: Call) -> web.StreamResponse:
    fields, password, initial = _body(call)
    changed = await services(call).users.change(call.principal, call.path_id(), fields, password, initial=initial)
    return document(UserDocument, changed)


def _body(call: Call) -> tuple[dict[str, Any], str | None, bool]:
    """The user's fields, his password, and whether it is an initial one."""
    fields = call.body.given()
    password, initial = fields.pop("password", None), fields.pop("must_change_password", False)
    return fields, password, initial


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
        "second_factor": found.has_factor,
        "companies": [explain.company_line(user, one, has_factor=found.has_factor) for one in found.companies],
        "emr_locations": list(found.locations) if role.limited_to_locations else "*",
        "areas": [explain.area_line(role, name) for name in role.grants],
        "preview": _preview(found, role) if found.preview else None,
    }


def _preview(found: Access, role: Role) -> dict[str, Any]:
    other = policy.catalogue()[found.preview] if found.preview else role
    pairs: dict[str, tuple[Grant, Grant]] = {name: (role.grant(name), other.grant(name)) for name in policy.areas()}
    return {
        "role": other.key,
        "role_label": other.label,
        "refused": found.refusals[0].message if found.refusals else None,
        "refusals": list(found.refusals),
        **explain.compared(role, other),
        "differences": [
            {
                "area": name,
                "level": old.level,
                "scope": old.scope,
                "new_level": new.level,
                "new_scope": new.scope,
                "rule": explain.area_line(other, name)["rule"],
            }
            for name, (old, new) in pairs.items()
            if (old.level, old.scope) != (new.level, new.scope)
        ],
    }


async def _viewers(call: Call) -> web.StreamResponse:
    ids = call.path_id(), call.path_id("location_id")
    query: PageQuery = call.query
    found = await services(call).users.viewers(call.principal, *ids, query.cursor, query.limit + 1)
    shown = [explain.viewer(user, *ids) for user in found[: query.limit]]
    # The cursor is the last member looked at, so that a page may show fewer than asked for before the end.
    following = found[query.limit - 1].id if len(found) > query.limit else None
    items = [one for one in shown if one is not None]
    answer = document(Page[ViewerDocument], {"items": items, "next": following})
    tell_rows(answer, items)
    return answer


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
    Endpoint(
        "GET",
        "/v1/companies/{id}/locations/{location_id}/access",
        _viewers,
        _VIEW,
        "Who can see a location, where, and why",
        query=PageQuery,
        answer=Page[ViewerDocument],
    ),
)
