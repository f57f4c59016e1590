"""How copies leave: by the plain `sendto` loop, by `sendmmsg`, or as runs of segments (GSO)."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import length_hint, methodcaller
from typing import TYPE_CHECKING

from fanout.errors import Closed
from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.net import error_queue, gso
from fanout.net.udp_sockets import SendingSockets
from fanout.protocol.sending.batch import Batch, BatchPart
from fanout.report import Fault

if TYPE_CHECKING:
    from fanout.net.sendmmsg import MessageHeaders, SendMany

_TRIES = 64  # per copy: a peer may answer with a flood of ICMP errors
HEADERS_FROM = 8
"""Copies from which on `sendmmsg` beats the loop, ctypes and all (`make bench`)."""


def _system_sendmmsg() -> SendMany | None:
    # ctypes is imported when it is first needed: not for a message to two pods.
    from fanout.net.sendmmsg import system_sendmmsg

    return system_sendmmsg()


class UdpTransport:
    """Sends on one socket per family (`SendingSockets`); see `Transport` for the contract.

    The plain loop is the specification. For 8 copies or more to pods of one family `sendmmsg` does the same with
    fewer calls. Such a call stops before a copy that fails, without its errno: that copy is attempted again, and the
    loop sends the rest. A merged part of a batch leaves as one GSO send per pod; where the kernel refuses that for a
    family but takes the messages one by one, they go one by one from then on.

    Linux reports an ICMP error at the next send on the socket, to any destination; only the error queue (IP_RECVERR,
    man 7 ip) names the endpoint. So a failed send is retried as long as the queue held that error, which was then of
    an earlier copy.

    `make_socket` and `find_sendmmsg` take the place of the system's; where there is no `sendmmsg` the loop is used.
    """

    def __init__(
        self,
        *,
        make_socket: Callable[[int, int], socket.socket] = socket.socket,
        find_sendmmsg: Callable[[], SendMany | None] = _system_sendmmsg,
    ) -> None:
        self._sockets = SendingSockets(make_socket)
        self._find_sendmmsg = find_sendmmsg
        self._gso_limits = dict.fromkeys((False, True), gso.LIMIT)
        self._icmp_errors: list[Fault] = []
        self.has_icmp_errors: bool = False
        """An attribute, and no property: each plain send reads it."""
        self._closed = False
        self._prepared: Sequence[Endpoint] | None = None
        self._sendto: Callable[[bytes, Endpoint], int] | None = None
        self._headers: MessageHeaders | None = None
        self._has_headers = False

    @property
    def gso_limit(self) -> int:
        """See `Transport`."""
        return max(self._gso_limits[is_ipv6] for is_ipv6 in self._sockets.families or self._gso_limits)

    def send(self, payload: bytes, endpoints: Sequence[Endpoint], start: int, stop: int, faults: list[Fault]) -> int:
        """See `Transport`."""
        if endpoints is not self._prepared:
            self._prepare(endpoints)
        sendto = self._sendto
        if sendto is None or start or stop != len(endpoints):
            return self._send_each((payload,), endpoints, start, stop, faults)
        # One message to a few pods: as lean as a loop can be.
        rest = iter(endpoints)
        try:
            for endpoint in rest:
                sendto(payload, endpoint)
        except OSError as error:
            position = stop - length_hint(rest) - 1
            number = self._explain(self._sockets.of(endpoints[0].is_ipv6), error)
            if number == errno.EAGAIN:
                return position
            if number:
                faults.append(Fault(endpoints[position], number))
                position += 1
            return self._send_each((payload,), endpoints, position, stop, faults)
        return stop

    def send_batch(
        self, batch: Batch, endpoints: Sequence[Endpoint], start: int, stop: int, faults: list[Fault]
    ) -> int:
        """See `Transport`."""
        if endpoints is not self._prepared:
            self._prepare(endpoints)
        pods = len(endpoints)
        position = start
        while position < stop:
            part = batch.part_at(position, pods)
            offset = part.first * pods
            end = min(stop, offset + part.length * pods)
            payloads = batch.payloads[part.first : part.first + part.length]
            found: list[Fault] = []
            if part.merged:
                reached = self._send_run(payloads, part, endpoints, position - offset, end - offset, found)
            else:
                reached = self._send_each(payloads, endpoints, position - offset, end - offset, found)
            faults.extend(fault._replace(message=fault.message + part.first) for fault in found)
            position = offset + reached
            if position < end:
                break
        return position

    def icmp_errors(self) -> list[Fault]:
        """See `Transport`."""
        self._check_open()
        for sender in self._sockets:
            self._drain(sender)
        errors, self._icmp_errors = self._icmp_errors, []
        self.has_icmp_errors = False
        return errors

    def receive(self, limit: int) -> list[tuple[bytes, Endpoint]]:
        """See `Transport`."""
        self._check_open()
        received: list[tuple[bytes, Endpoint]] = []
        for sender in self._sockets:
            failures = 0
            while len(received) < limit and failures < _TRIES:
                try:
                    datagram, address = sender.recvfrom(MAX_PAYLOAD)
                except BlockingIOError:
                    break
                except OSError:
                    # A pending ICMP error: the queue names the endpoint.
                    self._drain(sender)
                    failures += 1
                    continue
                received.append((datagram, Endpoint(address[0], address[1])))
        return received

    def readable(self) -> list[int]:
        """See `Transport`."""
        self._check_open()
        return self._sockets.readable()

    def fileno(self, endpoint: Endpoint) -> int | None:
        """See `Transport`."""
        self._check_open()
        return self._sockets.of(endpoint.is_ipv6).fileno()

    def close(self) -> None:
        """See `Transport`."""
        self._closed = True
        self.start_anew()

    def start_anew(self) -> None:
        """Close the sockets, which a parent process may share; others are opened when needed."""
        self._sockets.close()
        self._icmp_errors.clear()
        self.has_icmp_errors = False
        self._prepared = self._sendto = self._headers = None

    def _prepare(self, endpoints: Sequence[Endpoint]) -> None:
        """Choose how to send to these pods, once for as long as they stay the same."""
        self._check_open()
        self._sendto = self._headers = None
        self._has_headers = False
        families = {endpoint.is_ipv6 for endpoint in endpoints}
        if len(families) == 1:
            # No socket of that family, or a host that is not an address: the loop reports it pod by pod.
            with contextlib.suppress(OSError):
                sender = self._sockets.of(*families)
                if len(endpoints) < HEADERS_FROM or self._sendmmsg is None:
                    self._sendto = sender.sendto
                self._has_headers = True
        self._prepared = endpoints

    def _find_headers(self, endpoints: Sequence[Endpoint]) -> MessageHeaders | None:
        """Return the headers for these pods, made once; None where they cannot be used."""
        if self._headers is None and self._has_headers and self._sendmmsg is not None:
            from fanout.net.sendmmsg import MessageHeaders

            self._has_headers = False
            with contextlib.suppress(OSError):
                self._headers = MessageHeaders(endpoints)
        return self._headers

    @cached_property
    def _sendmmsg(self) -> SendMany | None:
        return self._find_sendmmsg()

    def _send_each(
        self, payloads: Sequence[bytes], endpoints: Sequence[Endpoint], start: int, stop: int, faults: list[Fault]
    ) -> int:
        """Send the messages one by one, each to every pod: `start` and `stop` are among these copies."""
        pods = len(endpoints)
        position, number = start, 0
        headers = self._find_headers(endpoints) if stop - start >= HEADERS_FROM else None
        if headers is not None:
            position, number = self._send_headers(headers, payloads, start, stop)
        while position < stop and number != errno.EAGAIN:
            message, pod = divmod(position, pods)
            number = number or self._attempt(endpoints[pod], methodcaller("sendto", payloads[message], endpoints[pod]))
            if number == errno.EAGAIN:
                break
            if number:
                faults.append(Fault(endpoints[pod], number, message))
                number = 0
            position += 1
        return position

    def _send_headers(
        self, headers: MessageHeaders, payloads: Sequence[bytes], start: int, stop: int
    ) -> tuple[int, int]:
        """Send with as few calls as possible, up to the first copy that fails; return its position and its errno.

        A call stops before an entry that fails, and reports its errno only where that entry is the first. Otherwise
        the errno returned is 0, as for a failure that an earlier copy caused: attempt that copy again, alone.
        """
        sendmmsg = self._sendmmsg
        tries = _TRIES
        pods = len(headers.endpoints)
        sender = self._sockets.of(headers.endpoints[0].is_ipv6)
        position, number = start, 0
        while position < stop and sendmmsg is not None:
            first = position // pods
            filled = payloads[first : first + headers.slots]
            headers.fill(filled)
            end = min(stop, (first + len(filled)) * pods)
            while position < end:
                count = min(end - position, headers.most)
                try:
                    taken = sendmmsg(sender.fileno(), headers.address(position - first * pods), count)
                except OSError as error:
                    if error.errno == errno.ENOSYS:
                        self._sendmmsg = self._headers = self._prepared = None
                        return position, 0
                    tries -= 1
                    if tries and not (number := self._explain(sender, error)):
                        continue
                    return position, number
                position += taken
                if taken < count and not self._drain(sender):
                    return position, 0
        return position, 0

    def _send_run(
        self,
        payloads: Sequence[bytes],
        part: BatchPart,
        endpoints: Sequence[Endpoint],
        start: int,
        stop: int,
        faults: list[Fault],
    ) -> int:
        """Send a merged part, pod by pod: `start` and `stop` are among its copies."""
        size = len(payloads[0])
        run = [b"".join(payloads)]
        option = gso.option(size)
        position = start
        while position < stop:
            pod, message = divmod(position, part.length)
            endpoint = endpoints[pod]
            whole = message == 0 and stop - position >= part.length
            if whole and size <= self._gso_limits[endpoint.is_ipv6]:
                number = self._attempt(endpoint, methodcaller("sendmsg", run, option, 0, endpoint))
                if number == errno.EAGAIN:
                    break
                if number not in gso.REFUSALS:
                    if number:
                        faults.extend(Fault(endpoint, number, index) for index in range(part.length))
                    position += part.length
                    continue
                refused = True
            else:
                refused = False
            number = self._attempt(endpoint, methodcaller("sendto", payloads[message], endpoint))
            if number == errno.EAGAIN:
                break
            if number:
                faults.append(Fault(endpoint, number, message))
            elif refused:
                # The kernel refused the run, not this pod.
                self._gso_limits[endpoint.is_ipv6] = gso.limit_after(size)
            position += 1
        return position

    def _attempt(self, endpoint: Endpoint, send: Callable[[socket.socket], object]) -> int:
        """Send on the endpoint's socket; return 0, EAGAIN where it is full, or the errno for this endpoint."""
        try:
            sender = self._sockets.of(endpoint.is_ipv6)
        except OSError as error:
            return error.errno or errno.EAFNOSUPPORT
        unexplained = errno.EIO
        for _ in range(_TRIES):
            try:
                send(sender)
            except OSError as error:
                unexplained = error.errno or unexplained
                if number := self._explain(sender, error):
                    return number
            else:
                return 0
        return unexplained

    def _explain(self, sender: socket.socket, error: OSError) -> int:
        """Return the errno of a failed send; 0 where it was an ICMP error of an earlier copy."""
        # An error in the queue makes poll() return at once, full socket or not: drain it in any case.
        reported = self._drain(sender)
        number = error.errno or errno.EIO
        return 0 if number in reported else number

    def _drain(self, sender: socket.socket) -> set[int]:
        """Read a bounded number of entries of the error queue; return their errnos."""
        faults = error_queue.read(sender)
        self._icmp_errors += faults
        self.has_icmp_errors = self.has_icmp_errors or bool(faults)
        return {fault.errno for fault in faults}

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the sender was closed while it sent")
