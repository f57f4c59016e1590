"""The pods of one Service, as DNS has them."""

from __future__ import annotations

from fanout.discovery.refresher import Refresher, Resolver
from fanout.model import Endpoint, Service, parse_literals


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
