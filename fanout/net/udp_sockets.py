"""The sending sockets: one per address family, opened when first needed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

from fanout.net import error_queue

_ANSWERS_BUFFER = 4 * 1024 * 1024


class SendingSockets:
    """One non-blocking, unconnected socket per family (`True`: IPv6), which keeps ICMP errors for its error queue.

    Not thread-safe.
    """

    def __init__(self, make_socket: Callable[[int, int], socket.socket] = socket.socket) -> None:
        self._make_socket = make_socket
        self._opened: dict[bool, socket.socket] = {}
        self._listens = False

    def __iter__(self) -> Iterator[socket.socket]:
        return iter(self._opened.values())

    @property
    def families(self) -> list[bool]:
        """The families with an open socket."""
        return list(self._opened)

    def of(self, is_ipv6: bool) -> socket.socket:
        """Return the socket of a family; raise OSError where it cannot be opened."""
        if is_ipv6 not in self._opened:
            opened = self._make_socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
            opened.setblocking(False)
            if is_ipv6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            error_queue.fill(opened, is_ipv6)
            if self._listens:
                _grow(opened)
            self._opened[is_ipv6] = opened
        return self._opened[is_ipv6]

    def readable(self) -> list[int]:
        """Return the descriptors to wait on for datagrams and ICMP errors."""
        if not self._listens:
            self._listens = True
            for sender in self._opened.values():
                _grow(sender)
        return [sender.fileno() for sender in self._opened.values()]

    def close(self) -> None:
        """Close the sockets; they are opened again when needed."""
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()
        self._listens = False


def _grow(sender: socket.socket) -> None:
    """Enlarge the receive buffer: thousands of pods may answer at once."""
    with contextlib.suppress(OSError):
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ANSWERS_BUFFER)
