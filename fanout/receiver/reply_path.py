"""The way out of a listening socket: answers leave from the address that was asked."""

from __future__ import annotations

import contextlib
import socket
import struct
from functools import lru_cache
from typing import Any, NamedTuple

from fanout.net import bind

_IP_PKTINFO, _IPV6_PKTINFO = 8, 50  # include/uapi/linux/in.h, in6.h
_INFO = {
    (socket.IPPROTO_IP, _IP_PKTINFO): struct.Struct("=I4s4s"),
    (socket.IPPROTO_IPV6, _IPV6_PKTINFO): struct.Struct("=16sI"),
}
_ANY_SOURCE = bytes(12)  # struct in_pktinfo: no interface, no source: the route chooses

Control = list[tuple[int, int, bytes]]
"""Control messages, as `recvmsg` gives them and `sendmsg` takes them."""


class Route(NamedTuple):
    """Where a question came from, and by which door its answer leaves."""

    reply_path: ReplyPath
    address: tuple[Any, ...]
    source: Control
    """The address that was asked, as `sendmsg` takes it; nothing where the socket has but one, or it is unknown."""

    def send(self, datagrams: list[bytes]) -> None:
        """Send answers: see `ReplyPath.send`."""
        self.reply_path.send(datagrams, self.address, self.source)


class ReplyPath:
    """A listening socket, as far as answers leave by it."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self._is_deaf = False
        self._is_any = bind.is_on_all_addresses(opened)

    def deafen(self) -> None:
        """Get nothing more; answers can still be sent."""
        bind.deafen(self.socket)
        self._is_deaf = self._is_any

    def route(self, address: tuple[Any, ...], control: Control | None) -> Route:
        """Return the way back to `address`, whose datagram came with these control messages."""
        return Route(self, address, _source(*control[-1]) if control else [])

    def send(self, datagrams: list[bytes], address: tuple[Any, ...], source: Control) -> None:
        """Send answers, as far as there is room: whoever asks and hears nothing asks again."""
        with contextlib.suppress(OSError):
            if self._is_deaf and not source:
                source = _any_source(address)
            for datagram in datagrams:
                try:
                    self.socket.sendmsg([datagram], source, socket.MSG_DONTWAIT, address)
                except BlockingIOError:
                    return
                except OSError:
                    # The address that was asked is none to answer from (a broadcast), or is gone: let the route choose.
                    source = _any_source(address) if self._is_deaf else []
                    self.socket.sendmsg([datagram], source, socket.MSG_DONTWAIT, address)


@lru_cache(256)
def _source(level: int, kind: int, data: bytes) -> Control:
    """Return how `sendmsg` is told to send from the address that a control message of `recvmsg` names."""
    shape = _INFO.get((level, kind))
    if shape is None or len(data) != shape.size:
        return []
    if kind == _IP_PKTINFO:
        _, local, destination = shape.unpack(data)
        if not any(local):  # it came before the kernel was asked to tell
            local = destination
        # By any interface: the way back need not be the way that the question came.
        return [(level, kind, shape.pack(0, local, bytes(4)))]
    local, _ = shape.unpack(data)
    return [(level, kind, shape.pack(local, 0))]


def _any_source(address: tuple[Any, ...]) -> Control:
    """Say that answers leave from any address of this host: a deaf socket is bound to the loopback interface's."""
    host = address[0]
    if ":" not in host or host.startswith("::ffff:"):
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _ANY_SOURCE)]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asked:
        asked.connect(address)
        source = socket.inet_pton(socket.AF_INET6, asked.getsockname()[0].partition("%")[0])
    return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, struct.pack("=16si", source, 0))]
