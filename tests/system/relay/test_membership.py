"""The pods are those that DNS names now, by a nameserver in the edge host; the relay itself is none of them."""

from __future__ import annotations

import time

import pytest

from tests.support.knot import Knot, a_records
from tests.support.lan import Relay, lan, receive, waiting
from tests.support.needs import program, unavailable
from tests.support.waiting import until

NAME = "headless-udp.ns.svc.cluster.local."
PORT = 5004
DNS_TTL = 1


@pytest.fixture(autouse=True)
def knotd() -> None:
    if program("knotd") is None:
        unavailable("nameserver", "knotd is missing (Debian, Ubuntu: apt install knot)")


def test_pods_join_and_leave_and_the_relay_is_none_of_them() -> None:
    with lan(2) as world:
        first, second = world.pods
        records = a_records([world.edge.pod_ip, first.pod_ip], DNS_TTL)
        with Knot({NAME: records}, command=world.edge.command) as knot:
            relay = Relay(world.edge, "-s", NAME, "--nameserver", knot.nameserver, "--listen", f"udp://0.0.0.0:{PORT}")
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


def test_who_stays_loses_nothing_while_others_come_and_go() -> None:
    with lan(2) as world:
        stays, comes = world.pods
        with Knot({NAME: a_records([stays.pod_ip], DNS_TTL)}, command=world.edge.command) as knot:
            relay = Relay(world.edge, "-s", NAME, "--nameserver", knot.nameserver, "--listen", f"udp://0.0.0.0:{PORT}")
            at_stays, at_comes = world.listen(PORT)
            sender = world.source.udp()
            sent = 0
            changes = 1
            gone = "10.60.0.99"
            for others, more in ([gone], 1), ([comes.pod_ip], 2), ([gone], 2), ([], 1):
                knot.rewrite({NAME: a_records([stays.pod_ip, *others], DNS_TTL)})
                changes += more
                deadline = time.monotonic() + 10
                while len(relay.run.events("pod_joined")) + len(relay.run.events("pod_left")) < changes:
                    assert time.monotonic() < deadline, relay.run.out
                    for _ in range(5):
                        sender.sendto(b"%d" % sent, (world.edge.lan, PORT))
                        sent += 1
                    time.sleep(0.01)
            numbers = [int(payload) for payload in receive(at_stays, sent)]
            assert numbers == [*range(sent)]
            until(lambda: relay.count("fanout_relay_forwarded_total") == sent, "all are forwarded")
            between = [int(payload) for payload in waiting(at_comes)]
            assert between == [*range(between[0], between[-1] + 1)]
            assert 0 < between[0] < between[-1] < sent - 1
            assert relay.drops() == {}
