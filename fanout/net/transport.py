"""How copies leave. The plain `sendto` loop is the specification of every transport."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from fanout.errors import Closed
from fanout.model import Endpoint
from fanout.report import Fault

# Values of Linux (include/uapi/linux/in.h, in6.h, errqueue.h) that the socket module does not name.
_IPV4_ERRORS = (socket.IPPROTO_IP, 11)  # IP_RECVERR
_IPV6_ERRORS = (socket.IPPROTO_IPV6, 25)  # IPV6_RECVERR
_SOCK_EXTENDED_ERR = struct.Struct("=IBBBBII")
_HAS_ERROR_QUEUE = hasattr(socket, "MSG_ERRQUEUE")
# Bounds for a peer that answers with a flood of ICMP errors.
_ERRORS_PER_DRAIN = 8192
_TRIES_AFTER_ERRORS = 64


class Transport(Protocol):
    """Sends copies of a datagram; never blocks and never raises for one endpoint.

    * `send` attempts each endpoint from index `start` on exactly once and in order. One endpoint's failure never
      costs another its copy: it is appended to `faults` and the next one is attempted.
    * It returns the index of the first endpoint that was not attempted because the socket is full:
      `len(endpoints)` where all were. Call again from there once that endpoint's `fileno` is writable.
    * `heard` returns the ICMP errors that came since the last call, by the endpoint that they concern.
    * Calls may come from several threads. After `close` each of them raises `Closed`.
    """

    def send(self, payload: bytes, endpoints: Sequence[Endpoint], start: int, faults: list[Fault]) -> int:
        """Send `payload` to `endpoints[start:]`; see the type."""
        ...

    def heard(self) -> list[Fault]:
        """Return ICMP errors: who was refused, and how."""
        ...

    def fileno(self, endpoint: Endpoint) -> int | None:
        """Return what to wait on for writing after a `send` that ended before `endpoint`; None to try at once."""
        ...

    def close(self) -> None:
        """Give the sockets back."""
        ...


class UdpTransport:
    """The plain loop: one non-blocking, unconnected socket a family, opened when first needed.

    Linux tells of an ICMP error at the next send on the socket, whichever its destination; only the error queue
    (`IP_RECVERR`, man 7 ip) names the culprit. So a failed send is tried again as long as the queue had
    something to tell: that failure was not its own. One thread at a time sends, or the error that one thread met
    would be explained to another.
    """

    def __init__(self) -> None:
        self._sockets: dict[bool, socket.socket] = {}
        self._lock = threading.Lock()
        self._heard: list[Fault] = []
        self._closed = False

    def send(self, payload: bytes, endpoints: Sequence[Endpoint], start: int, faults: list[Fault]) -> int:
        """See `Transport`."""
        with self._lock:
            self._check_open()
            return self._send(payload, endpoints, start, faults)

    def _send(self, payload: bytes, endpoints: Sequence[Endpoint], start: int, faults: list[Fault]) -> int:
        is_ipv6: bool | None = None
        for index in range(start, len(endpoints)):
            endpoint = endpoints[index]
            if (":" in endpoint.host) is not is_ipv6:
                is_ipv6 = ":" in endpoint.host
                try:
                    sender = self._socket(is_ipv6)
                except OSError as error:
                    faults.append(Fault(endpoint, error.errno or errno.EAFNOSUPPORT))
                    is_ipv6 = None
                    continue
                sendto = sender.sendto
            try:
                sendto(payload, endpoint)
            except BlockingIOError:
                # An error in the queue makes poll() return at once, full socket or not.
                self._drain(sender)
                return index
            except OSError:
                number = self._again(sender, sendto, payload, endpoint)
                if number == errno.EAGAIN:
                    return index
                if number:
                    faults.append(Fault(endpoint, number))
        return len(endpoints)

    def _again(
        self,
        sender: socket.socket,
        sendto: Callable[[bytes, Endpoint], int],
        payload: bytes,
        endpoint: Endpoint,
    ) -> int:
        """Send once more while the error queue explains the failure; return the errno that is the endpoint's own."""
        number = errno.EIO
        for _ in range(_TRIES_AFTER_ERRORS):
            explained = self._drain(sender)
            try:
                sendto(payload, endpoint)
            except OSError as error:
                number = error.errno or number
                if not explained or number == errno.EAGAIN:
                    break
            else:
                return 0
        return number

    def heard(self) -> list[Fault]:
        """See `Transport`."""
        with self._lock:
            self._check_open()
            for sender in self._sockets.values():
                self._drain(sender)
            heard, self._heard = self._heard, []
            return heard

    def _drain(self, sender: socket.socket) -> bool:
        """Read the error queue, a bounded number of entries; return whether there was one."""
        if not _HAS_ERROR_QUEUE:
            return False
        for count in range(_ERRORS_PER_DRAIN):
            try:
                _, ancillary, _, address = sender.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except OSError:
                return count > 0
            for level, kind, data in ancillary:
                if (level, kind) in (_IPV4_ERRORS, _IPV6_ERRORS) and len(data) >= _SOCK_EXTENDED_ERR.size:
                    number = _SOCK_EXTENDED_ERR.unpack_from(data)[0]
                    self._heard.append(Fault(Endpoint(address[0], address[1]), number))
        return True

    def fileno(self, endpoint: Endpoint) -> int | None:
        """See `Transport`."""
        with self._lock:
            self._check_open()
            return self._sockets[endpoint.is_ipv6].fileno()

    def _socket(self, is_ipv6: bool) -> socket.socket:
        if is_ipv6 not in self._sockets:
            opened = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
            opened.setblocking(False)
            if is_ipv6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if _HAS_ERROR_QUEUE:
                opened.setsockopt(*(_IPV6_ERRORS if is_ipv6 else _IPV4_ERRORS), 1)
            self._sockets[is_ipv6] = opened
        return self._sockets[is_ipv6]

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
            self._closed = True
            for opened in self._sockets.values():
                opened.close()
            self._sockets.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the sender was closed while it sent")
