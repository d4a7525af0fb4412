"""Tokens that nobody may be admitted by, each made from a good one by changing one thing (RFC 8725)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import orjson
from joserfc import jws
from joserfc.jwk import ECKey

from tests.access.oracle import CALLERS

REQUIRED = (
    "iss", "aud", "sub", "client_id", "iat", "nbf", "exp", "jti", "user_name", "user_type", "role", "affiliation",
    "company_id", "locations", "authz_ver",
)  # fmt: skip


def signed_again(good: str, key: ECKey, **claims: Any) -> str:
    """A token with other claims, rightly signed."""
    header, payload = (_part(good, place) for place in (0, 1))
    return jws.serialize_compact(header, orjson.dumps({**payload, **claims}), key, algorithms=["ES256"])


def claims_of(token: str) -> dict[str, Any]:
    return _part(token, 1)


def stale_tokens(good: str, key: ECKey) -> dict[str, str]:
    """What a token of every caller would be, of a holder whose version of rights was raised after `good` was signed."""
    return {caller: signed_again(good, key, role=caller) for caller in CALLERS}


def bad_tokens(good: str, key: ECKey) -> dict[str, str]:
    """By what is wrong with them; `key` is the one that signed `good`."""
    header, claims = (_part(good, place) for place in (0, 1))
    now = int(time.time())
    stranger = ECKey.generate_key("P-256", {"alg": "ES256", "use": "sig", "kid": header["kid"]})

    def signed(changed: Mapping[str, Any] | None = None, by: ECKey = key, **head: Any) -> str:
        payload = orjson.dumps({**claims, **(changed or {})})
        return jws.serialize_compact({**header, **head}, payload, by, algorithms=["ES256"])

    assert signed().split(".")[:2] == good.split(".")[:2], "a token signed here again must be the good one"
    return {
        "expired": signed({"exp": now - 1}),
        "not yet valid": signed({"nbf": now + 600}),
        "issued in the future": signed({"iat": now + 600}),
        "another audience": signed({"aud": "elsewhere"}),
        "another issuer": signed({"iss": "elsewhere"}),
        "another type": signed(typ="JWT"),
        "another key under a known id": signed(by=stranger),
        "an unknown key id": signed(kid=uuid4().hex),
        "a changed role under the old signature": _changed(good, {**claims, "role": "operator"}),
        "alg none": f"{_b64({**header, 'alg': 'none'})}.{_b64(claims)}.",
        "alg none with a signature": f"{_b64({**header, 'alg': 'none'})}.{_b64(claims)}.{good.split('.')[2]}",
        "HS256 with the public key": _hs256(header, claims, key),
        "locations that are no list": signed({"locations": "all"}),
        **{f"without {name}": _without(claims, header, key, name) for name in REQUIRED},
        "cut": good[:-2],
        "no token at all": "x.y.z",
    }


def _part(token: str, place: int) -> dict[str, Any]:
    text = token.split(".")[place]
    found: dict[str, Any] = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


def _b64(value: Any) -> str:
    raw = value if isinstance(value, bytes) else orjson.dumps(value)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _changed(good: str, claims: Mapping[str, Any]) -> str:
    head, _, signature = good.split(".")
    return f"{head}.{_b64(claims)}.{signature}"


def _without(claims: Mapping[str, Any], header: dict[str, Any], key: ECKey, name: str) -> str:
    rest = {claim: value for claim, value in claims.items() if claim != name}
    return jws.serialize_compact(header, orjson.dumps(rest), key, algorithms=["ES256"])


def _hs256(header: Mapping[str, Any], claims: Mapping[str, Any], key: ECKey) -> str:
    """Our public key, taken for a shared secret (RFC 8725 2.1)."""
    head = f"{_b64({**header, 'alg': 'HS256'})}.{_b64(claims)}"
    return f"{head}.{_b64(hmac.digest(orjson.dumps(key.as_dict(private=False)), head.encode(), hashlib.sha256))}"
