"""Identity's routes for the access matrix. Its callers are people who are really there: it reads their rights again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import uuid4

import asyncpg
import orjson
from joserfc.jwk import ECKey

from services.identity.api import ENDPOINTS
from services.identity.sealing import Sealer
from services.identity.service.keys import active_key
from tests.access.oracle import BREAK_GLASS, CHANGING, ENROLLING, ROLES, UNKNOWN
from tests.support.access import FACTS, Reply, Row, World, checksums, sent
from tests.support.bad_tokens import claims_of, signed_again, stale_tokens
from tests.support.databases import Databases
from tests.support.identity import SECRETS_KEY, IdentityStack

_FORM: Final = "application/x-www-form-urlencoded"
_SELF: Final = "member | operator"
_NEWCOMER: Final = f"{_SELF} | {ENROLLING}"
_COMPANY: Final = "company_constants view | operator"
_CONSTANTS: Final = "company_constants edit | operator"
_LOOKS: Final = "users view | operator"
_ADMINISTERS: Final = "users edit | operator"
_ALL: Final = ("operator",)
"""The operator administers every company."""

_PUBLIC: Final = (
    Row("POST /v1/token", "public", 400, b"grant_type=none", _FORM),
    Row("POST /v1/revoke", "public", 200, b"token=none", _FORM),
    Row("POST /v1/introspect", "public", 0, b"token=none", _FORM),  # Clients only, by whatever they show.
    Row("GET /.well-known/jwks.json", "public"),
    Row("GET /.well-known/oauth-authorization-server", "public"),
    Row("POST /v1/passkeys/options", "public"),
    Row("POST /v1/passkeys/token", "public", 422, {}),
    Row("POST /v1/oidc/start", "public", 404),
    Row("POST /v1/oidc/token", "public", 422, {}),
    Row("POST /v1/password-reset", "public", 422, {}),
)
_OWN: Final = (
    Row("GET /v1/me", "anyone"),
    Row("GET /v1/me/mfa", _NEWCOMER),
    Row("POST /v1/me/totp", _NEWCOMER, 201),
    Row("POST /v1/me/totp/confirm", _NEWCOMER, 422, {"code": "000000"}),
    Row("DELETE /v1/me/totp", _SELF, 404, {"code": "000000"}),
    Row("POST /v1/me/recovery-codes", _SELF, 409),
    Row("GET /v1/me/passkeys", _SELF),
    Row("POST /v1/me/passkeys/options", _NEWCOMER),
    Row("POST /v1/me/passkeys", _NEWCOMER, 422, {}),
    Row("DELETE /v1/me/passkeys/{fresh}", _SELF, 404),
    Row("GET /v1/me/sessions", _SELF),
    Row("DELETE /v1/me/sessions/{fresh}", _SELF, 404),
    Row("POST /v1/me/password", f"{_SELF} | {CHANGING}", 422, {}),
)
_ADMINISTRATION: Final = (
    Row("GET /v1/companies", _COMPANY, unbound=_ALL),
    Row(
        "POST /v1/companies",
        "operator",
        201,
        {
            "code": "{fresh}",
            "name": "N",
            "service_type": "revequip",
            "time_zone": "UTC",
            "close_policy": "deposit_date",
        },
    ),
    Row("GET /v1/companies/{company}", _COMPANY, unbound=_ALL),
    Row("PATCH /v1/companies/{company}", _CONSTANTS, 200, {"name": "Other"}, unbound=_ALL),
    Row("GET /v1/companies/{company}/locations", _SELF, unbound=_ALL),
    Row(
        "POST /v1/companies/{company}/locations", _CONSTANTS, 201, {"code": "{fresh}", "name": "N"}, unbound=_ALL
    ),
    Row("GET /v1/companies/{company}/locations/{location}", _SELF, unbound=_ALL),
    Row("PATCH /v1/companies/{company}/locations/{location}", _CONSTANTS, 200, {"name": "Other"}, unbound=_ALL),
    Row("GET /v1/companies/{company}/locations/{location}/access", _LOOKS, unbound=_ALL),
    Row("GET /v1/users", _LOOKS, unbound=_ALL),
    Row(
        "POST /v1/users",
        "users add | operator",
        201,
        {
            "user_name": "{fresh}",
            "first_name": "A",
            "last_name": "B",
            "email": "a@practice.example",
            "user_type": "partner",
            "role": "{key}",
            "company_ids": ["{company}"],
            "default_company_id": "{company}",
            "emr_location_ids": ["{location}"],
        },
        unbound=_ALL,
    ),
    Row("GET /v1/users/{user}", _LOOKS, unbound=_ALL),
    Row("PATCH /v1/users/{user}", _ADMINISTERS, 200, {"emr_location_ids": ["{location}"]}, unbound=_ALL),
    Row("GET /v1/users/{user}/access", _LOOKS, unbound=_ALL),
    Row("DELETE /v1/users/{user}/sessions", _ADMINISTERS, 204, unbound=_ALL),
    Row("DELETE /v1/users/{user}/mfa", _ADMINISTERS, 204, unbound=_ALL),
    Row("POST /v1/users/{user}/password-reset", _ADMINISTERS, 201, unbound=_ALL),
    Row("GET /v1/roles", _LOOKS),
    Row("GET /v1/roles/{key}", _LOOKS),
    Row("GET /v1/clients", _COMPANY, unbound=_ALL),
    Row(
        "POST /v1/clients",
        "operator",
        201,
        {"name": "{fresh}", "kind": "emr", "company_ids": ["{company}"]},
        unbound=_ALL,
    ),
    Row("DELETE /v1/clients/{client}", _CONSTANTS, 204, unbound=_ALL),
    # What a company's own people were refused stands in its audit, with the ids that they named.
    Row("GET /v1/audit", "audit_trail view | operator", unbound=_ALL, echoes=True),
    Row(
        "POST /v1/break-glass",
        "operator",
        201,
        {"company_id": "{company}", "reason": "The practice is locked out", "minutes": 5},
        unbound=_ALL,
    ),
    Row("GET /v1/break-glass", "audit_trail view | operator", unbound=_ALL),
    Row("POST /v1/break-glass/{fresh}/token", "operator", 404),
    Row("DELETE /v1/break-glass/{fresh}", _ADMINISTERS, 404),
    Row("GET /v1/events", "internal", unbound=("internal",)),
    Row("GET /v1/access-versions", "internal", unbound=("internal",)),
)  # fmt: skip
ROWS: Final = (*_PUBLIC, *_OWN, *_ADMINISTRATION)


class ServedIdentity:
    """The running identity, with a company for each caller."""

    rows = ROWS
    endpoints = ENDPOINTS

    def __init__(self, stack: IdentityStack, owner: asyncpg.Connection, key: ECKey) -> None:
        self.stack = stack
        self.key = key
        self._owner = owner

    @classmethod
    @asynccontextmanager
    async def fresh(cls, databases: Databases) -> AsyncIterator[ServedIdentity]:
        async with IdentityStack.fresh(databases) as stack:
            owner = await asyncpg.connect(stack.dsn)
            signing = await active_key(owner, Sealer(SECRETS_KEY))
            key = ECKey.import_key(orjson.loads(signing.private_jwk))
            yield cls(stack, owner, key)
            await owner.close()

    async def checksums(self) -> dict[str, str]:
        return await checksums(self._owner)

    async def send(self, method: str, url: str, token: str | None, **arguments: Any) -> Reply:
        return await sent(self.stack.session.request, method, self.stack.url + url, token, **arguments)

    async def world(self, caller: str) -> World:
        stack, name = self.stack, f"secret-{uuid4().hex[:16]}"
        role = caller if caller in ROLES else "partner_admin"
        of_type = ROLES[role]["service_types"][-1]
        # Who is looked at, and may be handed out by any administrator of this kind of company.
        key = "self_service_front_office" if of_type == "self_service" else "provider"
        company = (await stack.company(name, of_type))["id"]
        location = (await stack.location(company, f"{name}-l"))["id"]
        user = (await stack.user(f"{name}-user", key, [company]))["id"]
        own = await stack.user(f"{name}-own", role, [company], emr_location_ids=[location])
        client = await stack.client(f"{name}-client", [company])
        ids = {"company": company, "location": location, "user": user, "client": client["id"], "key": key}
        token = await self._token(caller, f"{name}-own", client)
        secrets = {value.encode() for slot, value in ids.items() if slot not in FACTS}
        return World(ids, token, secrets | {name.encode(), own["id"].encode()})

    async def _token(self, caller: str, user_name: str, client: dict[str, Any]) -> str:
        if caller == "operator":
            return await self.stack.operator()
        if caller == "internal":
            return await self.stack.internal()
        if caller == "emr":
            return await self.stack.client_token(client["client_id"], client["client_secret"])
        if caller == BREAK_GLASS:
            return await self.emergency(client["company_ids"][0])
        if caller == UNKNOWN:
            # Nobody's user has a role that does not exist; of a machine the role is not looked up.
            machine = await self.stack.client_token(client["client_id"], client["client_secret"])
            return signed_again(machine, self.key, role=caller)
        token = await self.stack.token(user_name)
        return token if caller in ROLES else signed_again(token, self.key, role=caller)

    async def stale(self) -> tuple[World, dict[str, str]]:
        """A world, and a token of every caller from before somebody's rights in it changed."""
        mine = await self.world("partner_admin")
        assert mine.token is not None
        changed = {"emr_location_ids": [mine.ids["location"]], "password": "another horse battery"}
        own = claims_of(mine.token)["sub"]
        answer = await self.stack.patch(f"/v1/users/{own}", changed, await self.stack.operator())
        assert answer.status == 200, answer
        return mine, stale_tokens(mine.token, self.key)

    async def emergency(self, company_id: str) -> str:
        """The operator's token for this company."""
        body = {"company_id": company_id, "reason": "The practice is locked out", "minutes": 5}
        answer = await self.stack.post("/v1/break-glass", body, await self.stack.operator())
        assert answer.status == 201, answer
        return str(answer.body["access_token"])
