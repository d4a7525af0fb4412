"""Signing keys and access tokens (RFC 9068): ES256, one key active, the next one already published."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID, uuid4

import orjson
from joserfc import jws
from joserfc.jwk import ECKey

from shared.access.tokens import ALGORITHM, TOKEN_TYPE


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`kid` is the RFC 7638 thumbprint; `private_jwk` the key as JSON text, a secret."""

    kid: str
    private_jwk: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says of its holder; the rest (issuer, times, id) is the same for everybody."""

    subject: UUID
    client_id: str
    user_name: str
    user_type: str
    role: str
    affiliation: str
    company_id: UUID | None
    locations: Literal["*"] | Sequence[UUID]
    authz_version: int


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs, for whom, and for how long."""

    name: str
    audience: str
    seconds: int

    def sign(self, key: SigningKey, claims: Claims, token_id: UUID | None = None) -> str:
        """The compact JWS. `aud` is a plain string and `company_id` null for who has none, as verifiers demand."""
        now = int(time.time())
        payload: dict[str, Any] = {
            "iss": self.name,
            "aud": self.audience,
            "sub": str(claims.subject),
            "client_id": claims.client_id,
            "iat": now,
            "nbf": now,
            "exp": now + self.seconds,
            "jti": str(token_id or uuid4()),
            "user_name": claims.user_name,
            "user_type": claims.user_type,
            "role": claims.role,
            "affiliation": claims.affiliation,
            "company_id": str(claims.company_id) if claims.company_id else None,
            "locations": "*" if claims.locations == "*" else [str(location_id) for location_id in claims.locations],
            "authz_ver": claims.authz_version,
        }
        header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": key.kid}
        return jws.serialize_compact(header, orjson.dumps(payload), _private(key.private_jwk), algorithms=[ALGORITHM])


def new_signing_key() -> SigningKey:
    """A fresh P-256 key."""
    key = ECKey.generate_key("P-256", private=True)
    return SigningKey(key.thumbprint(), orjson.dumps(key.as_dict(private=True)).decode())


def public_jwk(key: SigningKey) -> dict[str, Any]:
    """The key as verifiers may know it."""
    return {**_private(key.private_jwk).as_dict(private=False), "kid": key.kid, "use": "sig", "alg": ALGORITHM}


def public_keys(keys: Sequence[SigningKey]) -> dict[str, Any]:
    """The JWK set of RFC 7517, without the private parts."""
    return {"keys": [public_jwk(key) for key in keys]}


@lru_cache(maxsize=8)
def _private(private_jwk: str) -> ECKey:
    return ECKey.import_key(orjson.loads(private_jwk))


def new_secret() -> str:
    """256 random bits, for refresh tokens and client secrets."""
    return secrets.token_urlsafe(32)


def secret_hash(secret: str) -> bytes:
    """What is stored of a secret of ours. Plain SHA-256: nobody guesses 256 bits."""
    return hashlib.sha256(secret.encode()).digest()
