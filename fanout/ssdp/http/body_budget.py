"""Bounds the memory for clients: a budget for bodies that are held whole, and sockets that are read little at a time.

A body counts from its first byte that is read to the last that is sent.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from fanout.ssdp.core.body import BodyBuffer

SMALL = 64 * 1024
"""Bytes that count for nothing: those of descriptions and of most answers."""
MEDIUM = 1024 * 1024
"""Bytes that are reserved for a larger one, as long as nobody knows how large it is."""
BUDGET = 32 * 1024 * 1024
"""Bytes of all larger ones together."""
BUDGET_OF_ONE = 16 * 1024 * 1024
"""Bytes of those for one client."""
PATIENCE = 3.0
"""Seconds that a reservation is waited for."""
WAITING_MAX = 32
"""How many may wait; what a pod has begun to send is held meanwhile."""
READ_MAX = 32 * 1024
"""Bytes that are taken at a time. Each connection may hold some times as many for somebody who takes no more."""
CONNECTION_BUFFER = 16 * 1024
"""Bytes that a connection holds before it is read no further; the library doubles that."""


class Busy(Exception):
    """There is not enough memory now."""


class BodyBudget:
    """A budget of `size` bytes, of which one client (`who`) gets at most `of_one`."""

    def __init__(self, size: int = BUDGET, of_one: int = BUDGET_OF_ONE) -> None:
        self._size = size
        self._of_one = of_one
        self._of: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], None] = {}
        """In the order in which they came."""

    @property
    def taken(self) -> int:
        """Bytes that are held now."""
        return self._of.total()

    def for_one(self, who: str) -> BodyReservation:
        """Return a reservation for one body, to be entered: nothing yet but what a small one needs."""
        return BodyReservation(self, who)

    async def take(self, who: str, size: int) -> None:
        """Wait for `size` bytes more; raise `Busy`."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while self.taken + size > self._size or self._of[who] + size > self._of_one:
            if len(self._waiting) >= WAITING_MAX:
                raise Busy("too many requests wait for memory")
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[waiter] = None
            try:
                async with asyncio.timeout_at(deadline):
                    await waiter
            except TimeoutError as error:
                raise Busy(f"no memory for {size} bytes within {PATIENCE:g} s") from error
            finally:
                del self._waiting[waiter]
        self._of[who] += size

    def give(self, who: str, size: int) -> None:
        """Release `size` bytes."""
        self._of[who] -= size
        if not self._of[who]:
            del self._of[who]
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class BodyReservation:
    """Memory for one body, which is given back in the end."""

    def __init__(self, budget: BodyBudget, who: str) -> None:
        self._budget = budget
        self._who = who
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shrink(0)

    async def grow(self, size: int) -> None:
        """Reserve `size` bytes in all, or more; raise `Busy`."""
        if size > max(self._size, SMALL):
            await self._budget.take(self._who, size - self._size)
            self._size = size

    def shrink(self, size: int) -> None:
        """Reduce the reservation to `size` bytes."""
        kept = size if size > SMALL else 0
        if kept < self._size:
            self._budget.give(self._who, self._size - kept)
            self._size = kept

    async def fill(self, gathered: BodyBuffer, size: int, read: Callable[[], Awaitable[bytes]]) -> bytes:
        """Gather what `read` returns, up to its end, of which `size` bytes are expected; raises `Busy` too."""
        await self.grow(size)
        while piece := await read():
            needed = len(gathered) + len(piece)
            if needed > max(self._size, SMALL):
                # In few steps: many that hold something and wait for more would wait for each other.
                await self.grow(MEDIUM if needed <= MEDIUM else max(gathered.size_max, needed))
            gathered.add(piece)
        whole = gathered.whole()
        self.shrink(len(whole))
        return whole


class SmallReadSocket(socket.socket):
    """A socket of which each `recv` returns no more than `READ_MAX` bytes; an event loop would take 256 KiB."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive."""
        return super().recv(min(bufsize, READ_MAX), flags)


def small_reads(opened: socket.socket) -> SmallReadSocket:
    """Return the same socket as such a one; the given one is closed."""
    return SmallReadSocket(opened.family, opened.type, opened.proto, fileno=opened.detach())
