"""Which sources are refused: those not allowed, and those that send too much. Pure."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from fanout.errors import InvalidInput
from fanout.options import shown

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SOURCES_MAX = 4096
"""Sources remembered, the most recent ones: a sender can forge any number of them."""
_BURST = 0.1  # seconds' worth of datagrams that a source may send at once


def parse_network(text: object) -> Network:
    """Return the network (`10.0.0.0/8`, `fd00::/8`) or single address; raise `InvalidInput`."""
    try:
        if not isinstance(text, str) or "%" in text:
            raise ValueError
        network = ipaddress.ip_network(text)
    except ValueError:
        raise InvalidInput(
            "allowed source must be an address, or a network such as 10.0.0.0/8 with no bits set beyond the mask; "
            f"got {shown(text)}"
        ) from None
    if isinstance(network, ipaddress.IPv6Network) and network[0].ipv4_mapped is not None:
        raise InvalidInput(f"allowed source must be written as IPv4, such as 10.0.0.0/8; got {shown(text)}")
    return network


class SourceRefusal(StrEnum):
    """Why a source is refused; the drop reasons that follow have the same names (`RelayDrop`, `SsdpDrop`)."""

    SOURCE_NOT_ALLOWED = "source_not_allowed"
    OVER_LIMIT = "over_limit"


class Acl:
    """Decides whether datagrams of a source are accepted; `now` is in seconds on a monotonic clock.

    A source is an address, with any port. It may send `limit` datagrams a second, in bursts of `burst` seconds' worth.
    """

    def __init__(self, allowed: Sequence[Network], limit: float | None, burst: float = _BURST) -> None:
        self._allowed = allowed
        self._limit = limit
        self._burst = max(1.0, (limit or 0.0) * burst)
        self._sources: OrderedDict[str, _SeenSource] = OrderedDict()

    def refusal(self, host: str, now: float) -> SourceRefusal | None:
        """Return why a datagram from `host` is refused, or None and count it."""
        source = self._sources.get(host)
        if source is None:
            if len(self._sources) >= SOURCES_MAX:
                self._sources.popitem(last=False)
            source = self._sources[host] = _SeenSource(self._allows(host), self._burst, now)
        else:
            self._sources.move_to_end(host)
        if not source.is_allowed:
            return SourceRefusal.SOURCE_NOT_ALLOWED
        if self._limit is not None:
            source.tokens = min(self._burst, source.tokens + (now - source.filled_at) * self._limit)
            source.filled_at = now
            if source.tokens < 1.0:
                return SourceRefusal.OVER_LIMIT
            source.tokens -= 1.0
        return None

    def _allows(self, host: str) -> bool:
        if not self._allowed:
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        return any(address.version == network.version and address in network for network in self._allowed)


@dataclass(slots=True)
class _SeenSource:
    is_allowed: bool
    tokens: float
    filled_at: float
