"""Where a relay listens, and where what comes there goes: an ingress, parsed from its URL. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fanout.errors import InvalidIngress, InvalidInput
from fanout.model import Service, parse_port

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PORTS_MAX = 1024
"""Ports of all ingresses of a relay: each takes a socket."""
LIMIT_MAX = 1e9
"""Datagrams a second of one source."""
_ADDRESS = r"\[[^\]@,]*\]|[^:@\[\],]*"
_URL = re.compile(
    rf"(?P<kind>[a-z]+)://(?:(?P<source>{_ADDRESS}),)?(?P<host>{_ADDRESS}):(?P<ports>[^:@]*)(?:@(?P<interface>.*))?",
    re.DOTALL,
)
_INTERFACE_MAX = 15  # IFNAMSIZ less the zero (include/uapi/linux/if.h)
_FORMS = (
    "udp://ADDRESS:PORT[@INTERFACE], mcast://GROUP:PORT@INTERFACE, mcast://SOURCE,GROUP:PORT@INTERFACE "
    "or broadcast://:PORT@INTERFACE, with PORT or FIRST-LAST"
)


class Kind(StrEnum):
    """What an ingress takes."""

    UDP = "udp"
    MULTICAST = "mcast"
    BROADCAST = "broadcast"


@dataclass(frozen=True, slots=True)
class Ingress:
    """Where a relay listens (`parse` reads its URL), and where what comes there goes."""

    kind: Kind
    host: str
    """The address to listen on, empty for all of both families; of multicast the group; empty for broadcast."""
    first_port: int
    last_port: int
    interface: str = ""
    """Empty where it is not bound to one (`udp` only)."""
    source: str = ""
    """The only source of a source-specific group (RFC 4607); empty for any."""
    service: str = ""
    """The headless Service, or a literal list of endpoints."""
    to_port: int | None = None
    """Where `first_port` goes to at the pods, and the others in step; None for the same ports."""
    allow_source: tuple[Network, ...] = ()
    """Networks whose datagrams are forwarded; empty for all."""
    limit: float | None = None
    """Datagrams a second that are forwarded of each source; None for all."""

    @property
    def ports(self) -> range:
        """The ports that it listens on."""
        return range(self.first_port, self.last_port + 1)

    @property
    def is_ipv6(self) -> bool:
        """Whether it takes IPv6 alone."""
        return ":" in self.host

    def port_at_pods(self, port: int) -> int:
        """Return the port to which goes what came to `port`."""
        return port if self.to_port is None else self.to_port + port - self.first_port

    def __str__(self) -> str:
        """Return its URL."""
        source = f"{_bracketed(self.source)}," if self.source else ""
        ports = f"{self.first_port}" if self.first_port == self.last_port else f"{self.first_port}-{self.last_port}"
        interface = f"@{self.interface}" if self.interface else ""
        return f"{self.kind}://{source}{_bracketed(self.host)}:{ports}{interface}"

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        service: str,
        to_port: int | None = None,
        allow_source: Iterable[str] = (),
        limit: float | None = None,
    ) -> Ingress:
        """Return the ingress of that URL; raise `InvalidIngress`, whose sentence names it.

        `udp://0.0.0.0:5004`, a range `udp://0.0.0.0:32546-32550`, `mcast://224.0.67.67:5001@eth1`, one source alone
        `mcast://10.0.0.12,224.0.67.67:5001@eth1`, `broadcast://:9999@eth0`, `mcast://[ff15::67]:5001@eth1`.
        """
        match = _URL.fullmatch(url) if isinstance(url, str) else None
        if match is None or match["kind"] not in list(Kind):
            raise InvalidIngress(f"ingress {url!r} is none: write {_FORMS}")
        kind = Kind(match["kind"])
        first, last = _ports(url, match["ports"])
        interface = match["interface"]
        if interface is None:
            interface = ""
        elif not 0 < len(interface) <= _INTERFACE_MAX or "/" in interface or not _is_word(interface):
            raise InvalidIngress(f"ingress {url!r}: {interface!r} is no name of an interface (at most 15 characters)")
        host = match["host"]
        if match["source"] is not None and kind is not Kind.MULTICAST:
            raise InvalidIngress(f"ingress {url!r}: only mcast:// has a source: use allow_source instead")
        if kind is not Kind.UDP and not interface:
            raise InvalidIngress(f"ingress {url!r} names no interface: add @eth1, as `ip address` has it")
        source = ""
        if kind is Kind.MULTICAST:
            host, source = _group(url, host, match["source"])
        elif kind is Kind.BROADCAST and host:
            raise InvalidIngress(f"ingress {url!r}: broadcast has no address: write broadcast://:{first}@{interface}")
        elif host:
            address = _address(url, host)
            if address.is_multicast:
                raise InvalidIngress(f"ingress {url!r}: {address} is a group: write mcast://{host}:{first}@INTERFACE")
            host = str(address)
        try:
            Service(service, first)
            networks = tuple(map(parse_network, allow_source))
        except InvalidInput as error:
            raise InvalidIngress(f"ingress {url!r}: {error}") from None
        if to_port is not None and not (_is_port(to_port) and to_port + last - first <= 65_535):
            raise InvalidIngress(f"ingress {url!r}: its ports cannot go to {to_port!r} and above: there are 1 to 65535")
        if limit is not None and not (isinstance(limit, (int, float)) and 0 < limit <= LIMIT_MAX):
            raise InvalidIngress(f"ingress {url!r}: limit {limit!r} is no number of datagrams a second above 0")
        return cls(kind, host, first, last, interface, source, service, to_port, networks, limit)


def parse_network(text: object) -> Network:
    """Return the network (`10.0.0.0/8`, `fd00::/8`) or the one address; raise `InvalidInput`."""
    try:
        if not isinstance(text, str):
            raise ValueError
        return ipaddress.ip_network(text)
    except ValueError:
        raise InvalidInput(
            f"allowed source {text!r} is no network: write 10.0.0.0/8, with no bits behind the mask, or one address"
        ) from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_word(text: str) -> bool:
    return text.isprintable() and text not in (".", "..") and not any(map(str.isspace, text))


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_535


def _ports(url: str, text: str) -> tuple[int, int]:
    first_text, dash, last_text = text.partition("-")
    try:
        first = parse_port(first_text)
        last = parse_port(last_text) if dash else first
    except InvalidInput:
        raise InvalidIngress(f"ingress {url!r}: {text!r} is no port from 1 to 65535, nor FIRST-LAST") from None
    if last < first:
        raise InvalidIngress(f"ingress {url!r}: the range {text} is upside down: write {last}-{first}")
    if last - first >= PORTS_MAX:
        raise InvalidIngress(
            f"ingress {url!r}: {last - first + 1:,} ports, and each takes a socket: listen on {PORTS_MAX:,} at most"
        )
    return first, last


def _address(url: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    bare = text[1:-1] if text.startswith("[") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise InvalidIngress(f"ingress {url!r}: {text!r} is no IP address (of IPv6: in brackets)") from None
    if "%" in bare:
        raise InvalidIngress(f"ingress {url!r}: name the interface behind the port (@{bare.partition('%')[2]})")
    return address


def _group(url: str, text: str, source_text: str | None) -> tuple[str, str]:
    group = _address(url, text)
    if not group.is_multicast:
        raise InvalidIngress(
            f"ingress {url!r}: {group} is no multicast group (224.0.0.0/4 or ff00::/8); for a source write SOURCE,GROUP"
        )
    if source_text is None:
        return str(group), ""
    source = _address(url, source_text)
    if source.version != group.version:
        raise InvalidIngress(f"ingress {url!r}: {source} and {group} are not of one family")
    if source.is_multicast or source.is_unspecified or source.is_loopback or str(source) == "255.255.255.255":
        raise InvalidIngress(f"ingress {url!r}: {source} is no address that a datagram of a group comes from")
    return str(group), str(source)
