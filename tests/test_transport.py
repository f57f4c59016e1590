"""The contract of a transport, held by the sockets and by the one in memory alike."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import Closed
from fanout.model import Endpoint
from fanout.net.transport import Transport, UdpTransport
from fanout.report import Fault
from fanout.testing import MemoryTransport
from tests.conftest import Pod

BROADCAST = Endpoint("255.255.255.255", 9)


def send_all(transport: Transport, payload: bytes, endpoints: list[Endpoint]) -> list[Fault]:
    faults: list[Fault] = []
    position = 0
    while position < len(endpoints):
        position = transport.send(payload, endpoints, position, faults)
    return faults


@pytest.fixture
def udp() -> Iterator[UdpTransport]:
    transport = UdpTransport()
    yield transport
    transport.close()


def test_each_pod_gets_one_copy_of_both_families(udp: UdpTransport, pods: Callable[..., list[Pod]]) -> None:
    made = pods(hosts=["127.0.0.11", "::1", "127.0.0.12"])
    endpoints = [pod.endpoint for pod in made]
    for payload in (b"", b"x", bytes(range(256)) * 255, b"y" * 65_507):
        assert send_all(udp, payload, endpoints) == []
        assert [pod.receive() for pod in made] == [payload] * 3
    assert [pod.waiting() for pod in made] == [[], [], []]
    assert udp.heard() == []


def test_refusals_are_attributed_to_the_pod_that_refused(
    udp: UdpTransport, pods: Callable[..., list[Pod]], closed_port: int
) -> None:
    first, second, third = (pod.endpoint for pod in pods(hosts=["127.0.0.11", "127.0.0.12", "::1"]))
    dead4, dead6 = Endpoint("127.0.0.99", closed_port), Endpoint("::1", closed_port)
    endpoints = [dead4, first, dead6, dead4._replace(host="127.0.0.98"), third, second]
    for _ in range(50):
        assert send_all(udp, b"x", endpoints) == []
    heard = udp.heard()
    assert {fault.errno for fault in heard} == {errno.ECONNREFUSED}
    for dead in (dead4, dead6, endpoints[3]):
        assert sum(fault.endpoint == dead for fault in heard) == 50
    assert len(heard) == 150


def test_a_bad_entry_never_costs_another_its_copy(
    udp: UdpTransport, pods: Callable[..., list[Pod]], closed_port: int
) -> None:
    made = pods(3)
    dead = Endpoint("127.0.0.1", closed_port)
    endpoints = [BROADCAST, made[0].endpoint, dead, BROADCAST, made[1].endpoint, dead, made[2].endpoint, BROADCAST]
    for round_ in range(20):
        faults = send_all(udp, b"%d" % round_, endpoints)
        assert faults == [Fault(BROADCAST, errno.EACCES)] * 3
    assert [pod.waiting() for pod in made] == [[b"%d" % round_ for round_ in range(20)]] * 3
    assert udp.heard().count(Fault(dead, errno.ECONNREFUSED)) == 40


def test_a_payload_over_the_limit_is_a_fault_of_each_entry(udp: UdpTransport, pods: Callable[..., list[Pod]]) -> None:
    endpoints = [pod.endpoint for pod in pods(2)]
    assert send_all(udp, bytes(65_508), endpoints) == [Fault(endpoint, errno.EMSGSIZE) for endpoint in endpoints]


def test_a_full_socket_means_wait(pods: Callable[..., list[Pod]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A send buffer that is full for a moment: the copies go out once, in order, after the wait."""
    made = pods(3)

    class Full(socket.socket):
        calls = 0

        def sendto(self, *arguments: object) -> int:
            type(self).calls += 1
            if self.calls % 2:
                raise BlockingIOError(errno.EAGAIN, "full")
            return super().sendto(*arguments)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(socket, "socket", Full)
    transport = UdpTransport()
    endpoints = [pod.endpoint for pod in made]
    faults: list[Fault] = []
    positions = [0]
    while positions[-1] < 3:
        positions.append(transport.send(b"x", endpoints, positions[-1], faults))
    assert positions == [0, 0, 1, 2, 3]
    assert transport.fileno(endpoints[0]) is not None
    assert faults == []
    assert [pod.waiting() for pod in made] == [[b"x"]] * 3
    transport.close()


@given(st.data())
def test_memory_keeps_the_same_contract(data: st.DataObject) -> None:
    endpoints = [Endpoint(f"10.0.0.{number}", 1) for number in range(data.draw(st.integers(0, 12)))]
    numbers = st.sampled_from([errno.EPERM, errno.ENOBUFS])
    choose = st.sampled_from(endpoints) if endpoints else st.nothing()
    faults = data.draw(st.dictionaries(choose, numbers))
    refusals = data.draw(st.dictionaries(choose, st.just(errno.ECONNREFUSED)))
    room = data.draw(st.lists(st.integers(0, 5), max_size=20))
    transport = MemoryTransport(faults=faults, refusals=refusals, room=room)
    found = send_all(transport, b"x", endpoints)
    assert transport.attempted == endpoints
    assert [fault.endpoint for fault in found] == [endpoint for endpoint in endpoints if endpoint in faults]
    assert [endpoint for endpoint, _ in transport.sent] == [e for e in endpoints if e not in faults]
    assert {fault.endpoint for fault in transport.heard()} == set(refusals) - set(faults)
    assert transport.heard() == []


@pytest.mark.parametrize("make", [UdpTransport, MemoryTransport])
def test_after_close_every_call_says_closed(make: Callable[[], Transport]) -> None:
    transport = make()
    transport.close()
    transport.close()
    endpoint = Endpoint("127.0.0.1", 9)
    calls: list[Callable[[], object]] = [
        lambda: transport.send(b"x", [endpoint], 0, []),
        transport.heard,
        lambda: transport.fileno(endpoint),
    ]
    for call in calls:
        with pytest.raises(Closed):
            call()
