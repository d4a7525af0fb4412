"""Short ways to second factors in tests: an authenticator app, and users who have one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import asyncpg
import pyotp

from tests.support.identity import PASSWORD, Answer, IdentityStack


@dataclass(frozen=True)
class App:
    """An authenticator app with one secret, and the recovery codes that came with it."""

    secret: str
    recovery_codes: tuple[str, ...] = ()
    step: int = field(default_factory=lambda: int(time.time()) // 30)
    """When it was made: a test that runs over the end of a step means the same codes still."""

    def code(self, steps: int = 0) -> str:
        """The code of then, or of a step before or after."""
        return pyotp.TOTP(self.secret).generate_otp(self.step + steps)

    @property
    def wrong(self) -> str:
        """Six digits that are no code around now."""
        near = {self.code(steps) for steps in range(-3, 4)}
        return next(text for text in ("000000", "111111", "222222", "333333", "444444", "555555") if text not in near)


async def run_sql(identity: IdentityStack, statement: str, *arguments: Any) -> list[Any]:
    connection = await asyncpg.connect(identity.dsn)
    try:
        return list(await connection.fetch(statement, *arguments))
    finally:
        await connection.close()


async def time_passes(identity: IdentityStack, user_name: str) -> None:
    """As if the codes used so far were long ago."""
    await run_sql(
        identity,
        "update totp set last_step = 0 where user_id = (select id from app_user where user_name = $1)",
        user_name,
    )


async def enrol(identity: IdentityStack, token: str) -> App:
    """Enrol an authenticator app with this token."""
    begun = await identity.request("POST", "/v1/me/totp", token=token)
    assert begun.status == 201, begun
    app = App(begun.body["secret"])
    confirmed = await identity.post("/v1/me/totp/confirm", {"code": app.code()}, token)
    assert confirmed.status == 200, confirmed
    return replace(app, recovery_codes=tuple(confirmed.body["recovery_codes"]))


async def grant(identity: IdentityStack, user_name: str, password: str = PASSWORD, **form: str) -> Answer:
    return await identity.ask_token(grant_type="password", username=user_name, password=password, **form)


async def renew(identity: IdentityStack, refresh_token: str, **form: str) -> Answer:
    return await identity.ask_token(grant_type="refresh_token", refresh_token=refresh_token, **form)


async def audited(identity: IdentityStack) -> list[str]:
    """Actions in the audit, newest first."""
    return [entry["action"] for entry in (await identity.get("/v1/audit", await identity.operator())).body["items"]]
