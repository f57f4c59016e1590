"""The network interfaces of this host, their addresses, and changes of both."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import ipaddress
import socket
import struct
from functools import cache

import ifaddr

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SIOCGIFFLAGS, _SIOCGIFINDEX = 0x8913, 0x8933  # include/uapi/linux/sockios.h
_FLAGS = struct.Struct("16sH22x")  # struct ifreq, as each request uses it
_INDEX = struct.Struct("16si20x")
_MREQN = struct.Struct("=4s4si")  # struct ip_mreqn (man 7 ip)
_NAME_MAX = 15
_IFF_UP, _IFF_RUNNING = 0x1, 0x40  # include/uapi/linux/if.h
# include/uapi/linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_CHANGES = 0x1 | 0x10 | 0x100
_ANY_PORT = 9


@cache
def _asking() -> socket.socket:
    """The one socket for interface requests, kept open so that they work even without free descriptors."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    atexit.register(opened.close)
    return opened


def index(name: str) -> int | None:
    """Return the interface's index; None where there is no such interface. Raises OSError."""
    return _request(_SIOCGIFINDEX, _INDEX, name)


def _request(number: int, layout: struct.Struct, name: str) -> int | None:
    """Return the answer to an interface request (man 7 netdevice); None where there is no such interface."""
    if not 0 < len(name.encode()) <= _NAME_MAX:
        return None
    try:
        answer = fcntl.ioctl(_asking(), number, layout.pack(name.encode(), 0))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    found: int = layout.unpack(answer)[1]
    return found


def names() -> list[str]:
    """Return the names of all interfaces; empty where the system reports none."""
    try:
        return [name for _, name in socket.if_nameindex()]
    except OSError:
        return []


def addresses(name: str | None = None) -> list[Address]:
    """Return the addresses of one interface, or of all, IPv4 before IPv6; empty where the system reports none."""
    found = [address for each, address in _all_addresses() if name in (None, each)]
    return sorted(found, key=lambda address: address.version)


def networks(name: str) -> list[ipaddress.IPv4Interface]:
    """Return the IPv4 addresses of one interface with their networks; empty where the system reports none."""
    return [
        ipaddress.IPv4Interface(f"{each.ip}/{each.network_prefix}")
        for adapter, each in _assigned()
        if adapter == name and each.is_IPv4
    ]


def _all_addresses() -> list[tuple[str, Address]]:
    return [
        (adapter, ipaddress.ip_address(each.ip if isinstance(each.ip, str) else each.ip[0]))
        for adapter, each in _assigned()
    ]


def _assigned() -> list[tuple[str, ifaddr.IP]]:
    try:
        return [(adapter.name, each) for adapter in ifaddr.get_adapters() for each in adapter.ips]
    except OSError:  # no netlink, in some sandboxes
        return []


def is_up(name: str) -> bool:
    """Whether the interface is up and has a carrier (man 7 netdevice, IFF_UP and IFF_RUNNING)."""
    try:
        flags = _request(_SIOCGIFFLAGS, _FLAGS, name) or 0
    except OSError:
        return False
    return flags & _IFF_UP != 0 and flags & _IFF_RUNNING != 0


def is_local(host: str) -> bool:
    """Whether that is an address of this host, which sends to itself from that same address."""
    return host.startswith("127.") or source(host) == host


def route(address: str, scope: str = "") -> tuple[str, str] | None:
    """Return the interface by which a datagram to `address` would leave, and its source address; None without a route.

    `scope` is the interface of a link-local IPv6 address.
    """
    chosen = source(address, scope)
    if chosen is None:
        return None
    return next(((name, chosen) for name, each in _all_addresses() if str(each) == chosen), None)


def source(address: str, scope: str = "") -> str | None:
    """Return the source address that a datagram to `address` would have; None without a route.

    Nothing is sent: connecting a UDP socket chooses the route (man 7 udp).
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            target = (address, _ANY_PORT)
            # The kernel ignores the scope of a global address.
            trial.connect((*target, 0, index(scope) or 0) if family == socket.AF_INET6 else target)
            found: str = trial.getsockname()[0].partition("%")[0]
    except OSError:
        return None
    return found


def send_groups_by(opened: socket.socket, index: int, address: str, hops: int) -> None:
    """Let an IPv4 socket send to groups by the interface with that index and address. Raises OSError."""
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, hops)
    request = _MREQN.pack(bytes(4), socket.inet_aton(address), index)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)


class InterfaceWatch:
    """Becomes readable when an interface or its address appears, disappears or changes (man 7 rtnetlink).

    Raises OSError where the system does not report changes.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.bind((0, _CHANGES))

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Discard the notifications: only that something changed matters."""
        with contextlib.suppress(OSError):  # nothing more, or an overflow, which is a change as well
            while self._socket.recv(65_536):
                pass

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
