"""An ingress at work: its sockets, its counters, and the interface that it follows."""

from __future__ import annotations

import contextlib
import logging
import socket
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

from fanout.net import bind, gro, interfaces
from fanout.relay.core.acl import Guard, Recent
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.ingress import Ingress, Kind
from fanout.relay.core.runs import Piece
from fanout.relay.core.stats import IngressStats
from fanout.relay.egress import Egress, Room
from fanout.relay.multicast import describe, is_broadcast, open_port
from fanout.relay.port_fanout import Spread
from fanout.relay.self_filter import Itself
from fanout.relay.service_pods import Pods

log = logging.getLogger("fanout")

TURN = 64
"""Datagrams, or runs of them, that one port may give before it is another's turn."""
ARENA = 256 * 1024
"""Bytes of the buffer into which a turn is read."""
_MAPPED = "::ffff:"
_NO_PORTS: frozenset[int] = frozenset()


class Entry:
    """One ingress: opened when its interface is there, and again when that is another one than before."""

    def __init__(
        self,
        ingress: Ingress,
        pods: Pods,
        recent: Recent | None,
        itself: Itself,
        room: Room,
        counting: AbstractContextManager[object],
    ) -> None:
        self.ingress = ingress
        self.pods = pods
        """Of its Service."""
        self.datagrams = 0
        self.bytes = 0
        self.forwarded = 0
        self.dropped: dict[RelayDrop, int] = {}
        self.waiting: str | None = "not opened yet"
        """Why it does not listen; None where it does."""
        self.has_listened = False
        self.ports: list[Port] = []
        self.spreads = {port: Spread(room, counting) for port in ingress.ports}
        """Where what comes to each port goes to."""
        self.interface: int | None = None
        self.recent = recent
        self.guard = Guard(ingress.allow_source, ingress.limit) if ingress.allow_source or ingress.limit else None
        self.itself = itself
        self._drops_before = 0
        self._is_up: bool | None = None
        """Whether its interface was, the last time that this was said."""
        self._said: set[str] = set()
        """Hosts of which it was said that they are the relay itself."""

    def open(self, receive_buffer: int) -> None:
        """Listen on all its ports or none; raise `InterfaceNotReady` or `SocketUnavailable`."""
        self.interface = interfaces.index(self.ingress.interface) if self.ingress.interface else None
        ports = []
        with contextlib.ExitStack() as stack:
            for number in self.ingress.ports:
                opened = open_port(self.ingress, number)
                stack.callback(opened.close)
                ports.append(Port(self, number, opened))
            stack.pop_all()
        bind.grow_buffer(ports[0].socket, receive_buffer)  # it warns, and once is enough
        for port in ports[1:]:
            bind.set_buffer(port.socket, receive_buffer)
        self.ports = ports
        self.has_listened = True
        self._is_up = None
        self.look_at_interface()

    def aim(self) -> list[Egress]:
        """Send to the pods as they are known now; return the ways out that were closed."""
        closed = []
        for port, spread in self.spreads.items():
            endpoints = []
            for endpoint in self.pods.endpoints(self.ingress.port_at_pods(port)):
                if not self.itself.is_ingress(endpoint):
                    endpoints.append(endpoint)
                elif endpoint.host not in self._said:
                    self._said.add(endpoint.host)  # once is enough, however many ports there are
                    log.warning(
                        "endpoint_is_ingress: %(endpoint)s of %(service)s is this relay itself, and gets no copy: "
                        "let %(ingress)s go to another port (to_port), or to a Service without the relay",
                        {"endpoint": str(endpoint), "service": self.ingress.service, "ingress": str(self.ingress)},
                    )
            closed += spread.aim(endpoints, self.itself.is_here)
        return closed

    def look_at_interface(self) -> None:
        """Say where it listens, once it does; and that its interface was switched off, or on again."""
        is_up = not self.ingress.interface or interfaces.is_up(self.ingress.interface)
        if not self.ports or is_up is self._is_up:
            return
        self._is_up = is_up
        name, values = str(self.ingress), {"ingress": str(self.ingress), "service": self.ingress.service}
        if is_up:
            self.waiting = None
            log.info("ingress_listening: %(ingress)s %(where)s", {**values, "where": describe(self.ingress)})
        else:
            device = self.ingress.interface
            self.waiting = f"ingress {name}: {device} is down: `ip link set {device} up`, or of a macvlan its parent"
            log.warning("ingress_waiting: %(reason)s", {**values, "reason": self.waiting})

    @property
    def is_stale(self) -> bool:
        """Whether its interface is gone, or another one of the same name."""
        return bool(self.ports and self.interface) and interfaces.index(self.ingress.interface) != self.interface

    def close(self) -> None:
        """Give the ports back."""
        for port in self.ports:
            self._drops_before += port.drops
            port.socket.close()
        self.ports = []

    def drop(self, reason: RelayDrop, datagrams: int = 1) -> None:
        """Count datagrams that are not forwarded."""
        self.dropped[reason] = self.dropped.get(reason, 0) + datagrams

    @property
    def stats(self) -> IngressStats:
        """Its counts."""
        dropped = dict(self.dropped)
        if kernel := self._drops_before + sum(port.drops for port in list(self.ports)):
            dropped[RelayDrop.KERNEL_BUFFER] = kernel
        return IngressStats(
            str(self.ingress), self.ingress.service, self.waiting, self.datagrams, self.bytes, self.forwarded, dropped
        )


class Port:
    """One port of an ingress."""

    def __init__(self, entry: Entry, number: int, opened: socket.socket) -> None:
        self.entry = entry
        self.number = number
        self.socket = opened
        self.spread = entry.spreads[number]
        self._is_group = entry.ingress.kind is Kind.MULTICAST
        """A relay sends to no group: nothing of it comes back there."""
        self._is_broadcast = entry.ingress.kind is Kind.BROADCAST
        self._is_guarded = entry.guard is not None or entry.recent is not None or self._is_broadcast
        # A run is of one source; where its datagrams may have to be refused one by one, they must not be merged.
        one_by_one = entry.ingress.limit is not None or entry.recent is not None or self._is_broadcast
        self._merges = not one_by_one and bind.merge(opened, True)
        self._control = gro.CONTROL if self._merges or self._is_broadcast else 0

    def read(self, arena: memoryview) -> list[Piece]:
        """Take what waits, up to a turn's worth, and return what is to be forwarded as it lies in the arena."""
        pieces: list[Piece] = []
        entry, recv, space = self.entry, self.socket.recvmsg_into, self._control
        is_guarded = self._is_guarded
        own_ports = _NO_PORTS if self._is_group else entry.itself.ports
        datagrams = size_of_all = 0
        offset, limit = 0, len(arena) - gro.BUFFER
        now = monotonic()
        with contextlib.suppress(OSError):  # nothing waits (EAGAIN); or it is of the interface (ENETDOWN)
            for _ in range(TURN):
                size, control, _, address = recv((arena[offset:],), space)
                end = offset + size
                segment, count = size, 1
                if control and self._merges:
                    segment = gro.SIZE.unpack(control[0][2])[0] or size
                    count = max(1, -(-size // segment))
                datagrams += count
                size_of_all += size
                if is_guarded or address[1] in own_ports:
                    refusal = self._refusal(address, arena[offset:end], control, now)
                    if refusal is not None:
                        entry.drop(refusal, count)
                        continue
                pieces.append((offset, end, segment))
                offset = end
                if offset > limit:
                    break
        entry.datagrams += datagrams
        entry.bytes += size_of_all
        return pieces

    def _refusal(
        self, address: Any, payload: memoryview, control: list[tuple[int, int, bytes]], now: float
    ) -> RelayDrop | None:
        entry = self.entry
        if entry.itself.has_sent(address[0], address[1]):
            return RelayDrop.OWN
        if self._is_broadcast and not is_broadcast(control):
            return RelayDrop.NOT_BROADCAST
        host: str = address[0].removeprefix(_MAPPED)
        if entry.guard is not None and (reason := entry.guard.refusal(host, now)) is not None:
            return reason
        if entry.recent is not None and entry.recent.is_loop(bytes(payload), address, now):
            return RelayDrop.LOOP
        return None

    def deafen(self) -> None:
        """Get nothing more; what came before can still be read."""
        bind.deafen(self.socket)

    @property
    def drops(self) -> int:
        """Drops by the kernel for want of buffer, as it counts them: see `listening.drops`."""
        with contextlib.suppress(OSError):
            return bind.drops(self.socket)
        return 0
