"""The pods are those that DNS names now, by a nameserver in the edge host; the relay itself is none of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.knot import Knot, a_records
from tests.support.lan import Lan, Relay, lan, receive, waiting
from tests.support.limits import SOON
from tests.support.needs import require
from tests.support.waiting import until

NAME = "headless-udp.ns.svc.cluster.local."
PORT = 5004
DNS_TTL = 0


@pytest.fixture(scope="module")
def module_world() -> Iterator[Lan]:
    require("knotd", needed="nameserver")
    with lan(2) as made:
        yield made


def start_relay(world: Lan, knot: Knot) -> Relay:
    arguments = ("-s", NAME, "--nameserver", knot.nameserver, "--listen", f"udp://0.0.0.0:{PORT}")
    relay = Relay(world.edge, *arguments, limits=SOON)
    relay.wait_for("pod_joined")
    return relay


def test_pods_join_and_leave_and_the_relay_is_none_of_them(world: Lan) -> None:
    first, second = world.pods
    records = a_records([world.edge.pod_ip, first.pod_ip], DNS_TTL)
    with Knot({NAME: records}, command=world.edge.command) as knot:
        relay = start_relay(world, knot)
        at_first, at_second = world.listen(PORT)
        sender = world.source.udp()
        sender.sendto(b"one", (world.edge.lan, PORT))
        assert receive(at_first, 1) == [b"one"]
        (said,) = relay.wait_for("endpoint_is_ingress")
        assert said["endpoint"] == f"{world.edge.pod_ip}:{PORT}"
        assert relay.count("fanout_relay_datagrams_total") == 1, "none has come back"

        knot.rewrite({NAME: a_records([second.pod_ip], DNS_TTL)})
        relay.wait_for("pod_left", 2)
        sender.sendto(b"two", (world.edge.lan, PORT))
        assert receive(at_second, 1) == [b"two"]

        knot.rewrite({NAME: []})
        relay.wait_for("pod_left", 3)
        sender.sendto(b"for nobody", (world.edge.lan, PORT))
        until(lambda: relay.drops() == {"no_endpoints": 1}, "it is counted")
        assert waiting(at_first) == waiting(at_second) == []


def test_who_stays_loses_nothing_while_others_come_and_go(world: Lan) -> None:
    stays, comes = world.pods
    gone = "10.60.0.99"
    with Knot({NAME: a_records([stays.pod_ip], DNS_TTL)}, command=world.edge.command) as knot:
        relay = start_relay(world, knot)
        at_stays, at_comes = world.listen(PORT)
        sender = world.source.udp()
        numbers: list[int] = []
        sent = 0

        def stream(changes: int) -> bool:
            """Send some more, wait until who stays has as many, and say whether there were so many changes."""
            nonlocal sent
            for _ in range(5):
                sender.sendto(b"%d" % sent, (world.edge.lan, PORT))
                sent += 1
            numbers.extend(map(int, receive(at_stays, 5)))
            return relay.run.out.count('"pod_joined"') + relay.run.out.count('"pod_left"') >= changes

        changes = 1
        for others, more in ([gone], 1), ([comes.pod_ip], 2), ([gone], 2), ([], 1):
            knot.rewrite({NAME: a_records([stays.pod_ip, *others], DNS_TTL)})
            changes += more
            until(lambda changes=changes: stream(changes), lambda: relay.run.out)  # type: ignore[misc]
            stream(changes)  # some are sent between this change and the next one
        assert numbers == [*range(sent)]
        until(lambda: relay.count("fanout_relay_forwarded_total") == sent, "all are forwarded")
        between = [int(payload) for payload in waiting(at_comes)]
        assert between == [*range(between[0], between[-1] + 1)]
        assert 0 < between[0] < between[-1] < sent - 1
        assert relay.drops() == {}
