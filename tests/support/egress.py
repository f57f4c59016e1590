"""The way out to a pod, on a kernel that is scripted, and runs to send."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from fanout.model import Endpoint
from fanout.protocol.sending.batch import Segments
from fanout.relay.egress import Egress, SendBudget
from tests.support import kernel
from tests.support.kernel import Kernel, KernelSocket

POD = Endpoint("10.0.0.7", 12000)


EVENTS = [kernel.OK, kernel.FULL, kernel.ICMP, kernel.ONCE, kernel.ONCE_AND_ICMP]


class _Socket(KernelSocket):
    """A connected socket that cuts what it is given, as UDP_SEGMENT has it: by the option, or by a control message."""

    peer: Endpoint
    cut = 0

    def connect(self, endpoint: Endpoint) -> None:
        if number := self.kernel.bad.get(endpoint):
            raise OSError(number, "no way")
        self.peer = endpoint

    def getsockname(self) -> tuple[str, int]:
        return ("10.0.0.1", 41_000)

    def setsockopt(self, *option: int) -> None:
        if option[:2] == (socket.IPPROTO_UDP, 103):
            self.cut = option[2]

    def send(self, data: bytes | memoryview) -> int:
        return self._send(bytes(data), self.cut)

    def sendmsg(self, buffers: Any, ancillary: Any, *_: Any) -> int:
        ((_, kind, size),) = ancillary
        assert kind == 103
        return self._send(b"".join(buffers), int.from_bytes(size, "little"))

    def _send(self, data: bytes, size: int) -> int:
        if size > self.kernel.gso_limit:  # a single datagram is refused as well (net/ipv4/udp.c, udp_send_skb)
            raise OSError(self.kernel.no_gso, "no GSO")
        if not size or len(data) <= size:
            self.kernel.end(self.peer, [data], self.kernel.begin())
            return len(data)
        segments = [data[at : at + size] for at in range(0, len(data), size)]
        assert len(segments) <= 64
        self.kernel.end(self.peer, segments, self.kernel.begin())
        return len(data)


def on(scripted: Kernel) -> Callable[[int, int], Any]:
    def make(family: int, kind: int) -> Any:
        assert (family, kind) == (socket.AF_INET, socket.SOCK_DGRAM)
        return _Socket(scripted, family)

    return make


def egress_on(scripted: Kernel, budget: SendBudget | None = None) -> Egress:
    return Egress(POD, budget or SendBudget(), make_socket=on(scripted))


def run_of(size: int, datagrams: int, last: int, mark: int) -> Segments:
    return Segments(memoryview(bytes([mark % 256]) * (size * (datagrams - 1) + last)), size, datagrams)


def payloads_of(run: Segments) -> list[bytes]:
    data = bytes(run.data)
    return [data[at : at + run.size] for at in range(0, len(data), run.size)] if run.datagrams > 1 else [data]


@st.composite
def runs(draw: st.DrawFn) -> list[Segments]:
    made = []
    for mark in range(draw(st.integers(1, 6))):
        size = draw(st.sampled_from([1, 100, 1400, 1500]))
        datagrams = draw(st.integers(1, 5))
        last = draw(st.integers(1, size)) if datagrams > 1 else size
        made.append(run_of(size, datagrams, last, mark))
    return made


def check(
    given: list[bytes], scripted: Kernel, egress: Egress, events: set[int], fast: tuple[int, int] = (0, 0)
) -> None:
    """What the kernel took is what was counted, in order; without one-time refusals it is everything."""
    taken = [payload for endpoint, payload in scripted.taken if endpoint == egress.endpoint]
    assert egress.sent + fast[0] == len(taken)
    assert egress.sent + fast[0] + sum(egress.dropped.values()) == len(given)
    assert egress.bytes + fast[1] == sum(map(len, taken))
    rest = iter(given)
    assert all(payload in rest for payload in taken), "in order, and none twice"
    if not {kernel.ONCE, kernel.ONCE_AND_ICMP}.intersection(events):
        assert taken == given
