"""Answers whose names are those of a standard: OAuth 2.0, JSON Web Key, WebAuthn."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

from services.identity.documents import Document


class OAuthErrorDocument(Document):
    """RFC 6749 section 5.2."""

    error: str
    error_description: str


class IntrospectionDocument(Document):
    """RFC 7662. Of a token that is not `active`, or that the caller may not ask about, nothing else is said."""

    active: bool
    token_type: str | None = None
    iss: str | None = None
    sub: str | None = None
    client_id: str | None = None
    username: str | None = None
    exp: int | None = None
    jti: str | None = None
    user_type: str | None = None
    role: str | None = None
    affiliation: str | None = None
    company_id: UUID | None = None
    locations: Literal["*"] | tuple[UUID, ...] | None = None
    authz_ver: int | None = None


class KeyDocument(Document):
    """RFC 7517: the public part of a key of P-256."""

    kty: Literal["EC"]
    crv: Literal["P-256"]
    x: str
    y: str
    kid: str
    use: Literal["sig"]
    alg: Literal["ES256"]


class KeySetDocument(Document):
    """Tokens issued before `not_before` (Unix seconds) are refused: a key was compromised."""

    keys: tuple[KeyDocument, ...]
    not_before: int | None = None


class MetadataDocument(Document):
    """RFC 8414."""

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    introspection_endpoint: str
    jwks_uri: str
    response_types_supported: tuple[str, ...]
    grant_types_supported: tuple[str, ...]
    token_endpoint_auth_methods_supported: tuple[str, ...]
    introspection_endpoint_auth_methods_supported: tuple[str, ...]
    revocation_endpoint_auth_methods_supported: tuple[str, ...]


class PasskeyCreationOptions(Document):
    """WebAuthn's PublicKeyCredentialCreationOptionsJSON."""

    rp: dict[str, str]
    user: dict[str, str]
    challenge: str
    pubKeyCredParams: tuple[dict[str, Any], ...]
    timeout: int
    excludeCredentials: tuple[dict[str, Any], ...]
    authenticatorSelection: dict[str, Any]
    attestation: str


class PasskeyRequestOptions(Document):
    """WebAuthn's PublicKeyCredentialRequestOptionsJSON."""

    challenge: str
    timeout: int
    rpId: str
    allowCredentials: tuple[dict[str, Any], ...]
    userVerification: str
