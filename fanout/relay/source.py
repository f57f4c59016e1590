"""A running ingress: its sockets, its counters, and the interface that it follows."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import replace

from fanout.acl import Acl
from fanout.errors import InvalidIngress, SocketUnavailable
from fanout.net import bind, interfaces
from fanout.net.multicast import InterfaceState
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.ingress import Ingress
from fanout.relay.core.loop_guard import LoopGuard
from fanout.relay.core.stats import IngressStats
from fanout.relay.egress import Egress, SendBudget
from fanout.relay.ingress_socket import describe, open_port
from fanout.relay.port import Port
from fanout.relay.port_fanout import PortFanout
from fanout.relay.self_filter import SelfFilter
from fanout.relay.service_pods import ServicePods

log: logging.Logger = logging.getLogger("fanout")


class Source:
    """One ingress: opened when its interface appears, and again when the interface was replaced."""

    def __init__(
        self,
        ingress: Ingress,
        pods: ServicePods,
        loop_guard: LoopGuard | None,
        self_filter: SelfFilter,
        budget: SendBudget,
        counting: AbstractContextManager[object],
        *,
        receive_buffer: int,
        interface_timeout: float,
    ) -> None:
        self.ingress = ingress
        self.pods = pods
        """Those of its Service."""
        self.counts: IngressStats = IngressStats(str(ingress), ingress.service, dropped=Counter())
        """What the kernel dropped, and why it waits, are added when `stats` are read."""
        self.state: InterfaceState = InterfaceState(interface_timeout)
        self.ports: list[Port] = []
        self.port_fanouts: dict[int, PortFanout] = {port: PortFanout(budget, counting) for port in ingress.ports}
        """What sends each port's datagrams to the pods."""
        self.interface: int | None = None
        self._receive_buffer = receive_buffer
        self._loop_guard = loop_guard
        self._acl = Acl(ingress.allow_source, ingress.limit) if ingress.allow_source or ingress.limit else None
        self._self_filter = self_filter
        self._drops_before = 0
        self._is_up: bool | None = None
        """Whether its interface was up when its state was last logged."""
        self._warned: set[str] = set()
        """Hosts that were logged as the relay itself."""

    def check_literals(self) -> None:
        """Raise `InvalidIngress` where a literal list makes it forward to this very relay."""
        for port in self.ingress.ports:
            for endpoint in self.pods.literals(self.ingress.port_at_pods(port)):
                if self._self_filter.is_ingress(endpoint):
                    raise InvalidIngress(
                        f"ingress {self.ingress}: {endpoint} is this relay itself: "
                        "name the pods, or another port of theirs (--to-port, to_port)"
                    )

    def try_to_open(self, now: float) -> None:
        """Listen if the interface is there; raise `SocketUnavailable` where waiting for it would not help."""
        try:
            self.open()
        except SocketUnavailable as error:
            if self.state.failed(error, now):
                log.warning("ingress_waiting: %(reason)s", {"reason": str(error), "ingress": str(self.ingress)})

    def open(self) -> None:
        """Listen on all ports or on none; raise `InterfaceNotReady` or `SocketUnavailable`."""
        self.interface = interfaces.index(self.ingress.interface) if self.ingress.interface else None
        ports = []
        with contextlib.ExitStack() as stack:
            for number in self.ingress.ports:
                opened = open_port(self.ingress, number)
                stack.callback(opened.close)
                port = Port(number, opened, self.ingress, self.counts, self._self_filter, self._acl, self._loop_guard)
                ports.append(port)
            stack.pop_all()
        bind.grow_buffer(ports[0].socket, self._receive_buffer)  # it warns, and once is enough
        for port in ports[1:]:
            bind.set_buffer(port.socket, self._receive_buffer)
        self.ports = ports
        self.state.has_listened = True
        self._is_up = None
        self.look_at_interface()

    def aim(self) -> list[Egress]:
        """Send to the pods as they are known now; return the egresses that were closed."""
        closed = []
        for port, port_fanout in self.port_fanouts.items():
            endpoints = []
            for endpoint in self.pods.endpoints(self.ingress.port_at_pods(port)):
                if not self._self_filter.is_ingress(endpoint):
                    endpoints.append(endpoint)
                elif endpoint.host not in self._warned:
                    self._warned.add(endpoint.host)  # once is enough, however many ports there are
                    log.warning(
                        "endpoint_is_ingress: %(endpoint)s of %(service)s is this relay itself, and gets no copy: "
                        "send %(ingress)s to another port (--to-port, to_port), or to a Service without the relay",
                        {"endpoint": str(endpoint), "service": self.ingress.service, "ingress": str(self.ingress)},
                    )
            closed += port_fanout.aim(endpoints, self._self_filter.is_here)
        return closed

    def look_at_interface(self) -> None:
        """Log where it listens, and when its interface goes down or comes up again."""
        is_up = not self.ingress.interface or interfaces.is_up(self.ingress.interface)
        if not self.ports or is_up is self._is_up:
            return
        self._is_up = is_up
        name, values = str(self.ingress), {"ingress": str(self.ingress), "service": self.ingress.service}
        if is_up:
            self.state.opened()
            log.info("ingress_listening: %(ingress)s %(where)s", {**values, "where": describe(self.ingress)})
        else:
            device = self.ingress.interface
            reason = f"ingress {name}: {device} is down: run `ip link set {device} up` (of a macvlan, for its parent)"
            self.state.waiting = reason
            log.warning("ingress_waiting: %(reason)s", {**values, "reason": reason})

    @property
    def is_stale(self) -> bool:
        """Whether its interface is gone, or was replaced by another of the same name."""
        return bool(self.ports and self.interface) and interfaces.index(self.ingress.interface) != self.interface

    def close(self) -> None:
        """Close the ports."""
        for port in self.ports:
            self._drops_before += port.drops
            port.socket.close()
        self.ports = []

    @property
    def stats(self) -> IngressStats:
        """Its counts."""
        dropped = dict(self.counts.dropped)
        if kernel := self._drops_before + sum(port.drops for port in list(self.ports)):
            dropped[RelayDrop.KERNEL_BUFFER] = kernel
        return replace(self.counts, waiting=self.state.waiting, dropped=dropped)
