"""How a service calls identity: its public keys, its event log, and a token of the services' own client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from shared.access.revocation import Revocations
from shared.access.tokens import KeyCache, TokenVerifier
from shared.config import Config
from shared.errors import Unavailable
from shared.tls import client_context

_TIMEOUT = aiohttp.ClientTimeout(total=10, connect=3)
_AGAIN_SECONDS: Final = 1.0


class ServiceClient:
    """JSON over HTTP to one service, with an internal client's token where one is needed.

    Raises `Unavailable` for anything but a 2xx: the callers are background work and readiness checks."""

    def __init__(self, base_url: str, tokens: InternalTokens | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._tokens = tokens
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        return await self._send("GET", path, params=params)

    async def post_form(self, path: str, form: Mapping[str, str]) -> Any:
        return await self._send("POST", path, data=form)

    async def _send(self, method: str, path: str, **arguments: Any) -> Any:
        headers = {"Authorization": f"Bearer {await self._tokens.get()}"} if self._tokens else {}
        if self._session is None or self._session.closed:
            connector = aiohttp.TCPConnector(ssl=client_context())
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector)
        try:
            # A redirect would carry the token to wherever it points.
            address = self._base_url + path
            async with self._session.request(
                method, address, headers=headers, allow_redirects=False, **arguments
            ) as response:
                if response.status == 401 and self._tokens:
                    self._tokens.drop()
                if response.status // 100 != 2:
                    raise Unavailable(f"{method} {path} answered {response.status}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise Unavailable(f"{method} {path} could not be reached") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class InternalTokens:
    """The access token of the client `internal`, renewed shortly before it ends; while that fails, used to its end."""

    def __init__(self, identity_url: str, secret: str) -> None:
        self._identity = ServiceClient(identity_url)
        self._secret = secret
        self._token = ""
        self._renew_at = self._ends_at = 0.0
        self._lock = asyncio.Lock()

    async def get(self) -> str:
        async with self._lock:
            if time.monotonic() >= self._renew_at:
                form = {"grant_type": "client_credentials", "client_id": "internal", "client_secret": self._secret}
                asked_at = time.monotonic()
                try:
                    answer = await self._identity.post_form("/v1/token", form)
                except Unavailable:
                    if asked_at >= self._ends_at:
                        raise
                    self._renew_at = asked_at + _AGAIN_SECONDS
                    return self._token
                self._token = answer["access_token"]
                self._renew_at = asked_at + answer["expires_in"] * 0.8
                self._ends_at = asked_at + answer["expires_in"]
            return self._token

    def drop(self) -> None:
        self._renew_at = self._ends_at = 0.0

    async def close(self) -> None:
        await self._identity.close()


def key_fetcher(identity: ServiceClient) -> Any:
    """The `fetch` of a `KeyCache`."""

    async def fetch() -> Mapping[str, Any]:
        keys: Mapping[str, Any] = await identity.get("/.well-known/jwks.json")
        return keys

    return fetch


class IdentityLink:
    """Identity, as a process of another service knows it: asked as the client `internal`, and for the keys of tokens,
    which are public."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._keys = ServiceClient(config.identity_url)
        self.tokens = InternalTokens(config.identity_url, config.required("internal_client_secret"))
        self.client = ServiceClient(config.identity_url, self.tokens)

    def verifier(self) -> TokenVerifier:
        """Believes tokens by identity's keys, as far as nothing newer was heard of their holders."""
        return TokenVerifier(
            KeyCache(key_fetcher(self._keys)),
            issuer=self._config.issuer,
            audience=self._config.audience,
            revocations=Revocations(self.client),
        )

    async def close(self) -> None:
        for client in (self._keys, self.client, self.tokens):
            await client.close()
