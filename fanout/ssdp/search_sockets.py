"""The UDP sockets by which pods are asked, and what comes back by them."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from fanout.model import Endpoint
from fanout.net import bind
from fanout.ssdp.core import message
from fanout.ssdp.core.drop_reasons import SsdpDrop
from fanout.ssdp.core.message import DATAGRAM_MAX, Advert, Answer, InvalidSsdp

_TURN = 32
"""Datagrams that one socket may give before it is another's turn."""
_ROOM = 64  # bytes for one control message
_IP_PKTINFO, _IPV6_PKTINFO = 8, 50  # include/uapi/linux/in.h and in6.h
_INDEX = struct.Struct("=i")  # struct in_pktinfo begins with it
_INDEX6 = struct.Struct("=16xi")  # struct in6_pktinfo ends with it


class Reply(NamedTuple):
    """What came back."""

    data: bytes
    host: str
    interface: int
    """The number of the interface that it came by; 0 where the system does not tell."""


def open_socket(pods: Collection[Endpoint]) -> socket.socket:
    """Return a non-blocking UDP socket that can send to all of them. Raises OSError."""
    is_ipv6 = any(":" in pod.host for pod in pods)
    opened = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    if is_ipv6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    bind.tell_destinations(opened, True)
    return opened


def ask(opened: socket.socket, data: bytes, pods: Collection[Endpoint]) -> int:
    """Send a question to each pod; return to how many the kernel did not take it."""
    failed = 0
    for host, port in pods:
        mapped = f"::ffff:{host}" if opened.family == socket.AF_INET6 and ":" not in host else host
        try:
            opened.sendto(data, (mapped, port))
        except OSError:
            failed += 1
    return failed


def receive(opened: socket.socket) -> list[Reply]:
    """Return what waits, as much as a turn holds."""
    replies = []
    with contextlib.suppress(OSError):
        for _ in range(_TURN):
            # One byte more than may be: larger ones are known by that.
            data, control, _, source = opened.recvmsg(DATAGRAM_MAX + 1, _ROOM)
            replies.append(Reply(data, source[0].removeprefix("::ffff:"), _interface(control)))
    return replies


def answers(
    opened: socket.socket, is_genuine: Callable[[str, int], bool], drop: Callable[[SsdpDrop], None]
) -> Iterator[tuple[str, Advert]]:
    """Yield what pods answered: a pod's address, and what it has.

    `is_genuine` says whether what names that source, and came by the interface of that number, is an answer of a pod
    that was asked; what is not, or cannot be read, is told to `drop`.
    """
    for data, host, interface in receive(opened):
        if not is_genuine(host, interface):
            drop(SsdpDrop.NOT_ASKED)
            continue
        try:
            answer = message.parse(data)
        except InvalidSsdp as error:
            drop(error.reason)
            continue
        if isinstance(answer, Answer):
            yield host, answer.advert
        else:
            drop(SsdpDrop.NOT_ASKED)


def _interface(control: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            return int(_INDEX.unpack_from(data)[0])
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return int(_INDEX6.unpack_from(data)[0])
    return 0
