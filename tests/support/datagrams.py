"""Datagrams from plain sockets: one by one, and in runs that the kernel cuts into them (GSO)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fanout.model import Endpoint
from tests.support.needs import unavailable
from tests.support.waiting import PATIENCE

UDP_SEGMENT = 103  # include/uapi/linux/udp.h
FLOOD = 300
"""Datagrams that fit into any receive buffer: 212,992 bytes, the kernel's default limit, hold over 500 short ones."""


def send_to(port: int, payloads: Iterable[bytes], host: str = "127.0.0.1") -> None:
    """Send datagrams from a socket of their own; they have arrived, or were dropped, when this returns."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender, socket.socket(family, socket.SOCK_DGRAM) as last:
        for payload in payloads:
            sender.sendto(payload, (host, port))
        # Where the kernel delivers later, since it is busy, it does so in order.
        last.settimeout(PATIENCE)
        last.bind(("::1" if ":" in host else "127.0.0.1", 0))
        sender.sendto(b"", last.getsockname())
        last.recv(1)


def send_run(sender: socket.socket, payload: bytes, segment: int) -> None:
    """Send the payload cut into datagrams of `segment` bytes, with one call (GSO)."""
    sender.sendmsg([payload], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", segment))] if segment else [])


@contextmanager
def gso_sender(to: Endpoint) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
        except OSError:
            unavailable("tools", "this kernel has no UDP_SEGMENT")
        sender.connect(to)
        yield sender
