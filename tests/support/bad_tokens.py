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
    """By what is wrong with them, after the number of quality.md section 4; `key` is the one that signed `good`."""
    header, claims = (_part(good, place) for place in (0, 1))
    now = int(time.time())
    stranger = ECKey.generate_key("P-256", {"alg": "ES256", "use": "sig", "kid": header["kid"]})

    def signed(changed: Mapping[str, Any] | None = None, by: ECKey = key, **head: Any) -> str:
        payload = orjson.dumps({**claims, **(changed or {})})
        return jws.serialize_compact({**header, **head}, payload, by, algorithms=["ES256"])

    assert signed().split(".")[:2] == good.split(".")[:2], "a token signed here again must be the good one"
    jwk = stranger.as_dict(private=False)
    elsewhere = "https://evil.example/keys"
    return {
        "55 alg none": f"{_b64({**header, 'alg': 'none'})}.{_b64(claims)}.",
        "55 alg none with a signature": f"{_b64({**header, 'alg': 'none'})}.{_b64(claims)}.{good.split('.')[2]}",
        "56 HS256 with the public key": _hs256(header, claims, key),
        "57 a key id that is unknown": signed(kid=uuid4().hex),
        "57 a key id that is a path": signed(kid=f"../../{header['kid']}"),
        "57 a key id that is SQL": signed(kid=f"{header['kid']}' or '1'='1"),
        "57 a key id that is a URL": signed(kid=elsewhere),
        "57 a key id of 5,000 characters": signed(kid="k" * 5_000),
        "57 another key under a known id": signed(by=stranger),
        "58 a key of its own": signed(by=stranger, jwk=jwk, kid=jwk["kid"]),
        "58 an address of keys": signed(by=stranger, jku=elsewhere),
        "58 an address of a certificate": signed(by=stranger, x5u=elsewhere),
        "59 expired": signed({"exp": now - 1}),
        "59 not yet valid": signed({"nbf": now + 600}),
        "59 issued in the future": signed({"iat": now + 600}),
        "59 an end that is a text": signed({"exp": str(now + 60)}),
        "59 an end that is none": _raw(header, claims, key, f'"exp":{claims["exp"]}', f'"exp":1{"0" * 400}'),
        "60 another audience": signed({"aud": "elsewhere"}),
        "60 another issuer": signed({"iss": "elsewhere"}),
        "60 an id token": signed(typ="JWT"),
        "60 a refresh token": signed(typ="rt+jwt"),
        "61 a changed role under the old signature": _changed(good, {**claims, "role": "operator"}),
        "62 a claim twice": _raw(header, claims, key, '"role":', '"role":"operator","role":'),
        "62 a list of companies": signed({"company_id": [claims["company_id"]]}),
        "62 locations that are no list": signed({"locations": "all"}),
        "62 every location in a list": signed({"locations": ["*"]}),
        "62 a version of rights that is a text": signed({"authz_ver": str(claims["authz_ver"])}),
        **{f"59, 62 without {name}": _without(claims, header, key, name) for name in REQUIRED},
        "63 cut": good[:-2],
        "63 a part too many": f"{good}.{good.split('.')[2]}",
        "63 white space inside": good.replace(".", ". ", 1),
        "63 no token at all": "x.y.z",
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


def _raw(header: dict[str, Any], claims: Mapping[str, Any], key: ECKey, old: str, new: str) -> str:
    """Claims that no writer of JSON would write."""
    text = orjson.dumps(claims).decode()
    assert old in text
    return jws.serialize_compact(header, text.replace(old, new, 1).encode(), key, algorithms=["ES256"])


def _without(claims: Mapping[str, Any], header: dict[str, Any], key: ECKey, name: str) -> str:
    rest = {claim: value for claim, value in claims.items() if claim != name}
    return jws.serialize_compact(header, orjson.dumps(rest), key, algorithms=["ES256"])


def _hs256(header: Mapping[str, Any], claims: Mapping[str, Any], key: ECKey) -> str:
    """Our public key, taken for a shared secret (RFC 8725 2.1)."""
    head = f"{_b64({**header, 'alg': 'HS256'})}.{_b64(claims)}"
    return f"{head}.{_b64(hmac.digest(orjson.dumps(key.as_dict(private=False)), head.encode(), hashlib.sha256))}"
