"""Passkeys (WebAuthn Level 3): the relying party's side of the two ceremonies, without I/O.

A passkey is a discoverable credential used with user verification, so it is two factors by itself. Attestation is not
asked for: which authenticator somebody trusts is his own affair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import webauthn
from webauthn.helpers import base64url_to_bytes, options_to_json_dict, parse_client_data_json
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from services.identity.codes import PRODUCT

SECONDS: Final = 300
"""How long a ceremony may take: also the life of its challenge."""
_PORTS: Final = {"http": 80, "https": 443}
_LONGEST: Final = 64 * 1024
_TRANSPORTS: Final = frozenset({"usb", "nfc", "ble", "smart-card", "hybrid", "internal", "cable"})


class BadCredential(Exception):
    """The answer of the authenticator is not what it should be. It is not said how."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A new credential."""

    credential_id: bytes
    public_key: bytes
    sign_count: int
    transports: tuple[str, ...]


class RelyingParty:
    """Us, by the address at which browsers find the product."""

    def __init__(self, public_url: str) -> None:
        parts = urlsplit(public_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SystemExit("PUBLIC_URL must be an address, as https://billing.example")
        self.id = parts.hostname
        # As browsers write it: without the port that the scheme has by itself (RFC 6454 section 6.1).
        port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
        self.origin = f"{parts.scheme}://{parts.hostname}{port}"

    def registration_options(
        self, user_id: UUID, user_name: str, display_name: str, known: Sequence[bytes], challenge: bytes
    ) -> dict[str, Any]:
        """For `navigator.credentials.create()`; `known` are the credentials that he has already."""
        options = webauthn.generate_registration_options(
            rp_id=self.id,
            rp_name=PRODUCT,
            user_id=user_id.bytes,
            user_name=user_name,
            user_display_name=display_name,
            challenge=challenge,
            timeout=SECONDS * 1000,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
            exclude_credentials=[PublicKeyCredentialDescriptor(id=credential_id) for credential_id in known],
        )
        return options_to_json_dict(options)

    def sign_in_options(self, challenge: bytes) -> dict[str, Any]:
        """For `navigator.credentials.get()`: whoever has a passkey of ours may answer."""
        options = webauthn.generate_authentication_options(
            rp_id=self.id,
            challenge=challenge,
            timeout=SECONDS * 1000,
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return options_to_json_dict(options)

    def verify_registration(self, credential: Mapping[str, Any], challenge: bytes) -> Registered:
        """Raises BadCredential."""
        try:
            verified = webauthn.verify_registration_response(
                credential=dict(credential),
                expected_challenge=challenge,
                expected_rp_id=self.id,
                expected_origin=self.origin,
                require_user_verification=True,
            )
        # What strangers send goes through base64, CBOR, ASN.1 and curves: whatever breaks on the way, it is no passkey.
        except Exception:
            raise BadCredential() from None
        # It is the name of the credential from now on; WebAuthn section 7.1 allows no longer one.
        if len(verified.credential_id) > 1023 or verified.sign_count >= 1 << 32:
            raise BadCredential()
        named = credential["response"].get("transports")
        transports = tuple(sorted(_TRANSPORTS.intersection(map(str, named)))) if isinstance(named, list) else ()
        return Registered(verified.credential_id, verified.credential_public_key, verified.sign_count, transports)

    def verify_sign_in(
        self, credential: Mapping[str, Any], challenge: bytes, public_key: bytes, sign_count: int, user_id: UUID
    ) -> int:
        """The authenticator's new signature counter. Raises BadCredential, also when the counter has not risen or the
        authenticator speaks of another user."""
        try:
            verified = webauthn.verify_authentication_response(
                credential=dict(credential),
                expected_challenge=challenge,
                expected_rp_id=self.id,
                expected_origin=self.origin,
                credential_public_key=public_key,
                credential_current_sign_count=sign_count,
                require_user_verification=True,
            )
            handle = base64url_to_bytes(credential["response"]["userHandle"])
        except Exception:
            raise BadCredential() from None
        if handle != user_id.bytes:
            raise BadCredential()
        return verified.new_sign_count


def challenge_of(credential: Mapping[str, Any]) -> bytes:
    """The challenge that the authenticator answered, which is yet to be believed. Raises BadCredential."""
    try:
        text = credential["response"]["clientDataJSON"]
        if len(json.dumps(credential)) > _LONGEST:
            raise BadCredential()
        client_data = parse_client_data_json(base64url_to_bytes(text))
        if client_data.cross_origin:
            raise BadCredential()  # We are in nobody's frame.
        return client_data.challenge
    except Exception:
        raise BadCredential() from None


def credential_id_of(credential: Mapping[str, Any]) -> bytes:
    """Raises BadCredential."""
    try:
        return base64url_to_bytes(credential["rawId"])
    except Exception:
        raise BadCredential() from None
