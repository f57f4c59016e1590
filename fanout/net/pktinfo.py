"""The address of this host that a datagram came to, and that its answer leaves from (man 7 ip, IP_PKTINFO)."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from functools import lru_cache
from typing import Any

from fanout.net import sockaddr
from fanout.protocol.receiving.run import ControlMessages

# include/uapi/linux/in.h and in6.h; IPv6 has one number for the option and another for the message.
_IPV4 = (socket.IPPROTO_IP, 8)
_IPV6 = (socket.IPPROTO_IPV6, 50)
_IPV6_RECV = (socket.IPPROTO_IPV6, 49)
_INFO = struct.Struct("=i4s4s")  # struct in_pktinfo: interface, local address, destination
_INFO6 = struct.Struct("=16si")  # struct in6_pktinfo: destination, interface
SPACE = socket.CMSG_SPACE(_INFO6.size)
"""Bytes of the control message, of either family."""
_ANY_SOURCE = [(*_IPV4, bytes(_INFO.size))]  # no interface, no source: the route chooses


def report_destinations(listening: socket.socket, wanted: bool) -> None:
    """Let the kernel report the destination address of each datagram, or not.

    It does so in one control message, the last one; on an IPv6 socket, also for datagrams over IPv4. Does nothing
    where the system cannot.
    """
    if sys.platform == "linux":
        option = _IPV6_RECV if listening.family == socket.AF_INET6 else _IPV4
        with contextlib.suppress(OSError):
            listening.setsockopt(*option, wanted)


def interface(control: ControlMessages) -> int:
    """Return the index of the interface that a datagram came by; 0 where the system does not report it."""
    for level, kind, data in control:
        if (level, kind) == _IPV4 and len(data) == _INFO.size:
            return int(_INFO.unpack(data)[0])
        if (level, kind) == _IPV6 and len(data) == _INFO6.size:
            return int(_INFO6.unpack(data)[1])
    return 0


def is_broadcast(control: ControlMessages) -> bool:
    """Whether an IPv4 datagram's destination differs from the local address that received it."""
    for level, kind, data in control:
        if (level, kind) == _IPV4 and len(data) == _INFO.size:
            _, local, destination = _INFO.unpack(data)
            return bool(local != destination)
    return False


def answer_from(control: ControlMessages | None) -> ControlMessages:
    """Return the control for `sendmsg` to send from the address that a datagram came to; empty where unknown."""
    return _answer_from(*control[-1]) if control else []


@lru_cache(256)
def _answer_from(level: int, kind: int, data: bytes) -> ControlMessages:
    # By any interface: the way back may differ.
    if (level, kind) == _IPV4 and len(data) == _INFO.size:
        _, local, destination = _INFO.unpack(data)
        # Without a local address, it arrived before the option was set.
        return [(level, kind, _INFO.pack(0, local if any(local) else destination, bytes(4)))]
    if (level, kind) == _IPV6 and len(data) == _INFO6.size:
        return [(level, kind, _INFO6.pack(data[:16], 0))]
    return []


def answer_from_any(address: tuple[Any, ...]) -> ControlMessages:
    """Return the control for `sendmsg` to let the route to `address` choose the source, whatever the socket's own.

    Raises OSError where there is no route.
    """
    if sockaddr.is_ipv4(address[0]):
        return _ANY_SOURCE
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asked:
        asked.connect(address)
        source = socket.inet_pton(socket.AF_INET6, asked.getsockname()[0].partition("%")[0])
    return [(*_IPV6, _INFO6.pack(source, 0))]
