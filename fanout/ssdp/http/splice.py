"""Carries a body of known length from one socket to another, without the copies of the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

ARENA = 1 << 20
"""Bytes that are carried at a time; other connections have a turn in between."""
PATIENCE = 60.0
"""Seconds without a byte from the pod after which it is given up."""
_LOW_MAX = 1 << 18  # bytes that the kernel is to gather before it wakes us (SO_RCVLOWAT, man 7 socket)
_GATHERING = 0.02  # seconds that it may take for that
_LEAST = 1 << 16  # bytes that are read at a time for the slowest client
SLOW_MAX = 8 * ARENA
"""Bytes that are held for slow clients; above that, little is read at a time for each."""
_arena = memoryview(bytearray(ARENA))  # shared by all connections: its content is valid only until one of them waits


class _Rests:
    size = 0
    """Bytes that are held for all slow clients."""


_rests = _Rests()


class PodBroke(Exception):
    """The pod closed or reset the connection during its answer, or stopped sending."""


class ClientGone(Exception):
    """The client stopped reading."""


async def pump(source: socket.socket, sink: socket.socket, count: int, sent: Callable[[int], None]) -> None:
    """Carry `count` bytes from a pod to a client, no faster than the client reads; `sent` is called with their numbers.

    Both sockets are non-blocking, and nobody else reads or writes them meanwhile. For a client that does not read, at
    most one arena is held, soon less, and little where many are slow; the rest stays in the kernel, and finally at the
    pod. (Peeking at it and holding nothing costs a fifth more CPU time.) Raises `PodBroke` and `ClientGone`.
    """
    loop = asyncio.get_running_loop()
    gathers = True
    low = 0
    most = ARENA
    while count:
        wanted = min(count, _LOW_MAX) if gathers else 1
        if wanted != low:
            source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
            low = wanted
        try:
            size = source.recv_into(_arena, min(count, most if _rests.size < SLOW_MAX else _LEAST))
        except BlockingIOError:
            # A pod that sends no faster than a film is played would be held up: what has arrived is passed on.
            gathers = await _is_readable(loop, source, _GATHERING if low > 1 else PATIENCE)
            if not gathers and low == 1:
                raise PodBroke(f"it sent nothing for {PATIENCE:g} s") from None
            continue
        except OSError as error:
            raise PodBroke(str(error)) from error
        if not size:
            raise PodBroke(f"it ended {count} bytes early")
        taken = _send(sink, _arena[:size])
        if taken < size:
            most = max(taken, _LEAST)  # what the client takes at a time
            _rests.size += size - taken
            try:
                await _send_rest(loop, sink, memoryview(bytes(_arena[taken:size])))
            finally:
                _rests.size -= size - taken
        else:
            most = min(2 * most, ARENA)
            await asyncio.sleep(0)
        count -= size
        sent(size)


async def _send_rest(loop: asyncio.AbstractEventLoop, sink: socket.socket, rest: memoryview) -> None:
    while rest:
        waiter: asyncio.Future[bool] = loop.create_future()
        loop.add_writer(sink.fileno(), _settle, waiter, True)
        try:
            await waiter
        finally:
            loop.remove_writer(sink.fileno())
        rest = rest[_send(sink, rest) :]


def _send(sink: socket.socket, piece: memoryview) -> int:
    """Return how many bytes the kernel took."""
    try:
        return sink.send(piece)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise ClientGone(str(error)) from error


async def _is_readable(loop: asyncio.AbstractEventLoop, source: socket.socket, seconds: float) -> bool:
    """Wait until there is data, an end or an error to read; return False if nothing came in time."""
    waiter: asyncio.Future[bool] = loop.create_future()
    timer = loop.call_later(seconds, _settle, waiter, False)
    loop.add_reader(source.fileno(), _settle, waiter, True)
    try:
        return await waiter
    finally:
        timer.cancel()
        loop.remove_reader(source.fileno())


def _settle(waiter: asyncio.Future[bool], value: bool) -> None:
    if not waiter.done():
        waiter.set_result(value)
