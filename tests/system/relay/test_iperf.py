"""iperf 2, as people test multicast: a group on the LAN, and five pods that have no multicast."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.cli import Running
from tests.support.lan import Relay, lan
from tests.support.waiting import until

PODS = 5
PORT = 5001
"""iperf's own."""
SECONDS = 5
RECEIVE_BUFFER = "4M"
"""For iperf: the system's default holds 92 datagrams of this stream, 10 ms that a busy machine does not always have."""
_REPORT = re.compile(
    r"\] 0\.0+- *(?P<seconds>[\d.]+) sec +[\d.]+ \w+ +(?P<rate>[\d.]+) Mbits/sec"
    r" +[\d.]+ ms +(?P<lost>\d+)/ *(?P<total>\d+) \("
)


class Report(NamedTuple):
    """What an iperf server says at the end."""

    lost: int
    total: int
    megabits: float


def report(server: Running) -> Report | None:
    for match in _REPORT.finditer(server.out):
        if float(match["seconds"]) > SECONDS - 1:  # the others are of a second each
            return Report(int(match["lost"]), int(match["total"]), float(match["rate"]))
    return None


def prefer(started: Running) -> Running:
    """Let a program go before what else this machine does: 100 Mbit/s are to be sent, and taken, in time."""
    with contextlib.suppress(PermissionError):
        for thread in Path(f"/proc/{started.process.pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), -15)
    return started


@pytest.mark.alone
def test_every_pod_reports_the_same_datagrams_and_no_loss_at_100_mbit() -> None:
    with lan(PODS) as world:
        servers = [pod.start("iperf", "-s", "-u", "-i", "1", "-w", RECEIVE_BUFFER) for pod in world.pods]
        for pod in world.pods:
            pod.wait_for_listener(PORT)
        relay = Relay(world.edge, "-s", world.service(), "--listen", f"mcast://224.0.67.67:{PORT}@eth1")
        relay.wait_for("relay_started")
        for each in (relay.run, *servers):
            prefer(each)
        client = f"iperf -c 224.0.67.67 -u --ttl 5 -t {SECONDS} -B {world.source.lan} -b 100M"
        sent = prefer(world.source.start(*client.split())).end()
        assert sent.code == 0, sent
        datagrams = re.search(r"Sent (\d+) datagrams", sent.out)
        assert datagrams is not None, sent
        until(lambda: all(map(report, servers)), "every iperf reports")
        reports = [found for server in servers if (found := report(server)) is not None]
        told = f"{datagrams[0]}; {reports}; the relay: {relay.drops()}"
        assert len({one.total for one in reports}) == 1, told
        # The client counts the one that says that it was the last, too; the servers do not.
        assert int(datagrams[1]) - reports[0].total in (0, 1), told
        assert all(one.lost == 0 and one.megabits >= 100 for one in reports), told
        assert not any("out-of-order" in server.out for server in servers)
