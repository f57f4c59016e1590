"""The egress to one pod: a connected socket of its own, so that a pod that takes nothing delays no other."""

from __future__ import annotations

import contextlib
import errno
import resource
import socket
from collections.abc import Callable, Sequence

from fanout.model import Endpoint
from fanout.net import bind, error_queue, gso
from fanout.protocol.sending.batch import Segments
from fanout.report import DropReason

SEND_BUFFER = 4 * 1024 * 1024
WAITING_MAX = 1024 * 1024
"""Bytes that wait for one pod whose socket is full."""
BUDGET = 32 * 1024 * 1024
"""Bytes that wait for all pods together."""
SOCKETS_MAX = 16_384
"""For all pods together: each takes one of the some 28,000 ports from which this host's other programs send, too."""
_RESERVE = 64  # open files that are left for what a process needs besides sockets for pods
_TRIES = 16  # of one send: each may fail with the ICMP error of an earlier one
_ERRORS = 16  # read at a time: hundreds arrive at once for a pod that is gone, and other pods wait meanwhile


class SendBudget:
    """Bytes that may still wait, for all pods together, and sockets that may still be opened."""

    def __init__(self, left: int = BUDGET, sockets: int = SOCKETS_MAX) -> None:
        self.left = left
        self.sockets = sockets


class Egress:
    """Sends to one endpoint, never blocks and never raises; counts what became of each datagram.

    What a full socket does not take waits, in order, up to 1 MiB and within the budget: call `flush` once `fileno` is
    writable, while `is_blocked`. The rest is dropped and counted. What the kernel cannot deliver yet, to an address
    that does not answer ARP, it charges to the socket that sent it: therefore each pod has its own. Where no socket
    can be opened, or there is no route to the endpoint, it is `broken`: `renew` tries again.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        budget: SendBudget,
        *,
        make_socket: Callable[[int, int], socket.socket] = socket.socket,
    ) -> None:
        self.endpoint = endpoint
        self.sent: int = 0
        """Datagrams that the kernel took."""
        self.bytes: int = 0
        """Their payload."""
        self.refused: int = 0
        """ICMP errors received."""
        self.dropped: dict[DropReason, int] = {}
        """Datagrams that the kernel did not take."""
        self.gso_limit: int = 0
        """The largest segment that leaves in runs."""
        self.broken: int = 0
        """The errno with which it could not be opened; 0 where it could."""
        self.local: Endpoint | None = None
        """Where its datagrams come from."""
        self._budget = budget
        self._make_socket = make_socket
        self._waiting: list[Segments] = []
        self._waiting_bytes = 0
        self._can_cut = False
        self._socket: socket.socket | None = None
        self._open()

    def _open(self) -> None:
        is_ipv6 = self.endpoint.is_ipv6
        opened = None
        try:
            if self._budget.sockets <= 0:
                raise OSError(errno.EUSERS, "no socket left in the budget")
            opened = self._make_socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
            most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            if most != resource.RLIM_INFINITY and opened.fileno() >= most - _RESERVE:
                raise OSError(errno.EMFILE, "the rest is reserved")
            opened.setblocking(False)
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            error_queue.fill(opened, is_ipv6)
            bind.drop_all(opened)  # a relay reads no replies: they would only take memory
            opened.connect(self.endpoint)
            self._can_cut = gso.cut(opened, 0)
            self.gso_limit = gso.LIMIT if self._can_cut else 0
        except OSError as error:
            if opened is not None:
                opened.close()
            self.broken = error.errno or errno.EIO
            return
        self.broken = 0
        self._budget.sockets -= 1
        self._socket = opened
        self.local = Endpoint(*opened.getsockname()[:2])
        self.send_now: Callable[[bytes | memoryview], int] = opened.send
        """Sends a datagram, or a run that `cut` cuts; the caller counts, and passes errors to `failed`."""

    def renew(self) -> None:
        """Replace the socket with a new one."""
        self.close()
        self._open()

    @property
    def is_blocked(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def fileno(self) -> int:
        """Return the descriptor to wait on for writing; -1 where it is closed or broken."""
        return -1 if self._socket is None else self._socket.fileno()

    def cut(self, size: int) -> None:
        """Let `send_now` cut its data into datagrams of `size` bytes; 0 sends it whole."""
        if self._socket is not None:
            gso.cut(self._socket, size)

    def send(self, runs: Sequence[Segments]) -> None:
        """Send runs, regardless of `cut`; what has to wait is copied."""
        for index, run in enumerate(runs):
            if self.broken:
                self.drop(run, DropReason.of(self.broken))
            elif self._waiting:
                self._keep(runs[index:])
                return
            elif run.datagrams > 1 and run.size > self.gso_limit:
                self._send_one_by_one(run)
            else:
                try:
                    self._transmit(run)
                except OSError as error:
                    self.failed(run, error)
                else:
                    self._count(run)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        self.send(self._take_waiting())

    def failed(self, run: Segments, error: OSError) -> None:
        """Send a run once more where the error was an earlier copy's; otherwise keep it, or drop it."""
        number = error.errno or errno.EIO
        # The segment size set on the socket may exceed the path's MTU: then no single datagram is fragmented.
        may_be_the_cut = run.datagrams == 1 and self._can_cut
        for _ in range(_TRIES):
            faults = [] if self._socket is None else error_queue.read(self._socket, _ERRORS)
            self.refused += len(faults)
            if not any(fault.errno == number for fault in faults):
                if not (may_be_the_cut and number in gso.REFUSALS):
                    break
                may_be_the_cut = False
            try:
                self._transmit(run)
            except OSError as again:
                number = again.errno or errno.EIO
            else:
                self._count(run)
                return
        if number == errno.EAGAIN:
            self._keep((run,))
        elif run.datagrams > 1 and number in gso.REFUSALS:
            before = self.sent
            self._send_one_by_one(run)
            if self.sent > before:
                # The kernel refused the run, not the pod.
                self.gso_limit = min(self.gso_limit, gso.limit_after(run.size))
        else:
            self.drop(run, DropReason.of(number))

    def drop(self, run: Segments, reason: DropReason) -> None:
        """Count datagrams that are not sent."""
        self.dropped[reason] = self.dropped.get(reason, 0) + run.datagrams

    def close(self) -> None:
        """Drop what waits, and close the socket."""
        for run in self._take_waiting():
            self.drop(run, DropReason.NO_BUFFER)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._budget.sockets += 1

    def _transmit(self, run: Segments) -> None:
        if self._socket is None:
            raise OSError(errno.ENOTCONN, "closed")
        if self._can_cut:  # regardless of the limit: a segment size may be set on the socket
            self._socket.sendmsg((run.data,), gso.option(run.size if run.datagrams > 1 else 0))
        else:
            self._socket.send(run.data)

    def _count(self, run: Segments) -> None:
        self.sent += run.datagrams
        self.bytes += len(run.data)

    def _send_one_by_one(self, run: Segments) -> None:
        view = memoryview(run.data)
        self.send([Segments(view[at : at + run.size], run.size, 1) for at in range(0, len(view), run.size)])

    def _take_waiting(self) -> list[Segments]:
        waiting, self._waiting = self._waiting, []
        self._budget.left += self._waiting_bytes
        self._waiting_bytes = 0
        return waiting

    def _keep(self, runs: Sequence[Segments]) -> None:
        for run in runs:
            size = len(run.data)
            if self._waiting_bytes + size > WAITING_MAX or size > self._budget.left:
                self.drop(run, DropReason.NO_BUFFER)
            else:
                # The buffer that holds it is reused.
                self._waiting.append(run._replace(data=bytes(run.data)))
                self._waiting_bytes += size
                self._budget.left -= size
