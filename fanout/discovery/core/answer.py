"""The answer of one resolution of a Service, and which of its addresses are accepted. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

from fanout.model import Endpoint, unmapped

MAX_ENDPOINTS = 4096
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


class Lookup(NamedTuple):
    """One query to one nameserver, and its result."""

    name: str
    record: str
    nameserver: str
    over: str
    """`UDP` or `TCP`."""
    result: str
    """`2 records`, `NXDOMAIN`, `NODATA`, `SERVFAIL`, `truncated`, or an error."""


class Refusal(NamedTuple):
    """An address in an answer that is refused, and why."""

    address: str
    reason: str


class DnsAnswer(NamedTuple):
    """The answer of DNS (or a literal list) for a Service. No endpoints: no such Service, or no ready pod."""

    endpoints: tuple[Endpoint, ...]
    dns_ttl: float | None = None
    """Seconds; None where the answer never expires (a literal list)."""
    name: str = ""
    """The name that was answered, after the search list."""
    refused: tuple[Refusal, ...] = ()
    lookups: tuple[Lookup, ...] = ()

    def as_json(self, service: str) -> dict[str, object]:
        """Return it as an object that begins with the name of the Service."""
        return {
            "service": service,
            "name": self.name,
            "dns_ttl": self.dns_ttl,
            "endpoints": [str(endpoint) for endpoint in self.endpoints],
            "refused": [refusal._asdict() for refusal in self.refused],
            "lookups": [lookup._asdict() for lookup in self.lookups],
        }


def accept(
    candidates: Iterable[tuple[str, int]], *, allow_loopback: bool, limit: int
) -> tuple[tuple[Endpoint, ...], tuple[Refusal, ...]]:
    """Return the accepted (address, port) pairs, each once and in order, and the refused ones with a reason."""
    endpoints: dict[Endpoint, None] = {}
    refused: dict[str, Refusal] = {}
    for text, port in candidates:
        try:
            address = unmapped(ipaddress.ip_address(text))
        except ValueError:
            refused[text] = Refusal(text, "not an IP address")
            continue
        endpoint = Endpoint(str(address), port)
        reason = refusal_reason(address, allow_loopback=allow_loopback)
        if reason is None and not 1 <= port <= 65_535:
            reason = f"port {port}"
        if reason is None and len(endpoints) >= limit and endpoint not in endpoints:
            reason = f"over the limit of {limit} endpoints"
        if reason is None:
            endpoints[endpoint] = None
        else:
            refused[text] = Refusal(str(address), reason)
    return tuple(endpoints), tuple(refused.values())


def why_no_endpoints(refused: Iterable[Refusal]) -> str:
    """Return why an answer has no endpoints, with up to three of the refused addresses."""
    examples = ", ".join(f"{address} ({reason})" for address, reason in sorted(refused)[:3])
    if examples:
        return f"DNS returned only addresses that are refused: {examples}"
    return "DNS knows no such Service, or no pod is ready"


def refusal_reason(address: ipaddress.IPv4Address | ipaddress.IPv6Address, *, allow_loopback: bool) -> str | None:
    """Return why no pod can have this address; None where one can. A spoofed answer must not direct traffic there."""
    if address.is_loopback:
        return None if allow_loopback else "loopback"
    if address.is_unspecified or address in _THIS_NETWORK:
        return "unspecified"
    if address.is_link_local:
        return "link-local"
    if address.is_multicast:
        return "multicast"
    return "broadcast" if address == _BROADCAST else None
