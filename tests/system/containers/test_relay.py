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

from fanout.local.zone import Pod, Zone, respond
from tests.support.waiting import until
from tests.system.containers.cluster import RESTRICTED, events, exit_code, is_ready, received, run, started

if TYPE_CHECKING:
    from tests.system.containers.cluster import Cluster

pytestmark = pytest.mark.containers

INGRESS = "mcast://224.0.67.67:5001@eth1"
BATCH = 25
SOURCE = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
    source.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 5)
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        source.sendto(b"%d" % number, ("224.0.67.67", 5001))
        time.sleep(0.02)
"""
PRIVILEGES = "import re; print(*re.findall(r'(?:Uid|CapEff|NoNewPrivs):\\s+(\\S+)', open('/proc/1/status').read()))"


class Nameserver:
    """Answers as the cluster's does, with a DNS TTL of 5 s; Docker's own says 10 minutes."""

    def __init__(self, host: str) -> None:
        self.zone = Zone()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self.endpoint = "{}:{}".format(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def publish(self, cluster: Cluster) -> None:
        """Let the Service have the pods that the cluster has now."""
        pods = [cluster.endpoint(receiver).partition(":")[0] for receiver in cluster.receivers]
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
def nameserver(cluster: Cluster) -> Iterator[Nameserver]:
    """A nameserver that the containers of the cluster reach."""
    with contextlib.closing(Nameserver(gateway(cluster))) as made:
        yield made


def gateway(cluster: Cluster) -> str:
    wrapped = cluster.sender.get_wrapped_container()
    wrapped.reload()
    address: str = wrapped.attrs["NetworkSettings"]["Networks"][cluster.network.name]["Gateway"]
    return address


def test_multicast_of_a_lan_reaches_every_pod(cluster: Cluster, lan: Network, nameserver: Nameserver) -> None:
    cluster.scale(2)
    nameserver.publish(cluster)
    where = ["--service", nameserver.zone.name, "--nameserver", nameserver.endpoint]
    relay = DockerContainer(cluster.images.relay, network=cluster.network, **RESTRICTED)
    relay.with_command([*where, "--listen", INGRESS, "--to-port", "12000"])
    source = DockerContainer(cluster.images.sender, network=lan, **RESTRICTED)
    with started(source), started(relay):
        until(partial(events, relay, "ingress_waiting"), "the relay waits for its interface")
        assert not is_ready(relay)
        lan.connect(str(relay.get_wrapped_container().id))
        until(partial(events, relay, "ingress_listening"), "the relay listens on the interface that came late")
        until(partial(is_ready, relay), "the relay is ready")
        assert run(relay, "python3", "-c", PRIVILEGES).out.split() == ["1000740000", "0000000000000000", "1"]

        sent = 0
        is_enough = threading.Event()

        def stream() -> None:
            nonlocal sent
            while not is_enough.is_set():
                assert run(source, "python3", "-c", SOURCE, str(sent), str(sent + BATCH)) == (0, "", "")
                sent += BATCH

        streaming = threading.Thread(target=stream)
        streaming.start()
        try:
            until(lambda: all(map(received, cluster.receivers)), "both pods receive")
            cluster.scale(4)
            nameserver.publish(cluster)
            until(lambda: all(len(received(each)) > BATCH for each in cluster.receivers), "all four pods receive")
        finally:
            is_enough.set()
            streaming.join()
        for receiver in cluster.receivers:
            until(lambda receiver=receiver: received(receiver)[-1] == str(sent - 1), "the last datagram")  # type: ignore[misc]
        everything = [str(number) for number in range(sent)]
        for receiver in cluster.receivers[:2]:
            assert received(receiver) == everything
        for receiver in cluster.receivers[2:]:
            got = received(receiver)
            assert got == everything[-len(got) :], "from where it joined, each"

        relay.get_wrapped_container().kill("SIGTERM")
        assert exit_code(relay) == 0
        (stopped,) = events(relay, "relay_stopped")
        assert (stopped["datagrams"], stopped["forwarded"], stopped["dropped"]) == (sent, sent, {})
        assert stopped["sent"] == sum(len(received(receiver)) for receiver in cluster.receivers)
