"""One pod's way out of a relay: a socket of its own, so that a pod that takes nothing holds up no other."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fanout.model import Endpoint
from fanout.net import error_queue, gso
from fanout.report import DropReason

SEND_BUFFER = 4 * 1024 * 1024
BACKLOG_MAX = 1024 * 1024
"""Bytes that wait for a pod whose socket is full."""
_TRIES = 16  # of one send: each failure that was an earlier one's tells of an ICMP error
_ERRORS = 16  # that are read at a time: hundreds come at once for a pod that is gone, and others wait meanwhile


class Segments(NamedTuple):
    """Datagrams that lie one behind the other: all of `size` bytes but the last, which may have fewer."""

    data: memoryview | bytes
    size: int
    datagrams: int
    option: gso.Option
    """Of a run: `gso.option(size)`."""


class Egress:
    """Sends to one host, never blocks and never raises for what the host does; counts what became of each datagram.

    What a full socket does not take now waits, in order, up to 1 MiB: call `flush` once `fileno` is writable, as long
    as `is_blocked`. What goes beyond is dropped, and counted. The kernel holds what it cannot deliver yet, to an
    address that nobody answers for, against the socket that sent it: therefore each pod has its own.

    Raises OSError where the system has no socket of that family.
    """

    def __init__(self, host: str, *, make_socket: Callable[[int, int], socket.socket] = socket.socket) -> None:
        is_ipv6 = ":" in host
        self.host = host
        self.sent = 0
        """Datagrams that the kernel took."""
        self.bytes = 0
        """Their payload."""
        self.refused = 0
        """ICMP errors heard."""
        self.dropped: dict[DropReason, int] = {}
        """Datagrams that the kernel did not take."""
        self.gso_limit = gso.LIMIT
        """The largest segment that leaves in runs."""
        self._waiting: deque[tuple[Segments, int]] = deque()
        self._waiting_bytes = 0
        self._socket = make_socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        error_queue.fill(self._socket, is_ipv6)
        self._socket.bind(("::" if is_ipv6 else "0.0.0.0", 0))
        self.local_port: int = self._socket.getsockname()[1]
        self.sendto = self._socket.sendto
        self.sendmsg = self._socket.sendmsg
        """For who counts by himself, and gives to `failed` what they raise."""

    @property
    def is_blocked(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def fileno(self) -> int:
        """Return what to wait on for writing."""
        return self._socket.fileno()

    def send(self, runs: Sequence[Segments], endpoint: Endpoint) -> None:
        """Send runs to a port of the host; what has to wait is copied."""
        if self._waiting:
            self._keep(runs, endpoint)
            return
        for index, run in enumerate(runs):
            data, size, datagrams, option = run
            try:
                if datagrams == 1:
                    self.sendto(data, endpoint)
                elif size <= self.gso_limit:
                    self.sendmsg((data,), option, 0, endpoint)
                elif not self._send_one_by_one(run, endpoint):
                    self._keep(runs[index + 1 :], endpoint)
                    return
                else:
                    continue
            except OSError as error:
                if not self.failed(run, endpoint, error):
                    self._keep(runs[index + 1 :], endpoint)
                    return
            else:
                self.sent += datagrams
                self.bytes += len(data)

    def flush(self) -> None:
        """Send what waits, as far as there is room."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        while waiting:
            run, port = waiting.popleft()
            self.send((run,), Endpoint(self.host, port))
            if self._waiting:
                break
        self._waiting.extend(waiting)
        self._waiting_bytes = sum(len(run.data) for run, _ in self._waiting)

    def failed(self, run: Segments, endpoint: Endpoint, error: OSError) -> bool:
        """Send what has failed once more where that was not its own failure; return whether the socket has room."""
        for _ in range(_TRIES):
            told = error_queue.read(self._socket, _ERRORS)
            self.refused += len(told)
            number = error.errno or errno.EIO
            if not any(fault.errno == number for fault in told):
                break
            try:
                if run.datagrams == 1:
                    self.sendto(run.data, endpoint)
                else:
                    self.sendmsg((run.data,), run.option, 0, endpoint)
            except OSError as again:
                error = again
            else:
                self.sent += run.datagrams
                self.bytes += len(run.data)
                return True
        if number == errno.EAGAIN:
            self._keep((run,), endpoint)
            return False
        if run.datagrams > 1 and number in gso.REFUSALS:
            before = self.sent
            has_room = self._send_one_by_one(run, endpoint)
            if self.sent > before:
                # It was not the pod that the kernel had something against, but the run.
                self.gso_limit = min(self.gso_limit, gso.limit_after(run.size))
            return has_room
        self._drop(run, DropReason.of(number))
        return True

    def _send_one_by_one(self, run: Segments, endpoint: Endpoint) -> bool:
        """Send the datagrams of a run by themselves; return whether the socket has room."""
        view = memoryview(run.data)
        singles = [Segments(view[at : at + run.size], run.size, 1, []) for at in range(0, len(view), run.size)]
        self.send(singles, endpoint)
        return not self._waiting

    def _keep(self, runs: Sequence[Segments], endpoint: Endpoint) -> None:
        for run in runs:
            if self._waiting_bytes + len(run.data) > BACKLOG_MAX:
                self._drop(run, DropReason.NO_BUFFER)
            else:
                # The buffer in which it lies is used again.
                self._waiting.append((run._replace(data=bytes(run.data)), endpoint.port))
                self._waiting_bytes += len(run.data)

    def _drop(self, run: Segments, reason: DropReason) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + run.datagrams

    def close(self) -> None:
        """Drop what waits, and give the socket back."""
        for run, _ in self._waiting:
            self._drop(run, DropReason.NO_BUFFER)
        self._waiting.clear()
        self._socket.close()
