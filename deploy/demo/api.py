"""The demo's way to the services: their public HTTP API, as any caller has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import orjson

_TIMEOUT = aiohttp.ClientTimeout(total=30)


class DemoError(Exception):
    """A call that was refused; says which and how, without what was sent."""


@dataclass(frozen=True, slots=True)
class Api:
    """The address of all services, and the connections to it."""

    base: str
    session: aiohttp.ClientSession

    @classmethod
    @asynccontextmanager
    async def at(cls, base: str) -> AsyncIterator[Self]:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            yield cls(base, session)

    async def sign_in(self, user_name: str, password: str) -> Caller:
        return await self._caller({"grant_type": "password", "username": user_name, "password": password})

    async def client(self, client_id: str, secret: str) -> Caller:
        return await self._caller({"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret})

    async def _caller(self, form: Mapping[str, str]) -> Caller:
        answer = await self.send("POST", "/identity/v1/token", data=form)
        return Caller(self, answer["access_token"])

    async def send(self, method: str, path: str, **arguments: Any) -> Any:
        async with self.session.request(method, self.base + path, **arguments) as response:
            raw = await response.read()
            answer = orjson.loads(raw) if "json" in response.content_type else {}
            if response.status // 100 != 2:
                reason = answer.get("code") or answer.get("error") or ""
                fields = ", ".join(row["field"] for row in answer.get("errors", ()))
                raise DemoError(f"{method} {path} answered {response.status} {reason} {fields}".strip())
            return answer


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who has signed in."""

    api: Api
    token: str

    async def get(self, path: str, **query: str | int) -> Any:
        return await self._send("GET", path, params=query)

    async def everything(self, path: str) -> list[Any]:
        """All pages of a list."""
        page = await self.get(path, limit=500)
        items = list(page["items"])
        while page["next"]:
            page = await self.get(path, limit=500, cursor=page["next"])
            items += page["items"]
        return items

    async def post(self, path: str, body: Mapping[str, Any], key: str | None = None) -> Any:
        """`key`: under which a repetition of the same call gives the first answer and changes nothing."""
        return await self._send("POST", path, json=body, headers={"Idempotency-Key": key} if key else {})

    async def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        return await self._send("PATCH", path, json=body)

    async def delete(self, path: str) -> None:
        await self._send("DELETE", path)

    async def upload(self, path: str, content: bytes, content_type: str) -> Any:
        return await self._send("POST", path, data=content, headers={"Content-Type": content_type})

    async def _send(self, method: str, path: str, headers: Mapping[str, str] | None = None, **arguments: Any) -> Any:
        authorized = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        return await self.api.send(method, path, headers=authorized, **arguments)
