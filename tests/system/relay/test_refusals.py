"""What a relay does not forward, what it forwards all the same, and who pays for whom."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.cli import Running
from tests.support.lan import Host, Lan, Relay, lan, receive, waiting
from tests.support.limits import UNHURRIED
from tests.support.needs import require
from tests.support.waiting import until

PORT = 5004
INGRESS = f"udp://0.0.0.0:{PORT}"
GROUP, GROUP6 = "224.0.67.67", "ff15::67"
FLOODED, QUIET, ALLOWED, LIMITED, MIRRORED, TROUBLED = range(5010, 5016)
GONE = "10.60.0.99"
SIZE = 1000
"""Bytes of each datagram of a flood."""
_FLOOD = f"""
SIZE = {SIZE}
import json, socket, sys
places = []
for own, host, port in json.loads(sys.argv[1]):
    flooding = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    flooding.setsockopt(socket.IPPROTO_UDP, 103, SIZE)  # UDP_SEGMENT: 60 datagrams a call
    flooding.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    flooding.bind((own, 0))
    places.append((flooding, (host, port)))
while True:
    for flooding, place in places:
        flooding.sendto(bytes(60 * SIZE), place)
"""
# A `fanout` that tells what its relay has taken, and what the kernel holds for it, once nothing more is let in.
_TELLING = """
import logging
from fanout.__main__ import main
from fanout.net import bind
from fanout.relay import port as relay_port
stop_receiving = relay_port.Port.stop_receiving
def tell(port):
    stop_receiving(port)
    said = {"held": bind.held(port.socket), "taken": port.counts.datagrams}
    logging.getLogger("fanout").warning("stopped_receiving: %(held)d, %(taken)d", said)
relay_port.Port.stop_receiving = tell
main()
"""


@pytest.fixture(scope="module")
def module_world() -> Iterator[Lan]:
    with lan(3) as made:
        made.add_source()
        made.add_edge()
        made.add_edge()
        yield made


@pytest.fixture(scope="module")
def relay(module_world: Lan, tmp_path_factory: pytest.TempPathFactory) -> Relay:
    """On the last edge, with an ingress for each test that needs no relay of its own."""
    pods = module_world.service()
    ingresses: dict[int, dict[str, object]] = {
        FLOODED: {},
        QUIET: {},
        ALLOWED: {"allow_source": [module_world.sources[0].lan]},
        LIMITED: {"limit": 0.001},
        MIRRORED: {},
        TROUBLED: {"service": f"{GONE},{pods}"},
    }
    listed = [{"listen": name(port), **settings} for port, settings in ingresses.items()]
    config = tmp_path_factory.mktemp("relay") / "relay.yaml"
    config.write_text(json.dumps({"service": pods, "ingresses": listed}))
    return Relay(module_world.edges[-1], "--config", str(config), listening=len(ingresses))


@pytest.fixture
def world(module_world: Lan) -> Iterator[Lan]:
    """Nothing is left of a test but the relay on the last edge."""
    yield module_world
    for host in (*module_world.sources, *module_world.pods, *module_world.edges[:-1]):
        host.end_all()


def name(port: int) -> str:
    """Return an ingress."""
    return f"udp://0.0.0.0:{port}"


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def start_flood(host: Host, *destinations: tuple[str, int]) -> Running:
    """Send as much as goes, until the test ends."""
    places = [(host.lan6 if ":" in address else host.lan, address, port) for address, port in destinations]
    return host.start(sys.executable, "-c", _FLOOD, json.dumps(places))


def test_sources_that_are_not_allowed(world: Lan, relay: Relay) -> None:
    allowed, refused = (host.udp() for host in world.sources)
    pods = world.listen(ALLOWED)
    to = (world.edges[-1].lan, ALLOWED)
    for payload in numbered(20):
        refused.sendto(b"refused", to)
        allowed.sendto(payload, to)
    for pod in pods:
        assert receive(pod, 20) == numbered(20)
    until(lambda: relay.count("fanout_relay_datagrams_total", ingress=name(ALLOWED)) == 40, "all have come")
    assert relay.drops(ingress=name(ALLOWED)) == {"source_not_allowed": 20}
    until(lambda: relay.count("fanout_relay_forwarded_total", ingress=name(ALLOWED)) == 20, "the others are forwarded")
    for pod in pods:
        assert waiting(pod) == []


def test_a_source_over_the_limit(world: Lan, relay: Relay) -> None:
    greedy, modest = (host.udp() for host in world.sources)
    pods = world.listen(LIMITED)
    to = (world.edges[-1].lan, LIMITED)
    for payload in numbered(20):
        greedy.sendto(payload, to)
    modest.sendto(b"modest", to)
    for pod in pods:
        assert sorted(receive(pod, 2)) == [b"0", b"modest"], "who is modest pays nothing for who is greedy"
    until(lambda: relay.count("fanout_relay_datagrams_total", ingress=name(LIMITED)) == 21, "all have come")
    assert relay.drops(ingress=name(LIMITED)) == {"over_limit": 19}
    for pod in pods:
        assert waiting(pod) == []


def test_two_relays_that_send_to_each_other(world: Lan) -> None:
    """Both hear the same group, and each is a pod of the other's Service."""
    edges = world.edges[:2]
    relays = [
        Relay(
            edge,
            *("-s", f"{world.service()},{other.pod_ip}", "--loop-guard"),
            *("--listen", f"mcast://{GROUP}:{PORT}@eth1", "--listen", f"udp://{edge.pod_ip}:{PORT}"),
            listening=2,
            limits=UNHURRIED,
        )
        for edge, other in (edges, reversed(edges))
    ]
    pods = world.listen(PORT)
    sender = world.source.udp()
    sender.bind((world.source.lan, 0))

    number = 100
    for payload in numbered(number):
        sender.sendto(payload, (GROUP, PORT))
    until(lambda: all(relay.count("fanout_relay_datagrams_total") >= 2 * number for relay in relays), "they have come")
    # What goes round comes before this one.
    sender.sendto(b"last", (GROUP, PORT))
    number += 1
    until(lambda: all(relay.count("fanout_relay_datagrams_total") >= 2 * number for relay in relays), "it has come")
    for pod in pods:
        assert Counter(receive(pod, 2 * number)) == dict.fromkeys([*numbered(number - 1), b"last"], 2), "of each relay"
    for relay in relays:
        until(lambda it=relay: it.count("fanout_relay_forwarded_total") == number, "it is forwarded once")  # type: ignore[misc]
        assert relay.count("fanout_relay_datagrams_total") == 2 * number
        assert relay.drops() == {"loop": number}
    for pod in pods:
        assert waiting(pod) == []


def test_datagrams_of_its_own_that_come_back(world: Lan, relay: Relay) -> None:
    """A pod's address leads back to the relay, by a rule of the host that the relay cannot see."""
    require("nft")
    edge = world.edges[-1]
    rule = f"ip daddr {world.pods[0].pod_ip} udp dport {MIRRORED} dnat to {edge.pod_ip}"
    chain = f"chain output {{ type nat hook output priority -100; {rule}; }}"
    edge.run("nft", f"table ip mirror {{ {chain}; }}")
    try:
        pods = world.listen(MIRRORED)
        world.source.udp().sendto(b"once", (edge.lan, MIRRORED))
        for pod in pods[1:]:
            assert receive(pod, 1) == [b"once"]
        until(lambda: relay.drops(ingress=name(MIRRORED)) == {"own": 1}, "its own one is refused")
        assert relay.count("fanout_relay_datagrams_total", ingress=name(MIRRORED)) == 2
    finally:
        edge.run("nft", "delete", "table", "ip", "mirror")


def test_what_had_come_before_sigterm_is_forwarded(world: Lan) -> None:
    relay = Relay(world.edge, "-s", world.service(), "--listen", INGRESS, limits=UNHURRIED)
    pods = world.listen(PORT)
    sender = world.source.udp()
    sender.sendto(b"first", (world.edge.lan, PORT))
    for pod in pods:
        assert receive(pod, 1) == [b"first"]
    relay.pause()
    for payload in numbered(150):
        sender.sendto(payload, (world.edge.lan, PORT))
    relay.run.process.send_signal(signal.SIGTERM)
    relay.resume()
    assert relay.run.end().code == 0
    for pod in pods:
        assert receive(pod, 150) == numbered(150)
        assert waiting(pod) == []


def test_a_flood_on_one_ingress_starves_no_other(world: Lan, relay: Relay) -> None:
    flooding, quiet = world.sources
    edge = world.edges[-1]
    pods = world.listen(QUIET)
    sender = quiet.udp()

    def flooded() -> int:
        return relay.count("fanout_relay_datagrams_total", ingress=name(FLOODED))

    flood = start_flood(flooding, (edge.lan, FLOODED))
    until(lambda: flooded() > 1000, "the flood has come")
    before = flooded()
    for payload in numbered(50):
        sender.sendto(payload, (edge.lan, QUIET))
        for pod in pods:
            assert receive(pod, 1) == [payload]
    assert flood.process.poll() is None
    until(lambda: flooded() > before, "the flood has lasted")
    assert relay.drops(ingress=name(QUIET)) == {}


def test_sigterm_ends_a_relay_that_is_flooded(world: Lan) -> None:
    floods = {
        f"udp://0.0.0.0:{PORT}": (world.edge.lan, PORT),
        f"udp://[::]:{PORT + 1}": (world.edge.lan6, PORT + 1),
        f"mcast://{GROUP}:{PORT + 2}@eth1": (GROUP, PORT + 2),
        f"mcast://[{GROUP6}]:{PORT + 3}@eth1": (GROUP6, PORT + 3),
        f"broadcast://:{PORT + 4}@eth1": ("10.50.0.255", PORT + 4),
    }
    listen = [word for ingress in floods for word in ("--listen", ingress)]
    # With a limit each datagram is taken by itself: the relay is slower than the flood.
    arguments = ("-s", world.service(), *listen, "--limit", "1e9")
    relay = Relay(
        world.edge, *arguments, listening=len(floods), program=[sys.executable, "-c", _TELLING], limits=UNHURRIED
    )
    flooding = [start_flood(source, *floods.values()) for source in world.sources]
    for ingress in floods:
        until(lambda it=ingress: relay.count("fanout_relay_datagrams_total", ingress=it) > 1000, "it is flooded")  # type: ignore[misc]
    assert relay.run.stop().code == 0
    assert all(flood.process.poll() is None for flood in flooding)
    (stopped,), stopped_receiving = relay.run.events("relay_stopped"), relay.run.events("stopped_receiving")
    assert len(stopped_receiving) == len(floods)
    taken_since = stopped["datagrams"] - sum(each["taken"] for each in stopped_receiving)
    assert taken_since * SIZE < sum(each["held"] for each in stopped_receiving), "nothing has come meanwhile"


def test_a_pod_that_is_gone_and_one_that_has_stopped_cost_the_others_nothing(world: Lan, relay: Relay) -> None:
    stopped, *others = world.listen(TROUBLED)
    stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # it reads no more, and holds next to nothing
    refusing = world.pods[-1]
    refusing.close_sockets()  # its port is closed: it answers with ICMP
    others.pop()
    sender = world.source.udp()
    refused = relay.count("fanout_relay_copies_refused_total")
    payloads = numbered(3000)
    for first in range(0, len(payloads), 100):
        block = payloads[first : first + 100]
        for payload in block:
            sender.sendto(payload, (world.edges[-1].lan, TROUBLED))
        for pod in others:
            assert receive(pod, len(block)) == block
    until(lambda: relay.count("fanout_relay_forwarded_total", ingress=name(TROUBLED)) == len(payloads), "it is so")
    assert relay.drops(ingress=name(TROUBLED)) == {}

    def is_refused() -> bool:
        if relay.count("fanout_relay_copies_refused_total") > refused:
            return True
        sender.sendto(b"again", (world.edges[-1].lan, TROUBLED))
        assert [pod.recv(100) for pod in others] == [b"again"] * len(others)
        return False

    # A host sends few such errors a second, and may have sent them in an earlier test (man 7 icmp, icmp_ratelimit).
    until(is_refused, "an ICMP error comes and is counted")
