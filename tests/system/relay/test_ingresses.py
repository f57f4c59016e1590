"""What comes to each kind of ingress arrives at every pod, as it was sent; and nothing else does."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator

import pytest

from fanout.model import MAX_PAYLOAD
from tests.support.lan import Host, Lan, Relay, lan, lan_address, receive, waiting

GROUP, GROUP6, ELSEWHERE = "224.0.67.67", "ff15::67", "224.0.67.68"
LINK_LOCAL = "ff02::1234"
SPECIFIC, SPECIFIC6 = "232.0.67.67", "ff35::67"
"""Their ranges are those of source-specific multicast (RFC 4607)."""
RANGE, SHIFTED = 6000, 7000
"""The first of four ports, and where it goes to at the pods."""
GROUP_RANGE = 6100
PLAIN, PLAIN6, ANY_SOURCE, ONE_SOURCE, IPV6, BROADCAST = 5004, 5010, 5001, 5002, 5003, 9999
ONE_SOURCE6, LINK = 5007, 5008
TOGETHER = 5031
"""The first of four ports to which nothing else is sent: what a socket has learnt of its path is its own."""
INGRESSES = {
    f"udp://0.0.0.0:{PLAIN}": None,
    f"udp://[{lan_address(20, ipv6=True)}]:{PLAIN6}": None,
    f"udp://0.0.0.0:{TOGETHER}-{TOGETHER + 3}": None,
    f"udp://0.0.0.0:{RANGE}-{RANGE + 3}": SHIFTED,
    f"mcast://{GROUP}:{ANY_SOURCE}@eth1": None,
    f"mcast://{lan_address(10)},{SPECIFIC}:{ONE_SOURCE}@eth1": None,
    f"mcast://[{GROUP6}]:{IPV6}@eth1": None,
    f"mcast://[{GROUP6}]:{IPV6}@eth0": None,  # what comes by one interface must not come twice
    f"mcast://[{lan_address(10, ipv6=True)}],[{SPECIFIC6}]:{ONE_SOURCE6}@eth1": None,
    f"mcast://[{LINK_LOCAL}]:{LINK}@eth1": None,
    f"mcast://{GROUP}:{GROUP_RANGE}-{GROUP_RANGE + 1}@eth1": None,
    f"broadcast://:{BROADCAST}@eth1": None,
}


@pytest.fixture(scope="module")
def world() -> Iterator[Lan]:
    with lan(3) as made:
        made.add_source()
        yield made


@pytest.fixture(scope="module")
def relay(world: Lan) -> Relay:
    arguments = []
    for url, to_port in INGRESSES.items():
        arguments += ["--listen", url, *([] if to_port is None else ["--to-port", str(to_port)])]
    return Relay(world.edge, "-s", world.service(), *arguments, listening=len(INGRESSES))


def sender(host: Host) -> socket.socket:
    """Return a socket that sends to groups, and broadcasts, on the LAN."""
    made = host.udp()
    made.bind((host.lan, 0))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return made


def sender6(host: Host) -> socket.socket:
    made = host.udp(socket.AF_INET6)
    made.bind((host.lan6, 0))
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, host.index("eth0"))
    return made


def assert_all_get(pods: list[socket.socket], payloads: list[bytes]) -> None:
    for pod in pods:
        assert receive(pod, len(payloads)) == payloads
    for pod in pods:
        assert waiting(pod) == []


def test_payloads_of_every_size_arrive_byte_for_byte_and_in_order(world: Lan, relay: Relay) -> None:
    pods = world.listen(PLAIN)
    sizes = [0, 1, 2, *[200] * 70, 7, *[1400] * 100, 1472, 1473, *[MAX_PAYLOAD] * 3, 0, 0, *range(60), 9000, 4000, 4000]
    shuffled = random.Random(5).sample(sizes, len(sizes))
    payloads = [random.Random(number).randbytes(size) for number, size in enumerate([*sizes, *shuffled])]
    first = sender(world.source)
    while payloads:
        # What a receive buffer is made for.
        block = next(payloads[:count] for count in (20, 5, 1) if sum(map(len, payloads[:count])) < 100_000)
        payloads = payloads[len(block) :]
        for payload in block:
            first.sendto(payload, (world.edge.lan, PLAIN))
        assert_all_get(pods, block)


@pytest.mark.parametrize(
    ("port", "sizes"),
    [
        (TOGETHER, [4000, 4000, 3000, 200, 3000, 2000, 1473, 0, 1472, 1473]),
        (TOGETHER + 1, [1400, 1400, 1399, 1400, 0, 0, 1, 1, 1473, 1473, 1472, 1472]),
        (TOGETHER + 2, [MAX_PAYLOAD, MAX_PAYLOAD, 1, MAX_PAYLOAD - 1, 30_000, 30_000, 5]),
        (TOGETHER + 3, [*[1] * 200, *[1000] * 66, 999, 1000]),
    ],
    ids=["above the MTU", "about the MTU", "as large as can be", "more than a run holds"],
)
def test_sizes_that_are_read_together(world: Lan, relay: Relay, port: int, sizes: list[int]) -> None:
    pods = world.listen(port)
    from_outside = sender(world.source)
    together = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    relay.pause()
    for payload in together:
        from_outside.sendto(payload, (world.edge.lan, port))
    relay.resume()
    assert_all_get(pods, together)
    for size in sorted(set(sizes)):
        payload = random.Random(size).randbytes(size)
        from_outside.sendto(payload, (world.edge.lan, port))
        assert_all_get(pods, [payload])


def test_the_order_of_each_source_is_kept(world: Lan, relay: Relay) -> None:
    pods = world.listen(PLAIN)
    sources = [sender(host) for host in world.sources]
    for number in range(100):
        for which, source in enumerate(sources):
            source.sendto(struct.pack("!BI", which, number) + bytes(number % 3), (world.edge.lan, PLAIN))
    for pod in pods:
        got = [struct.unpack_from("!BI", payload) for payload in receive(pod, 200)]
        for which in range(2):
            assert [number for of, number in got if of == which] == [*range(100)]
    assert relay.drops(ingress=f"udp://0.0.0.0:{PLAIN}") == {}


def test_a_range_keeps_its_ports_apart_in_step(world: Lan, relay: Relay) -> None:
    pods = [[pod.listen("::", SHIFTED + step) for pod in world.pods] for step in range(4)]
    from_outside = sender(world.source)
    for round_ in range(3):
        for step in (0, 3, 1, 2):
            from_outside.sendto(b"%d of %d" % (round_, step), (world.edge.lan, RANGE + step))
    for step in range(4):
        assert_all_get(pods[step], [b"%d of %d" % (round_, step) for round_ in range(3)])


def test_a_range_of_a_group(world: Lan, relay: Relay) -> None:
    pods = [[pod.listen("::", GROUP_RANGE + step) for pod in world.pods] for step in range(2)]
    from_outside = sender(world.source)
    for step in range(2):
        from_outside.sendto(b"%d" % step, (GROUP, GROUP_RANGE + step))
    for step in range(2):
        assert_all_get(pods[step], [b"%d" % step])


def test_pods_of_ipv4_get_what_came_over_ipv6(world: Lan, relay: Relay) -> None:
    pods = world.listen(PLAIN6)
    world.source.udp(socket.AF_INET6).sendto(b"six", (world.edge.lan6, PLAIN6))
    assert_all_get(pods, [b"six"])


def test_pods_of_ipv6_and_of_a_port_of_their_own(world: Lan) -> None:
    """Whoever names an endpoint's port means that port."""
    first, second, _ = world.pods
    service = f"[{first.pod_ip6}],{second.pod_ip}:7777"
    Relay(world.edge, "-s", service, "--listen", "udp://0.0.0.0:5020", "--admin-port", "0")
    pods = [first.listen("::", 5020), second.listen("::", 7777)]
    payloads = [b"%d" % number for number in range(100)]
    from_outside = sender(world.source)
    for payload in payloads:
        from_outside.sendto(payload, (world.edge.lan, 5020))
    assert_all_get(pods, payloads)


def test_pods_see_the_relay_as_the_source(world: Lan, relay: Relay) -> None:
    (pod, *_) = world.listen(PLAIN)
    sender(world.source).sendto(b"who", (world.edge.lan, PLAIN))
    assert pod.recvfrom(100)[1][0] == f"::ffff:{world.edge.pod_ip}"


def test_every_source_of_a_group_is_heard_and_no_other_group(world: Lan, relay: Relay) -> None:
    pods = world.listen(ANY_SOURCE)
    # Another program of the edge host has joined another group on that port.
    other = world.edge.udp()
    membership = socket.inet_aton(ELSEWHERE) + socket.inet_aton(world.edge.lan)
    other.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    for number, host in enumerate(world.sources):
        from_outside = sender(host)
        from_outside.sendto(b"not for the relay", (ELSEWHERE, ANY_SOURCE))
        from_outside.sendto(b"not for the group", (world.edge.lan, ANY_SOURCE))
        from_outside.sendto(b"source %d" % number, (GROUP, ANY_SOURCE))
        assert_all_get(pods, [b"source %d" % number])


def test_one_source_of_a_group_is_heard_alone(world: Lan, relay: Relay) -> None:
    pods = world.listen(ONE_SOURCE)
    wanted, unwanted = map(sender, world.sources)
    for number in range(5):
        unwanted.sendto(b"unwanted", (SPECIFIC, ONE_SOURCE))
        wanted.sendto(b"wanted %d" % number, (SPECIFIC, ONE_SOURCE))
    assert_all_get(pods, [b"wanted %d" % number for number in range(5)])


@pytest.mark.parametrize(("group", "port"), [(GROUP6, IPV6), (LINK_LOCAL, LINK)])
def test_a_group_of_ipv6(world: Lan, relay: Relay, group: str, port: int) -> None:
    pods = world.listen(port)
    from_outside = sender6(world.source)
    payloads = [b"%d" % number * number for number in range(1, 100)]
    for payload in payloads:
        from_outside.sendto(payload, (group, port))
    assert_all_get(pods, payloads)


def test_one_source_of_a_group_of_ipv6_is_heard_alone(world: Lan, relay: Relay) -> None:
    pods = world.listen(ONE_SOURCE6)
    wanted, unwanted = map(sender6, world.sources)
    for number in range(5):
        unwanted.sendto(b"unwanted", (SPECIFIC6, ONE_SOURCE6))
        wanted.sendto(b"wanted %d" % number, (SPECIFIC6, ONE_SOURCE6))
    assert_all_get(pods, [b"wanted %d" % number for number in range(5)])


def test_broadcasts_are_taken_and_unicasts_to_the_same_port_are_not(world: Lan, relay: Relay) -> None:
    pods = world.listen(BROADCAST)
    from_outside = sender(world.source)
    from_outside.sendto(b"everybody", ("255.255.255.255", BROADCAST))
    from_outside.sendto(b"you", (world.edge.lan, BROADCAST))
    from_outside.sendto(b"you again", (world.edge.lan, BROADCAST))
    from_outside.sendto(b"all of this network", ("10.50.0.255", BROADCAST))
    assert_all_get(pods, [b"everybody", b"all of this network"])
    assert relay.drops(ingress=f"broadcast://:{BROADCAST}@eth1") == {"not_broadcast": 2}


def test_broadcasts_of_another_interface_are_not_taken(world: Lan, relay: Relay) -> None:
    pods = world.listen(BROADCAST)
    within = world.pods[0].udp()
    within.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    before = relay.count("fanout_relay_datagrams_total")
    within.sendto(b"pods", ("10.60.0.255", BROADCAST))
    sender(world.source).sendto(b"the LAN", ("10.50.0.255", BROADCAST))
    assert_all_get(pods, [b"pods", b"the LAN"])  # the first without the relay
    assert relay.count("fanout_relay_datagrams_total") == before + 1


def test_the_log_says_in_one_line_what_was_joined(relay: Relay) -> None:
    lines = {line["ingress"]: line for line in relay.run.events("ingress_listening")}
    assert set(lines) == set(INGRESSES)
    joined = str(lines[f"mcast://{lan_address(10)},{SPECIFIC}:{ONE_SOURCE}@eth1"])
    for word in (SPECIFIC, lan_address(10), "eth1", lan_address(20), "route"):
        assert word in joined
