"""The sending sockets, one per address family, and ICMP errors of earlier copies.

Linux reports an ICMP error at the next send on the socket, to any destination; only the error queue (IP_RECVERR,
man 7 ip) names the endpoint. So a failed send is retried as long as the queue held that error, which was then of an
earlier copy.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable

from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.net import error_queue
from fanout.report import Fault

TRIES = 64
"""Maximum tries of one copy: a peer may answer with a flood of ICMP errors."""
_ANSWERS_BUFFER = 4 * 1024 * 1024


class SendingSockets:
    """One non-blocking, unconnected socket per family (`True`: IPv6), opened when first needed. Not thread-safe."""

    def __init__(self, make_socket: Callable[[int, int], socket.socket] = socket.socket) -> None:
        self._make_socket = make_socket
        self._opened: dict[bool, socket.socket] = {}
        self._listens = False
        self._heard: list[Fault] = []
        self.has_heard: bool = False
        """Whether ICMP errors have been read but not taken yet."""

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

    def attempt(self, endpoint: Endpoint, send: Callable[[socket.socket], object]) -> int:
        """Send on the endpoint's socket; return 0, EAGAIN where it is full, or the errno for this endpoint."""
        try:
            sender = self.of(endpoint.is_ipv6)
        except OSError as error:
            return error.errno or errno.EAFNOSUPPORT
        unexplained = errno.EIO
        for _ in range(TRIES):
            try:
                send(sender)
            except OSError as error:
                unexplained = error.errno or unexplained
                if number := self.explain(sender, error):
                    return number
            else:
                return 0
        return unexplained

    def explain(self, sender: socket.socket, error: OSError) -> int:
        """Return the errno of a failed send; 0 where it was an ICMP error of an earlier copy."""
        # An error in the queue makes poll() return at once, full socket or not: drain it in any case.
        reported = self.drain(sender)
        number = error.errno or errno.EIO
        return 0 if number in reported else number

    def drain(self, sender: socket.socket) -> set[int]:
        """Read a bounded number of entries of the error queue; return their errnos."""
        faults = error_queue.read(sender)
        self._heard += faults
        self.has_heard = self.has_heard or bool(faults)
        return {fault.errno for fault in faults}

    def take_heard(self) -> list[Fault]:
        """Return the ICMP errors since the last call."""
        for sender in self._opened.values():
            self.drain(sender)
        heard, self._heard = self._heard, []
        self.has_heard = False
        return heard

    def receive(self, limit: int) -> list[tuple[bytes, Endpoint]]:
        """Return up to `limit` datagrams that have arrived; never block."""
        received: list[tuple[bytes, Endpoint]] = []
        for sender in self._opened.values():
            failures = 0
            while len(received) < limit and failures < TRIES:
                try:
                    datagram, address = sender.recvfrom(MAX_PAYLOAD)
                except BlockingIOError:
                    break
                except OSError:
                    # A pending ICMP error: the queue names the endpoint.
                    self.drain(sender)
                    failures += 1
                    continue
                received.append((datagram, Endpoint(address[0], address[1])))
        return received

    def readable(self) -> list[int]:
        """Return the descriptors to wait on for datagrams and ICMP errors."""
        if not self._listens:
            self._listens = True
            for sender in self._opened.values():
                _grow(sender)
        return [sender.fileno() for sender in self._opened.values()]

    def close(self) -> None:
        """Close the sockets, and discard ICMP errors; sockets are opened again when needed."""
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()
        self._heard.clear()
        self.has_heard = self._listens = False


def _grow(sender: socket.socket) -> None:
    """Enlarge the receive buffer: thousands of pods may answer at once."""
    with contextlib.suppress(OSError):
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ANSWERS_BUFFER)
