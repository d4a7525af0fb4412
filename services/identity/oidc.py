"""Signing in with an external OpenID provider: authorization code with PKCE, state and nonce (OpenID Connect Core 3.1,
RFC 7636, RFC 9207, RFC 9700). Only who somebody is comes from there; what he may do is never asked of it."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

import aiohttp
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, RSAKey

from services.identity.domain import RECENT
from shared.access.tokens import KeyCache
from shared.errors import Unavailable
from shared.tls import client_context

SECONDS: Final = 600
"""How long a person may take at the provider."""
MAX_AGE: Final = int(RECENT.total_seconds())
"""How long ago a person may have proved himself to the provider; after that it has to ask again (ASVS 5.0 7.6.1)."""
_ALGORITHMS: Final = ("RS256", "PS256", "ES256")
_KINDS: Final[dict[str, type[RSAKey] | type[ECKey]]] = {"RSA": RSAKey, "EC": ECKey}
_LEEWAY: Final = 60
_LONGEST: Final = 1 << 18
_TIMEOUT: Final = aiohttp.ClientTimeout(total=8, connect=3)


class ProviderRefused(Exception):
    """The provider, or what it sent, does not prove who somebody is. It is not said why."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where to send the browser, and what must be known when it comes back."""

    authorization_url: str
    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class External:
    """Who the provider says it is. `email` only if the provider has verified it; `mfa` if it says so (RFC 8176).
    `proved_at`: when the provider last made sure of it."""

    subject: str
    email: str | None
    mfa: bool
    proved_at: datetime


class Provider:
    """One provider, by its issuer. Raises Unavailable when it cannot be reached, ProviderRefused for what it says."""

    def __init__(self, issuer: str, client_id: str, client_secret: str | None, redirect_url: str) -> None:
        self.issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_url = redirect_url
        self._metadata: Mapping[str, Any] = {}
        self._keys = KeyCache(self._jwks, read=signature_keys, fresh_seconds=3_600)

    async def start(self) -> Start:
        where = (await self._discover())["authorization_endpoint"]
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        parameters = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_url,
            "scope": "openid email",
            "state": state,
            "nonce": nonce,
            "max_age": MAX_AGE,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return Start(where + ("&" if "?" in where else "?") + urlencode(parameters), state, nonce, verifier)

    async def finish(self, code: str, nonce: str, verifier: str) -> External:
        """Change the code for an ID token and check it."""
        metadata = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_url,
            "code_verifier": verifier,
        }
        headers = {}
        methods = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if self._client_secret is None:
            form["client_id"] = self._client_id
        elif "client_secret_basic" in methods:
            pair = f"{quote_plus(self._client_id)}:{quote_plus(self._client_secret)}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form |= {"client_id": self._client_id, "client_secret": self._client_secret}
        answer = await self._ask("POST", metadata["token_endpoint"], data=form, headers=headers)
        return await self.check(answer.get("id_token"), nonce)

    async def check(self, id_token: Any, nonce: str) -> External:
        """Who an ID token is about, if it is the provider's, for us, for this sign-in, and good now (Core 3.1.3.7)."""
        try:
            part = id_token.split(".")[0]
            header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
            algorithm, kid = header["alg"], header["kid"]
            if algorithm not in _ALGORITHMS or "crit" in header or not isinstance(kid, str):
                raise ProviderRefused()
            key = await self._keys.get(kid)
            if key is None or key.as_dict().get("alg", algorithm) != algorithm:
                raise ProviderRefused()
            claims = json.loads(jws.deserialize_compact(id_token, key, algorithms=[algorithm]).payload)
            return self._external(claims, nonce)
        except (JoseError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            raise ProviderRefused() from None

    def _external(self, claims: Mapping[str, Any], nonce: str) -> External:
        now, audience = time.time(), claims["aud"]
        audiences = audience if isinstance(audience, list) else [audience]
        party = claims.get("azp", None if len(audiences) > 1 else self._client_id)
        good = (
            claims["iss"] == self.issuer,
            self._client_id in audiences,
            party == self._client_id,
            now - _LEEWAY < claims["exp"],
            now - SECONDS - _LEEWAY < claims["iat"] < now + _LEEWAY,
            claims.get("nbf", 0) < now + _LEEWAY,
            # Required where `max_age` was asked for; who passes over both signs nobody in.
            now - MAX_AGE - _LEEWAY < claims["auth_time"] < now + _LEEWAY,
            isinstance(claims["nonce"], str) and secrets.compare_digest(claims["nonce"].encode(), nonce.encode()),
            isinstance(claims["sub"], str) and 0 < len(claims["sub"]) <= 255 and claims["sub"].isascii(),
        )
        if not all(good) or "\0" in claims["sub"]:
            raise ProviderRefused()
        email = claims.get("email") if claims.get("email_verified") is True else None
        usable = isinstance(email, str) and 0 < len(email) <= 254 and "\0" not in email
        methods = claims.get("amr")
        return External(
            claims["sub"],
            email if usable else None,
            isinstance(methods, list) and "mfa" in methods,
            datetime.fromtimestamp(min(now, claims["auth_time"]), UTC),
        )

    async def _discover(self) -> Mapping[str, Any]:
        """The provider's metadata (OpenID Connect Discovery section 4), read once."""
        if not self._metadata:
            found = await self._ask("GET", self.issuer.rstrip("/") + "/.well-known/openid-configuration")
            scheme = urlsplit(self.issuer).scheme
            endpoints = [found.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
            ours = all(isinstance(one, str) and urlsplit(one).scheme in ("https", scheme) for one in endpoints)
            if found.get("issuer") != self.issuer or not ours:
                raise ProviderRefused()
            self._metadata = found
        return self._metadata

    async def _jwks(self) -> Mapping[str, Any]:
        try:
            return await self._ask("GET", (await self._discover())["jwks_uri"])
        except ProviderRefused:
            raise Unavailable("The provider's keys cannot be read") from None

    async def _ask(self, method: str, url: str, **arguments: Any) -> dict[str, Any]:
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=_TIMEOUT, connector=aiohttp.TCPConnector(ssl=client_context())
                ) as session,
                session.request(method, url, allow_redirects=False, **arguments) as response,
            ):
                raw = await response.content.read(_LONGEST)
                while raw and not response.content.at_eof() and len(raw) < _LONGEST:
                    raw += await response.content.read(_LONGEST)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            raise Unavailable("The identity provider cannot be reached") from None
        if status >= 500:
            raise Unavailable("The identity provider is not working")
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError):
            raise ProviderRefused() from None
        if status != 200 or not isinstance(document, dict):
            raise ProviderRefused()
        return document


def signature_keys(document: Mapping[str, Any]) -> dict[str, Key]:
    """The keys of a provider's JWK set that may sign ID tokens, by `kid`; what we do not use is passed over."""
    rows = [
        row
        for row in document["keys"]
        if row.get("kty") in _KINDS and row.get("use", "sig") == "sig" and isinstance(row.get("kid"), str)
    ]
    return {row["kid"]: _KINDS[row["kty"]].import_key(row) for row in rows}
