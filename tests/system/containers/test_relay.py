"""The relay in a container, with a leg in a LAN (Docker's macvlan driver) and one among pods without privileges."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from fanout.local.core import zone
from fanout.local.core.zone import Pod, Zone, respond
from tests.support.waiting import until
from tests.system.containers.cluster import events, exit_code, is_ready, restricted, run, started

if TYPE_CHECKING:
    from tests.system.containers.cluster import Cluster

pytestmark = pytest.mark.containers

INGRESS = "mcast://224.0.67.67:5001@eth1"
BATCH = 25
SOURCE = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
    source.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 5)
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        source.sendto(b"%d" % number, ("224.0.67.67", 5001))
"""
PRIVILEGES = "import re; print(*re.findall(r'(?:Uid|CapEff|NoNewPrivs):\\s+(\\S+)', open('/proc/1/status').read()))"


class Nameserver:
    """Answers as the cluster's does, with a short DNS TTL; Docker's own says 10 minutes."""

    def __init__(self, host: str) -> None:
        self.zone = Zone()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self.endpoint = "{}:{}".format(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def publish(self, cluster: Cluster, receivers: list[DockerContainer]) -> None:
        """Let the Service have these pods."""
        pods = [cluster.endpoint(receiver).partition(":")[0] for receiver in receivers]
        self.zone = Zone(pods=tuple(Pod(f"pod-{number}", address) for number, address in enumerate(pods)))

    def _serve(self) -> None:
        while query := self._socket.recvfrom(65_535):
            if not query[0]:
                break
            if (response := respond(query[0], self.zone)) is not None:
                self._socket.sendto(response, query[1])

    def close(self) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@pytest.fixture
def nameserver(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nameserver]:
    """A nameserver that the containers of the cluster reach."""
    monkeypatch.setattr(zone, "DNS_TTL", 1)
    with contextlib.closing(Nameserver(gateway(cluster))) as made:
        yield made


def gateway(cluster: Cluster) -> str:
    wrapped = cluster.sender.get_wrapped_container()
    wrapped.reload()
    address: str = wrapped.attrs["NetworkSettings"]["Networks"][cluster.network.name]["Gateway"]
    return address


def test_multicast_of_a_lan_reaches_every_pod(cluster: Cluster, lan: Network, nameserver: Nameserver) -> None:
    cluster.at_least(4)
    stay, join = cluster.receivers[:2], cluster.receivers[2:]
    nameserver.publish(cluster, stay)
    where = ["--service", nameserver.zone.name, "--nameserver", nameserver.endpoint]
    relay = restricted(cluster.images.relay, network=cluster.network)
    relay.with_command([*where, "--listen", INGRESS, "--to-port", "12000"])
    source = restricted(cluster.images.sender, network=lan)
    with started(source), started(relay):
        until(partial(events, relay, "ingress_waiting"), "the relay waits for its interface")
        assert not is_ready(relay)
        lan.connect(str(relay.get_wrapped_container().id))
        until(partial(events, relay, "ingress_listening"), "the relay listens on the interface that came late")
        until(partial(is_ready, relay), "the relay is ready")
        assert run(relay, "python3", "-c", PRIVILEGES).out.split() == ["1000740000", "0000000000000000", "1"]

        sent = 0

        def stream() -> bool:
            """Send some more, wait until who is there has all of it, and say whether who joins has some as well."""
            nonlocal sent
            assert run(source, "python3", "-c", SOURCE, str(sent), str(sent + BATCH)) == (0, "", "")
            sent += BATCH
            cluster.all_have_received(stay, *map(str, range(sent)))
            return all(len(cluster.received(each)) > BATCH for each in join)

        stream()
        assert not any(map(cluster.received, join))
        nameserver.publish(cluster, [*stay, *join])
        until(stream, "all pods receive")
        everything = [str(number) for number in range(sent)]
        until(lambda: all(cluster.received(each)[-1] == everything[-1] for each in join), "they have the last one")
        for receiver in join:
            got = cluster.received(receiver)
            assert got == everything[-len(got) :], "from where it joined"

        relay.get_wrapped_container().kill("SIGTERM")
        assert exit_code(relay) == 0
        (stopped,) = events(relay, "relay_stopped")
        assert (stopped["datagrams"], stopped["forwarded"], stopped["dropped"]) == (sent, sent, {})
        assert stopped["sent"] == sum(len(cluster.received(receiver)) for receiver in cluster.receivers)
