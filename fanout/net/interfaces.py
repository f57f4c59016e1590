"""The network interfaces of this host: which there are, their addresses, and when that changes."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct

import ifaddr

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SIOCGIFFLAGS = 0x8913  # include/uapi/linux/sockios.h
_IFREQ = struct.Struct("16sH14x")
_IFF_UP, _IFF_RUNNING = 0x1, 0x40  # include/uapi/linux/if.h
# include/uapi/linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_CHANGES = 0x1 | 0x10 | 0x100
_ANY_PORT = 9


def index(name: str) -> int | None:
    """Return the number of that interface; None where there is none of that name."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def names() -> list[str]:
    """Return the names of all interfaces."""
    return [name for _, name in socket.if_nameindex()]


def addresses(name: str | None = None) -> list[Address]:
    """Return the addresses of one interface, or of all: IPv4 before IPv6."""
    found = [
        ipaddress.ip_address(each.ip if isinstance(each.ip, str) else each.ip[0])
        for adapter in ifaddr.get_adapters()
        if name is None or adapter.name == name
        for each in adapter.ips
    ]
    return sorted(found, key=lambda address: address.version)


def is_up(name: str) -> bool:
    """Whether the interface is switched on and has a carrier (man 7 netdevice, IFF_UP and IFF_RUNNING)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
        except OSError:
            return False
    flags: int = _IFREQ.unpack(answer)[1]
    return flags & _IFF_UP != 0 and flags & _IFF_RUNNING != 0


def route(address: str, scope: str = "") -> tuple[str, str] | None:
    """Return the interface by which a datagram to `address` would leave, and its source address; None without a way.

    Nothing is sent: connecting a UDP socket chooses the route (man 7 udp). `scope` is the interface of an IPv6
    address that is one only there.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as trial:
        try:
            place = (address, _ANY_PORT)
            # Of a global address the kernel disregards it.
            trial.connect((*place, 0, index(scope) or 0) if family == socket.AF_INET6 else place)
        except OSError:
            return None
        source: str = trial.getsockname()[0].partition("%")[0]
    chosen = ipaddress.ip_address(source)
    for name in names():
        if chosen in addresses(name):
            return name, source
    return None


class Watch:
    """Becomes readable when an interface, or an address of one, comes, goes or changes (man 7 rtnetlink).

    Raises OSError where the system lets nobody know.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._socket.bind((0, _CHANGES))

    def fileno(self) -> int:
        """Return what to wait on."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Forget what was told: that something changed is all that is asked for."""
        with contextlib.suppress(OSError):  # nothing more; or more than the buffer held, which is a change as well
            while self._socket.recv(65_536):
                pass

    def close(self) -> None:
        """Tell no more."""
        self._socket.close()
