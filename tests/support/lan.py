"""A small world for the relay: a LAN, a pod network with no way to it, and an edge host with a leg in each.

::

    source 10.50.0.10 ──┐                                  ┌── pod 10.60.0.11
    (more hosts)        ├── LAN ── eth1  edge  eth0 ── pods ├── pod 10.60.0.12
                        ┘  10.50.0.20 (macvlan)  10.60.0.20 └── ...

The same with IPv6: fd50:: and fd60::. It is gone with the test, even with one that fails: each host lives as long as
a process in it, and all that runs in a host is ended by its id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.cli import FANOUT, Running
from tests.support.limits import Limits, variables
from tests.support.namespace import Namespace, why_no_namespace
from tests.support.needs import require, unavailable
from tests.support.waiting import PATIENCE, until

SOURCE, EDGE, FIRST_POD = 10, 20, 11
"""The last number of their addresses; a second edge or source has the next one."""
RECEIVE_BUFFER = 4 << 20
MACVLAN_QUEUE = 10_000
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h: beyond net.core.rmem_max, for root


def lan_address(number: int, *, ipv6: bool = False) -> str:
    return f"fd50::{number}" if ipv6 else f"10.50.0.{number}"


def pod_address(number: int, *, ipv6: bool = False) -> str:
    return f"fd60::{number}" if ipv6 else f"10.60.0.{number}"


class Host(Namespace):
    """A host of its own, in which programs run and sockets are made."""

    def __init__(self, name: str, number: int, folder: Path) -> None:
        super().__init__()
        self.name = name
        self.number = number
        self._folder = folder
        self._started: list[Running] = []
        self._sockets: list[socket.socket] = []
        for which in ("all", "default"):
            # An address is tentative for a second while its host asks whether somebody has it.
            self.sysctl(f"net.ipv6.conf.{which}.accept_dad", 0)

    @property
    def lan(self) -> str:
        """Its address on the LAN, where it has a leg there."""
        return lan_address(self.number)

    @property
    def lan6(self) -> str:
        return lan_address(self.number, ipv6=True)

    @property
    def pod_ip(self) -> str:
        """Its address in the pod network, where it has a leg there."""
        return pod_address(self.number)

    @property
    def pod_ip6(self) -> str:
        return pod_address(self.number, ipv6=True)

    def sysctl(self, name: str, value: int | str) -> None:
        self.run("sh", "-c", f"echo {value} >/proc/sys/{name.replace('.', '/')}")

    def index(self, interface: str) -> int:
        """Return the number of an interface, 0 where there is none of that name."""
        shown = subprocess.run(
            [*self.command, "ip", "-o", "link", "show", interface], capture_output=True, text=True, check=False
        )
        return int(shown.stdout.partition(":")[0] or 0)

    def ip(self, *lines: str) -> None:
        """Run `ip` with each of these lines."""
        done = subprocess.run(
            [*self.command, "ip", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, f"{self.name}: {lines}: {done.stderr}"

    def start(self, *command: str, limits: Limits | None = None) -> Running:
        """Run a program that goes on, a `fanout` with these limits; it is ended with the world at the latest."""
        require(command[0])
        folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self._folder))
        started = Running(command, folder, variables(limits) if limits else {}, program=self.command)
        self._started.append(started)
        return started

    def udp(self, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        """Return a UDP socket of this host, to be used from here; it is closed with the world."""
        made = self.open_socket(family, socket.SOCK_DGRAM)
        made.settimeout(PATIENCE)
        self._sockets.append(made)
        return made

    def tcp(self) -> socket.socket:
        """Return a TCP socket of this host, to be used from here; it is closed with the world."""
        made = self.open_socket(socket.AF_INET, socket.SOCK_STREAM)
        made.settimeout(PATIENCE)
        self._sockets.append(made)
        return made

    def raw(self) -> socket.socket:
        """Return a socket of this host that sends IPv4 packets as they are; it is closed with the world."""
        made = self.open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._sockets.append(made)
        return made

    def listen(self, address: str, port: int) -> socket.socket:
        """Return a socket of this host that is bound and holds a lot."""
        made = self.udp(socket.AF_INET6 if ":" in address else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
        made.bind((address, port))
        return made

    def wait_for_listener(self, *ports: int) -> None:
        until(lambda: all(map(self.listens, ports)), f"{self.name} listens on the ports {ports}")

    def listens(self, port: int) -> bool:
        """Whether a UDP socket of this host has that port."""
        return bool(self._udp_sockets(port))

    def unread(self, *ports: int) -> int:
        """Return how many bytes wait in the receive buffers of the UDP sockets that have these ports."""
        return sum(int(row[4].partition(":")[2], 16) for port in ports for row in self._udp_sockets(port))

    def _udp_sockets(self, port: int) -> list[list[str]]:
        tables = [Path(f"/proc/{self.pid}/net/{name}").read_text() for name in ("udp", "udp6")]
        rows = [line.split() for table in tables for line in table.splitlines()[1:]]
        return [row for row in rows if row[1].endswith(f":{port:04X}")]

    def greet(self, address: str) -> None:
        """Learn the link address of a neighbour: until it is known, the kernel keeps 208 KiB and drops the rest."""

        def is_known() -> bool:
            greeting.sendto(b"", (address, 9))
            rows = [line.split() for line in Path(f"/proc/{self.pid}/net/arp").read_text().splitlines()]
            return any(row[0] == address and row[2] == "0x2" for row in rows)

        with self.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as greeting:
            until(is_known, f"{self.name} knows {address}")

    def get(self, path: str, port: int = 8080) -> str:
        """Return what a web server on this host's loopback says, once there is one."""
        with self.open_socket(socket.AF_INET, socket.SOCK_STREAM) as connected:
            connected.settimeout(PATIENCE)
            until(lambda: connected.connect_ex(("127.0.0.1", port)) == 0, f"{self.name} serves port {port}")
            connected.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connected.recv(65_536), b"")).decode()
        return answer.partition("\r\n\r\n")[2]

    def close_sockets(self) -> None:
        for opened in self._sockets:
            opened.close()
        self._sockets.clear()

    def end_all(self) -> None:
        """End what runs here, and close its sockets."""
        self.close_sockets()
        for started in self._started:
            started.end_now()
        self._started.clear()

    def close(self) -> None:
        self.end_all()
        super().close()


class Lan:
    """The world: `source`, `edge` and `pods`, and what else a test adds."""

    def __init__(self, stack: contextlib.ExitStack, *, pod_multicast: bool = True) -> None:
        self._stack = stack
        self._pod_multicast = pod_multicast
        self._folder = Path(tempfile.mkdtemp(prefix="fanout-lan-"))
        stack.callback(shutil.rmtree, self._folder)
        self.hosts: list[Host] = []
        self.pods: list[Host] = []
        self._switch = self._host("switch", 0)
        self._switch.ip(
            # Without snooping a bridge floods a group to every port: the hosts alone decide what they take.
            *(f"link add {bridge} type bridge mcast_snooping 0 forward_delay 0" for bridge in ("lan", "pods")),
            *(f"link set {bridge} addrgenmode none up" for bridge in ("lan", "pods")),
        )
        self.source = self.add_source()
        self.edge = self.add_edge()

    @property
    def sources(self) -> list[Host]:
        """The hosts on the LAN but the edge."""
        return [host for host in self.hosts if host.name == "source"]

    @property
    def edges(self) -> list[Host]:
        return [host for host in self.hosts if host.name == "edge"]

    def add_source(self) -> Host:
        """Add a host on the LAN."""
        host = self._host("source", SOURCE + len(self.sources))
        self._plug(host, "lan", lan_address)
        for edge in self.edges:
            host.greet(edge.lan)
        return host

    def add_edge(self, *, attached: bool = True) -> Host:
        """Add a host with a leg in the pod network, and one in the LAN where it is `attached`."""
        host = self._host("edge", EDGE + len(self.edges))
        self._plug(host, "pods", pod_address)
        uplink = f"up{host.number}"
        self._switch.ip(
            f"link add {uplink} type veth peer name port{host.number}",
            f"link set port{host.number} master lan addrgenmode none up",
            f"link set {uplink} addrgenmode none up",
        )
        if attached:
            self.attach(host)
        for pod in self.pods:
            host.greet(pod.pod_ip)
        return host

    def add_pods(self, count: int) -> None:
        for _ in range(count):
            pod = self._host("pod", FIRST_POD + len(self.pods))
            assert pod.number < EDGE
            self._plug(pod, "pods", pod_address)
            self.pods.append(pod)
            for edge in self.edges:
                edge.greet(pod.pod_ip)

    def attach(self, edge: Host, *, configured: bool = True) -> None:
        """Give the edge its leg in the LAN, as a CNI plugin does: a macvlan of the node's interface."""
        # A macvlan puts what comes to groups into a queue, which a thread of the kernel empties. By default it holds
        # 1000: a tenth of a second of 100 Mbit/s.
        kind = f"type macvlan mode bridge bcqueuelen {MACVLAN_QUEUE}"
        self._switch.ip(f"link add link up{edge.number} name eth1 netns {edge.pid} {kind}")
        if configured:
            self.configure(edge)

    def configure(self, edge: Host) -> None:
        """Switch the leg in the LAN on, and give it its addresses; the neighbours are told."""
        edge.sysctl("net.ipv4.conf.eth1.arp_notify", 1)
        edge.ip(*_addresses("eth1", lan_address, edge.number))
        for source in self.sources:
            source.greet(edge.lan)

    def detach(self, edge: Host) -> None:
        edge.ip("link delete eth1")

    def service(self) -> str:
        """Return all pods as a literal list."""
        return ",".join(pod.pod_ip for pod in self.pods)

    def listen(self, port: int) -> list[socket.socket]:
        """Return a socket at each pod, of both families, in the place of those that were there."""
        for pod in self.pods:
            pod.close_sockets()
        return [pod.listen("::", port) for pod in self.pods]

    def end_all(self) -> None:
        """End all programs and close all sockets; the hosts stay."""
        for host in self.hosts:
            host.end_all()

    def _host(self, name: str, number: int) -> Host:
        host = self._stack.enter_context(Host(name, number, self._folder))
        self.hosts.append(host)
        return host

    def _plug(self, host: Host, bridge: str, address: Callable[..., str]) -> None:
        port = f"{host.name}{host.number}"
        self._switch.ip(
            f"link add {port} type veth peer name eth0 netns {host.pid}",
            f"link set {port} master {bridge} addrgenmode none up",
        )
        if bridge == "pods" and not self._pod_multicast:
            self._switch.ip(f"link set {port} type bridge_slave mcast_flood off")
        host.ip(*_addresses("eth0", address, host.number))


class Relay:
    """A `fanout relay` in a host, its log, and its counts."""

    def __init__(
        self,
        host: Host,
        *arguments: str,
        listening: int = 1,
        program: Sequence[str] = FANOUT,
        limits: Limits | None = None,
    ) -> None:
        """Start it, and return once it listens at so many ingresses."""
        self._host = host
        self.run = host.start(*program, "relay", "--log-format", "json", *arguments, limits=limits)
        self.wait_for("ingress_listening", listening)

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the events of that name, once there are so many."""
        if count:
            self.run.wait_until(lambda: self.run.out.count(f'"{event}"') >= count and self.run.out.endswith("\n"))
        return self.run.events(event)

    def after(self, action: Callable[[], object], event: str) -> dict[str, Any]:
        """Do something, and return the next event of that name."""
        before = len(self.run.events(event))
        action()
        return self.wait_for(event, before + 1)[before]

    def pause(self) -> None:
        """Stop all its threads, so that what comes waits in the kernel."""
        threads = Path(f"/proc/{self.run.process.pid}/task")
        self.run.process.send_signal(signal.SIGSTOP)
        until(lambda: all("\nState:\tT" in (thread / "status").read_text() for thread in threads.iterdir()), "it stops")

    def resume(self) -> None:
        self.run.process.send_signal(signal.SIGCONT)

    def count(self, metric: str, **labels: str) -> int:
        """Return a metric's value, summed over the labels that are not given."""
        return int(sum(sample.value for sample in self._samples(metric, labels)))

    def drops(self, **labels: str) -> dict[str, int]:
        """Return how many datagrams were not forwarded, by reason, where there are some."""
        found: Counter[str] = Counter()
        for sample in self._samples("fanout_relay_dropped_total", labels):
            found[sample.labels["reason"]] += int(sample.value)
        return dict(+found)

    def _samples(self, metric: str, labels: dict[str, str]) -> list[Any]:
        families = text_string_to_metric_families(self._host.get("/metrics"))
        samples = [sample for family in families for sample in family.samples if sample.name == metric]
        assert samples, metric
        return [sample for sample in samples if labels.items() <= sample.labels.items()]


@contextlib.contextmanager
def lan(pods: int, *, pod_multicast: bool = True) -> Iterator[Lan]:
    """Yield the world, with so many pods. Without multicast, as in a cluster, pods know no IPv6 neighbours either."""
    why = why_no_namespace()
    if why is None and os.geteuid() != 0:
        why = "no cables between namespaces: they need root"
    if why is not None:
        unavailable("tools", why)
    with contextlib.ExitStack() as stack:
        world = Lan(stack, pod_multicast=pod_multicast)
        world.add_pods(pods)
        yield world


def receive(listening: socket.socket, count: int) -> list[bytes]:
    """Return the next datagrams that come."""
    return [listening.recv(65_535) for _ in range(count)]


def waiting(listening: socket.socket) -> list[bytes]:
    """Return what has come by now."""
    found: list[bytes] = []
    before = listening.gettimeout()
    listening.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(listening.recv(65_535))
    listening.settimeout(before)
    return found


def _addresses(interface: str, address: Callable[..., str], number: int) -> Sequence[str]:
    return (
        f"link set {interface} up",
        f"ntable change name arp_cache dev {interface} retrans 50",  # milliseconds: a port may need some to open
        f"address add {address(number)}/24 broadcast + dev {interface}",
        f"address add {address(number, ipv6=True)}/64 dev {interface} nodad",
    )
