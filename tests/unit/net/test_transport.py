"""The contract of a transport, held by every way out of it: the loop, `sendmmsg`, GSO, and the one in memory."""

from __future__ import annotations

import errno
import itertools
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import Closed
from fanout.model import MAX_PAYLOAD, Endpoint
from fanout.net.sendmmsg import SendMany
from fanout.net.transport import Transport
from fanout.net.udp import UdpTransport
from fanout.protocol.sending.batch import Batch
from fanout.report import Fault
from fanout.testing import MemoryTransport
from tests.support.kernel import (
    FULL,
    ICMP,
    ICMP_WITHIN,
    MISSING,
    OK,
    ONCE,
    ONCE_AND_ICMP,
    ONCE_WITHIN,
    SHORT,
    Kernel,
    KernelSocket,
)
from tests.support.transports import send_all, send_batch

# --- any script of errnos and short counts -------------------------------------------------------------------------

_ERRNOS = [errno.EPERM, errno.EACCES, errno.ENOBUFS, errno.EINVAL, errno.EHOSTUNREACH, errno.EMSGSIZE]


def none() -> SendMany | None:
    return None


PODS = st.one_of(
    st.lists(st.integers(1, 14).map(lambda n: Endpoint(f"10.0.0.{n}", 1)), min_size=1, max_size=14, unique=True),
    st.lists(
        st.sampled_from([Endpoint(host, 1) for host in ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "fd00::3")]),
        min_size=1,
        unique=True,
    ),
    st.lists(st.integers(1, 12).map(lambda n: Endpoint(f"fd00::{n}", 1)), min_size=1, max_size=12, unique=True),
)
PAYLOADS = st.one_of(
    st.lists(st.binary(max_size=3), min_size=1, max_size=12),
    st.lists(st.sampled_from([0, 1, 600, 1400, 1400, 1400, 40_000]).map(bytes), min_size=1, max_size=80),
)
SCRIPT = st.lists(
    st.sampled_from([OK, OK, FULL, ICMP, ICMP_WITHIN, SHORT, MISSING, ONCE, ONCE_WITHIN, ONCE_AND_ICMP]), max_size=40
)


def check_batch(
    kernel: Kernel, transport: UdpTransport, payloads: list[bytes], pods: list[Endpoint], stops: list[int] | None = None
) -> None:
    """Send a batch, and assert that each copy was attempted once and in order, and is reported if refused."""
    total = len(pods) * len(payloads)
    batch = Batch(payloads, transport.gso_limit)
    order = [batch.copy_at(position, len(pods)) for position in range(total)]
    assert sorted(order) == [(message, pod) for message in range(len(payloads)) for pod in range(len(pods))]
    faults = send_batch(transport, payloads, pods, stops)
    ended = kernel.ended
    assert [(endpoint, payload) for endpoint, payload, _ in ended] == [(pods[pod], payloads[m]) for m, pod in order]
    assert faults == [Fault(e, number, m) for (m, _), (e, _, number) in zip(order, ended, strict=True) if number]
    assert {fault.endpoint for fault in faults} >= set(kernel.bad)
    assert kernel.attempts == total + kernel.untold, "once, but for those of which sendmmsg does not tell"


@given(
    pods=PODS,
    payloads=PAYLOADS,
    script=SCRIPT,
    gso_limit=st.sampled_from([0, 599, 1400, MAX_PAYLOAD]),
    no_gso=st.sampled_from([errno.EIO, errno.EINVAL, errno.EMSGSIZE]),
    has_sendmmsg=st.booleans(),
    data=st.data(),
)
def test_each_copy_is_attempted_once_in_order_or_reported_whatever_the_kernel_says(
    pods: list[Endpoint],
    payloads: list[bytes],
    script: list[int],
    gso_limit: int,
    no_gso: int,
    has_sendmmsg: bool,
    data: st.DataObject,
) -> None:
    bad = data.draw(st.dictionaries(st.sampled_from(pods), st.sampled_from(_ERRNOS), max_size=3))
    kernel = Kernel(bad, deque(script), gso_limit, no_gso)
    transport = UdpTransport(make_socket=kernel.socket, find_sendmmsg=lambda: kernel.sendmmsg if has_sendmmsg else None)
    stops = data.draw(st.lists(st.integers(0, len(pods) * len(payloads)), max_size=3))
    check_batch(kernel, transport, payloads, pods, stops)
    assert has_sendmmsg or kernel.untold == 0
    assert transport.has_icmp_errors == (kernel.refusals > 0), "what a call has met is known without looking"
    assert len(transport.icmp_errors()) == kernel.refusals
    assert not transport.has_icmp_errors

    kernel.ended.clear()
    kernel.refusals = kernel.attempts = kernel.untold = 0
    kernel.script.extend(data.draw(SCRIPT))
    faults = send_all(transport, b"one", pods)
    assert [endpoint for endpoint, _, _ in kernel.ended] == pods
    assert faults == [Fault(endpoint, number) for endpoint, _, number in kernel.ended if number]
    assert kernel.attempts == len(pods) + kernel.untold
    assert transport.has_icmp_errors == (kernel.refusals > 0)


@pytest.mark.parametrize("has_sendmmsg", [False, True])
def test_so_it_is_whatever_the_kernel_says_at_the_first_three_calls(has_sendmmsg: bool) -> None:
    pods = [Endpoint(f"10.0.0.{number}", 1) for number in range(1, 13)]
    for script in itertools.product(range(OK, ONCE_AND_ICMP + 1), repeat=3):
        kernel = Kernel(script=deque(script))
        find = (lambda it=kernel: it.sendmmsg) if has_sendmmsg else none
        transport = UdpTransport(make_socket=kernel.socket, find_sendmmsg=find)
        check_batch(kernel, transport, [b"one", b"second"], pods)


@given(pods=PODS, payloads=PAYLOADS, room=st.lists(st.integers(0, 5), max_size=20), data=st.data())
def test_memory_keeps_the_same_contract(
    pods: list[Endpoint], payloads: list[bytes], room: list[int], data: st.DataObject
) -> None:
    bad = data.draw(st.dictionaries(st.sampled_from(pods), st.sampled_from(_ERRNOS)))
    refusals = data.draw(st.dictionaries(st.sampled_from(pods), st.just(errno.ECONNREFUSED)))
    transport = MemoryTransport(faults=bad, refusals=refusals, room=room)
    batch = Batch(payloads, transport.gso_limit)
    order = [batch.copy_at(position, len(pods)) for position in range(len(pods) * len(payloads))]
    faults = send_batch(transport, payloads, pods)
    assert transport.attempted == [pods[pod] for _, pod in order]
    assert faults == [Fault(pods[pod], bad[pods[pod]], message) for message, pod in order if pods[pod] in bad]
    assert transport.sent == [(pods[pod], payloads[message]) for message, pod in order if pods[pod] not in bad]
    assert {fault.endpoint for fault in transport.icmp_errors()} == set(refusals) - set(bad)
    assert transport.icmp_errors() == []


def test_a_family_without_gso_is_not_asked_again() -> None:
    kernel = Kernel(gso_limit=0)
    transport = UdpTransport(make_socket=kernel.socket, find_sendmmsg=none)
    pods = [Endpoint(f"10.0.0.{number}", 1) for number in (1, 2)]
    payloads = [bytes(100)] * 64
    assert send_batch(transport, payloads, pods) == []
    calls = []

    def spy(self: KernelSocket, *arguments: object) -> int:
        calls.append(arguments)
        raise AssertionError("asked again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KernelSocket, "sendmsg", spy)
        assert send_batch(transport, payloads, pods) == []
    assert transport.gso_limit == 0
    assert len(kernel.taken) == 256
    assert send_batch(transport, payloads, [Endpoint("fd00::1", 1)]) == []
    assert transport.gso_limit == MAX_PAYLOAD, "the other family has not been asked yet"


def test_a_system_without_sendmmsg_is_not_asked_again() -> None:
    kernel = Kernel(script=deque([MISSING]))
    transport = UdpTransport(make_socket=kernel.socket, find_sendmmsg=lambda: kernel.sendmmsg)
    pods = [Endpoint(f"10.0.0.{number}", 1) for number in range(1, 9)]
    for calls in (9, 8, 8):
        kernel.calls = 0
        assert send_all(transport, b"x", pods) == []
        assert kernel.calls == calls
    assert len(kernel.taken) == 24


def test_segments_over_the_mtu_go_alone_and_smaller_ones_still_merge() -> None:
    kernel = Kernel(gso_limit=1472, no_gso=errno.EINVAL)
    transport = UdpTransport(make_socket=kernel.socket, find_sendmmsg=none)
    pod = [Endpoint("10.0.0.1", 1)]
    for size, calls in ((1473, 40), (1473, 40), (1472, 1)):
        kernel.calls = 0
        assert send_batch(transport, [bytes(size)] * 40, pod) == []
        assert kernel.calls == calls
    assert len(kernel.taken) == 120


def test_as_few_calls_as_possible() -> None:
    kernel = Kernel()
    transport = UdpTransport(make_socket=kernel.socket, find_sendmmsg=lambda: kernel.sendmmsg)
    pods = [Endpoint(f"10.0.0.{number}", 1) for number in range(1, 17)]
    for payloads, calls in (
        ([bytes(100)] * 64, 16),  # a run a pod
        ([bytes(number) for number in range(64)], 1),  # all of them unequal
        ([bytes(100)] * 63 + [bytes(7)], 16),  # the last may be shorter
        ([b"x"], 1),
    ):
        kernel.calls = 0
        assert send_batch(transport, payloads, pods) == []
        assert kernel.calls == calls


def test_many_pods_are_sent_to_a_thousand_at_a_time() -> None:
    kernel = Kernel()
    transport = UdpTransport(make_socket=kernel.socket, find_sendmmsg=lambda: kernel.sendmmsg)
    pods = [Endpoint(f"10.0.{number // 250}.{number % 250 + 1}", 1) for number in range(4000)]
    assert send_all(transport, b"x", pods) == []
    assert kernel.taken == [(pod, b"x") for pod in pods]
    assert kernel.calls == 4


# --- real sockets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [UdpTransport, MemoryTransport])
def test_after_close_every_call_says_closed(make: Callable[[], Transport]) -> None:
    transport = make()
    transport.close()
    transport.close()
    endpoint = Endpoint("127.0.0.1", 9)
    calls: list[Callable[[], object]] = [
        lambda: transport.send(b"x", [endpoint], 0, 1, []),
        transport.icmp_errors,
        lambda: transport.fileno(endpoint),
    ]
    for call in calls:
        with pytest.raises(Closed):
            call()
