"""Moves what one listening socket holds into the queue."""

from __future__ import annotations

import contextlib
import socket
import time

from fanout.net import bind, pktinfo
from fanout.net.gro import receive
from fanout.protocol.receiving.run import Run
from fanout.receiver.demux import Demux
from fanout.receiver.queue import MessageQueue, Reservation
from fanout.receiver.reply_path import ReplyPath

_CLOSING_CALLS = 65_536  # more than a receive buffer of 8 MiB holds of the smallest datagrams
_FLOOD = 64  # plain datagrams, or runs of them, in one read
_RESERVE = 4  # 1/N of the receive buffer is kept for what arrives while merged runs are read


class Reader:
    """Moves datagrams from one socket into the queue, without blocking; for one thread at a time.

    The kernel counts a merged run as one drop, however long it is. So merging is off while the kernel may drop: it
    `is_pressed` from when the queue is full until the socket was read empty. What was merged before must be read while
    merging is on, or its boundaries would be lost, and what arrives meanwhile is merged as well: a part of the buffer
    is kept for that, which the kernel may fill only then.

    A question to one of several addresses is answered from that one, so the kernel reports each datagram's destination.
    That costs a tenth of a datagram's time, so it is off under a flood of plain ones: the first question after that is
    answered from the address that the route chooses.
    """

    def __init__(self, opened: socket.socket, queue: MessageQueue, demux: Demux, receive_buffer: int) -> None:
        self.socket = opened
        self.receive_buffer: int = bind.grow_buffer(opened, receive_buffer)
        self._queue = queue
        self._demux = demux
        self._reply_path = ReplyPath(opened)
        self._can_merge = bind.merge(opened, True)
        self._merges = bind.merge(opened, False)  # until the first `fill`
        self.is_pressed: bool = False
        self._drops_at_close = 0
        self._is_on_all = bind.is_on_all_addresses(opened)
        self._has_destinations = False
        self._ask_destinations(self._is_on_all)

    def fill(self) -> bool:
        """Read what waits, as far as the queue has space and for some milliseconds; return whether more may wait."""
        reserved = self._queue.reserve()
        more = False
        if reserved.calls:
            if not self._merges:
                self._merge(True)
            runs = receive(self.socket, *reserved, time.time())
            more = len(runs) == reserved.calls
            if self.is_pressed:  # still, unless nothing waits and the queue has space
                self.is_pressed = more or sum(run.messages for run in runs) >= reserved.messages
                self._merge(not self.is_pressed)
            self._put(runs, reserved)
        if self._queue.is_full:
            self._rest()
        return more

    def wait_for_room(self) -> None:
        """Block while the queue is full."""
        if self._queue.is_full:
            self._rest()
            self._queue.wait_for_room()

    def _rest(self) -> None:
        """Turn merging off while the queue is full, so that the kernel counts each dropped datagram."""
        self.is_pressed = True
        self._merge(False)

    def _put(self, runs: list[Run], reserved: Reservation) -> None:
        kept = self._demux.sift(runs, self._reply_path)
        if self._is_on_all:
            if kept is not runs:
                self._ask_destinations(True)
            elif len(runs) >= _FLOOD:
                self._ask_destinations(False)
        for question in self._queue.put(kept, reserved):
            question.release()

    def _ask_destinations(self, wanted: bool) -> None:
        if self._has_destinations is not wanted:
            pktinfo.report_destinations(self.socket, wanted)
            self._has_destinations = wanted

    def _merge(self, wanted: bool) -> None:
        if self._merges is wanted or not self._can_merge:
            return
        if wanted:
            bind.set_buffer(self.socket, self.receive_buffer)
        self._merges = bind.merge(self.socket, wanted)
        if not wanted:
            bind.set_buffer(self.socket, self.receive_buffer - self.receive_buffer // _RESERVE)

    @property
    def drops(self) -> int:
        """Drops as the kernel counts them: see `bind.drops`."""
        with contextlib.suppress(OSError):
            return bind.drops(self.socket)
        return self._drops_at_close

    def stop_receiving(self) -> None:
        """Receive nothing more; what arrived before can still be read."""
        self._reply_path.stop_receiving()

    def drain(self) -> None:
        """Read all that the kernel still holds."""
        self._merge(True)
        calls = _CLOSING_CALLS
        while calls > 0:
            reserved = self._queue.reserve()
            calls -= reserved.calls
            runs = receive(self.socket, *reserved, time.time())
            self._put(runs, reserved)
            if len(runs) < reserved.calls:
                break

    def close(self) -> None:
        """Release the port."""
        self._drops_at_close = self.drops
        self.socket.close()
