"""Access tokens for tests, signed with a key of our own; and the verifier that believes them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID, uuid4

import orjson
from joserfc import jws
from joserfc.jwk import ECKey

from shared.access.revocation import Revocations
from shared.access.tokens import ALGORITHM, TOKEN_TYPE, KeyCache, TokenVerifier
from shared.ids import uuid7

ISSUER, AUDIENCE = "billing-identity", "billing"


class TokenMaker:
    """Signs tokens as identity would. `verifier` is what an application under test is given; it asks `revocations`, if
    there are any."""

    def __init__(self, revocations: Revocations | None = None) -> None:
        self._revocations = revocations
        self._key = ECKey.generate_key("P-256", {"alg": ALGORITHM, "use": "sig", "kid": uuid4().hex})

    @property
    def key(self) -> ECKey:
        """The private key, for tests that forge."""
        return self._key

    @property
    def verifier(self) -> TokenVerifier:
        return TokenVerifier(KeyCache(self.jwks), issuer=ISSUER, audience=AUDIENCE, revocations=self._revocations)

    async def jwks(self) -> Mapping[str, Any]:
        """What identity serves at `/.well-known/jwks.json`."""
        return {"keys": [self._key.as_dict(private=False)]}

    def token(
        self,
        role: str,
        company_id: UUID | None,
        *,
        subject: UUID | None = None,
        locations: Iterable[UUID] | str = "*",
        affiliation: str = "practice",
        seconds: int = 600,
        **claims: Any,
    ) -> str:
        """A token of this role in this company. `claims` replace or add any others."""
        now = int(time.time())
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(subject or uuid7()),
            "client_id": "tests",
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "jti": str(uuid4()),
            "user_name": role,
            "user_type": "customer",
            "role": role,
            "affiliation": affiliation,
            "company_id": None if company_id is None else str(company_id),
            "locations": locations if isinstance(locations, str) else [str(location) for location in locations],
            "authz_ver": 1,
            **claims,
        }
        header = {"alg": ALGORITHM, "typ": TOKEN_TYPE, "kid": self._key.as_dict(private=False)["kid"]}
        return jws.serialize_compact(header, orjson.dumps(payload), self._key, algorithms=[ALGORITHM])

    def bearer(self, *arguments: Any, **claims: Any) -> dict[str, str]:
        """The same as a header."""
        return {"Authorization": f"Bearer {self.token(*arguments, **claims)}"}
