"""Listens to ingresses as a relay does, captures the wire as well, and gathers what explains a silence."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from fanout.doctor import kernel
from fanout.doctor.core.facts import Heard, IngressFacts, InterfaceFacts, Match, Seen, match
from fanout.errors import SocketUnavailable
from fanout.model import Endpoint, unmapped
from fanout.net import interfaces, pktinfo
from fanout.net.bind import RECEIVE_BUFFER, set_buffer
from fanout.relay.core.ingress import Ingress, IngressKind
from fanout.relay.ingress_socket import describe, open_port

_LOOK = 0.2
"""Seconds between two reports of progress."""
_TURN = 64
"""Datagrams that are read of one socket before it is another's turn."""
_READ_MAX = 65_535
# include/uapi/linux/if_ether.h, if_packet.h
_ETHERTYPES = {0x0800: 4, 0x86DD: 6}
_TO_ALL, _TO_OTHERS, _OUTGOING = 1, 3, 4
_TELL_STATISTICS = (263, 6)  # SOL_PACKET, PACKET_STATISTICS: packets and drops since it was last asked
_PACKET_STATISTICS = struct.Struct("=2I")
_UDP = struct.Struct("!4H")


class _Listened:
    """One ingress, its sockets, and what came so far."""

    def __init__(self, ingress: Ingress) -> None:
        self.ingress = ingress
        self.sockets: dict[int, tuple[socket.socket, int]] = {}
        """By descriptor: a socket and its port."""
        self.heard: Heard | None = None
        self.facts: IngressFacts | None = None
        """The facts, once they are final."""
        self.seen: dict[Match, Seen] | None = None
        self.refused = ""
        self.in_use = False
        self.before = kernel.counters(ingress.interface)
        try:
            for port in ingress.ports:
                opened = open_port(ingress, port)
                set_buffer(opened, RECEIVE_BUFFER)  # so that a flood does not make it drop what the doctor then counts
                self.sockets[opened.fileno()] = (opened, port)
        except SocketUnavailable as error:
            self.refused = str(error)
            self.in_use = getattr(error.__cause__, "errno", None) == errno.EADDRINUSE
            self.close()

    @property
    def waits(self) -> bool:
        """Whether there is something to come: a datagram, or one on the wire that another program gets."""
        if self.sockets:
            return self.heard is None
        return self.in_use and self.seen is not None and Match.FITS not in self.seen

    def close(self) -> None:
        for opened, _ in self.sockets.values():
            opened.close()
        self.sockets.clear()


def hear(
    ingresses: Sequence[Ingress], seconds: float, tell: Callable[[float, int], None] = lambda *_: None
) -> list[IngressFacts]:
    """Listen until every ingress has a datagram, at most `seconds`; `tell` gets the seconds and how many have."""
    with contextlib.ExitStack() as stack:
        listened = [_Listened(ingress) for ingress in ingresses]
        for each in listened:
            stack.callback(each.close)
        # Only here: what came until now needs no explanation.
        looking = _open_wire(stack)
        if looking:
            for each in listened:
                each.seen = {}
        started = time.monotonic()
        _listen(listened, looking, started, seconds, tell)
        missed = _missed(looking)
        found = [each.facts or _facts(each, time.monotonic() - started) for each in listened]
        return [replace(facts, missed=missed) for facts in found]


def _listen(
    listened: list[_Listened],
    looking: dict[int, tuple[socket.socket, int]],
    started: float,
    seconds: float,
    tell: Callable[[float, int], None],
) -> None:
    poll = select.poll()
    owners = {descriptor: each for each in listened for descriptor in each.sockets}
    for descriptor in (*owners, *looking):
        poll.register(descriptor, select.POLLIN)
    report_at = 0.0
    while any(each.waits for each in listened):
        elapsed = time.monotonic() - started
        if elapsed >= report_at:
            tell(elapsed, sum(each.heard is not None for each in listened))
            report_at = elapsed + _LOOK
        for descriptor, _ in poll.poll(max(0, 1000 * min(_LOOK, seconds - elapsed))):
            if descriptor in looking:
                _look(*looking[descriptor], listened)
                continue
            owner = owners.get(descriptor)
            if owner is not None and _take(owner, descriptor, started):
                for each in owner.sockets:
                    poll.unregister(each)
                    owners.pop(each)
                # While the group is still joined: the kernel lists it. A socket that nobody empties would overflow.
                owner.facts = _facts(owner, time.monotonic() - started)
                owner.close()
        # After a last look: the wire shows a datagram a moment before a socket gets it.
        if elapsed >= seconds:
            break


def _take(owner: _Listened, descriptor: int, started: float) -> bool:
    """Take a datagram; return whether it was for the ingress."""
    opened, port = owner.sockets[descriptor]
    try:
        datagram, ancillary, _, address = opened.recvmsg(_READ_MAX, 64)
    except OSError:
        return False
    if owner.ingress.kind is IngressKind.BROADCAST and not pktinfo.is_broadcast(ancillary):
        return False  # to this host alone
    host = str(unmapped(ipaddress.ip_address(address[0].partition("%")[0])))
    owner.heard = Heard(Endpoint(host, address[1]), port, len(datagram), time.monotonic() - started)
    return True


def _open_wire(stack: contextlib.ExitStack) -> dict[int, tuple[socket.socket, int]]:
    """Return sockets that get all packets before the kernel filters them (man 7 packet); none without CAP_NET_RAW."""
    opened = {}
    for ethertype, version in _ETHERTYPES.items():
        with contextlib.suppress(OSError, AttributeError):
            wire = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ethertype)))
            wire.setblocking(False)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            opened[wire.fileno()] = (wire, version)
    return opened


def _look(wire: socket.socket, version: int, listened: list[_Listened]) -> None:
    for _ in range(_TURN):
        try:
            packet, (interface, _, kind, *_) = wire.recvfrom(_READ_MAX)
        except OSError:
            return
        if kind in (_OUTGOING, _TO_OTHERS):
            continue
        seen = parse_packet(packet, version, interface, broadcast=kind == _TO_ALL)
        if seen is not None:
            for each in listened:
                how = match(each.ingress, seen)
                if how is not None and each.seen is not None:
                    each.seen.setdefault(how, seen)


def parse_packet(packet: bytes, version: int, interface: str, *, broadcast: bool) -> Seen | None:
    """Return the UDP datagram in an IP packet; None where there is none, and for later fragments."""
    if version == 4:
        if len(packet) < 20 or packet[9] != socket.IPPROTO_UDP or packet[6] & 0x1F or packet[7]:
            return None
        start, hops = 4 * (packet[0] & 0xF), packet[8]
        source, destination = packet[12:16], packet[16:20]
    else:
        if len(packet) < 40 or packet[6] != socket.IPPROTO_UDP:
            return None
        start, hops = 40, packet[7]
        source, destination = packet[8:24], packet[24:40]
    if len(packet) < start + _UDP.size:
        return None
    source_port, port, length, _ = _UDP.unpack_from(packet, start)
    return Seen(
        interface,
        Endpoint(str(ipaddress.ip_address(source)), source_port),
        Endpoint(str(ipaddress.ip_address(destination)), port),
        max(0, length - _UDP.size),
        hops,
        broadcast,
    )


def _missed(looking: dict[int, tuple[socket.socket, int]]) -> int:
    """Return how many packets the capture dropped for lack of buffer."""
    return sum(
        _PACKET_STATISTICS.unpack(wire.getsockopt(*_TELL_STATISTICS, _PACKET_STATISTICS.size))[1]
        for wire, _ in looking.values()
    )


def _facts(each: _Listened, seconds: float) -> IngressFacts:
    ingress = each.ingress
    name = ingress.interface
    family = 6 if ingress.is_ipv6 else 4
    after = kernel.counters(name)
    version, groups = kernel.parse_igmp(kernel.read("/proc/net/igmp"), name)
    if ingress.is_ipv6:
        version, groups = "", kernel.parse_igmp6(kernel.read("/proc/net/igmp6"), name)
    is_multicast = ingress.kind is IngressKind.MULTICAST
    puzzle = (each.seen or {}).get(Match.FITS)
    back = None if puzzle is None else interfaces.route(puzzle.source.host)
    return IngressFacts(
        ingress,
        seconds,
        InterfaceFacts(
            is_up=not name or interfaces.is_up(name),
            addresses=tuple(str(own) for own in interfaces.addresses(name or None) if own.version == family),
            own_addresses=tuple(map(str, interfaces.addresses())),
            igmp_version=version,
            forced_version=_of_interface(
                "force_mld_version" if ingress.is_ipv6 else "force_igmp_version", ingress, name
            ),
            reverse_filter=0
            if family == 6
            else _of_interface("rp_filter", ingress, name or (puzzle.interface if puzzle else "")),
            default_interface=kernel.parse_default_route(kernel.read("/proc/net/route")),
        ),
        described=describe(ingress) if each.sockets else "",
        refused=each.refused,
        in_use=each.in_use,
        joined=ingress.host in groups if is_multicast and each.sockets else None,
        heard=each.heard,
        seen=each.seen,
        way_back=None if back is None else back[0],
        grown={key: count - each.before.get(key, 0) for key, count in after.items() if count > each.before.get(key, 0)},
    )


def _of_interface(sysctl: str, ingress: Ingress, interface: str) -> int:
    """Return the larger of a sysctl's values for all interfaces and for this one: that is what counts."""
    family = "ipv6" if ingress.is_ipv6 else "ipv4"
    return max(kernel.sysctl(f"net/{family}/conf/{name}/{sysctl}") or 0 for name in ("all", interface) if name)
