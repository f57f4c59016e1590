"""Sockets for multicast groups and broadcast, and the wait for their interface."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import struct

from fanout import errno_text, options
from fanout.errors import SocketUnavailable
from fanout.model import Endpoint
from fanout.net import interfaces, pktinfo, sockaddr

# include/uapi/linux/in.h and in6.h; the protocol-independent requests of RFC 3678, 5.1.
_MCAST_JOIN_GROUP, _MCAST_JOIN_SOURCE_GROUP = 42, 46
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29
_STORAGE = 128  # sizeof(struct sockaddr_storage)
_REQUEST = struct.Struct(f"@I0Q{_STORAGE}s")  # struct group_req
_SOURCE_REQUEST = struct.Struct(f"@I0Q{_STORAGE}s{_STORAGE}s")  # struct group_source_req


INTERFACE_TIMEOUT = 60.0
"""Default seconds that an interface may take to appear."""


class InterfaceNotReady(SocketUnavailable):
    """The interface does not exist yet, or has no address yet."""


class InterfaceState:
    """Whether an ingress listens on its interface, which may appear late (within `timeout` seconds), go and come back.

    Raises `InvalidInput` for an invalid timeout.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = options.positive_number(
            "interface_timeout", timeout, most=math.inf, unit="seconds", allow_zero=True
        )
        self._since: float | None = None
        """When the wait began."""
        self.waiting: str | None = "not opened yet"
        """Why it does not listen; None where it does."""
        self.has_listened: bool = False

    def opened(self) -> None:
        """Record that it listens."""
        self.has_listened, self.waiting = True, None

    def failed(self, error: SocketUnavailable, now: float) -> bool:
        """Record that it could not listen; return whether the reason is new.

        Raises `SocketUnavailable` where it never has, for a reason other than the interface or for too long.
        """
        if self._since is None:
            self._since = now
        if not self.has_listened:
            if not isinstance(error, InterfaceNotReady):
                raise error
            if now - self._since > self._timeout:
                raise SocketUnavailable(f"{error} (waited {self._timeout:g} s)")
        before, self.waiting = self.waiting, str(error)
        return before != self.waiting


def open_group(group: str, port: int, interface: str, *, source: str = "") -> socket.socket:
    """Return a non-blocking socket that receives from a group on an interface, from one `source` or from all.

    Other sockets may share the port: each gets a copy. Raises `InterfaceNotReady` and `SocketUnavailable`.
    """
    is_ipv6 = ":" in group
    device = interfaces.index(interface) or 0
    # For an IPv6 group the kernel checks the membership, not the interface (net/ipv6/mcast.c).
    # Bound to the group itself: it gets nothing sent to that port of this host, or to another group.
    opened = _bind(Endpoint(group, port), interface, device, is_bound_to_device=is_ipv6)
    try:
        level = socket.IPPROTO_IPV6 if is_ipv6 else socket.IPPROTO_IP
        if source:
            request = _SOURCE_REQUEST.pack(device, sockaddr.pack(group), sockaddr.pack(source))
            opened.setsockopt(level, _MCAST_JOIN_SOURCE_GROUP, request)
        else:
            opened.setsockopt(level, _MCAST_JOIN_GROUP, _REQUEST.pack(device, sockaddr.pack(group)))
    except OSError as error:
        opened.close()
        raise _unavailable(errno_text.joining(group, interface, error.errno or 0), error) from error
    keep_to_own_groups(opened)
    return opened


def open_broadcast(port: int, interface: str) -> socket.socket:
    """Return a non-blocking socket that receives broadcasts on an interface; `pktinfo` tells them from unicast.

    Other sockets may share the port: each gets a copy. Raises `InterfaceNotReady` and `SocketUnavailable`.
    """
    device = interfaces.index(interface) or 0
    return _bind(Endpoint("0.0.0.0", port), interface, device, is_bound_to_device=True, reports_destinations=True)


def keep_to_own_groups(opened: socket.socket) -> None:
    """Let a socket receive nothing from groups that only other programs of this host have joined."""
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    with contextlib.suppress(OSError):
        if opened.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)


def _bind(
    endpoint: Endpoint, interface: str, device: int, *, is_bound_to_device: bool, reports_destinations: bool = False
) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_bound_to_device:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        if reports_destinations:
            pktinfo.report_destinations(opened, True)
        opened.bind((*endpoint, 0, device) if family == socket.AF_INET6 else endpoint)
    except OSError as error:
        opened.close()
        raise _unavailable(errno_text.binding(endpoint, error.errno or 0, device=interface), error) from error
    return opened


def _unavailable(sentence: str, error: OSError) -> SocketUnavailable:
    is_late = error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL)
    return (InterfaceNotReady if is_late else SocketUnavailable)(sentence)
