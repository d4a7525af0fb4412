"""Secrets at rest: AES-256-GCM under a key from configuration, bound to what the secret is of.

Who reads the database, or a copy of it, reads neither signing keys nor TOTP secrets; and a sealed value that is moved
to another row does not open there. Tickets are the same thing handed to a caller: he can neither read nor make one.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_SHORTEST: Final = 32
_KEY_ID: Final = 4
_NONCE: Final = 12
_LONGEST_TICKET: Final = 4_096


class SealBroken(ValueError):
    """Not sealed by us for this purpose, or with a key that we no longer have."""


class Sealer:
    """Seals with the first key, opens with all. A sealed value is: key id, nonce, ciphertext with its tag."""

    def __init__(self, setting: str) -> None:
        """`setting`: IDENTITY_SECRETS_KEY. Ends the process when it is too short to be a secret."""
        keys = [part.strip() for part in setting.split(",")]
        if any(len(key) < _SHORTEST for key in keys):
            raise SystemExit(f"IDENTITY_SECRETS_KEY must have at least {_SHORTEST} characters: openssl rand -hex 24")
        self._keys: dict[bytes, AESGCM] = {}
        for key in keys:
            derived = HKDF(SHA256(), 32, salt=None, info=b"identity secrets").derive(key.encode())
            self._keys[hashlib.sha256(derived).digest()[:_KEY_ID]] = AESGCM(derived)
        self._current = next(iter(self._keys))

    def seal(self, secret: bytes, purpose: str) -> bytes:
        nonce = os.urandom(_NONCE)
        return self._current + nonce + self._keys[self._current].encrypt(nonce, secret, purpose.encode())

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """The secret. Raises SealBroken."""
        key = self._keys.get(sealed[:_KEY_ID])
        if key is None or len(sealed) <= _KEY_ID + _NONCE:
            raise SealBroken("sealed with another key")
        try:
            return key.decrypt(sealed[_KEY_ID : _KEY_ID + _NONCE], sealed[_KEY_ID + _NONCE :], purpose.encode())
        except InvalidTag:
            raise SealBroken("changed, or sealed for something else") from None

    def is_current(self, sealed: bytes) -> bool:
        """Whether the first key sealed it."""
        return sealed[:_KEY_ID] == self._current

    def ticket(self, purpose: str, seconds: int, facts: Mapping[str, Any]) -> bytes:
        """Facts for the caller to bring back within so many seconds; no two tickets are equal."""
        return self.seal(orjson.dumps({"until": int(time.time()) + seconds, **facts}), f"ticket {purpose}")

    def ticket_facts(self, purpose: str, ticket: bytes) -> dict[str, Any]:
        """What a ticket says, `until` (Unix seconds) included. Raises SealBroken when it is not ours or too old."""
        if len(ticket) > _LONGEST_TICKET:
            raise SealBroken("too long")
        facts: dict[str, Any] = orjson.loads(self.open(ticket, f"ticket {purpose}"))
        if facts["until"] <= time.time():
            raise SealBroken("too old")
        return facts


def ticket_text(ticket: bytes) -> str:
    """A ticket as base64url without padding, for JSON."""
    return base64.urlsafe_b64encode(ticket).rstrip(b"=").decode()


def ticket_bytes(text: str) -> bytes:
    """Raises SealBroken for what is no base64url."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise SealBroken("no ticket") from None
