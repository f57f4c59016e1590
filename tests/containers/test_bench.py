"""`fanout bench` on real containers: what it says of loss is what a rule of the kernel's firewall dropped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import unavailable
from tests.containers.cluster import SERVICE, run

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

    from tests.containers.cluster import Cluster

pytestmark = pytest.mark.containers

SIZE = 200
RATE = 1000
"""A second: slow enough that each datagram goes alone. Merged ones (UDP_SEGMENT) would be one packet to the rule."""
SECONDS = 10
RULES = f"""
table inet bench {{
  counter arrived {{}}
  counter dropped {{}}
  chain input {{
    type filter hook input priority 0;
    udp dport 12000 udp length {SIZE + 8} counter name arrived
    udp dport 12000 udp length {SIZE + 8} numgen random mod 100 < 5 counter name dropped drop
  }}
}}
"""


def inside(container: DockerContainer, *command: str, stdin: str = "") -> str:
    """Run one of this machine's programs in the network of a container, and return what it printed."""
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    enter = ["nsenter", "--target", str(wrapped.attrs["State"]["Pid"]), "--net"]
    return subprocess.run(
        [*enter, *command], input=stdin, capture_output=True, text=True, check=True, timeout=20
    ).stdout


def counted(container: DockerContainer) -> dict[str, int]:
    """Return how many packets the rules of a container have counted, by the counter's name."""
    listed = json.loads(inside(container, "nft", "--json", "list", "counters"))["nftables"]
    return {entry["counter"]["name"]: entry["counter"]["packets"] for entry in listed if "counter" in entry}


def test_the_loss_of_each_pod_is_what_its_rule_dropped(cluster: Cluster) -> None:
    if os.geteuid() != 0 or not shutil.which("nft") or not shutil.which("nsenter"):
        unavailable("containers", "rules in a container's network need root, nft and nsenter")
    cluster.scale(5)
    for receiver in cluster.receivers:
        inside(receiver, "nft", "--file", "-", stdin=RULES)
    options = ["--rate", str(RATE), "--seconds", str(SECONDS), "--size", str(SIZE), "-o", "json"]
    result = run(cluster.sender, "fanout", "bench", "-s", SERVICE, *options)
    assert (result.code, result.err) == (0, "")
    measured = json.loads(result.out)
    assert measured["messages"] == pytest.approx(RATE * SECONDS, rel=0.05)
    pods = {pod["endpoint"]: pod for pod in measured["endpoints"]}
    assert set(pods) == {cluster.endpoint(receiver) for receiver in cluster.receivers}
    for receiver in cluster.receivers:
        pod, rule = pods[cluster.endpoint(receiver)], counted(receiver)
        assert pod["status"] == "measured"
        assert pod["sent"] == measured["messages"]
        assert rule["arrived"] == measured["messages"], "each datagram went alone"
        by_rule = 100 * rule["dropped"] / rule["arrived"]
        assert 2 < by_rule < 8, "the rule did drop"
        assert pod["loss"] == pytest.approx(by_rule, abs=0.1)
        assert (pod["duplicates"], pod["reordered"]) == (0, 0)
        assert pod["round_trip"]["answered"] == pod["round_trip"]["pings"] > 50
        print(f"{pod['endpoint']}: bench {pod['loss']:.2f} %, rule {by_rule:.2f} %")
