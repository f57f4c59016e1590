"""Kernel socket addresses: `struct sockaddr_in`, `sockaddr_in6` (man 7 ip, ipv6), and IPv4-mapped IPv6."""

from __future__ import annotations

import socket
import struct

_IPV4 = struct.Struct("@H2s4s8x")
_IPV6 = struct.Struct("@H2s4x16s4x")
_MAPPED = "::ffff:"  # prefix of IPv4 addresses on a dual-stack socket (RFC 4291, 2.5.5.2)


def pack(host: str, port: int = 0) -> bytes:
    """Return an address and a port as the kernel reads them; raise OSError for a host that is not an address."""
    is_ipv6 = ":" in host
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    return (_IPV6 if is_ipv6 else _IPV4).pack(family, port.to_bytes(2, "big"), socket.inet_pton(family, host))


def is_ipv4(host: str) -> bool:
    """Whether an address is IPv4, plain or mapped."""
    return ":" not in host or host.startswith(_MAPPED)


def plain(host: str) -> str:
    """Return an address without the prefix of a mapped IPv4 address."""
    return host.removeprefix(_MAPPED)


def mapped(host: str) -> str:
    """Return an address as a dual-stack socket takes it: IPv4 mapped to IPv6."""
    return _MAPPED + host if ":" not in host else host
