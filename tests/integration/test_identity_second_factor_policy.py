"""A company that requires a second factor requires it of who administers it from another company, too."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from tests.support.identity import Answer, IdentityStack
from tests.support.second_factor import enrol, grant, time_passes

_numbers = count(1)


async def _world(identity: IdentityStack) -> tuple[str, str, str, str]:
    """An administrator of two companies, who is in the one that requires nothing: his name, the other company, a
    location of it, and his token."""
    number = next(_numbers)
    open_, strict = [(await identity.company(f"{code}{number}"))["id"] for code in ("OPEN", "STRICT")]
    location = (await identity.location(strict, "L"))["id"]
    user = (await identity.user(f"admin{number}", "partner_admin", [open_, strict], default_company_id=open_))[
        "user_name"
    ]
    answer = await identity.patch(f"/v1/companies/{strict}", {"mfa_required": True}, await identity.operator())
    assert answer.status == 200, answer
    return user, strict, location, await identity.token(user, fresh=True)


def _changes(company: str, location: str) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        ("PATCH", f"/v1/companies/{company}/locations/{location}", {"name": "Other"}),
        ("POST", f"/v1/companies/{company}/locations", {"code": "M", "name": "More"}),
        ("PATCH", f"/v1/companies/{company}", {"name": "Other"}),
        ("PATCH", f"/v1/companies/{company}", {"mfa_required": False}),
    ]


async def test_without_one_nothing_of_the_company_is_changed(identity: IdentityStack) -> None:
    user, company, location, token = await _world(identity)

    async def state() -> tuple[Any, Any]:
        operator = await identity.operator()
        paths = (f"/v1/companies/{company}", f"/v1/companies/{company}/locations")
        one, other = [(await identity.get(path, operator)).body for path in paths]
        return one, other

    before = await state()
    for method, path, body in _changes(company, location):
        answer = await identity.request(method, path, token=token, json=body)
        assert (answer.status, answer.body["code"]) == (403, "sign_in_again"), (path, answer)
    assert await state() == before
    assert (await grant(identity, user, company_id=company)).body["scope"] == "mfa_enrolment"


@pytest.mark.parametrize("place", range(4))
async def test_with_one_it_is(identity: IdentityStack, place: int) -> None:
    user, company, location, token = await _world(identity)
    app = await enrol(identity, token)
    await time_passes(identity, user)
    token = (await grant(identity, user, otp=app.code())).body["access_token"]
    assert (await _done(identity, token, company, location, place)).status in (200, 201)


@pytest.mark.parametrize("place", range(4))
async def test_the_operator_has_rules_of_his_own(identity: IdentityStack, place: int) -> None:
    """Whether he takes two factors is `OPERATOR_MFA_REQUIRED`."""
    _, company, location, _ = await _world(identity)
    assert (await _done(identity, await identity.operator(), company, location, place)).status in (200, 201)


async def _done(identity: IdentityStack, token: str, company: str, location: str, place: int) -> Answer:
    method, path, body = _changes(company, location)[place]
    return await identity.request(method, path, token=token, json=body)
