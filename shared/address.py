"""Where a request comes from, as far as it can be known (ASVS 5.0 15.3.4).

`X-Forwarded-For` is a list to which each proxy appends whom it saw; anybody may send one that is begun already. So it
is read from its end, and only as far as it was written by proxies that are named as ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Proxies:
    """What stands before us. `behind`: a proxy of ours does, and its word counts; `trusted`: networks of those before
    it, whose word counts as well."""

    behind: bool = False
    trusted: Sequence[Network] = ()

    def address_of(self, request: web.BaseRequest) -> str:
        """The caller's IP address; `unknown` for what is none."""
        named = ",".join(request.headers.getall("X-Forwarded-For", ())) if self.behind else ""
        if not named:
            return _plain(request.remote or "")
        for one in reversed(named.split(",")):
            address = _plain(one.strip())
            if not self._trusts(address):
                break
        return address

    def is_https(self, request: web.BaseRequest) -> bool:
        """Whether the caller speaks TLS, to us or to the proxy in front."""
        said = request.headers.get("X-Forwarded-Proto") if self.behind else None
        return request.secure or said == "https"

    def _trusts(self, address: str) -> bool:
        if not self.trusted or address == UNKNOWN:
            return False
        parsed = ipaddress.ip_address(address)
        return any(parsed in network for network in self.trusted)


@lru_cache(1_024)
def _plain(text: str) -> str:
    """An address in its one form; an IPv4 address that is written as IPv6 is IPv4."""
    try:
        known = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return UNKNOWN
    return str(getattr(known, "ipv4_mapped", None) or known)


def network(address: str) -> str:
    """What counts as one caller: an IPv6 caller has a whole /64 to himself."""
    plain = _plain(address)
    return str(ipaddress.ip_network((plain, 64), strict=False)) if ":" in plain else plain
