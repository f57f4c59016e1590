"""The LAN's interface: searches arrive on it, answers and announcements leave by it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

from fanout.acl import Acl, Network
from fanout.errors import SocketUnavailable
from fanout.model import Endpoint
from fanout.net import bind, interfaces
from fanout.net.multicast import InterfaceNotReady, open_group
from fanout.ssdp.core.message import DATAGRAM_MAX, GROUP, PORT

HOPS = 2
"""IP TTL of announcements (UDA 1.1, 1.2.2: the TTL of a multicast should default to 2)."""
_TURN = 64
"""Datagrams that are read from one socket before the next has its turn."""
_RECEIVE_BUFFER = 1 << 20
_PORT_MIN = 1024
"""No client searches from a lower port: an answer would go to a service of the host that is named as the source."""
_ROUTES_MAX = 4096
"""Addresses whose route is remembered."""


class LanDatagram(NamedTuple):
    """A datagram that arrived from the LAN."""

    data: bytes
    client: tuple[str, int]
    to_group: bool


class Lan:
    """One interface, while it exists; `close` and `open` it again when it `is_stale`.

    HTTP clients of the networks `allowed` are served.
    """

    def __init__(self, interface: str, allowed: Sequence[Network]) -> None:
        self.interface = interface
        self._acl = Acl(allowed, None)
        self.address: str = ""
        """The interface's first IPv4 address, at which clients find the relay."""
        self.sockets: list[socket.socket] = []
        self._networks: list[ipaddress.IPv4Interface] = []
        self._index: int | None = None
        self._addresses: frozenset[str] = frozenset()
        self._broadcasts: frozenset[str] = frozenset()
        self._drops = 0
        self._routes: dict[str, bool] = {}
        """Whether the route to an address is by this interface."""

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return bool(self.sockets)

    @property
    def is_stale(self) -> bool:
        """Whether the interface is down, was replaced, or has other addresses."""
        return (
            self._index != interfaces.index(self.interface)
            or self._networks != interfaces.networks(self.interface)
            or not interfaces.is_up(self.interface)
        )

    def open(self) -> None:
        """Listen; raise `InterfaceNotReady`, or `SocketUnavailable` if the system refuses for another reason."""
        if interfaces.index(self.interface) is None:
            there = ", ".join(interfaces.names())
            raise InterfaceNotReady(f"there is no interface {self.interface} here (there are {there})")
        if not interfaces.is_up(self.interface):
            up = f"run `ip link set {self.interface} up`, for a macvlan on its parent"
            raise InterfaceNotReady(f"interface {self.interface} is down, or has no carrier: {up}")
        with contextlib.ExitStack() as opened:
            try:
                joined = open_group(GROUP, PORT, self.interface)
            except InterfaceNotReady:
                raise
            except SocketUnavailable as error:
                raise _unavailable(self.interface, error) from error
            opened.callback(joined.close)
            self._index = interfaces.index(self.interface)
            self._networks = interfaces.networks(self.interface)
            if not self._networks:
                raise InterfaceNotReady(f"interface {self.interface} has no IPv4 address (yet): SSDP needs one")
            self._addresses = frozenset(str(each.ip) for each in self._networks)
            broadcasts = (each.network.broadcast_address for each in self._networks if each.network.prefixlen < 31)
            self._broadcasts = frozenset(map(str, broadcasts))
            self.address = str(self._networks[0].ip)
            self.sockets = [joined, self._listen()]
            opened.pop_all()
        for each in self.sockets:
            bind.grow_buffer(each, _RECEIVE_BUFFER)

    def _listen(self) -> socket.socket:
        """Return the socket that sends answers and announcements, and takes searches to the relay alone."""
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            # Other programs of this host may listen on all addresses; datagrams to this one are the relay's.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode())
            interfaces.send_groups_by(opened, self._index or 0, self.address, HOPS)
            opened.bind(Endpoint(self.address, PORT))
        except OSError as error:
            opened.close()
            raise _unavailable(self.interface, error) from error
        return opened

    def receive(self, opened: socket.socket) -> list[LanDatagram]:
        """Return the datagrams that wait at one of the sockets, up to a turn's worth."""
        to_group = opened is self.sockets[0]
        arrivals = []
        with contextlib.suppress(OSError):  # nothing more, or the interface is gone
            for _ in range(_TURN):
                # One byte more than the limit, to detect larger ones.
                data, client = opened.recvfrom(DATAGRAM_MAX + 1)
                arrivals.append(LanDatagram(data, client, to_group))
        return arrivals

    def take_drops(self) -> int:
        """Return how many datagrams the kernel has dropped since the last call because a buffer was full."""
        with contextlib.suppress(OSError):
            before, self._drops = self._drops, sum(bind.drops(each) for each in self.sockets)
            return max(0, self._drops - before)
        return 0

    def may_answer(self, client: tuple[str, int]) -> bool:
        """Whether the source of a search is one host, and a port that clients use."""
        address = ipaddress.IPv4Address(client[0])
        return not (
            client[1] < _PORT_MIN
            or address.is_multicast
            or address.is_unspecified
            or address.is_reserved  # including 255.255.255.255
            or address.is_loopback
            or client[0] in self._broadcasts
        )

    def serves(self, peer: str, local: str) -> bool:
        """Whether an HTTP client that has connected to an address of this host is served.

        Linux accepts packets to any of its addresses on any interface: other networks of this host are not the LAN.
        """
        return local in self._addresses and self._acl.refusal(peer, 0.0) is None and self.leads_to(peer)

    def may_come_from(self, host: str, interface: int) -> bool:
        """Whether a datagram from `host` can be genuine if it arrived on the interface with that index.

        A source on the LAN may be forged, unless the route to that host leads there, too.
        """
        return interface != self._index or self.leads_to(host)

    def leads_to(self, host: str) -> bool:
        """Whether the route to a host is by this interface, as of the first call since `forget_routes`."""
        known = self._routes.get(host)
        if known is None:
            if len(self._routes) >= _ROUTES_MAX:
                self._routes.clear()
            known = self._routes[host] = interfaces.source(host) in self._addresses
        return known

    def forget_routes(self) -> None:
        """Forget the routes, which may have changed."""
        self._routes.clear()

    def send(self, data: bytes, client: tuple[str, int] = (GROUP, PORT)) -> bool:
        """Send an answer to a client, or an announcement to the group; return whether the kernel took it."""
        try:
            self.sockets[1].sendto(data, client)
        except (OSError, IndexError):
            return False
        return True

    def close(self) -> None:
        """Stop listening."""
        for each in self.sockets:
            each.close()
        self.sockets = []
        self._drops = 0
        self._routes.clear()


def _unavailable(interface: str, error: Exception) -> SocketUnavailable:
    cause = error if isinstance(error, OSError) else error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    if number == errno.EADDRINUSE:
        reason = f"another program has UDP port {PORT} for itself: end it (ss -lunp 'sport = :{PORT}' names it)"
    else:
        reason = str(error) if number is None else f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
    return SocketUnavailable(f"cannot listen for SSDP on interface {interface}: {reason}")
