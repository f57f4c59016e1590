"""Recognizes what a relay itself sends, so that it does not forward it again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fanout.model import Endpoint
from fanout.net import interfaces, sockaddr
from fanout.relay.core.ingress import EVERYWHERE, Ingress, IngressKind


class SelfFilter:
    """The addresses of this host, the ports on which the relay listens, and the endpoints from which it sends."""

    def __init__(self, ingresses: Sequence[Ingress]) -> None:
        self._ingresses = [each for each in ingresses if each.kind is IngressKind.UDP]
        self._here: dict[str, bool] = {}
        self._sends_from: frozenset[tuple[str, int]] = frozenset()
        self.ports: frozenset[int] = frozenset()
        """The ports from which it sends."""

    def send_from(self, endpoints: Iterable[Endpoint]) -> None:
        """Record the endpoints from which copies are sent."""
        self._sends_from = frozenset(endpoints)
        self.ports = frozenset(port for _, port in self._sends_from)

    def has_moved(self) -> bool:
        """Look up this host's addresses again; return whether one from which it sends is gone."""
        self._here.clear()
        return not all(self.is_here(host) for host in {host for host, _ in self._sends_from})

    def is_ingress(self, endpoint: Endpoint) -> bool:
        """Return whether what is sent there comes to an ingress of this relay."""
        return any(
            endpoint.port in each.ports and (each.host in EVERYWHERE or each.host == endpoint.host)
            for each in self._ingresses
        ) and self.is_here(endpoint.host)

    def has_sent(self, host: str, port: int) -> bool:
        """Return whether a datagram from that source is the relay's own."""
        return (sockaddr.plain(host), port) in self._sends_from

    def is_here(self, host: str) -> bool:
        """Return whether that is an address of this host."""
        if host not in self._here:
            self._here[host] = interfaces.is_local(host)
        return self._here[host]
