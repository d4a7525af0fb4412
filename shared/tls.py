"""TLS as we speak it, to callers and as callers: version 1.2 or 1.3, and of 1.2 only suites with forward secrecy and
authenticated encryption (ASVS 5.0 12.1.1, 12.1.2; RFC 9325 section 4.2). Version 1.3 has no others."""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:,\[\]]+)(?::\d+)?(?:,|$)")


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """For those who call us: certificate chain in PEM, with its key in the same file unless that is given. The order of
    suites that counts is ours."""
    context = _strong(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.load_cert_chain(certificate, key)
    return context


@cache
def client_context(authority: str | None = None) -> ssl.SSLContext:
    """For those whom we call, whose certificate and name are verified: by an authority's file, or by those that OpenSSL
    knows (SSL_CERT_FILE)."""
    return _strong(ssl.create_default_context(cafile=authority))


def database_context(dsn: str) -> ssl.SSLContext | None:
    """For a PostgreSQL whose address asks for `sslmode=verify-full` and names an authority; None: asyncpg makes its own
    of what the address says, with the suites that Python allows."""
    named = parse_qs(urlsplit(dsn).query)
    if named.get("sslmode") != ["verify-full"] or "sslrootcert" not in named or "sslcert" in named:
        return None
    return address_context(dsn, "sslrootcert")


def is_verified(dsn: str, plain_hosts: Collection[str]) -> bool:
    """Whether a database is spoken to with TLS and by its verified name, or is on this machine or a named host."""
    parts = urlsplit(dsn)
    named = parse_qs(parts.query)
    hosts = [one.strip("[]") for one in _HOST.findall(parts.netloc.rpartition("@")[2])] + named.get("host", [])
    plain = {"127.0.0.1", "::1", "localhost", *plain_hosts}
    return named.get("sslmode") == ["verify-full"] or all(host in plain or host.startswith("/") for host in hosts)


def address_context(address: str, authority: str) -> ssl.SSLContext:
    """The client's context for an address whose parameter `authority` may name a file."""
    named = parse_qs(urlsplit(address).query).get(authority)
    return client_context(named[-1] if named else None)


def _strong(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    return context
