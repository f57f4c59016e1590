"""Sends probes to each pod, and finds the largest datagram that the path to it carries."""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import time
from collections.abc import Sequence

from fanout.doctor.core.facts import PodFacts, WayFacts
from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.net import interfaces
from fanout.net.udp import UdpTransport
from fanout.protocol import probe
from fanout.report import Fault

PATIENCE = (0.1, 0.2, 0.3, 0.4, 1.0, 1.5)
"""Seconds to wait after each probe: longer in all than the 3 s after which the kernel gives up on a neighbour."""
_PATIENCE_OF_LARGE = (0.3, 0.7)
_CHUNK = 64
"""Probes sent at once, and ways looked at."""
# include/uapi/linux/in.h, in6.h: the option that forbids fragments, its value, and the option that tells the MTU.
_IPV4_OPTIONS = (socket.IPPROTO_IP, 10, 2, 14)
_IPV6_OPTIONS = (socket.IPPROTO_IPV6, 23, 2, 24)
_HEADERS = {False: 20 + 8, True: 40 + 8}


def reach(endpoints: Sequence[Endpoint], patience: Sequence[float] = PATIENCE) -> list[PodFacts]:
    """Send a probe to each, again after each wait, to those that have not answered and were not refused."""
    run = secrets.randbits(64)
    found = {endpoint: PodFacts(endpoint) for endpoint in endpoints}
    sent_at: list[float] = []
    missing = list(found)
    transport = UdpTransport()
    try:
        for token, wait in enumerate(patience):
            sent_at.append(time.monotonic())
            faults: list[Fault] = []
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                # What a full socket does not take is asked again later, as all that is missing.
                transport.send(probe.ping(run, token), chunk, 0, len(chunk), faults)
                _take(transport, run, found, sent_at)
            for endpoint in missing:
                found[endpoint] = found[endpoint]._replace(probes=found[endpoint].probes + 1)
            for fault in faults:
                found[fault.endpoint] = found[fault.endpoint]._replace(errno=fault.errno)
            deadline = time.monotonic() + wait
            # Some may have answered while the others were asked.
            while missing := [each for each in missing if found[each].round_trip is None and not found[each].errno]:
                if (left := deadline - time.monotonic()) <= 0:
                    break
                _wait(transport.readable(), left)
                _take(transport, run, found, sent_at)
            if not missing:
                break
    finally:
        transport.close()
    return list(found.values())


def _take(transport: UdpTransport, run: int, found: dict[Endpoint, PodFacts], sent_at: list[float]) -> None:
    now = time.monotonic()
    for datagram, source in transport.receive(1024):
        frame = probe.parse(datagram)
        pod = found.get(source)
        if pod is None or frame is None or (frame.kind, frame.run) != (probe.ProbeKind.PONG, run):
            continue
        if frame.number < len(sent_at) and pod.round_trip is None:
            found[source] = pod._replace(round_trip=now - sent_at[frame.number], errno=0)
    for fault in transport.icmp_errors():
        pod = found.get(fault.endpoint)
        if pod is not None and pod.round_trip is None:
            found[fault.endpoint] = pod._replace(errno=fault.errno)


def ways(pods: Sequence[PodFacts]) -> list[WayFacts]:
    """Look at the way to each pod; where it answered, send it a probe as large as the way takes in one piece."""
    found: list[WayFacts] = []
    by_source: dict[str, str] = {}
    for start in range(0, len(pods), _CHUNK):
        with contextlib.ExitStack() as stack:
            asking = [_Way(pod, stack) for pod in pods[start : start + _CHUNK]]
            _ask([way for way in asking if way.is_open and way.answers])
            found += [way.facts(by_source) for way in asking if way.is_open]
    return found


class _Way:
    """A connected socket to a pod: the kernel tells the MTU of its way, and of smaller ones that it hears of."""

    def __init__(self, pod: PodFacts, stack: contextlib.ExitStack) -> None:
        self.answers = pod.round_trip is not None
        self.passed: int | None = None
        """Payload of the probe that came back."""
        self._endpoint = pod.endpoint
        self._options = _IPV6_OPTIONS if pod.endpoint.is_ipv6 else _IPV4_OPTIONS
        self._run = secrets.randbits(64)
        self.is_open = False
        with contextlib.suppress(OSError):
            family = socket.AF_INET6 if pod.endpoint.is_ipv6 else socket.AF_INET
            self.socket = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            self.socket.setblocking(False)
            level, option, never_cut, _ = self._options
            self.socket.setsockopt(level, option, never_cut)
            self.socket.connect(pod.endpoint)
            self.is_open = True

    @property
    def mtu(self) -> int:
        level, _, _, option = self._options
        return self.socket.getsockopt(level, option)

    @property
    def payload(self) -> int:
        return min(MAX_PAYLOAD, self.mtu - _HEADERS[self._endpoint.is_ipv6])

    def send(self) -> None:
        """Send a probe; where the kernel has learned of a smaller MTU meanwhile, the next one is smaller."""
        with contextlib.suppress(OSError):
            header = probe.ping(self._run, 0)
            self.socket.send(header + bytes(max(0, self.payload - len(header))))

    def take(self) -> None:
        with contextlib.suppress(OSError):
            datagram = self.socket.recv(MAX_PAYLOAD)
            frame = probe.parse(datagram)
            if frame is not None and (frame.kind, frame.run) == (probe.ProbeKind.PONG, self._run):
                self.passed = len(datagram)

    def facts(self, by_source: dict[str, str]) -> WayFacts:
        """Return what is known now; `by_source` has the interfaces of the addresses of this host looked for so far."""
        source = self.socket.getsockname()[0]
        if source not in by_source:
            # Once for each: the kernel lists all addresses of all interfaces for it.
            route = interfaces.route(self._endpoint.host)
            by_source[source] = "" if route is None else route[0]
        passed = (self.passed is not None and self.passed >= self.payload) if self.answers else None
        return WayFacts(self._endpoint, by_source[source], self.mtu, self.payload, passed)


def _ask(asking: list[_Way]) -> None:
    missing = asking
    for wait in _PATIENCE_OF_LARGE:
        for way in missing:
            way.send()
        deadline = time.monotonic() + wait
        while missing and (left := deadline - time.monotonic()) > 0:
            _wait([way.socket.fileno() for way in missing], left)
            for way in missing:
                way.take()
            missing = [way for way in missing if way.passed is None]


def _wait(descriptors: Sequence[int], seconds: float) -> None:
    """Wait until one of them can be read: not by select(), for there may be more than it takes."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(1000 * seconds)
