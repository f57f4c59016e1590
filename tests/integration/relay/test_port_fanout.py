"""One pod's way out, and many beside each other: in order, each datagram once or counted, whatever the kernel does."""

from __future__ import annotations

import errno
import resource
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.net import bind
from fanout.protocol.sending.batch import Segments
from fanout.relay.egress import WAITING_MAX, Egress, SendBudget
from fanout.relay.port_fanout import PortFanout
from fanout.report import DropReason
from tests.support import kernel
from tests.support.kernel import Kernel, KernelSocket
from tests.support.namespace import cabled_hosts
from tests.support.needs import require_address
from tests.support.waiting import PATIENCE, until

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


@given(
    st.lists(runs(), min_size=1, max_size=5),
    st.lists(st.sampled_from(EVENTS), max_size=40),
    st.sampled_from([0, 100, 1400, MAX_PAYLOAD]),
    st.sampled_from([errno.EIO, errno.EINVAL, errno.EMSGSIZE]),
)
def test_each_datagram_is_sent_once_and_in_order_or_counted(
    turns: list[list[Segments]], script: list[int], gso_limit: int, no_gso: int
) -> None:
    scripted = Kernel(script=deque(script), gso_limit=gso_limit, no_gso=no_gso)
    budget = SendBudget()
    egress = egress_on(scripted, budget)
    for turn in turns:
        egress.send(turn)
    for _ in range(200):
        if not egress.is_blocked:
            break
        egress.flush()
    assert not egress.is_blocked
    assert budget.left == SendBudget().left
    check([payload for turn in turns for run in turn for payload in payloads_of(run)], scripted, egress, set(script))
    if not {kernel.ONCE, kernel.ONCE_AND_ICMP}.intersection(script):
        assert egress.refused == scripted.refusals


@given(
    st.lists(runs(), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from(EVENTS), max_size=15), min_size=1, max_size=4),
    st.lists(st.sampled_from([0, 100, 1400, MAX_PAYLOAD]), min_size=4, max_size=4),
)
def test_pods_beside_each_other_have_what_each_would_have_alone(
    turns: list[list[Segments]], scripts: list[list[int]], limits: list[int]
) -> None:
    kernels = [Kernel(script=deque(script), gso_limit=limit) for script, limit in zip(scripts, limits, strict=False)]
    pods = [Endpoint(f"10.0.0.{number}", 12000) for number in range(len(kernels))]
    by_pod = dict(zip(pods, kernels, strict=True))
    port_fanout = PortFanout(
        SendBudget(), make_egress=lambda pod, budget: Egress(pod, budget, make_socket=on(by_pod[pod]))
    )
    port_fanout.aim(pods, lambda host: True)
    blocked = False
    for turn in turns:
        blocked = port_fanout.send(turn, may_wait=blocked)
    for egress in port_fanout:
        for _ in range(200):
            if egress.is_blocked:
                egress.flush()
        assert not egress.is_blocked
    given = [payload for turn in turns for run in turn for payload in payloads_of(run)]
    for egress in port_fanout:
        pod = egress.endpoint
        check(given, by_pod[pod], egress, set(scripts[pods.index(pod)]), port_fanout.at_once[egress])
    port_fanout.fold()
    for egress in port_fanout:
        assert egress.sent == len(by_pod[egress.endpoint].taken)


def test_a_run_that_a_device_cannot_cut_leaves_one_by_one_from_then_on() -> None:
    scripted = Kernel(gso_limit=1000)
    egress = egress_on(scripted)
    for _ in range(3):
        egress.send([run_of(1400, 4, 1400, 1)])
        egress.send([run_of(900, 4, 900, 2)])
    assert egress.sent == 24
    assert scripted.calls == 3 * 4 + 3, "the smaller ones leave as runs all the same"


def test_what_a_pod_does_not_take_waits_and_beyond_that_is_counted() -> None:
    scripted = Kernel(script=deque([kernel.FULL]))
    egress = egress_on(scripted)
    size = 65_000
    egress.send([run_of(size, 1, size, number) for number in range(20)])
    kept = WAITING_MAX // size
    assert egress.is_blocked
    assert (egress.sent, egress.dropped) == (0, {DropReason.NO_BUFFER: 20 - kept})
    egress.flush()
    assert not egress.is_blocked
    assert [payload[0] for _, payload in scripted.taken] == list(range(kept))


def test_all_pods_together_may_not_hold_more_than_there_is_room() -> None:
    budget = SendBudget(1000)
    egresses = [egress_on(Kernel(script=deque([kernel.FULL])), budget) for _ in range(3)]
    for egress in egresses:
        egress.send([run_of(400, 1, 400, 1)])
    assert [egress.is_blocked for egress in egresses] == [True, True, False]
    assert egresses[2].dropped == {DropReason.NO_BUFFER: 1}
    for egress in egresses:
        egress.close()
    assert budget.left == 1000
    assert [egress.dropped for egress in egresses] == [{DropReason.NO_BUFFER: 1}] * 3


def test_a_pod_without_a_way_costs_its_own_copies_alone_until_there_is_one() -> None:
    scripted = Kernel(bad={POD: errno.ENETUNREACH})
    other = Endpoint("10.0.0.8", 12000)
    port_fanout = PortFanout(
        SendBudget(), make_egress=lambda pod, budget: Egress(pod, budget, make_socket=on(scripted))
    )
    port_fanout.aim([POD, other], lambda host: True)
    assert port_fanout.is_broken
    port_fanout.send([run_of(100, 4, 100, 1), run_of(7, 1, 7, 2)], may_wait=False)
    port_fanout.fold()
    assert [(egress.sent, egress.dropped) for egress in port_fanout] == [(0, {DropReason.UNREACHABLE: 5}), (5, {})]
    scripted.bad.clear()
    port_fanout.aim([POD, other], lambda host: True)
    assert not port_fanout.is_broken
    port_fanout.send([run_of(7, 1, 7, 3)], may_wait=False)
    port_fanout.fold()
    assert [egress.sent for egress in port_fanout] == [1, 6]


def test_some_open_files_are_left_to_others() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 65, hard))
        try:
            egresses = [Egress(Endpoint("127.0.0.1", 9), SendBudget()) for _ in range(3)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [egress.broken for egress in egresses] == [errno.EMFILE] * 3
    egresses[0].renew()
    assert not egresses[0].broken
    egresses[0].close()


def test_pods_beyond_what_a_relay_opens_are_left_out() -> None:
    budget = SendBudget(sockets=2)
    port_fanout = PortFanout(budget, make_egress=lambda pod, budget: Egress(pod, budget, make_socket=on(Kernel())))
    pods = [Endpoint(f"10.0.0.{number}", 12000) for number in range(3)]
    port_fanout.aim(pods, lambda host: True)
    assert [egress.broken for egress in port_fanout] == [0, 0, errno.EUSERS]
    port_fanout.aim(pods[1:], lambda host: True)
    port_fanout.aim(pods[1:], lambda host: True)
    assert not port_fanout.is_broken
    port_fanout.close()
    assert budget.sockets == 2


def test_what_pods_answer_takes_no_memory() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod:
        pod.bind(("127.0.0.1", 0))
        egress = Egress(Endpoint(*pod.getsockname()), SendBudget())
        egress.send([Segments(b"x", 1, 1)])
        _, source = pod.recvfrom(10)
        for _ in range(10):
            pod.sendto(bytes(1000), source)
        opened = egress._socket
        assert opened is not None
        assert bind.held(opened) == 0
        egress.close()


WITHOUT_NEIGHBOUR = """
import select
from fanout.protocol.sending.batch import Segments
from fanout.model import Endpoint
from fanout.relay import egress
egress.SEND_BUFFER = 0
pod = egress.Egress(Endpoint("10.9.0.77", 12000), egress.SendBudget())
for number in range(100):
    pod.send([Segments(bytes(1000), 1000, 1)])
assert pod.is_blocked
assert 0 < pod.sent < 100 and not pod.dropped
while pod.is_blocked:
    select.select([], [pod.fileno()], [])
    pod.flush()
assert pod.sent + sum(pod.dropped.values()) == 100
assert pod.refused
"""


def test_a_real_socket_is_full_while_nobody_answers_for_the_address() -> None:
    with cabled_hosts("10.9.0.1", "10.9.0.2") as (here, _):
        # Give up at once on whom nobody knows: each round takes a second otherwise.
        for name in ("mcast_solicit", "retrans_time_ms"):
            here.run("sysctl", "-qw", f"net.ipv4.neigh.eth0.{name}={20 if 'time' in name else 1}")
        done = subprocess.run(
            [*here.command, sys.executable, "-c", WITHOUT_NEIGHBOUR], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_who_reads_the_counts_never_sees_them_fall() -> None:
    """A copy that fails is taken back where nobody looks."""
    counting = threading.RLock()
    seen: list[int] = []

    def look() -> None:
        """Read the counts, as another thread does; not while they are held."""
        if counting.acquire(blocking=False):
            seen.append(sum(egress.sent for egress in port_fanout) + port_fanout.datagrams)
            counting.release()

    class Watched(Egress):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "sent":
                other.submit(look).result()
            super().__setattr__(name, value)
            if name == "sent":
                other.submit(look).result()

    script = [kernel.OK, kernel.ONCE] * 10
    socket_of = on(Kernel(script=deque(script)))
    port_fanout = PortFanout(
        SendBudget(), counting, make_egress=lambda pod, budget: Watched(pod, budget, make_socket=socket_of)
    )
    with ThreadPoolExecutor(1) as other:
        port_fanout.aim([POD], lambda host: True)
        for _ in script:
            port_fanout.send([Segments(b"x", 1, 1)], may_wait=False)
            other.submit(look).result()
    assert seen == sorted(seen)
    assert seen[-1] == script.count(kernel.OK)


def test_a_socket_whose_own_address_has_gone_is_opened_anew() -> None:
    made: list[Endpoint] = []

    def make(pod: Endpoint, budget: SendBudget) -> Egress:
        made.append(pod)
        return Egress(pod, budget, make_socket=on(Kernel()))

    port_fanout = PortFanout(SendBudget(), make_egress=make)
    port_fanout.aim([POD], lambda host: True)
    (egress,) = port_fanout
    before = egress.send_now
    port_fanout.aim([POD], lambda host: True)
    assert egress.send_now == before
    port_fanout.aim([POD], lambda host: False)
    assert egress.send_now != before
    assert made == [POD]


def test_pods_that_left_are_given_back_with_their_counts() -> None:
    scripted = Kernel()
    port_fanout = PortFanout(
        SendBudget(), make_egress=lambda pod, budget: Egress(pod, budget, make_socket=on(scripted))
    )
    port_fanout.aim([POD], lambda host: True)
    port_fanout.send([run_of(100, 4, 100, 1)], may_wait=False)
    (left,) = port_fanout.aim([], lambda host: True)
    assert (left.endpoint, left.sent, left.bytes) == (POD, 4, 400)
    assert not port_fanout
    assert left.fileno() == -1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_real_sockets_take_runs_and_singles_and_tell_of_refusals(host: str) -> None:
    require_address(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as pod:
        pod.bind((host, 0))
        pod.settimeout(PATIENCE)
        port_fanout = PortFanout(SendBudget())
        port_fanout.aim([Endpoint(*pod.getsockname()[:2])], lambda host: True)
        (egress,) = port_fanout
        sizes = [
            (100, 3, 50),
            (0, 1, 0),
            (250, 1, 250),
            (60, 1, 60),
            (200, 2, 200),
            (201, 1, 201),
            (30_000, 2, 1),
            (50, 2, 50),
        ]
        waits = port_fanout.send([run_of(*each, 1) for each in sizes], may_wait=False)
        assert not waits
        expected = [100, 100, 50, 0, 250, 60, 200, 200, 201, 30_000, 1, 50, 50]
        assert [len(pod.recv(65_535)) for _ in expected] == expected
        egress.send([run_of(*each, 1) for each in sizes])
        assert [len(pod.recv(65_535)) for _ in expected] == expected
    more = 0

    def is_refused() -> bool:
        nonlocal more
        port_fanout.send([run_of(1, 1, 1, 1)], may_wait=False)
        more += 1
        return egress.refused > 0

    until(is_refused, "nobody listens any more")
    port_fanout.close()
    assert egress.sent == 2 * len(expected) + more
