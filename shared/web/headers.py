"""The headers that every answer has, whoever made it (ASVS 5.0 3.4): nothing of ours is a page to be built into others,
to run anything, or to be kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from shared.address import Proxies

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
}
STRICT_TRANSPORT: Final = "max-age=31536000; includeSubDomains"
"""RFC 6797. Said where the caller speaks TLS: over anything else a browser must ignore it."""


def secure(request: web.BaseRequest, response: web.StreamResponse, proxies: Proxies) -> None:
    """Add them, but for those that the answer has of its own."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if proxies.is_https(request):
        response.headers["Strict-Transport-Security"] = STRICT_TRANSPORT
