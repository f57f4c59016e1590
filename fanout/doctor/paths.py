"""Sends probes to each pod, and finds the largest datagram that the path to it carries."""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import time
from collections.abc import Sequence

from fanout.doctor.core.facts import PathFacts, PodFacts
from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.net import interfaces
from fanout.net.udp import UdpTransport
from fanout.protocol import probe
from fanout.report import Fault

PATIENCE = (0.1, 0.2, 0.3, 0.4, 1.0, 1.5)
"""Seconds to wait after each probe: longer in all than the 3 s after which the kernel gives up on a neighbour."""
_PATIENCE_OF_LARGE = (0.3, 0.7)
_CHUNK = 64
"""Probes sent at once, and paths measured at once."""
# include/uapi/linux/in.h, in6.h: the option that forbids fragments, its value, and the option that tells the MTU.
_OPTIONS = {False: (socket.IPPROTO_IP, 10, 2, 14), True: (socket.IPPROTO_IPV6, 23, 2, 24)}
"""By whether the endpoint is IPv6, as the sizes of the headers."""
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


def measure(pods: Sequence[PodFacts]) -> list[PathFacts]:
    """Ask the kernel about the path to each pod; where the pod answered, send it the largest probe that fits."""
    found: list[PathFacts] = []
    by_source: dict[str, str] = {}
    for start in range(0, len(pods), _CHUNK):
        with contextlib.ExitStack() as stack:
            paths: list[_PathSocket] = []
            for pod in pods[start : start + _CHUNK]:
                with contextlib.suppress(OSError):  # there is no route
                    paths.append(_PathSocket(pod, stack))
            _send_large([path for path in paths if path.answers])
            found += [path.facts(by_source) for path in paths]
    return found


class _PathSocket:
    """A connected socket to a pod: the kernel knows the MTU of its path, and learns of smaller ones from ICMP."""

    def __init__(self, pod: PodFacts, stack: contextlib.ExitStack) -> None:
        self.answers = pod.round_trip is not None
        self.passed: int | None = None
        """Payload of the probe that came back."""
        self._endpoint = pod.endpoint
        self._run = secrets.randbits(64)
        self._level, option, never_cut, self._mtu_option = _OPTIONS[pod.endpoint.is_ipv6]
        family = socket.AF_INET6 if pod.endpoint.is_ipv6 else socket.AF_INET
        self.socket = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        self.socket.setblocking(False)
        self.socket.setsockopt(self._level, option, never_cut)
        self.socket.connect(pod.endpoint)

    @property
    def mtu(self) -> int:
        return self.socket.getsockopt(self._level, self._mtu_option)

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

    def facts(self, by_source: dict[str, str]) -> PathFacts:
        """Return what is known now; `by_source` has the interfaces that addresses of this host were found on so far."""
        source = self.socket.getsockname()[0]
        if source not in by_source:
            # Once for each address: the kernel lists all addresses of all interfaces for it.
            route = interfaces.route(self._endpoint.host)
            by_source[source] = "" if route is None else route[0]
        passed = (self.passed is not None and self.passed >= self.payload) if self.answers else None
        return PathFacts(self._endpoint, by_source[source], self.mtu, self.payload, passed)


def _send_large(missing: list[_PathSocket]) -> None:
    """Send each the largest probe that fits, again where no answer has come."""
    for wait in _PATIENCE_OF_LARGE:
        for path in missing:
            path.send()
        deadline = time.monotonic() + wait
        while missing and (left := deadline - time.monotonic()) > 0:
            _wait([path.socket.fileno() for path in missing], left)
            for path in missing:
                path.take()
            missing = [path for path in missing if path.passed is None]


def _wait(descriptors: Sequence[int], seconds: float) -> None:
    """Wait until one of them can be read: not by select(), for there may be more than it takes."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(1000 * seconds)
