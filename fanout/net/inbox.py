"""How datagrams arrive: listening sockets, and the queue that what they hold is taken into."""

from __future__ import annotations

import time
from math import inf

from fanout.model import Endpoint, Message
from fanout.net import listening
from fanout.net.backlog import Backlog, Overflow
from fanout.net.gro import receive

RECEIVE_BUFFER = 4 * 1024 * 1024
"""Bytes of receive buffer that are asked for: some 5,000 small datagrams instead of 256."""
_ROUNDS = 64
_CLOSING_CALLS = 65_536  # more than a receive buffer of 8 MiB holds of the smallest datagrams


class Inbox:
    """A listening UDP socket and the messages taken from it that nobody has handled yet.

    `fill` moves what the kernel holds into the queue, without blocking and some milliseconds' work at a time; `take`
    hands it over. With `Overflow.WAIT` it takes nothing once the queue has `capacity` messages or 32 MiB of payload
    (and at most one run more, see `gro`), until half of that was handed over. The kernel's buffer fills up then, and
    what it drops is counted by `kernel_drops`; with the other policies the queue drops: `backlog.drops`.

    Raises `InvalidInput`, `InvalidService` and `SocketUnavailable`.
    """

    def __init__(
        self, host: str | None, port: int, *, receive_buffer: int, capacity: int, overflow: Overflow = Overflow.WAIT
    ) -> None:
        self.backlog = Backlog(capacity, overflow)
        self._overflow = overflow
        self.socket = listening.listen(host, port)
        self.receive_buffer = listening.grow_buffer(self.socket, receive_buffer)
        self._can_merge = self._merges = listening.merge(self.socket, True)
        self._drops_at_close = 0

    @property
    def address(self) -> Endpoint:
        """Return where the socket listens."""
        return Endpoint(*self.socket.getsockname()[:2])

    def fill(self) -> None:
        """Take what waits, as far as there is room."""
        backlog = self.backlog
        for _ in range(1 if self._overflow is Overflow.WAIT else _ROUNDS):
            messages, calls = backlog.room
            if not messages:
                return
            self._merge(True)
            runs = receive(self.socket, messages, calls, time.time())
            if runs:
                backlog.put(runs)
                if backlog.is_full:
                    # A merged buffer would count as one drop, whatever it holds: while nobody takes, each
                    # datagram is to count.
                    self._merge(False)
            if len(runs) < calls:
                return

    def _merge(self, wanted: bool) -> None:
        if self._merges is not wanted and self._can_merge:
            self._merges = listening.merge(self.socket, wanted)

    def take(self, limit: int) -> list[Message]:
        """Return the oldest queued messages, at most `limit`."""
        return self.backlog.take(limit)

    @property
    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped because the receive buffer was full (0 where it does not tell).

        While there is room in the queue, a run that the kernel merged counts as one, however many it has: at least
        so many were dropped. While the queue is full, each datagram counts.
        """
        try:
            return listening.drops(self.socket)
        except OSError:
            return self._drops_at_close

    def close(self) -> None:
        """Take all that the kernel still holds, beyond `capacity` where need be, and give the port back."""
        if self.socket.fileno() < 0:
            return
        listening.deafen(self.socket)
        self._merge(True)
        self.backlog.put(receive(self.socket, inf, _CLOSING_CALLS, time.time()))
        self._drops_at_close = self.kernel_drops
        self.socket.close()
