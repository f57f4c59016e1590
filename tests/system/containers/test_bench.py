"""`fanout bench` on real containers: what it says of loss is what a rule of the kernel's firewall dropped."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.needs import require, unavailable
from tests.support.waiting import PATIENCE, until
from tests.system.containers.cluster import SERVICE, run

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

    from tests.system.containers.cluster import Cluster

pytestmark = pytest.mark.containers

COUNT = 140
"""With the pings beside them they fit into a default receive buffer, whether or not somebody reads."""
SIZE = 64
HEADERS = 28
"""Bytes of IPv4 and UDP headers in front of the payload."""
# Of the frame, the kind: 8 bytes of UDP header, 8 of magic and 1 of version before it. 1 is data.
RULES = """
table inet bench
delete table inet bench
table inet bench {
  counter arrived {}
  counter dropped {}
  chain input {
    type filter hook input priority 0;
    udp dport 12000 @th,136,8 1 counter name arrived
    udp dport 12000 @th,136,8 1 numgen inc mod 10 == 0 counter name dropped drop
  }
}
"""


def inside(container: DockerContainer, *command: str, stdin: str = "") -> str:
    """Run one of this machine's programs in the network of a container, and return what it printed."""
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    enter = ["nsenter", "--target", str(wrapped.attrs["State"]["Pid"]), "--net"]
    return subprocess.run(
        [*enter, *command], input=stdin, capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout


def counted(container: DockerContainer) -> dict[str, int]:
    """Return how many datagrams the rules of a container have counted, by the counter's name.

    By their bytes: a run that left in one call (UDP_SEGMENT) passes the firewall as one packet with one header.
    """
    listed = json.loads(inside(container, "nft", "--json", "list", "counters"))["nftables"]
    counters = [entry["counter"] for entry in listed if "counter" in entry]
    return {each["name"]: (each["bytes"] - HEADERS * each["packets"]) // SIZE for each in counters}


# At 1,000 a second datagrams go alone, and at 50,000 in runs, of which the rule drops whole ones.
@pytest.mark.parametrize("rate", [1000, 50_000])
def test_the_loss_of_each_pod_is_what_its_rule_dropped(cluster: Cluster, rate: int) -> None:
    if os.geteuid() != 0:
        unavailable("containers", "rules in a container's network need root")
    require("nft", "nsenter", needed="containers")
    cluster.at_least(3)

    def measure() -> dict[str, dict[str, Any]] | None:
        """Return what was measured of each pod; None where one took longer to answer than `fanout bench` waits."""
        for receiver in cluster.receivers:
            inside(receiver, "nft", "--file", "-", stdin=RULES)
        options = ["--rate", str(rate), "--count", str(COUNT), "--size", str(SIZE), "-o", "json"]
        result = run(cluster.sender, "fanout", "bench", "-s", SERVICE, *options)
        measured = json.loads(result.out)
        assert measured["messages"] in (COUNT, 0)
        pods = {pod["endpoint"]: pod for pod in measured["endpoints"]}
        trips = [pod["round_trip"] for pod in pods.values()]
        if "silent" in {pod["status"] for pod in pods.values()} or any(t["answered"] < t["pings"] for t in trips):
            return None
        assert (result.code, result.err) == (0, "")
        return pods

    pods = until(measure, "every pod answers in time")
    assert pods is not None
    assert set(pods) == {cluster.endpoint(receiver) for receiver in cluster.receivers}
    for receiver in cluster.receivers:
        pod, rule = pods[cluster.endpoint(receiver)], counted(receiver)
        assert pod["status"] == "measured"
        assert pod["sent"] == rule["arrived"] == COUNT
        assert pod["lost"] == rule["dropped"] > 0
        assert pod["loss"] == pytest.approx(100 * rule["dropped"] / COUNT, abs=0.001)
        assert (pod["duplicates"], pod["reordered"]) == (0, 0)
        assert pod["round_trip"]["answered"] == pod["round_trip"]["pings"] > 0
    for receiver in cluster.receivers:
        inside(receiver, "nft", "delete", "table", "inet", "bench")
