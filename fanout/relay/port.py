"""One port of an ingress: reads its datagrams a turn at a time, and refuses some."""

from __future__ import annotations

import contextlib
import socket
from time import monotonic
from typing import Any

from fanout.acl import Acl
from fanout.net import bind, gro, pktinfo, sockaddr
from fanout.relay.core.drop_reasons import RelayDrop
from fanout.relay.core.ingress import Ingress, IngressKind
from fanout.relay.core.loop_guard import LoopGuard
from fanout.relay.core.runs import Piece
from fanout.relay.core.stats import IngressStats
from fanout.relay.self_filter import SelfFilter

TURN = 64
"""Datagrams, or runs of them, that are read of one port before it is another's turn."""
ARENA = 256 * 1024
"""Bytes of the buffer into which a turn is read."""


class Port:
    """One port of an ingress: returns what came to it, except what is refused. It counts in `counts`."""

    def __init__(
        self,
        number: int,
        opened: socket.socket,
        ingress: Ingress,
        counts: IngressStats,
        self_filter: SelfFilter,
        acl: Acl | None,
        loop_guard: LoopGuard | None,
    ) -> None:
        self.number = number
        self.socket = opened
        self.counts = counts
        self._self_filter = self_filter
        self._acl = acl
        self._loop_guard = loop_guard
        self._is_group = ingress.kind is IngressKind.MULTICAST
        """A relay never sends to a group, so nothing of its own comes back there."""
        self._is_broadcast = ingress.kind is IngressKind.BROADCAST
        self._is_guarded = acl is not None or loop_guard is not None or self._is_broadcast
        # A run is of one source; where its datagrams may have to be refused one by one, they must not be merged.
        one_by_one = ingress.limit is not None or loop_guard is not None or self._is_broadcast
        self._merges = not one_by_one and bind.merge(opened, True)
        self._control = gro.CONTROL if self._merges or self._is_broadcast else 0

    def read(self, arena: memoryview) -> list[Piece]:
        """Read what waits into the arena, up to a turn's worth, and return the pieces to forward."""
        pieces: list[Piece] = []
        counts, recv, space = self.counts, self.socket.recvmsg_into, self._control
        is_guarded = self._is_guarded
        own_ports = () if self._is_group else self._self_filter.ports
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
                        counts.dropped[refusal] += count
                        continue
                pieces.append((offset, end, segment))
                offset = end
                if offset > limit:
                    break
        counts.datagrams += datagrams
        counts.bytes += size_of_all
        return pieces

    def _refusal(
        self, address: Any, payload: memoryview, control: list[tuple[int, int, bytes]], now: float
    ) -> RelayDrop | None:
        if self._self_filter.has_sent(address[0], address[1]):
            return RelayDrop.OWN
        if self._is_broadcast and not pktinfo.is_broadcast(control):
            return RelayDrop.NOT_BROADCAST
        host: str = sockaddr.plain(address[0])
        if self._acl is not None and (reason := self._acl.refusal(host, now)) is not None:
            return RelayDrop(reason)
        if self._loop_guard is not None and self._loop_guard.is_loop(bytes(payload), address, now):
            return RelayDrop.LOOP
        return None

    def stop_receiving(self) -> None:
        """Receive nothing more; what came before can still be read."""
        bind.stop_receiving(self.socket)

    @property
    def drops(self) -> int:
        """Drops by the kernel because the receive buffer was full: see `bind.drops`."""
        with contextlib.suppress(OSError):
            return bind.drops(self.socket)
        return 0
