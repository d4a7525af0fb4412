"""An OpenID provider on a port of this machine, which says whatever a test wants it to."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit
from uuid import uuid4

import orjson
from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from deploy.processes import free_port

CLIENT_ID, CLIENT_SECRET = "billing:at the provider", "the client's secret, with a : and a +"


@cache
def _rsa_key() -> RSAKey:
    """Made once: finding the primes takes a while."""
    return RSAKey.generate_key(2048, {"kid": uuid4().hex, "use": "sig"})


@dataclass
class FakeProvider:
    """`claims` and `header` are put into the next ID tokens, None takes one away; `key` signs them; `asked` counts."""

    url: str
    claims: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    away: bool = False
    asked: dict[str, int] = field(default_factory=dict)
    published: Any = field(default_factory=_rsa_key)
    key: Any = None
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[FakeProvider]:
        port = free_port()
        provider = cls(f"http://127.0.0.1:{port}/tenant")
        app = web.Application()
        app.add_routes(
            [
                web.get("/tenant/.well-known/openid-configuration", provider._discovery),
                web.get("/tenant/keys", provider._jwks),
                web.post("/tenant/token", provider._token),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield provider
        finally:
            await runner.cleanup()

    def sign_in(self, authorization_url: str) -> dict[str, str]:
        """What the browser brings back after somebody signed in here: `code` and `state`."""
        parts = urlsplit(authorization_url)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert parts._replace(query="").geturl() == f"{self.url}/authorize"
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT_ID
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        assert asked["max_age"] == "900"
        code = uuid4().hex
        self._codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def _count(self, what: str) -> None:
        self.asked[what] = self.asked.get(what, 0) + 1
        if self.away:
            raise web.HTTPBadGateway

    async def _discovery(self, _: web.Request) -> web.Response:
        self._count("discovery")
        document = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            **self.metadata,
        }
        return web.json_response(document)

    async def _jwks(self, _: web.Request) -> web.Response:
        self._count("keys")
        return web.json_response({"keys": [self.published.as_dict(private=False)]})

    async def _token(self, request: web.Request) -> web.Response:
        """RFC 6749 section 4.1.3 with RFC 7636: each code once, and only for who began."""
        self._count("token")
        form = await request.post()
        asked = self._codes.pop(str(form["code"]), None)
        pair = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode().split(":")
        verifier = str(form["code_verifier"]).encode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier).digest()).rstrip(b"=").decode()
        known = [unquote_plus(part) for part in pair] == [CLIENT_ID, CLIENT_SECRET]
        if asked is None or not known or asked["code_challenge"] != challenge:
            return web.json_response({"error": "invalid_grant"}, status=400)
        if asked["redirect_uri"] != form["redirect_uri"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response(
            {"token_type": "Bearer", "access_token": "x", "id_token": self.id_token(asked["nonce"])}
        )

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": CLIENT_ID,
            "sub": "248289761001",
            "iat": now,
            "exp": now + 300,
            "auth_time": now,
            "nonce": nonce,
            **self.claims,
        }
        kid = self.published.as_dict(private=False)["kid"]
        header = {"alg": "RS256", "kid": kid, **self.header}
        key = self.key or self.published
        signer = {"alg": "ES256" if isinstance(key, ECKey) else "RS256", "kid": kid}
        payload = orjson.dumps({name: value for name, value in claims.items() if value is not None})
        if header["alg"] in ("RS256", "ES256") and header["kid"] is not None:
            return jws.serialize_compact({**signer, **header}, payload, key, algorithms=["RS256", "ES256"])
        # What no honest library signs: the header as it is, over a signature of something else.
        honest = jws.serialize_compact(signer, payload, key, algorithms=["RS256", "ES256"]).split(".")
        text = base64.urlsafe_b64encode(orjson.dumps(header)).rstrip(b"=").decode()
        return ".".join([text, honest[1], "" if header["alg"] == "none" else honest[2]])
