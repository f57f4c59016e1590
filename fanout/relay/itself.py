"""What a relay knows of itself, so that it does not feed on what it sends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fanout.model import Endpoint
from fanout.net import interfaces
from fanout.relay.ingress import Ingress, Kind

_ALL = ("", "0.0.0.0", "::")


class Itself:
    """The addresses of this host, the ports on which the relay listens, and those from which it sends."""

    def __init__(self, ingresses: Sequence[Ingress]) -> None:
        self._ingresses = [each for each in ingresses if each.kind is Kind.UDP]
        self._addresses: frozenset[str] = frozenset()
        self.sends_from: frozenset[int] = frozenset()
        """The ports that its copies come from."""

    def learn_addresses(self) -> bool:
        """Look at the interfaces; return whether there are other addresses than before."""
        before, self._addresses = self._addresses, frozenset(map(str, interfaces.addresses()))
        return self._addresses != before

    def send_from(self, ports: Iterable[int]) -> None:
        """Take note of the ports that the copies come from."""
        self.sends_from = frozenset(ports)

    def is_ingress(self, endpoint: Endpoint) -> bool:
        """Whether what is sent there comes to an ingress of this relay."""
        return any(
            endpoint.port in each.ports and (each.host in _ALL or each.host == endpoint.host)
            for each in self._ingresses
        ) and self.is_here(endpoint.host)

    def has_sent(self, host: str, port: int) -> bool:
        """Whether a datagram with that source is the relay's own."""
        return port in self.sends_from and self.is_here(host)

    def is_here(self, host: str) -> bool:
        """Whether that is an address of this host."""
        host = host.removeprefix("::ffff:")
        return host in self._addresses or host.startswith("127.")
