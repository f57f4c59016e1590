"""What `fanout doctor` has found out, before it is judged. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from fanout.model import Endpoint
from fanout.relay.core.ingress import Ingress, IngressKind


class CheckStatus(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, and there is something to change: it may not under load."""
    PROBLEM = "problem"
    """It does not work, or nothing shows that it does."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one check came to."""

    check: str
    status: CheckStatus
    sentence: str
    hints: tuple[str, ...] = ()
    """What to look at or to change, a sentence each."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the sentence is made of, for programs."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The facts about this host, or pod, itself."""

    asked: int
    """Bytes of receive buffer that fanout asks for."""
    granted: int
    sysctl: int | None
    """net.core.rmem_max; None where it cannot be read."""
    room: Mapping[int, int]
    """How many datagrams of a size the granted buffer holds."""
    has_gso: bool


class PodFacts(NamedTuple):
    """What became of the probes to one pod."""

    endpoint: Endpoint
    probes: int = 0
    round_trip: float | None = None
    """Seconds; None where it did not answer."""
    errno: int = 0
    """What ICMP or the kernel said instead."""


class PathFacts(NamedTuple):
    """The path to one pod."""

    endpoint: Endpoint
    interface: str
    mtu: int
    payload: int
    """Bytes of the largest payload that leaves in one piece."""
    passed: bool | None
    """Whether a probe of that size, sent unfragmented, came back; None where none was sent."""


class Heard(NamedTuple):
    """The first datagram that an ingress got."""

    source: Endpoint
    port: int
    size: int
    """Bytes of payload."""
    seconds: float
    """After the beginning."""


class Seen(NamedTuple):
    """A datagram on the wire: what an interface got, whatever becomes of it."""

    interface: str
    source: Endpoint
    destination: Endpoint
    size: int
    hops: int
    """What is left of its TTL."""
    broadcast: bool = False


class Match(StrEnum):
    """How a datagram on the wire fits an ingress."""

    FITS = "fits"
    OTHER_INTERFACE = "other interface"
    OTHER_PORT = "other port"
    OTHER_SOURCE = "other source"


@dataclass(frozen=True, slots=True)
class InterfaceFacts:
    """The facts about an ingress's interface, or about all where it names none."""

    is_up: bool = True
    addresses: tuple[str, ...] = ()
    """Those of the ingress's family."""
    own_addresses: tuple[str, ...] = ()
    """Of all interfaces."""
    igmp_version: str = ""
    """The version of IGMP that the kernel uses there, such as `V2`; empty where it is unknown."""
    forced_version: int = 0
    """force_igmp_version (or force_mld_version) of the interface, or of all: 0 leaves it to the querier."""
    reverse_filter: int = 0
    """The effective rp_filter of the interface: 0 off, 1 strict, 2 loose."""
    default_interface: str = ""
    """The interface of the default route; empty where there is none."""


@dataclass(frozen=True, slots=True)
class IngressFacts:
    """The facts about one ingress."""

    ingress: Ingress
    seconds: float
    """How long the doctor listened."""
    interface: InterfaceFacts = InterfaceFacts()
    described: str = ""
    """Where it listens, and which route answers."""
    refused: str = ""
    """Why it could not listen; empty where it does."""
    in_use: bool = False
    """Whether that is because another program has its port."""
    joined: bool | None = None
    """Whether the kernel lists the group on the interface; None where no group was joined."""
    heard: Heard | None = None
    seen: Mapping[Match, Seen] | None = None
    """The first datagram of each kind on the wire; None without CAP_NET_RAW."""
    missed: int = 0
    """Packets on the wire that came too fast to look at."""
    way_back: str | None = None
    """The interface of the route back to the source of what was seen; None where there is no route."""
    grown: Mapping[str, int] = field(default_factory=dict)
    """The kernel's counters that grew meanwhile, such as `IPReversePathFilter`, and by how much."""

    @property
    def where(self) -> str:
        """The interface as a sentence names it."""
        return self.ingress.interface or "any interface"


def match(ingress: Ingress, seen: Seen) -> Match | None:
    """Return how a datagram on the wire fits an ingress; None where the two are unrelated."""
    destination = seen.destination
    is_here = not ingress.interface or seen.interface == ingress.interface
    fits_port = destination.port in ingress.ports
    if ingress.kind is IngressKind.MULTICAST:
        fits = destination.host == ingress.host
    elif ingress.kind is IngressKind.BROADCAST:
        fits = seen.broadcast
    else:
        # What arrives at other ports of this host is for other programs, and explains nothing.
        anywhere = ingress.host in ("", "0.0.0.0", "::")
        fits = fits_port and not seen.broadcast and (anywhere or destination.host == ingress.host)
    if not fits or not (is_here or fits_port):
        return None
    if not is_here:
        return Match.OTHER_INTERFACE
    if not fits_port:
        return Match.OTHER_PORT
    return Match.OTHER_SOURCE if ingress.source not in ("", seen.source.host) else Match.FITS
