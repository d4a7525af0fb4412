"""`/v1/me`: who is calling, and what he may do with this token."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from services.identity.api.common import document, services
from services.identity.documents import MeDocument
from shared.access import policy
from shared.access.principal import ANYONE_SIGNED_IN, Principal
from shared.web import Call, Endpoint

# M2, B10: the menu entries the seeds name, each shown to who may view its area.
_MENU: Final = (
    ("Payments", "My Payment Activity", "my_payment_activity"),
    ("Payments", "Payment Balancing", "payment_balancing"),
)


async def _me(call: Call) -> web.StreamResponse:
    caller = call.principal
    me = await services(call).views.me(caller)
    role = policy.role(caller.role)
    facts = {
        "id": caller.subject,
        "user_name": caller.user_name,
        "first_name": me.user and me.user.first_name,
        "last_name": me.user and me.user.last_name,
        "email": me.user and me.user.email,
        "user_type": caller.user_type,
        "affiliation": caller.affiliation,
        "role": caller.role,
        "role_label": role.label if role else caller.role.capitalize(),
        "companies": list(me.companies),
        "company_id": caller.company_id,
        "default_company_id": me.user and me.user.default_company_id,
        "emr_locations": "*" if me.locations is None else list(me.locations),
        "permissions": dict(role.grants) if role else {},
        "menu": _menu(caller),
    }
    return document(MeDocument, facts)


def _menu(caller: Principal) -> list[dict[str, Any]]:
    return [{"menu": menu, "label": label, "area": area} for menu, label, area in _MENU if caller.allows(area, "view")]


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/me", _me, ANYONE_SIGNED_IN, "Who is calling", answer=MeDocument, audited=False),
)
