"""Sends the pings and requests of `fanout bench`, and receives the pods' answers."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import sys
import time
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle

from fanout.model import Endpoint
from fanout.net.bind import RECEIVE_BUFFER
from fanout.protocol import probe
from fanout.protocol.probe import Observed, ProbeKind

PINGS_MIN = 100
PINGS_PER_SECOND = 5.0
PINGS_MAX = 2000
"""Pings per pod: the minimum, a second in a long run, and the maximum."""
PING_RATE = 2000.0
"""Maximum pings a second to all pods together."""
REQUEST_RATE = 200.0
"""Maximum requests for interim reports a second to all pods together."""
PATIENCE = (0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.2, 0.3, 0.4, 0.4)
"""Seconds to wait for reports after each request, 2 s in total."""
_CHUNK = 64
"""Requests sent at once: their answers fit into a default receive buffer."""
_LAG = 0.05
"""Maximum seconds of pings to catch up on after a pause; the others are skipped."""
_READ_MAX = 2048
# include/uapi/asm-generic/socket.h: the kernel's receive time, so that a busy interpreter does not add latency.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")


@dataclass(slots=True)
class PodProbe:
    """What has been received from one pod."""

    observed: Observed | None = None
    answered_at: float | None = None
    report_token: int = -1
    pings: int = 0
    round_trips: list[float] = field(default_factory=list)
    """Seconds, in ascending order."""


class Prober:
    """Pings the pods and requests reports, from one socket per address family.

    Only answers of a listed pod to what it was asked, with the run's number, are accepted; everything else is counted
    in `ignored`. Nothing blocks for longer than its arguments say.
    """

    def __init__(self, endpoints: Sequence[Endpoint], run: int) -> None:
        self.pods: dict[Endpoint, PodProbe] = {endpoint: PodProbe() for endpoint in endpoints}
        self.ignored: int = 0
        self.stranger: Endpoint | None = None
        """An endpoint outside the list that sent something."""
        self._run = run
        self._tokens = count(1)
        self._pings: dict[int, tuple[Endpoint, float]] = {}
        self._requests: dict[int, Endpoint] = {}
        self._ping_gap = self._ping_due = 0.0
        self._pings_left = 0
        self._request_due = 0.0
        self._pinged, self._requested = cycle(self.pods), cycle(self.pods)
        self._sockets: dict[bool, socket.socket] = {}
        self._poll = select.poll()
        for is_ipv6 in {endpoint.is_ipv6 for endpoint in endpoints}:
            # Where a family is missing, the stream's own report says so for each pod.
            with contextlib.suppress(OSError):
                self._open(is_ipv6)

    def _open(self, is_ipv6: bool) -> None:
        opened = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        self._sockets[is_ipv6] = opened
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if sys.platform == "linux":
            opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._poll.register(opened, select.POLLIN)

    def ping_for(self, seconds: float) -> None:
        """Send pings from now on, spread over `seconds`."""
        pings = min(PINGS_MAX, max(PINGS_MIN, round(PINGS_PER_SECOND * seconds)))
        self._pings_left = pings * len(self.pods)
        self._ping_gap = 1.0 / min(PING_RATE, self._pings_left / seconds)
        self._ping_due = time.monotonic()

    def stop_pings(self) -> None:
        """Send no more pings; still accept the answers to earlier ones."""
        self._ping_gap = 0.0

    def step(self, seconds: float, *, interim: bool = False) -> None:
        """Send what is due and receive answers for `seconds`; with `interim`, request reports in turn."""
        deadline = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            self._send_pings(now)
            if interim:
                self._send_requests(now)
            wait = deadline - now
            if self._ping_gap and self._pings_left:
                wait = min(wait, self._ping_due - now)
            # Rounded up: poll() counts in milliseconds, and must not spin.
            if self._poll.poll(max(0, int(wait * 1000) + 1)):
                for opened in self._sockets.values():
                    self._take(opened)
            if time.monotonic() >= deadline:
                return

    def ask(self, endpoints: Iterable[Endpoint], patience: Sequence[float] = PATIENCE) -> list[Endpoint]:
        """Request reports, again after each wait of `patience`, until all have answered; return those that have not."""
        since = next(self._tokens)
        missing = list(endpoints)
        for wait in patience:
            for start in range(0, len(missing), _CHUNK):
                for endpoint in missing[start : start + _CHUNK]:
                    self._request(endpoint)
                self.step(0.001)
            deadline = time.monotonic() + wait
            while missing and time.monotonic() < deadline:
                self.step(0.002)
                missing = [endpoint for endpoint in missing if self.pods[endpoint].report_token <= since]
            if not missing:
                break
        return missing

    def close(self) -> None:
        """Close the sockets."""
        for opened in self._sockets.values():
            opened.close()

    def _send_pings(self, now: float) -> None:
        if not self._ping_gap:
            return
        self._ping_due = max(self._ping_due, now - _LAG)
        while self._ping_due <= now and self._pings_left:
            endpoint = next(self._pinged)
            self._pings_left -= 1
            # Not evenly: pings in step with the stream would always sample the same phase of it (RFC 2330, 11.1).
            self._ping_due += self._ping_gap * random.uniform(0.5, 1.5)
            token = next(self._tokens)
            datagram = probe.ping(self._run, token)
            sent_at = time.monotonic()
            if self._send(datagram, endpoint):
                self.pods[endpoint].pings += 1
                self._pings[token] = (endpoint, sent_at)

    def _send_requests(self, now: float) -> None:
        gap = 1.0 / min(REQUEST_RATE, 2.0 * len(self.pods))
        self._request_due = max(self._request_due, now - _LAG)
        while self._request_due <= now:
            self._request_due += gap
            self._request(next(self._requested))

    def _request(self, endpoint: Endpoint) -> None:
        token = next(self._tokens)
        self._requests[token] = endpoint
        self._send(probe.request(self._run, token), endpoint)

    def _send(self, datagram: bytes, endpoint: Endpoint) -> bool:
        """Send unless the socket is full or there is no route; what is missing shows as silence."""
        if sender := self._sockets.get(endpoint.is_ipv6):
            with contextlib.suppress(OSError):
                sender.sendto(datagram, endpoint)
                return True
        return False

    def _take(self, opened: socket.socket) -> None:
        for _ in range(_CHUNK):
            try:
                datagram, ancillary, _, address = opened.recvmsg(_READ_MAX, 64)
            except OSError:
                return
            arrived = time.monotonic() - _waited(ancillary)
            self._heard(datagram, Endpoint(address[0], address[1]), arrived)

    def _heard(self, datagram: bytes, source: Endpoint, arrived: float) -> None:
        pod = self.pods.get(source)
        frame = probe.parse(datagram)
        if pod is None:
            self.stranger = self.stranger or source
        elif frame is not None and frame.run == self._run:
            if frame.kind is ProbeKind.PONG and len(datagram) == probe.HEADER.size:
                asked, sent_at = self._pings.get(frame.number, (None, 0.0))
                if asked == source:
                    del self._pings[frame.number]
                    pod.answered_at = arrived
                    insort(pod.round_trips, max(0.0, arrived - sent_at))
                    return
            elif frame.kind is ProbeKind.REPORT and self._requests.get(frame.number) == source:
                observed = probe.parse_report(datagram)
                if observed is not None:
                    del self._requests[frame.number]
                    pod.answered_at = arrived
                    # Not an older report that was overtaken.
                    if frame.number > pod.report_token:
                        pod.report_token, pod.observed = frame.number, observed
                    return
        self.ignored += 1


def _waited(ancillary: list[tuple[int, int, bytes]]) -> float:
    """Return how many seconds the kernel held a datagram, 0 where it does not report it."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(data) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            # Both on the wall clock; a jump between the two would look like a wait of seconds.
            waited = time.time() - (seconds + nanoseconds / 1e9)
            return waited if 0 < waited < 1 else 0.0
    return 0.0
