"""The pods are those that DNS names now, by a nameserver in the edge host; the relay itself is none of them."""

from __future__ import annotations

from tests.conftest import unavailable
from tests.lan import Relay, lan, receive, wait_until, waiting
from tests.nameserver.knot import Knot, a_records, program

NAME = "headless-udp.ns.svc.cluster.local."
PORT = 5004
DNS_TTL = 1


def test_pods_join_and_leave_and_the_relay_is_none_of_them() -> None:
    if program("knotd") is None:
        unavailable("nameserver", "knotd is missing (Debian, Ubuntu: apt install knot)")
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
            wait_until(lambda: relay.drops() == {"no_endpoints": 1}, "it is counted")
            assert waiting(at_first) == waiting(at_second) == []
