"""iperf 2, as people test multicast: a group on the LAN, and five pods that have no multicast.

What a relay forwards without loss, and how fast, is measured by benchmarks/relay.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.support.cli import Running
from tests.support.lan import Host, Relay, lan
from tests.support.waiting import until

PODS = 5
PORT = 5001
"""iperf's own."""
SIZE, COUNT = 1470, 60
"""Of the datagrams: a default receive buffer holds them all, however late iperf reads."""
_REPORT = re.compile(r" ms +(?P<lost>\d+)/ *(?P<total>\d+) \(")


class Report(NamedTuple):
    """What an iperf server says at the end."""

    lost: int
    total: int


def report(server: Running) -> Report | None:
    match = _REPORT.search(server.out)
    return None if match is None else Report(int(match["lost"]), int(match["total"]))


def sent(host: Host) -> int:
    """Return how many UDP datagrams have left a host: iperf's own count is one too high."""
    names, numbers = [
        line.split() for line in Path(f"/proc/{host.pid}/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    ]
    return int(numbers[names.index("OutDatagrams")])


def test_every_pod_reports_the_same_datagrams() -> None:
    with lan(PODS) as world:
        servers = [pod.start("iperf", "-s", "-u") for pod in world.pods]
        for pod in world.pods:
            pod.wait_for_listener(PORT)
        relay = Relay(world.edge, "-s", world.service(), "--listen", f"mcast://224.0.67.67:{PORT}@eth1")
        before = sent(world.source)
        client = f"iperf -c 224.0.67.67 -u --ttl 5 -n {COUNT * SIZE} -l {SIZE} -b 50M -B {world.source.lan}"
        ended = world.source.start(*client.split()).end()
        assert ended.code == 0, ended
        left = sent(world.source) - before
        assert left >= COUNT
        until(lambda: all(map(report, servers)), lambda: [server.out for server in servers])
        assert [report(server) for server in servers] == [Report(0, left)] * PODS
        assert not any("out-of-order" in server.out for server in servers)
        until(lambda: relay.count("fanout_relay_forwarded_total") == left, "the relay has counted them")
        assert relay.drops() == {}
