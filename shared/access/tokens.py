"""Verification of access tokens (RFC 9068, RFC 8725): ES256 only, explicit type, issuer, audience, bounded life.

A verified token is remembered by its SHA-256 until it expires: checking a signature costs more than the rest
of a request (measured ~120 us against ~1 us).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from shared.access.principal import Principal
from shared.errors import Unauthenticated, Unavailable

ALGORITHM = "ES256"
TOKEN_TYPE = "at+jwt"  # noqa: S105
_MAX_TOKEN_BYTES = 8_192
_MAX_REMEMBERED = 10_000
_LEEWAY_SECONDS = 5
_REFETCH_SECONDS = 5
_STALE_SECONDS = 300

FetchKeys = Callable[[], Awaitable[Mapping[str, Any]]]


class KeyCache:
    """Identity's public keys by `kid`. Kept while identity is away; an unknown `kid` refetches at most once
    every few seconds, whoever asks, so that made-up key ids cannot hammer identity."""

    def __init__(self, fetch: FetchKeys) -> None:
        self._fetch = fetch
        self._keys: dict[str, ECKey] = {}
        self._fetched_at = -float("inf")
        self._lock = asyncio.Lock()

    async def get(self, kid: str) -> ECKey | None:
        stale = time.monotonic() - self._fetched_at > _STALE_SECONDS
        if kid not in self._keys or stale:
            await self._refresh()
        return self._keys.get(kid)

    async def _refresh(self) -> None:
        async with self._lock:
            if time.monotonic() - self._fetched_at < _REFETCH_SECONDS:
                return
            try:
                document = await self._fetch()
            except (OSError, TimeoutError, Unavailable):
                if not self._keys:
                    raise Unavailable("Signing keys cannot be fetched from identity") from None
                return  # Keys change rarely: the ones we know stay good while identity is away.
            self._keys = {row["kid"]: ECKey.import_key(row) for row in document["keys"] if row.get("alg") == ALGORITHM}
            self._fetched_at = time.monotonic()


class TokenVerifier:
    """Turns a bearer token into a `Principal` or raises `Unauthenticated`, saying nothing of why."""

    def __init__(self, keys: KeyCache, *, issuer: str, audience: str) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._verified: dict[bytes, Principal] = {}

    async def verify(self, token: str) -> Principal:
        if not token.isascii() or len(token) > _MAX_TOKEN_BYTES:
            raise Unauthenticated()
        digest = hashlib.sha256(token.encode()).digest()
        principal = self._verified.get(digest)
        if principal is None:
            principal = await self._check(token)
            if len(self._verified) >= _MAX_REMEMBERED:
                self._verified.clear()
            self._verified[digest] = principal
        if principal.expires_at <= time.time():
            self._verified.pop(digest, None)
            raise Unauthenticated()
        return principal

    def forget(self) -> None:
        """Drop every remembered token, after a change of access."""
        self._verified.clear()

    async def _check(self, token: str) -> Principal:
        try:
            header = _json_part(token, 0)
            if header.get("typ") != TOKEN_TYPE or header.get("alg") != ALGORITHM or "crit" in header:
                raise Unauthenticated()
            key = await self._keys.get(_text(header, "kid"))
            if key is None:
                raise Unauthenticated()
            signed = jws.deserialize_compact(token, key, algorithms=[ALGORITHM])
            return self._principal(_strict_json(signed.payload))
        except (JoseError, ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise Unauthenticated() from None

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        now = time.time()
        expires, issued, not_before = (_instant(claims, name) for name in ("exp", "iat", "nbf"))
        if claims["iss"] != self._issuer or claims["aud"] != self._audience:
            raise Unauthenticated()
        if expires <= now or issued > now + _LEEWAY_SECONDS or not_before > now + _LEEWAY_SECONDS:
            raise Unauthenticated()
        locations = claims["locations"]
        if locations != "*":
            if not isinstance(locations, list):
                raise Unauthenticated()
            locations = frozenset(_id(item) for item in locations)
        company = claims["company_id"]
        version = claims["authz_ver"]
        if type(version) is not int:
            raise Unauthenticated()
        return Principal(
            subject=_id(claims["sub"]),
            client_id=_text(claims, "client_id"),
            user_name=_text(claims, "user_name"),
            user_type=_text(claims, "user_type"),
            role=_text(claims, "role"),
            affiliation=_text(claims, "affiliation"),
            company_id=None if company is None else _id(company),
            locations=locations,
            authz_version=version,
            token_id=_text(claims, "jti"),
            expires_at=expires,
        )


def _json_part(token: str, index: int) -> Mapping[str, Any]:
    part = token.split(".")[index]
    return _strict_json(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def _strict_json(raw: bytes) -> Mapping[str, Any]:
    """One JSON object without repeated names: a repeated claim would mean one thing here and another elsewhere."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("repeated name")
        return found

    value = json.loads(raw, object_pairs_hook=unique)
    orjson.loads(raw)  # Stricter about numbers and text than the standard library.
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _text(source: Mapping[str, Any], name: str) -> str:
    value = source[name]
    if not isinstance(value, str):
        raise ValueError(name)
    return value


def _id(value: Any) -> UUID:
    if not isinstance(value, str):
        raise ValueError("not an id")
    return UUID(value)


def _instant(claims: Mapping[str, Any], name: str) -> int:
    value = claims[name]
    if type(value) is not int or not 0 < value < 1 << 40:
        raise ValueError(name)
    return value
