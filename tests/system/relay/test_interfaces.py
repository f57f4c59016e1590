"""Interfaces that come late, go and come again, and what makes an ingress impossible."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.cli import FANOUT, Run
from tests.support.lan import Host, Lan, Relay, lan, receive, waiting
from tests.support.waiting import until

GROUP, PORT = "224.0.67.67", 5001
INGRESS = f"mcast://{GROUP}:{PORT}@eth1"


@pytest.fixture(scope="module")
def module_world() -> Iterator[Lan]:
    with lan(2) as made:
        yield made


@pytest.fixture
def world(module_world: Lan) -> Iterator[Lan]:
    yield module_world
    module_world.end_all()


@pytest.fixture
def edge(world: Lan) -> Iterator[Host]:
    """An edge host that is not attached to the LAN."""
    world.detach(world.edge)
    yield world.edge
    world.edge.end_all()
    if not world.edge.index("eth1"):
        world.attach(world.edge)


def send(world: Lan, payload: bytes) -> None:
    sender = world.source.udp()
    sender.bind((world.source.lan, 0))
    sender.sendto(payload, (GROUP, PORT))


def assert_all_get(pods: list[socket.socket], payload: bytes) -> None:
    for pod in pods:
        assert receive(pod, 1) == [payload]
        assert waiting(pod) == []


def run(host: Host, *arguments: str) -> Run:
    """Run a relay that is to end by itself."""
    return host.start(*FANOUT, "relay", "--log-format", "json", *arguments).end()


def test_an_interface_that_appears_late(world: Lan, edge: Host) -> None:
    relay = Relay(edge, "-s", world.service(), "--listen", INGRESS, listening=0)
    (waits,) = relay.wait_for("ingress_waiting")
    assert waits["ingress"] == INGRESS
    assert "eth1" in waits["reason"]
    assert "eth1" in edge.get("/readyz")
    pods = world.listen(PORT)
    world.attach(edge)
    relay.wait_for("ingress_listening")
    send(world, b"late")
    assert_all_get(pods, b"late")
    until(lambda: edge.get("/readyz") == "ok\n", "it is ready")


def test_an_interface_that_is_attached_before_it_has_an_address(world: Lan, edge: Host) -> None:
    relay = Relay(edge, "-s", world.service(), "--listen", INGRESS, listening=0)
    relay.wait_for("ingress_waiting")
    world.attach(edge, configured=False)
    (_, switched_off) = relay.wait_for("ingress_waiting", 2)
    assert "eth1 is down" in switched_off["reason"]
    pods = world.listen(PORT)
    world.configure(edge)
    relay.wait_for("ingress_listening")
    send(world, b"bare")
    assert_all_get(pods, b"bare")


def test_an_interface_that_goes_down_and_up(world: Lan) -> None:
    relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS)
    pods = world.listen(PORT)
    send(world, b"before")
    assert_all_get(pods, b"before")
    world.edge.ip("link set eth1 down")
    send(world, b"meanwhile")
    world.edge.ip("link set eth1 up")
    send(world, b"after")
    assert_all_get(pods, b"after")
    assert relay.run.process.poll() is None


def test_an_interface_that_is_detached_and_attached_again(world: Lan) -> None:
    relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS, "--listen", "udp://0.0.0.0:5004", listening=2)
    pods = world.listen(PORT)
    for number in range(1, 4):
        send(world, b"before %d" % number)
        assert_all_get(pods, b"before %d" % number)
        world.detach(world.edge)
        (*_, lost) = relay.wait_for("ingress_lost", number)
        assert (lost["ingress"], lost["interface"]) == (INGRESS, "eth1")
        # The ingress that needs no interface goes on.
        others = [pod.listen("::", 5004) for pod in world.pods]
        world.pods[0].udp().sendto(b"by the other leg", (world.edge.pod_ip, 5004))
        assert_all_get(others, b"by the other leg")
        for each in others:
            each.close()
        world.attach(world.edge)
        relay.wait_for("ingress_listening", 2 + number)
        send(world, b"after")
        assert_all_get(pods, b"after")


def test_an_interface_replaced_at_once_is_joined_anew(world: Lan) -> None:
    relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS)
    pods = world.listen(PORT)
    world.detach(world.edge)
    world.attach(world.edge)
    relay.wait_for("ingress_listening", 2)
    send(world, b"another")
    assert_all_get(pods, b"another")


def test_an_interface_that_never_appears(world: Lan) -> None:
    ended = run(
        world.edge, "-s", world.service(), "--listen", f"mcast://{GROUP}:{PORT}@eth7", "--interface-timeout", "0.3"
    )
    sentence = ended.assert_one_sentence(1)
    assert f"mcast://{GROUP}:{PORT}@eth7" in sentence
    assert "there are lo, eth0, eth1" in sentence


def test_sigterm_while_it_waits_for_an_interface(world: Lan) -> None:
    relay = Relay(world.edge, "-s", world.service(), "--listen", f"mcast://{GROUP}:{PORT}@eth7", listening=0)
    relay.wait_for("relay_started")
    assert relay.run.stop().code == 0


def test_more_groups_than_the_kernel_lets_a_socket_join(world: Lan) -> None:
    world.edge.sysctl("net.ipv4.igmp_max_memberships", 0)
    try:
        ended = run(world.edge, "-s", world.service(), "--listen", INGRESS)
    finally:
        world.edge.sysctl("net.ipv4.igmp_max_memberships", 20)
    sentence = ended.assert_one_sentence(1)
    assert INGRESS in sentence
    assert "net.ipv4.igmp_max_memberships" in sentence


def test_many_groups_need_no_sysctl(world: Lan) -> None:
    """Each has a socket of its own, and the sysctl counts by socket."""
    listens = [word for number in range(50) for word in ("--listen", f"mcast://224.0.68.{number}:{PORT}@eth1")]
    Relay(world.edge, "-s", world.service(), *listens, listening=50)
    pods = world.listen(PORT)
    sender = world.source.udp()
    sender.bind((world.source.lan, 0))
    for number in range(50):
        sender.sendto(b"%d" % number, (f"224.0.68.{number}", PORT))
    for pod in pods:
        assert sorted(map(int, receive(pod, 50))) == [*range(50)]
        assert waiting(pod) == []


def test_an_address_that_nobody_here_has(world: Lan) -> None:
    sentence = run(world.edge, "-s", world.service(), "--listen", "udp://10.50.0.99:5004").assert_one_sentence(1)
    assert "udp://10.50.0.99:5004" in sentence


def test_a_port_that_another_program_has(world: Lan) -> None:
    world.edge.listen("0.0.0.0", 5006)
    sentence = run(world.edge, "-s", world.service(), "--listen", "udp://0.0.0.0:5004-5007").assert_one_sentence(1)
    assert "udp://0.0.0.0:5004-5007" in sentence
    assert "5006" in sentence


def test_a_service_that_is_its_own_ingress(world: Lan) -> None:
    service = f"{world.edge.pod_ip},{world.service()}"
    sentence = run(world.edge, "-s", service, "--listen", "udp://0.0.0.0:5004").assert_one_sentence(2)
    assert "udp://0.0.0.0:5004" in sentence
    assert f"{world.edge.pod_ip}:5004" in sentence
    assert "to_port" in sentence
