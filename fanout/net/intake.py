"""One listening socket, and how what it holds gets into the queue."""

from __future__ import annotations

import contextlib
import socket
import time

from fanout.net import listening
from fanout.net.backlog import Backlog, Room
from fanout.net.gro import receive
from fanout.net.probing import Sieve

_CLOSING_CALLS = 65_536  # more than a receive buffer of 8 MiB holds of the smallest datagrams


class Intake:
    """Moves datagrams from one socket into the backlog, without blocking. One thread at a time uses it."""

    def __init__(self, opened: socket.socket, backlog: Backlog, sieve: Sieve, receive_buffer: int) -> None:
        self.socket = opened
        self.receive_buffer = listening.grow_buffer(opened, receive_buffer)
        self._backlog = backlog
        self._sieve = sieve
        self._can_merge = listening.merge(opened, True)
        self._merges = listening.merge(opened, False)  # until somebody takes: see `fill`
        self._drops_at_close = 0

    def fill(self) -> bool:
        """Take what waits, as far as there is room and some milliseconds' work; return whether more may wait."""
        room = self._backlog.reserve()
        more = False
        if room.calls:
            self._merge(True)
            more = self._receive(room) == room.calls
        self._rest_if_full()
        return more

    def wait_for_room(self) -> None:
        """Block while the backlog is full."""
        self._rest_if_full()
        self._backlog.wait_for_room()

    def _rest_if_full(self) -> None:
        # The kernel counts a merged run as one drop, however long it is: while nobody takes, each datagram is to
        # count. (What was merged is read while merging is on, or its boundaries would be lost.)
        if self._backlog.is_full:
            self._merge(False)

    def _receive(self, room: Room) -> int:
        """Return how many runs the kernel gave."""
        runs = receive(self.socket, *room, time.time())
        self._backlog.put(self._sieve.sift(runs, self.socket), room)
        return len(runs)

    def _merge(self, wanted: bool) -> None:
        if self._merges is not wanted and self._can_merge:
            self._merges = listening.merge(self.socket, wanted)

    @property
    def drops(self) -> int:
        """Drops by the kernel, as it counts them: see `listening.drops`."""
        with contextlib.suppress(OSError):
            return listening.drops(self.socket)
        return self._drops_at_close

    def deafen(self) -> None:
        """Get nothing more; what came before can still be taken."""
        listening.deafen(self.socket)

    def close(self) -> None:
        """Take all that the kernel still holds, and give the port back."""
        self._merge(True)
        calls = _CLOSING_CALLS
        while calls > 0:
            room = self._backlog.reserve()
            calls -= room.calls
            if self._receive(room) < room.calls:
                break
        self._drops_at_close = self.drops
        self.socket.close()
