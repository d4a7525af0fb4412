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
from joserfc.jwk import ECKey, Key

from shared.access.principal import Principal
from shared.access.revocation import Revocations
from shared.errors import Unauthenticated, Unavailable

ALGORITHM = "ES256"
TOKEN_TYPE = "at+jwt"  # noqa: S105
_MAX_TOKEN_BYTES = 8_192
_MAX_REMEMBERED = 10_000
_LEEWAY_SECONDS = 5
_FRESH_SECONDS = 30
_REFETCH_SECONDS = 5
_PATIENCE_SECONDS = 1

FetchKeys = Callable[[], Awaitable[Mapping[str, Any]]]
ReadKeys = Callable[[Mapping[str, Any]], dict[str, Key]]


def own_keys(document: Mapping[str, Any]) -> dict[str, Key]:
    """The keys of a JWK set that sign our access tokens, by `kid`."""
    return {row["kid"]: ECKey.import_key(row) for row in document["keys"] if row.get("alg") == ALGORITHM}


class KeyCache:
    """An issuer's public keys by `kid`, and the instant before which its tokens count no more.

    They are read again after `fresh_seconds`, so that a key which was withdrawn is soon refused, and for an unknown
    `kid`; in both cases at most once every few seconds, whoever asks, so that neither made-up key ids nor our own
    traffic hammer the issuer. While it is away or slow the keys that we know stay good.
    """

    def __init__(self, fetch: FetchKeys, *, read: ReadKeys = own_keys, fresh_seconds: float = _FRESH_SECONDS) -> None:
        self._fetch = fetch
        self._read = read
        self._fresh_seconds = fresh_seconds
        self._keys: dict[str, Key] = {}
        self._document: Mapping[str, Any] = {}
        self._fetched_at = -float("inf")
        self._tried_at = -float("inf")
        self._trying: asyncio.Task[bool] | None = None
        self.not_before = 0
        """Tokens issued before it (Unix seconds) are refused."""
        self.generation = 0
        """Raised by every change of keys or `not_before`: what was verified before must be verified again."""

    @property
    def fresh(self) -> bool:
        return time.monotonic() - self._fetched_at <= self._fresh_seconds

    def expire(self) -> None:
        """Have the keys read again before the next token is believed, even if they were just read."""
        self._fetched_at = self._tried_at = -float("inf")

    async def get(self, kid: str) -> Key | None:
        """The key, or None. Raises Unavailable when no key at all is known and none can be had."""
        if kid not in self._keys or not self.fresh:
            await self.refresh()
        return self._keys.get(kid)

    async def refresh(self) -> None:
        """Read the keys again, unless somebody does or just did. Who knows keys waits a moment at most."""
        now = time.monotonic()
        if self._trying is None or self._trying.done():
            if self._keys and now - self._tried_at < _REFETCH_SECONDS:
                return
            self._tried_at = now
            self._trying = asyncio.create_task(self._try())
        if self._keys:
            # A slow issuer costs each attempt's first second, and not every request its own.
            await asyncio.wait({self._trying}, timeout=max(0.0, self._tried_at + _PATIENCE_SECONDS - now))
        elif not await asyncio.shield(self._trying) and not self._keys:
            raise Unavailable("Signing keys cannot be fetched from identity")

    async def _try(self) -> bool:
        try:
            document = await self._fetch()
            keys, not_before = self._read(document), int(document.get("not_before", 0))
        except (OSError, TimeoutError, Unavailable, JoseError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if document != self._document:
            self._document, self._keys, self.not_before = document, keys, not_before
            self.generation += 1
        self._fetched_at = time.monotonic()
        return True


class TokenVerifier:
    """Turns a bearer token into a `Principal` or raises `Unauthenticated`, saying nothing of why, unless it is that the
    holder's rights have changed (`token_stale`): `revocations` knows; without them nobody asks."""

    def __init__(self, keys: KeyCache, *, issuer: str, audience: str, revocations: Revocations | None = None) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._verified: dict[bytes, Principal] = {}
        self._generation = 0
        self.revocations = revocations
        if revocations is not None:
            revocations.keys_changed = keys.expire

    async def verify(self, token: str) -> Principal:
        if not token.isascii() or len(token) > _MAX_TOKEN_BYTES:
            raise Unauthenticated()
        digest = hashlib.sha256(token.encode()).digest()
        if self._verified and not self._keys.fresh:
            await self._keys.refresh()
        if self._generation != self._keys.generation:
            self._generation = self._keys.generation
            self._verified.clear()
        principal = self._verified.get(digest)
        if principal is None:
            principal = await self._check(token)
            if len(self._verified) >= _MAX_REMEMBERED:
                self._verified.clear()
            self._verified[digest] = principal
        if principal.expires_at <= time.time():
            self._verified.pop(digest, None)
            raise Unauthenticated()
        if self.revocations is not None:
            await self.revocations.check(principal, token)
        return principal

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
        if issued < self._keys.not_before:
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
