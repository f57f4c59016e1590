"""How datagrams arrive: one socket for both families, and the queue that its batches are taken into."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import struct
import sys
import time
from collections import deque

from fanout.errors import InvalidService, SocketUnavailable
from fanout.model import Endpoint, Message, parse_port
from fanout.net import explain

log = logging.getLogger("fanout")

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Bytes of receive buffer that are asked for: some 5,000 small datagrams instead of 256."""
_DATAGRAM_MAX = 65_535
_BATCH = 256
_QUEUED_BYTES = 32 * 1024 * 1024
_SO_MEMINFO = 55  # include/uapi/asm-generic/socket.h: nine counters of the socket, no privilege needed
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8
_INT_MAX = 2**31 - 1
_DISCARD_PORT = 9
_CLOSING_MAX = 65_536  # more than a receive buffer of 8 MiB holds of the smallest datagrams


class Inbox:
    """A listening UDP socket and the messages taken from it that nobody has handled yet.

    `fill` moves what the kernel holds into the queue, without blocking and at most a batch at a time. It takes
    nothing while the queue holds `capacity` messages or 32 MiB of payload: the kernel's buffer fills up then, and
    what it drops is counted by `kernel_drops`. Raises `InvalidService` and `SocketUnavailable`.
    """

    def __init__(self, host: str | None, port: int, *, receive_buffer: int, capacity: int) -> None:
        self.socket = _listen(host, port)
        self.queue: deque[Message] = deque()
        self.datagrams = 0
        self.bytes = 0
        self.receive_buffer = _grow_buffer(self.socket, receive_buffer)
        self._capacity = capacity
        self._queued_bytes = 0
        self._drops_at_close = 0

    @property
    def address(self) -> Endpoint:
        """Return where the socket listens."""
        return Endpoint(*self.socket.getsockname()[:2])

    def fill(self) -> int:
        """Take up to a batch of waiting datagrams; return how many came."""
        room = min(_BATCH, self._capacity - len(self.queue)) if self._queued_bytes < _QUEUED_BYTES else 0
        return self._take(room)

    def _take(self, limit: int) -> int:
        queue = self.queue
        receive = self.socket.recvfrom
        count = 0
        size = 0
        now = time.time()
        while count < limit:
            try:
                payload, address = receive(_DATAGRAM_MAX)
            except BlockingIOError:
                break
            except OSError:
                # Of the interface (ENETDOWN): nothing to take now, and no reason to stop listening.
                break
            queue.append(Message(payload, Endpoint(address[0].removeprefix("::ffff:"), address[1]), now))
            count += 1
            size += len(payload)
        self.datagrams += count
        self.bytes += size
        self._queued_bytes += size
        return count

    def pop(self) -> Message:
        """Return the oldest queued message; raise IndexError where there is none."""
        message = self.queue.popleft()
        self._queued_bytes -= len(message.payload)
        return message

    @property
    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped because the receive buffer was full (0 where it does not tell)."""
        try:
            counters = self.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return self._drops_at_close
        return int(_MEMINFO.unpack(counters)[_MEMINFO_DROPS])

    def close(self) -> None:
        """Take all that the kernel still holds, beyond `capacity` where need be, and give the port back."""
        if self.socket.fileno() < 0:
            return
        # A connected socket gets datagrams of its peer alone (man 7 udp): what comes from now on is refused, and
        # its sender told; without this, what comes between the last look and the close would be lost uncounted.
        with contextlib.suppress(OSError):
            host = self.address.host
            itself = {"::": "::ffff:127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(host, host)
            self.socket.connect((itself, _DISCARD_PORT))
        self._take(_CLOSING_MAX)
        self._drops_at_close = self.kernel_drops
        self.socket.close()


def _listen(host: str | None, port: int) -> socket.socket:
    if port != 0:
        parse_port(port)
    try:
        address = None if host is None else ipaddress.ip_address(host)
    except ValueError:
        raise InvalidService(f"host {host!r} is not an IP address to listen on") from None
    if address is None:
        try:
            return _bind(socket.AF_INET6, Endpoint("::", port), both_families=True)
        except SocketUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                return _bind(socket.AF_INET, Endpoint("0.0.0.0", port))
            raise
    return _bind(socket.AF_INET if address.version == 4 else socket.AF_INET6, Endpoint(str(address), port))


def _bind(family: socket.AddressFamily, endpoint: Endpoint, *, both_families: bool = False) -> socket.socket:
    opened = None
    try:
        opened = socket.socket(family, socket.SOCK_DGRAM)
        opened.setblocking(False)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_families)
        opened.bind(endpoint)
    except OSError as error:
        if opened is not None:
            opened.close()
        raise SocketUnavailable(explain.binding(endpoint, error.errno or 0)) from error
    return opened


def _grow_buffer(listening: socket.socket, wanted: int) -> int:
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, min(wanted, _INT_MAX))
    granted = listening.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    if sys.platform == "linux":
        granted //= 2  # man 7 socket: the kernel doubles it for its own bookkeeping, and returns the double
    if granted < wanted:
        log.warning(
            "receive_buffer_clamped: asked for %(wanted)d bytes, got %(granted)d; "
            "bursts may be dropped: raise net.core.rmem_max (sysctl)",
            {"wanted": wanted, "granted": granted},
        )
    return granted
