"""A site with a cluster at its edge: media servers in pods, the relay beside them, and control points on the LAN.

The LAN has no route to the pods, and the pod network carries no multicast: whatever is found and played went through
the relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.cli import FANOUT, Run, Running
from tests.support.knot import Knot, a_records
from tests.support.lan import Host, Lan, Relay, lan
from tests.support.needs import require
from tests.support.waiting import PATIENCE
from tests.system.ssdp.media import Library, library
from tests.system.ssdp.servers import Gerbera, Minidlna, end_processes

NAME = "media.ns.svc.cluster.local."
DNS_TTL = 1
FIRST_PORT, LAST_PORT = 28_200, 28_231
POD_NETWORK = "10.60."
"""What every pod's address begins with, and nothing that the LAN may hear of."""


class Site:
    """The network, its media servers and its relay."""

    def __init__(self, network: Lan, folder: Path, stack: contextlib.ExitStack) -> None:
        self.network, self.folder, self._stack = network, folder, stack
        self.servers: dict[str, Minidlna | Gerbera] = {}
        """By name."""
        self.knot: Knot | None = None
        self._killed: set[Host] = set()
        self._relay: SsdpRelay | None = None
        self._lasts = False
        network.edge.sysctl("net.ipv4.conf.all.rp_filter", 0)
        network.edge.sysctl("net.ipv4.conf.eth1.rp_filter", 0)
        for pod in network.pods:
            self._route(pod)
        network.source.ip("route add 239.0.0.0/8 dev eth0")

    @property
    def edge(self) -> Host:
        return self.network.edge

    @property
    def source(self) -> Host:
        """A host on the LAN."""
        return self.network.source

    @property
    def udns(self) -> set[str]:
        """Of all media servers."""
        return {server.udn for server in self.servers.values()}

    def add_source(self) -> Host:
        """Add a host on the LAN."""
        host = self.network.add_source()
        host.ip("route add 239.0.0.0/8 dev eth0")
        return host

    def add_pod(self) -> Host:
        self.network.add_pods(1)
        self._route(self.network.pods[-1])
        return self.network.pods[-1]

    def kill(self, pod: Host) -> None:
        """End a pod, with all that runs in it: it has no network any more, and nobody was told."""
        end_processes(pod)
        pod.close()
        self._killed.add(pod)

    def end_server(self, name: str) -> None:
        """End a media server; its pod stays, where it was not killed."""
        pod = self.servers.pop(name).pod
        if pod not in self._killed:
            end_processes(pod)

    def library(self, name: str) -> Library:
        """Make a folder for media."""
        return library(self.folder / name)

    def minidlna(self, pod: Host, name: str, media: Library, number: int | None = None) -> Minidlna:
        """Start a minidlnad; the number is its identity's (UDN)."""
        made = Minidlna(pod, name, number or pod.number, media, self.folder)
        self.servers[name] = made
        return made

    def gerbera(self, pod: Host, name: str, media: Library) -> Gerbera:
        made = Gerbera(pod, name, pod.number, media, self.folder)
        self.servers[name] = made
        return made

    def serve_names(self, *pods: Host) -> None:
        """Start a nameserver that names these pods."""
        require("knotd", needed="nameserver")
        records = a_records([pod.pod_ip for pod in pods], DNS_TTL)
        self.knot = self._stack.enter_context(Knot({NAME: records}, command=self.edge.command))

    def rename(self, *pods: Host) -> None:
        """Let the Service have these pods from now on."""
        assert self.knot is not None
        self.knot.rewrite({NAME: a_records([pod.pod_ip for pod in pods], DNS_TTL)})

    def relay(self, *arguments: str, service: str | None = None, within: Sequence[str] = ()) -> SsdpRelay:
        """Start a relay in the place of the one that runs; on these pods, the nameserver's, or all."""
        self.end_relay()
        named = [] if service is not None or self.knot is None else ["--nameserver", self.knot.nameserver]
        name = service or (NAME if named else self.network.service())
        self._relay = SsdpRelay(self.edge, "-s", name, *named, "--interface", "eth1", *arguments, within=within)
        self._lasts = False
        return self._relay

    def lasting_relay(self) -> SsdpRelay:
        """Return the relay that lasts from test to test; start it if there is none."""
        if self._relay is None or not self._lasts or self._relay.run.process.poll() is not None:
            self.relay()
            self._lasts = True
        assert self._relay is not None
        return self._relay

    def end_relay(self, *, lasts: bool = True) -> None:
        """End the relay that runs; if not `lasts`, only one that was to end with the test."""
        if self._relay is not None and (lasts or not self._lasts):
            self._relay.end()
            self._relay = None

    def play(self, location: str, host: Host | None = None) -> dict[str, Any]:
        """Let a control point on the LAN browse a media server, and download all that it has."""
        from tests.system.ssdp import control_point  # it takes long to import

        return (host or self.source).call(lambda: asyncio.run(control_point.play(location)))

    def follow(self, location: str) -> dict[str, Any]:
        """Let a control point on the LAN subscribe to a media server."""
        from tests.system.ssdp import control_point

        return self.source.call(lambda: asyncio.run(control_point.follow(location, self.source.lan)))

    def run_on_lan(self, *command: str) -> Run:
        """Run a program in a host on the LAN to its end."""
        run = self.source.start(*command)
        try:
            return Run(run.process.wait(timeout=PATIENCE), run.out, run.err)
        finally:
            run.end_now()

    def end_all(self) -> None:
        """End what runs anywhere."""
        for pod in {*self.network.pods} - self._killed:
            end_processes(pod)
        self.network.end_all()

    def _route(self, pod: Host) -> None:
        pod.ip("route add default dev eth0")


class SsdpRelay(Relay):
    """A `fanout relay ssdp` in a host."""

    def __init__(self, host: Host, *arguments: str, within: Sequence[str] = ()) -> None:
        """Start it, by another program where one is given, and return once it listens."""
        self._host = host
        self.host = host
        self.run: Running = host.start(*within, *FANOUT, "relay", "ssdp", "--log-format", "json", *arguments)
        self.wait_for("ssdp_listening")

    def end(self) -> None:
        """End it, where it has not ended."""
        self.run.end_now()

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the events of that name, once there are so many."""
        named = f'"event": "{event}"'  # the word alone may be a reason in another event
        self.run.wait_until(lambda: self.run.out.count(named) >= count and self.run.out.endswith("\n"))
        return self.run.events(event)

    def drops(self, **labels: str) -> dict[str, int]:
        """Return how many datagrams went no further, by reason, where there are some."""
        return self._by_reason("fanout_ssdp_dropped_total", labels)

    def http_failures(self) -> dict[str, int]:
        """Return how many requests failed, by reason, where there are some."""
        return self._by_reason("fanout_ssdp_http_failures_total", {})

    def metrics(self) -> dict[str, float]:
        """Return the sum of each metric of the relay."""
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(self.host.get("/metrics")):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
        return sums

    @property
    def resident(self) -> int:
        """Bytes of memory that it has now."""
        status = Path(f"/proc/{self.run.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.run.process.pid}/fd"))  # noqa: PTH208 - one call, and no file is looked at

    def _by_reason(self, metric: str, labels: dict[str, str]) -> dict[str, int]:
        return {
            sample.labels["reason"]: int(sample.value)
            for sample in self._samples(metric, labels)
            if sample.value and "reason" in sample.labels
        }


def since(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    """Return what was counted since then, where something was."""
    return dict(+(Counter(now) - Counter(before)))


@contextlib.contextmanager
def make_site(pods: int, *, pod_multicast: bool = False) -> Iterator[Site]:
    """Yield a site with so many pods in which nothing runs yet."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(lan(pods, pod_multicast=pod_multicast))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fanout-dlna-")))
        made = Site(network, folder, stack)
        stack.callback(made.end_all)
        yield made
