"""Where a relay listens, and where what comes there goes: an ingress, parsed from its URL. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from fanout.acl import Network, parse_network
from fanout.errors import InvalidIngress, InvalidInput
from fanout.model import Service, parse_port, unmapped
from fanout.options import is_interface_name, positive_number, shown, whole_number

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORTS_MAX = 1024
"""Ports of all ingresses of a relay: each takes a socket."""
LIMIT_MAX = 1_000_000_000
"""Datagrams a second of one source."""
_ADDRESS = r"\[[^\]@,]*\]|[^:@\[\],]*"
_URL = re.compile(
    rf"(?P<kind>[a-z]+)://(?:(?P<source>{_ADDRESS}),)?(?P<host>{_ADDRESS}):(?P<ports>[^:@]*)(?:@(?P<interface>.*))?",
    re.DOTALL,
)
EVERYWHERE = frozenset(("", "0.0.0.0", "::"))
"""Hosts that stand for all addresses."""
_LINK_LOCAL = ipaddress.IPv6Network("fe80::/10")
_FORMS = (
    "udp://ADDRESS:PORT[@INTERFACE], mcast://GROUP:PORT@INTERFACE, mcast://SOURCE,GROUP:PORT@INTERFACE "
    "or broadcast://:PORT@INTERFACE, with PORT or FIRST-LAST"
)


class IngressKind(StrEnum):
    """What an ingress takes."""

    UDP = "udp"
    MULTICAST = "mcast"
    BROADCAST = "broadcast"


@dataclass(frozen=True, slots=True)
class Ingress:
    """Where a relay listens (`parse` reads its URL), and where what comes there goes."""

    kind: IngressKind
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
    """The pods' port for `first_port`, and for the others in step; None for the same ports."""
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
        """Return the pods' port for what came to `port`."""
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
        """Return the ingress of that URL; raise `InvalidIngress`, which names it.

        `udp://0.0.0.0:5004`, a range `udp://0.0.0.0:32546-32550`, `mcast://224.0.67.67:5001@eth1`, one source alone
        `mcast://10.0.0.12,224.0.67.67:5001@eth1`, `broadcast://:9999@eth0`, `mcast://[ff15::67]:5001@eth1`.
        """
        if not isinstance(url, str):
            raise InvalidIngress(f"an ingress must be a URL; got {type(url).__name__}: write {_FORMS}")
        try:
            listening = _of_url(url)
            check_pods(Service(service, listening.first_port))
            if isinstance(allow_source, str):
                raise InvalidInput(f"allow_source must be a list of networks; got {shown(allow_source)}")
            networks = tuple(map(parse_network, allow_source))
            if to_port is not None:
                count = len(listening.ports)
                name = "to_port" if count == 1 else f"to_port (--to-port), the first of {count:,} ports in a row,"
                whole_number(name, to_port, least=1, most=65_536 - count)
            if limit is not None:
                positive_number("limit", limit, most=LIMIT_MAX, unit="datagrams a second")
        except InvalidInput as error:
            raise InvalidIngress(f"ingress {shown(url)}: {error}") from None
        return replace(listening, service=service, to_port=to_port, allow_source=networks, limit=limit)


def check_pods(service: Service) -> None:
    """Raise `InvalidInput` where a literal list names an address that cannot be a pod's."""
    for pod in service.literals or ():
        address = ipaddress.ip_address(pod.host)
        if address.is_multicast or str(address) == "255.255.255.255":
            raise InvalidInput(f"an endpoint must be a pod's address, neither multicast nor broadcast; got {address}")


def check(ingresses: Sequence[Ingress]) -> None:
    """Raise `InvalidIngress` where there are none, too many, or two that collide."""
    if not ingresses:
        raise InvalidIngress(f"a relay must have at least one ingress: write {_FORMS}")
    conflict = first_conflict(ingresses)
    if conflict is not None:
        raise InvalidIngress(conflict[1])


def first_conflict(ingresses: Sequence[Ingress]) -> tuple[int, str] | None:
    """Return the index of the first ingress that conflicts with those before it, and why; None if all fit."""
    ports = 0
    by_port: dict[int, list[Ingress]] = defaultdict(list)
    for index, ingress in enumerate(ingresses):
        ports += len(ingress.ports)
        if ports > PORTS_MAX:
            return index, (
                f"a relay must listen on at most {PORTS_MAX:,} ports, a socket each; '{ingress}' makes it "
                f"{ports:,}: run another relay for the rest"
            )
        for port in ingress.ports:
            for other in by_port[port]:
                if (why := _collision(ingress, other)) is not None:
                    return index, f"ingress '{ingress}' collides with '{other}': {why}"
            by_port[port].append(ingress)
    return None


def _collision(one: Ingress, other: Ingress) -> str | None:
    """Return why two ingresses cannot share a port; None where they can."""
    if IngressKind.UDP not in (one.kind, other.kind):
        # Sockets for groups and for broadcast share a port, and each gets a copy.
        same = (one.kind, one.host, one.interface) == (other.kind, other.host, other.interface)
        if same and one.service == other.service and (one.source == other.source or not (one.source and other.source)):
            return "the pods would get each datagram twice: leave one out"
        return None
    (host, device), (other_host, other_device) = _bound_to(one), _bound_to(other)
    if device and other_device and device != other_device:
        return None
    of_one_family = not host or not other_host or (":" in host) == (":" in other_host)
    if of_one_family and (host == other_host or not EVERYWHERE.isdisjoint((host, other_host))):
        return "both take the same port: give each an address or a port of its own"
    return None


def _bound_to(ingress: Ingress) -> tuple[str, str]:
    """Return the address and the interface that its sockets are bound to; empty for all."""
    if ingress.kind is IngressKind.MULTICAST:
        return ingress.host, ""
    return ("0.0.0.0" if ingress.kind is IngressKind.BROADCAST else ingress.host), ingress.interface


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _of_url(url: str) -> Ingress:
    """Return what a URL alone says; raise `InvalidInput`."""
    match = _URL.fullmatch(url)
    if match is None or match["kind"] not in list(IngressKind):
        raise InvalidInput(f"the URL must be {_FORMS}")
    kind, host, source, interface = IngressKind(match["kind"]), match["host"], match["source"], match["interface"]
    first, last = _ports(match["ports"])
    if interface is not None and not is_interface_name(interface):
        raise InvalidInput(
            f"interface must be a name such as eth1, as `ls /sys/class/net` lists it; got {shown(interface)}"
        )
    if source is not None and kind is not IngressKind.MULTICAST:
        raise InvalidInput("only mcast:// takes a source: use allow_source (--allow-source) instead")
    if interface is None and kind is not IngressKind.UDP:
        raise InvalidInput("the URL must name an interface: add @eth1")
    if kind is IngressKind.MULTICAST:
        host, source = _group(host, source)
    elif kind is IngressKind.BROADCAST and host:
        raise InvalidInput(f"broadcast takes no address: write broadcast://:{first}@{interface}")
    elif host:
        host = str(_listening_address(host, first, interface))
    return Ingress(kind, host, first, last, interface or "", source or "")


def _ports(text: str) -> tuple[int, int]:
    first_text, dash, last_text = text.partition("-")
    try:
        first = parse_port(first_text)
        last = parse_port(last_text) if dash else first
    except InvalidInput:
        raise InvalidInput(f"port must be 1 to 65535, or FIRST-LAST; got {shown(text)}") from None
    if last < first:
        raise InvalidInput(f"the range {text} must ascend: write {last}-{first}")
    if last - first >= PORTS_MAX:
        raise InvalidInput(f"the range must be at most {PORTS_MAX:,} ports, a socket each; got {last - first + 1:,}")
    return first, last


def _address(text: str) -> Address:
    bare = text[1:-1] if text.startswith("[") else text
    if "%" in bare:
        raise InvalidInput("name the interface after the port (@eth1), not after a %")
    try:
        return unmapped(ipaddress.ip_address(bare))
    except ValueError:
        raise InvalidInput(f"address must be an IP address, IPv6 in brackets; got {shown(text)}") from None


def _listening_address(text: str, port: int, interface: str | None) -> Address:
    address = _address(text)
    if address.is_multicast:
        raise InvalidInput(f"{address} is a group: write mcast://{text}:{port}@INTERFACE")
    if str(address) == "255.255.255.255":
        raise InvalidInput(f"255.255.255.255 is broadcast: write broadcast://:{port}@INTERFACE")
    if address in _LINK_LOCAL and not interface:
        raise InvalidInput(f"{address} is link-local: add @eth1, its interface")
    return address


def _group(text: str, source_text: str | None) -> tuple[str, str]:
    group = _address(text)
    if not group.is_multicast:
        raise InvalidInput(
            f"group must be a multicast address (224.0.0.0/4, ff00::/8); got {group}: for a source write SOURCE,GROUP"
        )
    if source_text is None:
        return str(group), ""
    source = _address(source_text)
    if source.version != group.version:
        raise InvalidInput(f"source and group must be of one address family; got {source} and {group}")
    if source.is_multicast or source.is_unspecified or source.is_loopback or str(source) == "255.255.255.255":
        raise InvalidInput(f"source must be a unicast address other than loopback; got {source}")
    return str(group), str(source)
