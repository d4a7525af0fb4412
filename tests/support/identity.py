"""A running identity service for tests, and short ways to fill it: companies, locations, users, tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from pydantic import SecretStr

from deploy.processes import free_port
from services.identity.app import MIGRATIONS, create_app
from services.identity.passwords import Hasher
from shared.access import policy
from shared.config import Config
from tests.support.databases import Databases

OPERATOR_PASSWORD = "operator of the tests"
SECRETS_KEY = "what identity seals its secrets with in tests"
INTERNAL_SECRET = "the services' own secret in tests"
PASSWORD = "correct horse battery"
"""The password of every user made here."""


def fast_hasher() -> Hasher:
    """Argon2 with the least it accepts: tests sign in hundreds of times."""
    return Hasher(time_cost=1, memory_cost=8, queue=2_000)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return orjson.loads(self.raw)

    def __str__(self) -> str:
        return f"{self.status} {self.raw[:500]!r}"


def same_but_request_id(*answers: Answer) -> bool:
    """Whether a caller could not tell the answers apart (D11)."""
    bodies = [{**answer.body, "request_id": None} for answer in answers]
    own = ("x-request-id", "date")
    headers = [{k: v for k, v in answer.headers.items() if k.lower() not in own} for answer in answers]
    sizes = [len(answer.raw) for answer in answers]
    return all(one == other for many in (bodies, headers, sizes) for one, other in pairwise(many))


@dataclass(slots=True)
class IdentityStack:
    """Identity on a free port of this machine, with a database of its own.

    `company`, `location`, `user` and `client` make things as the operator and return their documents; `token` gives
    an access token of a user made here. All of them fail the test when identity refuses.
    """

    url: str
    dsn: str
    config: Config
    session: aiohttp.ClientSession
    _tokens: dict[tuple[str, str | None], str] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def running(cls, dsn: str, hasher: Hasher | None = None, **settings: Any) -> AsyncIterator[IdentityStack]:
        """Start it on a migrated database; `settings` are of `Config`. Passwords are hashed fast unless said."""
        port = free_port()
        defaults = {
            "identity_database_url": SecretStr(dsn),
            "identity_url": f"http://127.0.0.1:{port}",
            "operator_password": SecretStr(OPERATOR_PASSWORD),
            "internal_client_secret": SecretStr(INTERNAL_SECRET),
            "identity_secrets_key": SecretStr(SECRETS_KEY),
            "log_level": "error",
        }
        config = Config(**{**defaults, **settings})
        hasher = hasher or fast_hasher()
        runner = web.AppRunner(create_app(config, hasher=hasher), access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            async with aiohttp.ClientSession() as session:
                yield cls(f"http://127.0.0.1:{port}", dsn, config, session)
        finally:
            await runner.cleanup()
            hasher.close()

    @classmethod
    @asynccontextmanager
    async def fresh(
        cls, databases: Databases, hasher: Hasher | None = None, **settings: Any
    ) -> AsyncIterator[IdentityStack]:
        """Start it on a new database, which is dropped afterwards."""
        dsn = await databases.create(MIGRATIONS)
        try:
            async with cls.running(dsn, hasher, **settings) as stack:
                yield stack
        finally:
            await databases.drop(dsn)

    async def request(self, method: str, path: str, *, token: str | None = None, **arguments: Any) -> Answer:
        """Any request; `arguments` as aiohttp's (`json`, `data`, `params`, `headers`)."""
        headers = dict(arguments.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.session.request(method, self.url + path, headers=headers, **arguments) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, token: str | None = None, **arguments: Any) -> Answer:
        return await self.request("GET", path, token=token, **arguments)

    async def post(self, path: str, body: Any, token: str | None = None) -> Answer:
        return await self.request("POST", path, token=token, json=body)

    async def patch(self, path: str, body: Any, token: str | None = None) -> Answer:
        return await self.request("PATCH", path, token=token, json=body)

    async def form(self, path: str, **form: str) -> Answer:
        return await self.request("POST", path, data=form)

    async def ask_token(self, **form: str) -> Answer:
        return await self.form("/v1/token", **form)

    async def sign_in(self, user_name: str, password: str = PASSWORD, company_id: str | None = None) -> dict[str, Any]:
        """The whole answer of the token endpoint."""
        form = {"company_id": company_id} if company_id else {}
        answer = await self.ask_token(grant_type="password", username=user_name, password=password, **form)
        assert answer.status == 200, answer
        document: dict[str, Any] = answer.body
        return document

    async def token(self, user_name: str, company_id: str | None = None, *, fresh: bool = False) -> str:
        """An access token; the same one again unless `fresh`."""
        key = (user_name, company_id)
        if fresh or key not in self._tokens:
            self._tokens[key] = (await self.sign_in(user_name, company_id=company_id))["access_token"]
        return self._tokens[key]

    async def operator(self) -> str:
        """The operator's access token."""
        key = ("operator", None)
        if key not in self._tokens:
            self._tokens[key] = (await self.sign_in("operator", OPERATOR_PASSWORD))["access_token"]
        return self._tokens[key]

    async def internal(self) -> str:
        """An access token of the services' own client."""
        return await self.client_token("internal", INTERNAL_SECRET)

    async def client_token(self, client_id: str, secret: str, company_id: str | None = None) -> str:
        form = {"company_id": company_id} if company_id else {}
        answer = await self.ask_token(
            grant_type="client_credentials", client_id=client_id, client_secret=secret, **form
        )
        assert answer.status == 200, answer
        return str(answer.body["access_token"])

    async def company(self, code: str, service_type: str = "revequip", **fields: Any) -> dict[str, Any]:
        body = {
            "code": code,
            "name": f"Company {code}",
            "service_type": service_type,
            "time_zone": "America/New_York",
            "close_policy": "deposit_date",
            **fields,
        }
        return await self._make("/v1/companies", body)

    async def location(self, company_id: str, code: str, **fields: Any) -> dict[str, Any]:
        body = {"code": code, "name": f"Location {code}", **fields}
        return await self._make(f"/v1/companies/{company_id}/locations", body)

    async def user(self, user_name: str, role: str, company_ids: Iterable[str], **fields: Any) -> dict[str, Any]:
        """A user with PASSWORD. A Customer if the role and the number of companies allow it, else a Partner."""
        ids = list(company_ids)
        known = policy.role(role)
        customer = len(ids) == 1 and known is not None and known.user_type is None
        body = {
            "user_name": user_name,
            "first_name": user_name.split("_")[0].capitalize(),
            "last_name": "Tester",
            "email": f"{user_name}@practice.example",
            "password": PASSWORD,
            "user_type": "customer" if customer else "partner",
            "role": role,
            "company_ids": ids,
            **fields,
        }
        return await self._make("/v1/users", body)

    async def client(self, name: str, company_ids: Iterable[str], sources: Iterable[str] = ()) -> dict[str, Any]:
        """An EMR client; the document has its `client_secret`."""
        body = {"name": name, "kind": "emr", "company_ids": list(company_ids), "sources": list(sources)}
        return await self._make("/v1/clients", body)

    async def _make(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.post(path, body, await self.operator())
        assert answer.status == 201, answer
        document: dict[str, Any] = answer.body
        return document
