"""The pods of one Service, each with its way out, as DNS has them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fanout.model import Endpoint, Service, parse_literals
from fanout.net.egress import Egress
from fanout.refresher import Refresher, Resolver
from fanout.relay.stats import PodStats
from fanout.report import DropReason

log = logging.getLogger("fanout")


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
        for reason, count in pod.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def with_pods(self, pods: Iterable[PodStats]) -> Totals:
        """Return the sum of these and of some pods."""
        total = Totals(self.sent, self.refused, dict(self.dropped))
        for pod in pods:
            total.add(pod)
        return total


class Pods:
    """Follows a Service: a way out for each pod, made when it joins and closed when it leaves."""

    def __init__(self, service: Service, resolver: Resolver, left: Totals) -> None:
        self.service = service
        self.refresher = Refresher(resolver, service.name)
        self._endpoints: tuple[Endpoint, ...] = ()
        self._egresses: dict[str, Egress] = {}
        self._left = left
        # Whoever names an endpoint's port means that port, whatever the ingress: those have it with any default.
        other_port = 2 if service.port == 1 else 1
        self._fixed = frozenset(service.literals or ()) & frozenset(parse_literals(service.name, other_port) or ())

    @property
    def is_decided(self) -> bool:
        """Whether DNS has answered, or failed to."""
        known = self.refresher.known
        return known.settled or known.failure is not None

    @property
    def egresses(self) -> list[Egress]:
        """The ways out."""
        return list(self._egresses.values())

    def stats(self, at_once: Mapping[Egress, tuple[int, int]]) -> list[PodStats]:
        """Return what went to each pod; `at_once` has copies, and their bytes, that no `Egress` has counted yet."""
        found = []
        for each in self.egresses:
            copies, size = at_once.get(each, (0, 0))
            found.append(
                PodStats(
                    each.host,
                    self.service.name,
                    each.sent + copies,
                    each.bytes + size,
                    each.refused,
                    dict(each.dropped),
                )
            )
        return found

    @property
    def lacks_some(self) -> bool:
        """Whether there was no socket for some pod: `follow` tries again."""
        return len(self._egresses) < len({endpoint.host for endpoint in self._endpoints})

    @property
    def has_changed(self) -> bool:
        """Whether pods have joined or left since `follow`."""
        endpoints = self.refresher.known.endpoints
        return endpoints is not self._endpoints and endpoints != self._endpoints

    def follow(self) -> None:
        """Take note of pods that have joined or left: those have no way out any more."""
        self._endpoints = endpoints = self.refresher.known.endpoints
        hosts = {endpoint.host for endpoint in endpoints}
        for host in [host for host in self._egresses if host not in hosts]:
            egress = self._egresses.pop(host)
            egress.close()
            self._left.add(egress)
        for host in sorted(hosts - self._egresses.keys()):
            try:
                self._egresses[host] = Egress(host)
            except OSError as error:
                log.warning(
                    "pod_left_out: %(host)s of %(service)s gets no copies: no socket for it: %(reason)s",
                    {"host": host, "service": self.service.name, "reason": error.strerror},
                )

    def targets(self, port: int) -> list[tuple[Egress, Endpoint]]:
        """Return each pod's way out, and where a datagram for `port` goes to."""
        return [
            (self._egresses[each.host], self._at(each, port)) for each in self._endpoints if each.host in self._egresses
        ]

    def literals(self, port: int) -> list[Endpoint]:
        """Return the same of a literal list, before anything was resolved."""
        return [self._at(each, port) for each in self.service.literals or ()]

    def _at(self, endpoint: Endpoint, port: int) -> Endpoint:
        return endpoint if endpoint in self._fixed else Endpoint(endpoint.host, port)

    def close(self) -> None:
        """Stop following; close the ways out, whose counts stay."""
        self.refresher.stop()
        for egress in self.egresses:
            egress.close()
