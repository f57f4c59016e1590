"""Interfaces that come late, go and come again, and what makes an ingress impossible."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.console import Console, console
from tests.support.lan import Host, Lan, Relay, lan, receive, waiting
from tests.support.waiting import until

GROUP, PORT = "224.0.67.67", 5001
INGRESS = f"mcast://{GROUP}:{PORT}@eth1"


@pytest.fixture(scope="module")
def module_world() -> Iterator[Lan]:
    with lan(2) as made:
        yield made


@pytest.fixture(scope="module")
def inside(module_world: Lan) -> Iterator[Console]:
    """Runs in the edge host what ends by itself."""
    with console(*module_world.edge.command) as made:
        yield made


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


def test_an_interface_that_appears_late_and_without_an_address(world: Lan, edge: Host) -> None:
    relay = Relay(edge, "-s", world.service(), "--listen", INGRESS, listening=0)
    (waits,) = relay.wait_for("ingress_waiting")
    assert waits["ingress"] == INGRESS
    assert "eth1" in waits["reason"]
    assert "eth1" in edge.get("/readyz")
    world.attach(edge, configured=False)
    (_, switched_off) = relay.wait_for("ingress_waiting", 2)
    assert "eth1 is down" in switched_off["reason"]
    pods = world.listen(PORT)
    world.configure(edge)
    relay.wait_for("ingress_listening")
    send(world, b"late")
    assert_all_get(pods, b"late")
    until(lambda: edge.get("/readyz") == "ok\n", "it is ready")


def test_an_interface_that_goes_down_and_up_is_replaced_and_comes_again(world: Lan) -> None:
    relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS, "--listen", "udp://0.0.0.0:5004", listening=2)
    pods = world.listen(PORT)
    others = [pod.listen("::", 5004) for pod in world.pods]
    send(world, b"before")
    assert_all_get(pods, b"before")
    switched_off = relay.after(lambda: world.edge.ip("link set eth1 down"), "ingress_waiting")
    assert "eth1 is down" in switched_off["reason"]

    def switch_on() -> None:
        world.edge.ip("link set eth1 up")
        send(world, b"after")
        assert_all_get(pods, b"after")

    relay.after(switch_on, "ingress_listening")

    for number in range(1, 4):
        send(world, b"before %d" % number)
        assert_all_get(pods, b"before %d" % number)
        lost = relay.after(lambda: world.detach(world.edge), "ingress_lost")
        assert (lost["ingress"], lost["interface"]) == (INGRESS, "eth1")
        # The ingress that needs no interface goes on.
        world.pods[0].udp().sendto(b"by the other leg", (world.edge.pod_ip, 5004))
        assert_all_get(others, b"by the other leg")
        relay.after(lambda: world.attach(world.edge), "ingress_listening")
        send(world, b"after")
        assert_all_get(pods, b"after")

    def replace_at_once() -> None:
        world.detach(world.edge)
        world.attach(world.edge)

    relay.after(replace_at_once, "ingress_listening")
    send(world, b"another")
    assert_all_get(pods, b"another")


def test_an_interface_that_never_appears(world: Lan, inside: Console) -> None:
    listen = ("--listen", f"mcast://{GROUP}:{PORT}@eth7", "--interface-timeout", "0.1")
    often = ("unittest.mock:patch", ["fanout.relay.relay._CHECK", 0.05])
    ended = inside.fanout("relay", "-s", world.service(), *listen, within=often)
    sentence = ended.assert_one_sentence(1)
    assert f"mcast://{GROUP}:{PORT}@eth7" in sentence
    assert "there are lo, eth0, eth1" in sentence


def test_sigterm_while_it_waits_for_an_interface(world: Lan) -> None:
    relay = Relay(world.edge, "-s", world.service(), "--listen", f"mcast://{GROUP}:{PORT}@eth7", listening=0)
    relay.wait_for("relay_started")
    assert relay.run.stop().code == 0


def test_more_groups_than_the_kernel_lets_a_socket_join(world: Lan, inside: Console) -> None:
    world.edge.sysctl("net.ipv4.igmp_max_memberships", 0)
    try:
        ended = inside.fanout("relay", "-s", world.service(), "--listen", INGRESS)
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


def test_an_address_that_nobody_here_has(world: Lan, inside: Console) -> None:
    ended = inside.fanout("relay", "-s", world.service(), "--listen", "udp://10.50.0.99:5004")
    sentence = ended.assert_one_sentence(1)
    assert "udp://10.50.0.99:5004" in sentence


def test_a_port_that_another_program_has(world: Lan, inside: Console) -> None:
    world.edge.listen("0.0.0.0", 5006)
    ended = inside.fanout("relay", "-s", world.service(), "--listen", "udp://0.0.0.0:5004-5007")
    sentence = ended.assert_one_sentence(1)
    assert "udp://0.0.0.0:5004-5007" in sentence
    assert "5006" in sentence


def test_a_service_that_is_its_own_ingress(world: Lan, inside: Console) -> None:
    service = f"{world.edge.pod_ip},{world.service()}"
    sentence = inside.fanout("relay", "-s", service, "--listen", "udp://0.0.0.0:5004").assert_one_sentence(2)
    assert "udp://0.0.0.0:5004" in sentence
    assert f"{world.edge.pod_ip}:5004" in sentence
    assert "to_port" in sentence
