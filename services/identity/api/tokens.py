"""`/v1/token`, revocation, introspection, keys and metadata (RFC 6749, 7009, 7662, 7517, 8414)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web

from services.identity.api.common import address, services
from services.identity.api.oauth import oauth_errors, token_answer
from services.identity.documents import TokenDocument
from services.identity.service.issuing import OAuthError
from services.identity.service.sign_in import wrong_client
from services.identity.standard_documents import (
    IntrospectionDocument,
    KeySetDocument,
    MetadataDocument,
    OAuthErrorDocument,
)
from shared.access.principal import PUBLIC, Principal
from shared.errors import Forbidden
from shared.web import Call, Endpoint, json_response
from shared.web.doorkeeper import authenticate

_FORM: Final = ("application/x-www-form-urlencoded",)
_MAX_FIELDS: Final = 20


@oauth_errors
async def _token(call: Call) -> web.StreamResponse:
    form = await _read_form(call)
    grant = _required(form, "grant_type")
    sign_in, company = services(call).sign_in, form.get("company_id")
    if grant == "password":
        name, password = _required(form, "username"), _required(form, "password")
        tokens = await sign_in.by_password(
            name, password, form.get("otp"), company, address(), replaced=form.get("refresh_token")
        )
    elif grant == "refresh_token":
        tokens = await sign_in.by_refresh_token(_required(form, "refresh_token"), company)
    elif grant == "client_credentials":
        credentials = _client_credentials(call, form)
        if credentials is None:
            raise wrong_client()
        tokens = await sign_in.by_client(*credentials, company, address())
    else:
        raise OAuthError("unsupported_grant_type", "Use password, refresh_token or client_credentials")
    return token_answer(tokens)


@oauth_errors
async def _revoke(call: Call) -> web.StreamResponse:
    await services(call).sign_in.revoke(_required(await _read_form(call), "token"))
    return web.Response()


@oauth_errors
async def _introspect(call: Call) -> web.StreamResponse:
    form = await _read_form(call)
    asker, sees_all = await _introspecting_client(call, form)
    holder = await services(call).sign_in.inspect(_required(form, "token"))
    if holder is None or not (sees_all or holder.client_id == asker):
        return json_response({"active": False})
    return json_response({"active": True, **_introspection(holder, services(call).config.issuer)})


async def _introspecting_client(call: Call, form: Mapping[str, str]) -> tuple[str, bool]:
    """The client that asks, by its secret or its token, and whether it may ask about tokens of others."""
    credentials = _client_credentials(call, form)
    if credentials is not None:
        client = await services(call).sign_in.known_client(*credentials, address())
        return client.client_id, client.kind == "internal"
    principal = await authenticate(call.request, services(call).verifier)
    if principal.user_type != "client":
        raise Forbidden("Only clients may ask about tokens")
    return principal.client_id, principal.is_internal


def _introspection(holder: Principal, issuer: str) -> dict[str, Any]:
    return {
        "token_type": "Bearer",
        "iss": issuer,
        "sub": holder.subject,
        "client_id": holder.client_id,
        "username": holder.user_name,
        "exp": holder.expires_at,
        "jti": holder.token_id,
        "user_type": holder.user_type,
        "role": holder.role,
        "affiliation": holder.affiliation,
        "company_id": holder.company_id,
        "locations": "*" if holder.locations == "*" else sorted(holder.locations),
        "authz_ver": holder.authz_version,
    }


async def _jwks(call: Call) -> web.StreamResponse:
    keys = await services(call).views.public_keys()
    return json_response(keys, headers={"Cache-Control": "public, max-age=60"})


async def _metadata(call: Call) -> web.StreamResponse:
    config = services(call).config
    base = config.identity_url.rstrip("/")
    return json_response(
        {
            "issuer": config.issuer,
            "token_endpoint": f"{base}/v1/token",
            "revocation_endpoint": f"{base}/v1/revoke",
            "introspection_endpoint": f"{base}/v1/introspect",
            "jwks_uri": f"{base}/.well-known/jwks.json",
            "response_types_supported": [],
            "grant_types_supported": ["password", "refresh_token", "client_credentials"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic", "client_secret_post"],
            "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "revocation_endpoint_auth_methods_supported": ["none"],
        }
    )


async def _read_form(call: Call) -> dict[str, str]:
    """The form's fields. As RFC 6749 section 3.2 says: none twice, and one without a value counts as left out."""
    raw = await call.request.read()
    try:
        text = raw.decode("utf-8")
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, max_num_fields=_MAX_FIELDS, errors="strict"
        )
    except ValueError:
        raise OAuthError("invalid_request", "The form cannot be read") from None
    if len(dict(pairs)) != len(pairs):
        raise OAuthError("invalid_request", "A parameter is repeated")
    return {name: value for name, value in pairs if value}


def _required(form: Mapping[str, str], name: str) -> str:
    if name not in form:
        raise OAuthError("invalid_request", f"{name}: required")
    return form[name]


def _client_credentials(call: Call, form: Mapping[str, str]) -> tuple[str, str] | None:
    """A client's id and secret, from HTTP Basic or from the form, not both (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = call.request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return (form["client_id"], form["client_secret"]) if {"client_id", "client_secret"} <= form.keys() else None
    if "client_secret" in form:
        raise OAuthError("invalid_request", "Give the client's secret once")
    try:
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except ValueError:
        raise wrong_client() from None
    if not colon:
        raise wrong_client()
    return unquote_plus(client_id), unquote_plus(secret)


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        "/v1/token",
        _token,
        PUBLIC,
        "Get tokens",
        raw_types=_FORM,
        answer=TokenDocument,
        also=(401,),
        refusal=OAuthErrorDocument,
    ),
    Endpoint(
        "POST",
        "/v1/revoke",
        _revoke,
        PUBLIC,
        "End a session",
        raw_types=_FORM,
        answer_type="",
        refusal=OAuthErrorDocument,
    ),
    Endpoint(
        "POST",
        "/v1/introspect",
        _introspect,
        PUBLIC,
        "Ask about a token, as a client",
        raw_types=_FORM,
        answer=IntrospectionDocument,
        also=(401, 403),
        refusal=OAuthErrorDocument,
    ),
    Endpoint("GET", "/.well-known/jwks.json", _jwks, PUBLIC, "Public keys", answer=KeySetDocument),
    Endpoint(
        "GET",
        "/.well-known/oauth-authorization-server",
        _metadata,
        PUBLIC,
        "Server metadata",
        answer=MetadataDocument,
    ),
)
