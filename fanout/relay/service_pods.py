"""The pods of one Service, as DNS has them, and what went to each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fanout.discovery.refresher import Refresher, Resolver
from fanout.model import Endpoint, Service, parse_literals
from fanout.relay.core.stats import PodStats
from fanout.relay.egress import Egress
from fanout.relay.port_fanout import PortFanout
from fanout.report import DropReason


@dataclass(slots=True)
class Totals:
    """Copies to pods."""

    sent: int = 0
    refused: int = 0
    dropped: dict[DropReason, int] = field(default_factory=dict)

    def add(self, pod: Egress | PodStats) -> None:
        """Add what went to one pod."""
        self.sent += pod.sent
        self.refused += pod.refused
        for reason, count in dict(pod.dropped).items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def with_pods(self, pods: Iterable[PodStats]) -> Totals:
        """Return the sum of these and of some pods."""
        total = Totals(self.sent, self.refused, dict(self.dropped))
        for pod in pods:
            total.add(pod)
        return total


class ServicePods:
    """Follows a Service, and returns the endpoints that a port's datagrams go to."""

    def __init__(self, service: Service, resolver: Resolver) -> None:
        self.service = service
        self.refresher: Refresher = Refresher(resolver, service.name)
        self._endpoints: tuple[Endpoint, ...] = ()
        # An endpoint given with a port keeps it, whatever the ingress: such a one has it with any default.
        other_port = 2 if service.port == 1 else 1
        self._fixed = frozenset(service.literals or ()) & frozenset(parse_literals(service.name, other_port) or ())

    @property
    def is_decided(self) -> bool:
        """Whether DNS has answered, or failed to."""
        known = self.refresher.known
        return known.settled or known.failure is not None

    def follow(self) -> bool:
        """Record which pods there are now; return whether any has joined or left."""
        before, self._endpoints = self._endpoints, self.refresher.known.endpoints
        return self._endpoints is not before and self._endpoints != before

    def endpoints(self, port: int) -> list[Endpoint]:
        """Return the endpoints for a datagram to `port`."""
        return [self._at(each, port) for each in self._endpoints]

    def literals(self, port: int) -> list[Endpoint]:
        """Return the same of a literal list, before anything is resolved."""
        return [self._at(each, port) for each in self.service.literals or ()]

    def _at(self, endpoint: Endpoint, port: int) -> Endpoint:
        return endpoint if endpoint in self._fixed else Endpoint(endpoint.host, port)


def stats_of(service: str, port_fanouts: Iterable[PortFanout]) -> list[PodStats]:
    """Return what went to each pod of a Service, through all its ports."""
    found: dict[str, PodStats] = {}
    for port_fanout in port_fanouts:
        at_once = port_fanout.at_once
        for egress in port_fanout:
            host = egress.endpoint.host
            pod = found.setdefault(host, PodStats(host, service))
            copies, size = at_once.get(egress, (0, 0))
            pod.sent += egress.sent + copies
            pod.bytes += egress.bytes + size
            pod.refused += egress.refused
            for reason, count in dict(egress.dropped).items():
                pod.dropped[reason] = pod.dropped.get(reason, 0) + count
    return list(found.values())
