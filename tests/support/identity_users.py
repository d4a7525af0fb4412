"""Users as requests make them, and the administrators who do."""

from __future__ import annotations

from itertools import count
from typing import Any

from tests.support.identity import PASSWORD, Answer, IdentityStack

ADMIN = {"revserve": "practice_admin", "revequip": "partner_admin", "self_service": "self_service_admin"}
"""The role that makes users, by the service type of its company."""
_numbers = count(1)


def name(stem: str = "user") -> str:
    return f"{stem}_{next(_numbers)}"


async def company(identity: IdentityStack, service_type: str = "revequip") -> str:
    return str((await identity.company(name("C"), service_type))["id"])


async def admin_of(identity: IdentityStack, *companies: str, role: str = "partner_admin") -> str:
    """The access token of an administrator of the companies, in the first one."""
    made = await identity.user(name("admin"), role, companies)
    return await identity.token(made["user_name"])


def body(role: str = "front_office", user_type: str = "customer", **fields: Any) -> dict[str, Any]:
    whole = {
        "user_name": name(),
        "first_name": "Ana",
        "last_name": "Diaz",
        "email": "ana@practice.example",
        "user_type": user_type,
        "role": role,
        "password": PASSWORD,
        **fields,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def refused(answer: Answer, field: str, code: str | None = None) -> None:
    assert answer.status == 422, answer
    assert field in [error["field"] for error in answer.body["errors"]], answer
    if code:
        assert code in [error["code"] for error in answer.body["errors"]], answer
