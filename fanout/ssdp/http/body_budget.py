"""Bounds the memory for clients: a budget for bodies that are held whole, and small reads from sockets.

A body counts from the first byte that is read to the last byte that is sent.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Self

from fanout.ssdp.core.body import BodyBuffer

SMALL = 64 * 1024
"""Bytes of a body that counts for nothing, as descriptions and most answers do."""
MEDIUM = 1024 * 1024
"""Bytes that are reserved for a larger body of unknown size."""
BUDGET = 32 * 1024 * 1024
"""Bytes of all larger bodies together."""
BUDGET_OF_ONE = 16 * 1024 * 1024
"""Bytes of those for one client."""
PATIENCE = 3.0
"""Seconds to wait for a reservation."""
WAITING_MAX = 32
"""Requests that may wait; what a pod has begun to send is held meanwhile."""
READ_MAX = 32 * 1024
"""Bytes of one read. A connection may hold a few times as many for a peer that reads no more."""
CONNECTION_BUFFER = 16 * 1024
"""Bytes that a connection holds before it stops reading; aiohttp doubles that."""


class Busy(Exception):
    """There is not enough memory at the moment."""


class BodyBudget:
    """A budget of `size` bytes, of which one client (`who`) gets at most `of_one`."""

    def __init__(self, size: int = BUDGET, of_one: int = BUDGET_OF_ONE) -> None:
        self._size = size
        self._of_one = of_one
        self._of: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], None] = {}
        """In the order of their requests."""

    @property
    def taken(self) -> int:
        """Bytes that are held now."""
        return self._of.total()

    def for_one(self, who: str) -> BodyReservation:
        """Return a reservation for one body, to be used as a context manager; it has nothing yet."""
        return BodyReservation(self, who)

    async def take(self, who: str, size: int) -> None:
        """Wait for `size` more bytes; raise `Busy`."""
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
        self._of -= Counter({who: size})
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class BodyReservation:
    """Memory for one body, which is released at the end."""

    def __init__(self, budget: BodyBudget, who: str) -> None:
        self._budget = budget
        self._who = who
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shrink(0)

    async def grow(self, size: int) -> None:
        """Reserve at least `size` bytes in all; raise `Busy`."""
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
        """Gather what `read` returns up to its end; `size` bytes are expected. Raises `Busy`, too."""
        await self.grow(size)
        while piece := await read():
            needed = len(gathered) + len(piece)
            if needed > max(self._size, SMALL):
                # In few steps: requests that hold memory and wait for more would wait for each other.
                await self.grow(MEDIUM if needed <= MEDIUM else max(gathered.size_max, needed))
            gathered.add(piece)
        whole = gathered.whole()
        self.shrink(len(whole))
        return whole


class SmallReadSocket(socket.socket):
    """A socket whose `recv` returns at most `READ_MAX` bytes; an event loop would read 256 KiB."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive at most `READ_MAX` bytes."""
        return super().recv(min(bufsize, READ_MAX), flags)
