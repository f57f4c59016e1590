"""What a relay does not forward, what it forwards all the same, and who pays for whom."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.cli import Running
from tests.support.lan import Host, Lan, Relay, lan, receive, waiting
from tests.support.needs import program, unavailable
from tests.support.waiting import until

PORT, QUIET = 5004, 5006
INGRESS = f"udp://0.0.0.0:{PORT}"
GROUP, GROUP6 = "224.0.67.67", "ff15::67"
_FLOOD = """
import socket, sys
flooding = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET, socket.SOCK_DGRAM)
flooding.setsockopt(socket.IPPROTO_UDP, 103, 1000)  # UDP_SEGMENT: 60 datagrams a call
flooding.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
flooding.bind((sys.argv[1], 0))
while True:
    flooding.sendto(bytes(60_000), (sys.argv[2], int(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def module_world() -> Iterator[Lan]:
    with lan(3) as made:
        made.add_source()
        made.add_edge()
        yield made


@pytest.fixture
def world(module_world: Lan) -> Iterator[Lan]:
    yield module_world
    module_world.end_all()


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def start_flood(host: Host, destination: str) -> Running:
    """Send as much as goes, until the test ends."""
    own = host.lan6 if ":" in destination else host.lan
    return host.start(sys.executable, "-c", _FLOOD, own, destination, str(PORT))


def test_sources_that_are_not_allowed(world: Lan) -> None:
    allowed, refused = world.sources
    relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS, "--allow-source", f"{allowed.lan}/32")
    pods = world.listen(PORT)
    for number in range(20):
        refused.udp().sendto(b"refused", (world.edge.lan, PORT))
        allowed.udp().sendto(b"%d" % number, (world.edge.lan, PORT))
    for pod in pods:
        assert receive(pod, 20) == numbered(20)
        assert waiting(pod) == []
    assert relay.drops() == {"source_not_allowed": 20}
    assert relay.count("fanout_relay_forwarded_total") == 20


def test_a_source_over_the_limit(world: Lan) -> None:
    greedy, modest = world.sources
    relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS, "--limit", "100")
    pods = world.listen(PORT)
    sender = greedy.udp()
    began = time.monotonic()
    for payload in numbered(1000):
        sender.sendto(payload, (world.edge.lan, PORT))
    modest.udp().sendto(b"modest", (world.edge.lan, PORT))
    until(lambda: relay.count("fanout_relay_datagrams_total") == 1001, "all have come")
    seconds = time.monotonic() - began
    forwarded = relay.count("fanout_relay_forwarded_total")
    assert relay.drops() == {"over_limit": 1001 - forwarded}
    assert 10 <= forwarded <= 11 + 100 * seconds
    for pod in pods:
        got = receive(pod, forwarded)
        assert b"modest" in got, "who is modest pays nothing for who is greedy"
        assert waiting(pod) == []


def test_two_relays_that_send_to_each_other(world: Lan) -> None:
    """Both hear the same group, and each is a pod of the other's Service."""
    relays = [
        Relay(
            edge,
            *("-s", f"{world.service()},{other.pod_ip}", "--loop-guard"),
            *("--listen", f"mcast://{GROUP}:{PORT}@eth1", "--listen", f"udp://{edge.pod_ip}:{PORT}"),
            listening=2,
        )
        for edge, other in (world.edges, reversed(world.edges))
    ]
    pods = world.listen(PORT)
    sender = world.source.udp()
    sender.bind((world.source.lan, 0))
    for payload in numbered(500):
        sender.sendto(payload, (GROUP, PORT))
    # Those of the source, and what the other relay makes of them; more would be a storm.
    until(lambda: all(relay.count("fanout_relay_datagrams_total") >= 1000 for relay in relays), "each has heard both")
    time.sleep(0.3)
    for relay in relays:
        assert relay.count("fanout_relay_datagrams_total") == 1000
        assert relay.count("fanout_relay_forwarded_total") == 500
        assert relay.drops() == {"loop": 500}
    for pod in pods:
        assert Counter(waiting(pod)) == dict.fromkeys(numbered(500), 2), "one copy by each relay"


def test_datagrams_of_its_own_that_come_back(world: Lan) -> None:
    """A pod's address leads back to the relay, by a rule of the host that the relay cannot see."""
    if program("nft") is None:
        unavailable("tools", "nft is missing (Debian, Ubuntu: apt install nftables)")
    mirrored = world.pods[0].pod_ip
    rule = f"ip daddr {mirrored} udp dport {PORT} dnat to {world.edge.pod_ip}"
    chain = f"chain output {{ type nat hook output priority -100; {rule}; }}"
    world.edge.run("nft", f"table ip mirror {{ {chain}; }}")
    try:
        relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS)
        pods = world.listen(PORT)
        world.source.udp().sendto(b"once", (world.edge.lan, PORT))
        for pod in pods[1:]:
            assert receive(pod, 1) == [b"once"]
        until(lambda: relay.drops() == {"own": 1}, "its own one is refused")
        assert relay.count("fanout_relay_datagrams_total") == 2
    finally:
        world.edge.run("nft", "delete", "table", "ip", "mirror")


def test_what_had_come_before_sigterm_is_forwarded(world: Lan) -> None:
    relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS)
    pods = world.listen(PORT)
    sender = world.source.udp()
    sender.sendto(b"first", (world.edge.lan, PORT))
    for pod in pods:
        assert receive(pod, 1) == [b"first"]
    relay.pause()
    for payload in numbered(1000):
        sender.sendto(payload, (world.edge.lan, PORT))
    relay.run.process.send_signal(signal.SIGTERM)
    relay.resume()
    assert relay.run.end().code == 0
    for pod in pods:
        assert receive(pod, 1000) == numbered(1000)
        assert waiting(pod) == []


@pytest.mark.alone
def test_a_flood_on_one_ingress_starves_no_other(world: Lan) -> None:
    flooding, quiet = world.sources
    quiet_ingress = f"udp://0.0.0.0:{QUIET}"
    relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS, "--listen", quiet_ingress, listening=2)
    pods = world.listen(QUIET)
    sender = quiet.udp()
    flood = start_flood(flooding, world.edge.lan)
    until(lambda: relay.count("fanout_relay_datagrams_total", ingress=INGRESS) > 1000, "the flood has come")
    for payload in numbered(150):
        sender.sendto(payload, (world.edge.lan, QUIET))
        time.sleep(0.01)
    for pod in pods:
        assert receive(pod, 150) == numbered(150)
    assert flood.process.poll() is None, "the flood has lasted"
    assert relay.drops(ingress=quiet_ingress) == {}


@pytest.mark.parametrize(
    ("ingress", "destination"),
    [
        (INGRESS, "10.50.0.20"),
        (f"udp://[::]:{PORT}", "fd50::20"),
        (f"mcast://{GROUP}:{PORT}@eth1", GROUP),
        (f"mcast://[{GROUP6}]:{PORT}@eth1", GROUP6),
        (f"broadcast://:{PORT}@eth1", "10.50.0.255"),
    ],
    ids=["udp", "udp6", "mcast", "mcast6", "broadcast"],
)
@pytest.mark.alone
def test_sigterm_ends_a_relay_that_is_flooded(world: Lan, ingress: str, destination: str) -> None:
    # With a limit each datagram is taken by itself: the relay is slower than the flood.
    relay = Relay(world.edge, "-s", world.service(), "--listen", ingress, "--limit", "1e9")
    floods = [start_flood(source, destination) for source in world.sources]
    until(lambda: relay.count("fanout_relay_datagrams_total") > 1000, "the flood has come")
    began = time.monotonic()
    assert relay.run.stop().code == 0
    assert time.monotonic() - began < 3
    assert all(flood.process.poll() is None for flood in floods)


def test_a_pod_that_is_gone_and_one_that_has_stopped_cost_the_others_nothing(world: Lan) -> None:
    gone = "10.60.0.99"
    relay = Relay(world.edge, "-s", f"{gone},{world.service()}", "--listen", INGRESS)
    stopped, *others = world.listen(PORT)
    stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # it reads no more, and holds next to nothing
    refusing = world.pods[-1]
    refusing.close_sockets()  # its port is closed: it answers with ICMP
    others.pop()
    sender = world.source.udp()
    for number, payload in enumerate(numbered(5000)):
        sender.sendto(payload, (world.edge.lan, PORT))
        if number % 50 == 49:
            time.sleep(0.005)
    until(lambda: relay.count("fanout_relay_datagrams_total") == 5000, "all have come")
    assert relay.drops() == {}
    assert relay.count("fanout_relay_copies_refused_total") > 0
    for pod in others:
        assert receive(pod, 5000) == numbered(5000)
