"""What a verifier must refuse, and why it is tempting (quality cases 55-64; RFC 8725; ASVS 5.0 chapter 9)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from services.identity.tokens import Claims, Issuer, SigningKey, new_signing_key, public_keys
from shared.access.tokens import KeyCache, TokenVerifier
from shared.errors import Unauthenticated, Unavailable

KEY = new_signing_key()
NEXT = new_signing_key()
STRANGER = new_signing_key()
ISSUER = Issuer("billing-identity", "billing", 300)
CLAIMS = Claims(
    subject=uuid4(),
    client_id="console",
    user_name="rita",
    user_type="customer",
    role="front_office_emr_restricted",
    affiliation="practice",
    company_id=uuid4(),
    locations=(uuid4(),),
    authz_version=3,
)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def good_claims() -> dict[str, Any]:
    claims: dict[str, Any] = orjson.loads(unb64(ISSUER.sign(KEY, CLAIMS).split(".")[1]))
    return claims


def good_header() -> dict[str, Any]:
    return {"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid}


def signature(signed: bytes, key: SigningKey = KEY) -> bytes:
    private = ECKey.import_key(orjson.loads(key.private_jwk)).private_key
    assert private is not None
    r, s = decode_dss_signature(private.sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def token(header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, key: SigningKey = KEY) -> str:
    """A rightly signed token with whatever is in it."""
    parts = [part if isinstance(part, bytes) else orjson.dumps(part) for part in (header, claims)]
    signed = ".".join(map(b64, parts))
    return f"{signed}.{b64(signature(signed.encode(), key))}"


@dataclass
class Identity:
    """Serves the public keys, and counts how often it is asked."""

    asked: int = 0
    away: bool = False

    async def fetch(self) -> Mapping[str, Any]:
        self.asked += 1
        if self.away:
            raise Unavailable()
        return public_keys([KEY, NEXT])


def verifier(identity: Identity | None = None) -> TokenVerifier:
    return TokenVerifier(KeyCache((identity or Identity()).fetch), issuer="billing-identity", audience="billing")


async def test_a_good_token() -> None:
    for key in (KEY, NEXT):
        principal = await verifier().verify(ISSUER.sign(key, CLAIMS))
        assert (principal.subject, principal.company_id) == (CLAIMS.subject, CLAIMS.company_id)
        assert principal.locations == frozenset(CLAIMS.locations)
        assert (principal.user_name, principal.role, principal.authz_version) == ("rita", CLAIMS.role, 3)
    assert (await verifier().verify(token(good_header(), good_claims()))).role == CLAIMS.role


def hs256_with_the_public_key() -> str:
    """The confusion of RFC 8725 2.1: our public key, taken for a shared secret."""
    public = orjson.dumps(public_keys([KEY])["keys"][0])
    signed = f"{b64(orjson.dumps({**good_header(), 'alg': 'HS256'}))}.{b64(orjson.dumps(good_claims()))}"
    return f"{signed}.{b64(hmac.digest(public, signed.encode(), hashlib.sha256))}"


def with_other_curve() -> str:
    """Case 63: a right signature of another algorithm, by a key with our id."""
    private = ec.generate_private_key(ec.SECP384R1())
    signed = f"{b64(orjson.dumps({**good_header(), 'alg': 'ES384'}))}.{b64(orjson.dumps(good_claims()))}"
    r, s = decode_dss_signature(private.sign(signed.encode(), ec.ECDSA(hashes.SHA384())))
    return f"{signed}.{b64(r.to_bytes(48) + s.to_bytes(48))}"


def header_corpus() -> dict[str, str]:
    claims = good_claims()
    stranger = ECKey.import_key(orjson.loads(STRANGER.private_jwk)).as_dict(private=False)
    unsigned = f"{b64(orjson.dumps({**good_header(), 'alg': 'none'}))}.{b64(orjson.dumps(claims))}."
    changed: dict[str, dict[str, Any]] = {
        "alg none, signed all the same": {"alg": "none"},
        "alg None": {"alg": "nOnE"},
        "alg missing": {"alg": None},
        "alg a list": {"alg": ["ES256"]},
        "alg RS256": {"alg": "RS256"},
        "typ JWT": {"typ": "JWT"},
        "typ missing": {"typ": None},
        "typ of a refresh token": {"typ": "rt+jwt"},
        "kid unknown": {"kid": STRANGER.kid},
        "kid missing": {"kid": None},
        "kid a path": {"kid": "../../../dev/null"},
        "kid SQL": {"kid": f"{KEY.kid}' or '1'='1"},
        "kid a URL": {"kid": "https://evil.example/keys"},
        "kid long": {"kid": "k" * 5_000},
        "kid a number": {"kid": 1},
        "kid a NUL": {"kid": f"{KEY.kid}\u0000"},
        "crit": {"crit": ["exp"], "exp": 1},
        "b64 false": {"crit": ["b64"], "b64": False},
    }
    tokens = {why: token({**good_header(), **change}, claims) for why, change in changed.items()}
    for name, value in (("jwk", stranger), ("jku", "https://evil.example"), ("x5u", "https://evil.example")):
        tokens[f"{name} with the stranger's key"] = token({**good_header(), name: value}, claims, STRANGER)
        tokens[f"{name} and the stranger's kid"] = token(
            {**good_header(), "kid": STRANGER.kid, name: value}, claims, STRANGER
        )
    tokens["alg none, no signature"] = unsigned
    tokens["HS256 with the public key"] = hs256_with_the_public_key()
    tokens["other curve"] = with_other_curve()
    tokens["the stranger's key under our kid"] = token(good_header(), claims, STRANGER)
    tokens["header names twice"] = token(
        b'{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"%s"}' % KEY.kid.encode(), claims
    )
    tokens["header not an object"] = token(b'["ES256"]', claims)
    return tokens


def claims_corpus() -> dict[str, str]:
    now = int(time.time())
    good = good_claims()
    changed: dict[str, dict[str, Any]] = {
        "expired": {"exp": now - 1},
        "expired just now": {"exp": now},
        "nbf in the future": {"nbf": now + 86_400},
        "iat in the future": {"iat": now + 86_400},
        "iss other": {"iss": "https://evil.example"},
        "iss with a slash": {"iss": "billing-identity/"},
        "aud other": {"aud": "payroll"},
        "aud a list": {"aud": ["billing"]},
        "company a list": {"company_id": [good["company_id"]]},
        "company no id": {"company_id": "1"},
        "company empty": {"company_id": ""},
        "locations a name": {"locations": "all"},
        "locations null": {"locations": None},
        "locations with a star inside": {"locations": ["*"]},
        "locations an object": {"locations": {"*": True}},
        "sub no id": {"sub": "operator"},
        "sub a number": {"sub": 1},
        "role a list": {"role": ["operator"]},
        "authz_ver text": {"authz_ver": "3"},
        "authz_ver true": {"authz_ver": True},
        "user_name null": {"user_name": None},
    }
    for name in ("exp", "iat", "nbf"):
        for why, wrong in (("text", str(now + 60)), ("float", now + 60.5), ("true", True), ("huge", 1 << 60)):
            changed[f"{name} {why}"] = {name: wrong}
        changed[f"{name} negative"] = {name: -1}
    tokens = {why: token(good_header(), {**good, **change}) for why, change in changed.items()}
    for name in good:
        tokens[f"without {name}"] = token(good_header(), {key: value for key, value in good.items() if key != name})
        doubled = orjson.dumps(good)[:-1] + b"," + orjson.dumps({name: good[name]})[1:]
        tokens[f"{name} twice"] = token(good_header(), doubled)
    text = orjson.dumps(good).decode()
    for why, raw in (
        ("exp 10^400", text.replace(str(good["exp"]), "1" + "0" * 400)),
        ("exp 1e400", text.replace(str(good["exp"]), "1e400")),
        ("exp NaN", text.replace(str(good["exp"]), "NaN")),
        ("a list", f"[{text}]"),
        ("no JSON", text[:-1]),
        ("twice", text + text),
        ("a BOM", "\ufeff" + text),
        ("deep", "[" * 3_000),
        ("empty", ""),
    ):
        tokens[f"claims: {why}"] = token(good_header(), raw.encode())
    return tokens


def shape_corpus() -> dict[str, str]:
    good = ISSUER.sign(KEY, CLAIMS)
    header, claims, signed = good.split(".")
    last = signed[:-1] + ("A" if signed[-1] != "A" else "B")
    return {
        "empty": "",
        "one part": header,
        "two parts": f"{header}.{claims}",
        "signature empty": f"{header}.{claims}.",
        "four parts": f"{good}.{signed}",
        "five parts": f"{good}.{signed}.{signed}",
        "signature cut": good[:-4],
        "signature longer": good + "AAAA",
        "signature other": f"{header}.{claims}.{last}" if unb64(last) != unb64(signed) else f"{good[:-8]}AAAAAAAA",
        "signature of zeros": f"{header}.{claims}.{b64(bytes(64))}",
        "signature as DER": f"{header}.{claims}.{b64(b'0D' + unb64(signed))}",
        "claims of another": f"{header}.{b64(orjson.dumps({**good_claims(), 'role': 'operator'}))}.{signed}",
        "white space before": " " + good,
        "white space after": good + "\n",
        "white space inside": good.replace(".", ". "),
        "not ASCII": good + "\u00e9",
        "long": good + "A" * 10_000,
        "bare dots": "..",
        "a nested token": token({**good_header(), "cty": "JWT"}, good.encode()),
        "a JSON serialisation": orjson.dumps({"payload": claims, "protected": header, "signature": signed}).decode(),
    }


CORPUS = {**header_corpus(), **claims_corpus(), **shape_corpus()}


@pytest.mark.parametrize("why", CORPUS)
async def test_refused(why: str) -> None:
    identity = Identity()
    one = verifier(identity)
    for _ in range(2):  # The second time too, when something may have been remembered.
        with pytest.raises(Unauthenticated) as refusal:
            await one.verify(CORPUS[why])
        assert refusal.value.detail == Unauthenticated().detail, "the answer must not say what is wrong"
    assert identity.asked <= 1, "a made-up token must not hammer identity"


async def test_padding_does_not_make_a_second_token() -> None:
    """Case 63: a base64 variant of a good token is refused, or at least means nothing else."""
    good = ISSUER.sign(KEY, CLAIMS)
    for variant in (good + "=", good.replace(".", "=.", 1), good.replace("-", "+").replace("_", "/") + "=="):
        try:
            principal = await verifier().verify(variant)
        except Unauthenticated:
            continue
        assert principal.subject == CLAIMS.subject


async def test_a_token_ends_although_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    one, good = verifier(), ISSUER.sign(KEY, CLAIMS)
    await one.verify(good)
    later = time.time() + 301
    monkeypatch.setattr("shared.access.tokens.time.time", lambda: later)
    with pytest.raises(Unauthenticated):
        await one.verify(good)


async def test_unknown_key_ids_ask_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity()
    one = verifier(identity)
    await one.verify(ISSUER.sign(KEY, CLAIMS))
    for number in range(200):
        with pytest.raises(Unauthenticated):
            await one.verify(token({**good_header(), "kid": f"made-up-{number}"}, good_claims()))
    assert identity.asked == 1


async def test_identity_away() -> None:
    identity = Identity(away=True)
    one = verifier(identity)
    with pytest.raises(Unavailable):
        await one.verify(ISSUER.sign(KEY, CLAIMS))
    identity.away = False
    await one.verify(ISSUER.sign(KEY, CLAIMS))


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=400) | st.binary(max_size=300).map(b64))
async def test_whatever_comes(text: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier().verify(text)


@given(st.integers(0, 2), st.data())
async def test_one_changed_character(index: int, data: st.DataObject) -> None:
    parts = ISSUER.sign(KEY, CLAIMS).split(".")
    position = data.draw(st.integers(0, len(parts[index]) - 2))
    other = data.draw(st.sampled_from("ABCxyz019-_"))
    if parts[index][position] == other:
        return
    parts[index] = parts[index][:position] + other + parts[index][position + 1 :]
    with pytest.raises(Unauthenticated):
        await verifier().verify(".".join(parts))


def test_the_key_id_is_the_thumbprint_of_rfc_7638() -> None:
    public = public_keys([KEY])["keys"][0]
    canonical = orjson.dumps({name: public[name] for name in ("crv", "kty", "x", "y")}, option=orjson.OPT_SORT_KEYS)
    assert KEY.kid == b64(hashlib.sha256(canonical).digest())
    assert "d" not in public
    assert UUID(good_claims()["jti"]).version == 4
