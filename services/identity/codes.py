"""Codes that people type: those of an authenticator app (TOTP, RFC 6238), recovery codes, reset codes."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from typing import Final

import pyotp

RECOVERY_CODES: Final = 10
_STEP_SECONDS: Final = 30
_GROUP: Final = 4
_TOTP: Final = re.compile(r"[0-9]{6}\Z")
_TYPED: Final = re.compile(r"[a-z2-7]{32}\Z")
PRODUCT: Final = "Practice billing"
"""How authenticators show us."""


def new_totp_secret() -> str:
    """160 random bits in base32, as RFC 4226 section 4 recommends."""
    return pyotp.random_base32(32)


def totp_uri(secret: str, user_name: str) -> str:
    """The `otpauth:` URI that authenticator apps read from a QR code."""
    return pyotp.TOTP(secret).provisioning_uri(name=user_name, issuer_name=PRODUCT)


def is_totp(code: str) -> bool:
    return _TOTP.match(code) is not None


def totp_step(secret: str, code: str) -> int | None:
    """The time step whose code this is: the present one, or one of its neighbours (RFC 6238 section 5.2)."""
    now, generator = int(time.time()) // _STEP_SECONDS, pyotp.TOTP(secret)
    steps = (now, now - 1, now + 1)
    right = [step for step in steps if secrets.compare_digest(generator.generate_otp(step), code)]
    return right[0] if right else None


def tidy(code: str) -> str:
    """A code as it was meant: spaces, hyphens and case do not count. What is too long is no code."""
    return "" if len(code) > 64 or not code.isascii() else re.sub(r"[\s-]", "", code).lower()


def new_code() -> str:
    """160 random bits in eight groups of base32 (ASVS 5.0 11.5.1 asks for 128)."""
    text = base64.b32encode(secrets.token_bytes(20)).decode().lower()
    return "-".join(text[start : start + _GROUP] for start in range(0, len(text), _GROUP))


def code_hash(code: str) -> bytes | None:
    """What is stored of a recovery or reset code; None for what cannot be one. Plain SHA-256: nobody guesses 160 bits
    (ASVS 5.0 6.5.2 asks for a password hash below 112)."""
    text = tidy(code)
    return hashlib.sha256(text.encode()).digest() if _TYPED.match(text) else None
