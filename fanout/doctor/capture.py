"""Listens to ingresses as a relay does, captures the wire as well, and gathers what explains a silence."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from fanout.doctor import kernel
from fanout.doctor.core.facts import Heard, IngressFacts, InterfaceFacts, Match, Seen, match
from fanout.errors import SocketUnavailable
from fanout.model import Endpoint
from fanout.net import interfaces, pktinfo, sockaddr
from fanout.net.bind import RECEIVE_BUFFER, set_buffer
from fanout.relay.core.ingress import Ingress, IngressKind
from fanout.relay.ingress_socket import describe, open_port

_LOOK = 0.2
"""Seconds between two reports of progress."""
_TURN = 64
"""Datagrams to read from one socket before the next one's turn."""
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
        self.sockets: list[socket.socket] = []
        self.heard: Heard | None = None
        self.facts: IngressFacts | None = None
        """The final facts, once a datagram has come."""
        self.seen: dict[Match, Seen] | None = None
        self.refused = ""
        self.in_use = False
        self.before = kernel.counters(ingress.interface)
        try:
            for port in ingress.ports:
                opened = open_port(ingress, port)
                set_buffer(opened, RECEIVE_BUFFER)  # so that a flood does not make it drop what the doctor then counts
                self.sockets.append(opened)
        except SocketUnavailable as error:
            self.refused = str(error)
            self.in_use = getattr(error.__cause__, "errno", None) == errno.EADDRINUSE
            self.close()

    @property
    def waits(self) -> bool:
        """Whether to listen on: for a datagram, or for one on the wire where another program has the port."""
        if self.sockets:
            return self.heard is None
        return self.in_use and self.seen is not None and Match.FITS not in self.seen

    def close(self) -> None:
        for opened in self.sockets:
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
        wires = _open_wires(stack)
        if wires:
            for each in listened:
                each.seen = {}
        started = time.monotonic()
        _listen(listened, wires, started, seconds, tell)
        missed = _missed(wires)
        return [replace(each.facts or _facts(each, time.monotonic() - started), missed=missed) for each in listened]


def _listen(
    listened: list[_Listened],
    wires: list[socket.socket],
    started: float,
    seconds: float,
    tell: Callable[[float, int], None],
) -> None:
    with selectors.DefaultSelector() as selector:
        for wire in wires:
            selector.register(wire, selectors.EVENT_READ, (None, wire))
        for each in listened:
            for opened in each.sockets:
                selector.register(opened, selectors.EVENT_READ, (each, opened))
        report_at = 0.0
        while any(each.waits for each in listened):
            elapsed = time.monotonic() - started
            if elapsed >= report_at:
                tell(elapsed, sum(each.heard is not None for each in listened))
                report_at = elapsed + _LOOK
            for key, _ in selector.select(max(0, min(_LOOK, seconds - elapsed))):
                owner, opened = key.data
                if owner is None:
                    _look(opened, listened)
                elif owner.heard is None and _take(owner, opened, started):
                    for each in owner.sockets:
                        selector.unregister(each)
                    # While the group is still joined: the kernel lists it. A socket that nobody empties would overflow.
                    owner.facts = _facts(owner, time.monotonic() - started)
                    owner.close()
            # After a last look: the wire shows a datagram a moment before a socket gets it.
            if elapsed >= seconds:
                break


def _take(owner: _Listened, opened: socket.socket, started: float) -> bool:
    """Take a datagram; return whether it was for the ingress."""
    try:
        datagram, ancillary, _, address = opened.recvmsg(_READ_MAX, 64)
    except OSError:
        return False
    if owner.ingress.kind is IngressKind.BROADCAST and not pktinfo.is_broadcast(ancillary):
        return False  # to this host alone
    source = Endpoint(sockaddr.plain(address[0].partition("%")[0]), address[1])
    owner.heard = Heard(source, opened.getsockname()[1], len(datagram), time.monotonic() - started)
    return True


def _open_wires(stack: contextlib.ExitStack) -> list[socket.socket]:
    """Return sockets that get what interfaces get, before it is judged (man 7 packet); none without CAP_NET_RAW."""
    opened = []
    for ethertype in _ETHERTYPES:
        with contextlib.suppress(OSError, AttributeError):
            wire = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ethertype)))
            wire.setblocking(False)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            opened.append(wire)
    return opened


def _look(wire: socket.socket, listened: list[_Listened]) -> None:
    for _ in range(_TURN):
        try:
            packet, (interface, ethertype, kind, *_) = wire.recvfrom(_READ_MAX)
        except OSError:
            return
        if kind in (_OUTGOING, _TO_OTHERS):
            continue
        seen = parse_packet(packet, _ETHERTYPES[ethertype], interface, broadcast=kind == _TO_ALL)
        if seen is not None:
            for each in listened:
                how = match(each.ingress, seen)
                if how is not None and each.seen is not None:
                    each.seen.setdefault(how, seen)


def parse_packet(packet: bytes, version: int, interface: str, *, broadcast: bool) -> Seen | None:
    """Return the UDP datagram in an IP packet; None for other packets, and for later fragments."""
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


def _missed(wires: list[socket.socket]) -> int:
    """Return how many packets the capture dropped for lack of buffer."""
    statistics = (wire.getsockopt(*_TELL_STATISTICS, _PACKET_STATISTICS.size) for wire in wires)
    return sum(_PACKET_STATISTICS.unpack(each)[1] for each in statistics)


def _facts(each: _Listened, seconds: float) -> IngressFacts:
    ingress = each.ingress
    name = ingress.interface
    if ingress.is_ipv6:
        version, groups = "", kernel.parse_igmp6(kernel.read("/proc/net/igmp6"), name)
        forced = _sysctl("ipv6", name, "force_mld_version")
    else:
        version, groups = kernel.parse_igmp(kernel.read("/proc/net/igmp"), name)
        forced = _sysctl("ipv4", name, "force_igmp_version")
    assigned = interfaces.addresses(name or None)
    is_multicast = ingress.kind is IngressKind.MULTICAST
    puzzle = (each.seen or {}).get(Match.FITS)
    came_by = "" if puzzle is None else puzzle.interface
    back = None if puzzle is None else interfaces.route(puzzle.source.host)
    return IngressFacts(
        ingress,
        seconds,
        InterfaceFacts(
            is_up=not name or interfaces.is_up(name),
            addresses=tuple(str(own) for own in assigned if (own.version == 6) == ingress.is_ipv6),
            own_addresses=tuple(map(str, interfaces.addresses())),
            igmp_version=version,
            forced_version=forced,
            reverse_filter=0 if ingress.is_ipv6 else _sysctl("ipv4", name or came_by, "rp_filter"),
            default_interface=kernel.parse_default_route(kernel.read("/proc/net/route")),
        ),
        described=describe(ingress) if each.sockets else "",
        refused=each.refused,
        in_use=each.in_use,
        joined=ingress.host in groups if is_multicast and each.sockets else None,
        heard=each.heard,
        seen=each.seen,
        way_back=None if back is None else back[0],
        grown=Counter(kernel.counters(name)) - Counter(each.before),
    )


def _sysctl(family: str, interface: str, name: str) -> int:
    """Return the larger of a sysctl's values for all interfaces and for this one: that is what counts."""
    return max(kernel.sysctl(f"net/{family}/conf/{each}/{name}") or 0 for each in ("all", interface) if each)
