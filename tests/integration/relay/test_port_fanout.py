"""Many pods beside each other: in order, each datagram once or counted, whatever the kernel does."""

from __future__ import annotations

import errno
import socket
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.protocol.sending.batch import Segments
from fanout.relay.egress import Egress, SendBudget
from fanout.relay.port_fanout import PortFanout
from fanout.report import DropReason
from tests.support import kernel
from tests.support.egress import EVENTS, POD, check, egress_on, on, payloads_of, run_of, runs
from tests.support.kernel import Kernel
from tests.support.needs import require_address
from tests.support.waiting import PATIENCE, until


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
        check(given, by_pod[pod], egress, set(scripts[pods.index(pod)]), (port_fanout.datagrams, port_fanout.bytes))
    port_fanout.fold()
    for egress in port_fanout:
        assert egress.sent == len(by_pod[egress.endpoint].taken)


def test_a_pod_without_a_way_costs_its_own_copies_alone_until_there_is_one() -> None:
    scripted = Kernel(bad={POD: errno.ENETUNREACH})
    other = Endpoint("10.0.0.8", 12000)
    port_fanout = PortFanout(
        SendBudget(), make_egress=lambda pod, budget: Egress(pod, budget, make_socket=on(scripted))
    )
    port_fanout.aim([POD, other], lambda host: True)
    assert port_fanout.broken
    port_fanout.send([run_of(100, 4, 100, 1), run_of(7, 1, 7, 2)], may_wait=False)
    port_fanout.fold()
    assert [(egress.sent, egress.dropped) for egress in port_fanout] == [(0, {DropReason.UNREACHABLE: 5}), (5, {})]
    scripted.bad.clear()
    port_fanout.aim([POD, other], lambda host: True)
    assert not port_fanout.broken
    port_fanout.send([run_of(7, 1, 7, 3)], may_wait=False)
    port_fanout.fold()
    assert [egress.sent for egress in port_fanout] == [1, 6]


def test_pods_beyond_what_a_relay_opens_are_left_out() -> None:
    budget = SendBudget(sockets=2)
    port_fanout = PortFanout(budget, make_egress=lambda pod, budget: Egress(pod, budget, make_socket=on(Kernel())))
    pods = [Endpoint(f"10.0.0.{number}", 12000) for number in range(3)]
    port_fanout.aim(pods, lambda host: True)
    assert [egress.broken for egress in port_fanout] == [0, 0, errno.EUSERS]
    port_fanout.aim(pods[1:], lambda host: True)
    port_fanout.aim(pods[1:], lambda host: True)
    assert not port_fanout.broken
    port_fanout.close()
    assert budget.sockets == 2


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
