"""Batches on real sockets: refusals are attributed, and one pod never costs another its copy."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from fanout.model import Endpoint
from fanout.net.sendmmsg import SendMany, system_sendmmsg
from fanout.net.transport import Transport
from fanout.net.udp import UdpTransport
from fanout.report import Fault
from tests.support.pods import Pod
from tests.support.ports import refusing
from tests.support.transports import send_all, send_batch
from tests.support.waiting import until

BROADCAST = Endpoint("127.255.255.255", 9)
"""Of loopback: refused by the kernel without SO_BROADCAST, also where a machine has no route to anywhere."""


def hear(transport: Transport, count: int) -> list[Fault]:
    """Return the ICMP errors that have come, once there are so many."""
    heard: list[Fault] = []

    def has_come() -> bool:
        heard.extend(transport.icmp_errors())
        return len(heard) >= count

    until(has_come, lambda: heard)
    return heard


def none() -> SendMany | None:
    return None


@pytest.fixture(params=["loop", "system"])
def udp(request: pytest.FixtureRequest) -> Iterator[UdpTransport]:
    """Without and with `sendmmsg`."""
    transport = UdpTransport(find_sendmmsg=none if request.param == "loop" else system_sendmmsg)
    yield transport
    transport.close()


def test_each_pod_gets_one_copy_of_both_families(udp: UdpTransport, pods: Callable[..., list[Pod]]) -> None:
    made = pods(hosts=["127.0.0.11", "::1", "127.0.0.12"])
    endpoints = [pod.endpoint for pod in made]
    for payload in (b"", b"x", bytes(range(256)) * 255, b"y" * 65_507):
        assert send_all(udp, payload, endpoints) == []
        assert [pod.receive() for pod in made] == [payload] * 3
    assert [pod.waiting() for pod in made] == [[], [], []]
    assert udp.icmp_errors() == []


def test_no_more_is_received_than_was_asked_for(udp: UdpTransport, pods: Callable[..., list[Pod]]) -> None:
    made = pods(hosts=["127.0.0.11", "::1"])
    assert send_all(udp, b"ask", [pod.endpoint for pod in made]) == []
    for pod in made:
        _, asker = pod.socket.recvfrom(100)
        for payload in (b"one", b"two"):
            pod.socket.sendto(payload, asker)
    received: list[tuple[bytes, Endpoint]] = []

    def receive(most: int) -> bool:
        got = udp.receive(most)
        received.extend(got)
        return len(got) == most

    for _ in range(4):
        until(lambda: receive(1))
    assert Counter(received) == Counter((payload, pod.endpoint) for pod in made for payload in (b"one", b"two"))


def test_refusals_are_attributed_to_the_pod_that_refused(udp: UdpTransport, pods: Callable[..., list[Pod]]) -> None:
    first, second, third = (pod.endpoint for pod in pods(hosts=["127.0.0.11", "127.0.0.12", "::1"]))
    with refusing("127.0.0.98", "127.0.0.99", "::1") as port:
        refused = [Endpoint(host, port) for host in ("127.0.0.99", "::1", "127.0.0.98")]
        endpoints = [refused[0], first, *refused[1:], third, second]
        for _ in range(50):
            assert send_all(udp, b"x", endpoints) == []
        heard = hear(udp, 150)
    assert {fault.errno for fault in heard} == {errno.ECONNREFUSED}
    assert Counter(fault.endpoint for fault in heard) == dict.fromkeys(refused, 50)


def test_a_bad_entry_never_costs_another_its_copy(
    udp: UdpTransport, pods: Callable[..., list[Pod]], refusing_port: int
) -> None:
    made = pods(3)
    dead = Endpoint("127.0.0.1", refusing_port)
    endpoints = [BROADCAST, made[0].endpoint, dead, BROADCAST, made[1].endpoint, dead, made[2].endpoint, BROADCAST]
    for round_ in range(20):
        faults = send_all(udp, b"%d" % round_, endpoints)
        assert faults == [Fault(BROADCAST, errno.EACCES)] * 3
    assert [pod.waiting(20) for pod in made] == [[b"%d" % round_ for round_ in range(20)]] * 3
    assert hear(udp, 40).count(Fault(dead, errno.ECONNREFUSED)) == 40


def test_a_payload_over_the_limit_is_a_fault_of_each_entry(udp: UdpTransport, pods: Callable[..., list[Pod]]) -> None:
    endpoints = [pod.endpoint for pod in pods(2)]
    assert send_all(udp, bytes(65_508), endpoints) == [Fault(endpoint, errno.EMSGSIZE) for endpoint in endpoints]
    assert udp.icmp_errors() == [], "the kernel queues such an error, too: it is no refusal"


def test_a_batch_arrives_with_its_boundaries(udp: UdpTransport, pods: Callable[..., list[Pod]]) -> None:
    made = pods(hosts=["127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14"])
    payloads = [
        *[bytes([number]) * 1200 for number in range(70)],
        b"short",
        b"",
        b"",
        *[bytes(number) for number in range(50)],
        *[b"y" * 30_000] * 2,
        bytes(65_507),
    ]
    assert send_batch(udp, payloads, [pod.endpoint for pod in made]) == []
    for pod in made:
        assert pod.waiting(len(payloads)) == payloads


def test_a_bad_entry_of_a_batch_never_costs_another_its_copies(
    udp: UdpTransport, pods: Callable[..., list[Pod]], refusing_port: int
) -> None:
    made = pods(3)
    dead = Endpoint("127.0.0.1", refusing_port)
    endpoints = [BROADCAST, made[0].endpoint, dead, made[1].endpoint, dead, made[2].endpoint]
    payloads = [bytes(10)] * 20 + [b"1", b"22"]
    faults = send_batch(udp, payloads, endpoints)
    assert faults == [Fault(BROADCAST, errno.EACCES, message) for message in range(22)]
    assert [pod.waiting(22) for pod in made] == [payloads] * 3
    assert Fault(dead, errno.ECONNREFUSED) in hear(udp, 1)
