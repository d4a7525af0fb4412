"""Signing keys: one signs, the next one is already public, those that retired still verify for a while.

Rotation costs no request, because the next key is in the JWK set before it signs for longer than verifiers keep that
set. A compromised key leaves the set at once, and everything that was signed before is refused (Keycloak calls it
pushing not-before); who has a refresh token gets a new access token and notices nothing else.
"""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any, Final

import asyncpg
import orjson

from services.identity.sealing import Sealer
from services.identity.service.acts import Act, administration
from services.identity.store import keys as store
from services.identity.tokens import SigningKey, new_signing_key, public_jwk
from shared.db import Connection, acquire

PUBLISHED: Final = timedelta(minutes=2)
"""How long a key is public before it signs. Verifiers keep the set for half a minute, caches for a minute."""
_RETIRED: Final = timedelta(hours=1)
"""How long a retired key stays public: longer than any access token lives."""


class TooSoon(Exception):
    """The next key has not been public for long enough."""


class UnknownKey(Exception):
    """No key that could be compromised has this id."""


def _purpose(kid: str) -> str:
    return f"signing key {kid}"


async def active_key(connection: Connection, sealer: Sealer) -> SigningKey:
    """The key that signs now."""
    row = await store.active(connection)
    return _opened(row, sealer)


def _opened(row: store.KeyRow, sealer: Sealer) -> SigningKey:
    # Keys of the first release were stored as they are.
    if row.private_jwk.startswith("{"):
        return SigningKey(row.kid, row.private_jwk)
    return SigningKey(row.kid, sealer.open(base64.b64decode(row.private_jwk), _purpose(row.kid)).decode())


def _sealed(key: SigningKey, sealer: Sealer) -> tuple[str, str]:
    private = base64.b64encode(sealer.seal(key.private_jwk.encode(), _purpose(key.kid))).decode()
    return private, orjson.dumps(public_jwk(key)).decode()


async def _make(act: Act, sealer: Sealer, state: str) -> None:
    key = new_signing_key()
    await store.insert(act.connection, key.kid, *_sealed(key, sealer), state)


async def ensure_keys(act: Act, sealer: Sealer) -> None:
    """An active key and a next one, sealed with the present secret. Retired keys keep their public parts only."""
    rows = await store.keys(act.connection)
    for row in rows:
        fresh = row.public_jwk is not None and row.private_jwk[:1] != "{"
        if row.private_jwk and not (fresh and sealer.is_current(base64.b64decode(row.private_jwk))):
            await store.set_parts(act.connection, row.kid, *_sealed(_opened(row, sealer), sealer))
        if row.state == "retired" and row.private_jwk:
            await store.retire(act.connection, row.kid)
    for state in {"active", "next"} - {row.state for row in rows}:
        await _make(act, sealer, state)


async def jwks(connection: Connection) -> dict[str, Any]:
    """The JWK set of RFC 7517, with `not_before` (Unix seconds) once a key has been compromised."""
    found, compromised = await store.published(connection, _RETIRED)
    document: dict[str, Any] = {"keys": [orjson.loads(public) for public in found]}
    if compromised is not None:
        document["not_before"] = int(compromised.timestamp())
    return document


async def rotate(pool: asyncpg.Pool, sealer: Sealer, published: timedelta = PUBLISHED) -> None:
    """The next key becomes the active one, and a new next one is published. Raises TooSoon."""
    async with administration(pool) as act:
        if not await store.rotation_due(act.connection, timedelta(0), published):
            raise TooSoon()
        await _advance(act, sealer)
        await act.audit("keys_rotated", None)


async def rotate_when_due(
    pool: asyncpg.Pool, sealer: Sealer, after: timedelta, published: timedelta = PUBLISHED
) -> bool:
    """Rotate if the active key has signed for `after`; whether it did. Safe from several processes at once."""
    async with acquire(pool) as connection:
        if not await store.rotation_due(connection, after, published):
            return False
    async with administration(pool) as act:
        if not await store.rotation_due(act.connection, after, published):
            return False
        await _advance(act, sealer)
        await act.audit("keys_rotated", None)
    return True


async def _advance(act: Act, sealer: Sealer) -> None:
    await store.retire(act.connection, (await store.active(act.connection)).kid)
    await store.activate_next(act.connection)
    await _make(act, sealer, "next")


async def compromise(pool: asyncpg.Pool, sealer: Sealer, kid: str) -> None:
    """Withdraw a key at once, whatever its state, and refuse every access token issued until now. Raises UnknownKey."""
    async with administration(pool) as act:
        row = next((row for row in await store.keys(act.connection) if row.kid == kid), None)
        if row is None or row.compromised_at is not None:
            raise UnknownKey()
        await store.retire(act.connection, kid, compromised=True)
        if row.state == "active":
            await store.activate_next(act.connection)
        if row.state in ("active", "next"):
            await _make(act, sealer, "next")
        await act.publish_keys()
        await act.audit("key_compromised", None)
