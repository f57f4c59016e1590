"""One pod's way out: in order, each datagram sent once or counted, whatever the kernel answers."""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.net import gso
from fanout.net.egress import BACKLOG_MAX, Egress, Segments
from fanout.report import DropReason
from tests import kernel
from tests.kernel import Kernel, KernelSocket

POD = Endpoint("10.0.0.7", 12000)


class _Socket(KernelSocket):
    def bind(self, address: tuple[str, int]) -> None:
        assert address == ("0.0.0.0", 0)

    def getsockname(self) -> tuple[str, int]:
        return ("0.0.0.0", 41_000)


def egress_on(scripted: Kernel) -> Egress:
    def make(family: int, kind: int) -> Any:
        assert (family, kind) == (socket.AF_INET, socket.SOCK_DGRAM)
        return _Socket(scripted, family)

    return Egress(POD.host, make_socket=make)


def run_of(size: int, datagrams: int, last: int, mark: int) -> Segments:
    data = bytes([mark % 256]) * (size * (datagrams - 1) + last)
    return Segments(memoryview(data), size, datagrams, gso.option(size) if datagrams > 1 else [])


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


@given(
    st.lists(runs(), min_size=1, max_size=5),
    st.lists(st.sampled_from([kernel.OK, kernel.FULL, kernel.ICMP, kernel.ONCE, kernel.ONCE_AND_ICMP]), max_size=40),
    st.sampled_from([0, 100, 1400, MAX_PAYLOAD]),
    st.sampled_from([errno.EIO, errno.EINVAL, errno.EMSGSIZE]),
)
def test_each_datagram_is_sent_once_and_in_order_or_counted(
    turns: list[list[Segments]], script: list[int], gso_limit: int, no_gso: int
) -> None:
    scripted = Kernel(script=deque(script), gso_limit=gso_limit, no_gso=no_gso)
    egress = egress_on(scripted)
    for turn in turns:
        egress.send(turn, POD)
    for _ in range(200):
        if not egress.is_blocked:
            break
        egress.flush()
    assert not egress.is_blocked
    given = [payload for turn in turns for run in turn for payload in payloads_of(run)]
    assert egress.sent == len(scripted.taken)
    assert egress.sent + sum(egress.dropped.values()) == len(given)
    assert egress.bytes == sum(len(payload) for _, payload in scripted.taken)
    rest = iter(given)
    assert all(payload in rest for _, payload in scripted.taken), "in order, and none twice"
    if not {kernel.ONCE, kernel.ONCE_AND_ICMP}.intersection(script):
        assert [payload for _, payload in scripted.taken] == given
        assert egress.refused == scripted.refusals


def test_a_run_that_a_device_cannot_cut_leaves_one_by_one_from_then_on() -> None:
    scripted = Kernel(gso_limit=1000)
    egress = egress_on(scripted)
    for _ in range(3):
        egress.send([run_of(1400, 4, 1400, 1)], POD)
        egress.send([run_of(900, 4, 900, 2)], POD)
    assert egress.sent == 24
    assert scripted.calls == 3 * 4 + 3, "the smaller ones leave as runs all the same"


def test_what_a_pod_does_not_take_waits_and_beyond_that_is_counted() -> None:
    scripted = Kernel(script=deque([kernel.FULL]))
    egress = egress_on(scripted)
    size = 65_000
    many = [run_of(size, 1, size, number) for number in range(20)]
    egress.send(many, POD)
    kept = BACKLOG_MAX // size
    assert egress.is_blocked
    assert (egress.sent, egress.dropped) == (0, {DropReason.NO_BUFFER: 20 - kept})
    egress.flush()
    assert not egress.is_blocked
    assert [payload[0] for _, payload in scripted.taken] == list(range(kept))


def test_a_pod_that_cannot_be_reached_costs_its_own_copies_alone() -> None:
    scripted = Kernel(bad={POD: errno.EHOSTUNREACH})
    egress = egress_on(scripted)
    egress.send([run_of(100, 4, 100, 1), run_of(7, 1, 7, 2)], POD)
    assert (egress.sent, egress.dropped) == (0, {DropReason.UNREACHABLE: 5})


def test_closing_counts_what_waited() -> None:
    egress = egress_on(Kernel(script=deque([kernel.FULL])))
    egress.send([run_of(10, 3, 10, 1)], POD)
    egress.close()
    assert egress.dropped == {DropReason.NO_BUFFER: 3}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_real_socket_takes_runs_and_singles_and_tells_of_refusals(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as pod:
        pod.bind((host, 0))
        pod.settimeout(3)
        endpoint = Endpoint(*pod.getsockname()[:2])
        egress = Egress(host)
        egress.send([run_of(100, 3, 50, 1), Segments(b"", 0, 1, [])], endpoint)
        assert [len(pod.recv(65_535)) for _ in range(4)] == [100, 100, 50, 0]
    for _ in range(50):
        egress.send([run_of(1, 1, 1, 1)], endpoint)
    assert egress.refused > 0, "nobody listens any more"
    assert egress.sent == 54
    egress.close()
