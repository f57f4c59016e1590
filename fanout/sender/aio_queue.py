"""The send queue of one event loop: messages of several tasks leave together at the end of a turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import groupby
from typing import Any, NamedTuple

from fanout.errors import Closed
from fanout.report import Fault, Tally
from fanout.sender.coalescer import BATCH
from fanout.sender.steps import Copies

SENDS_A_TURN = 128
"""Sends between two turns of the event loop: a millisecond's worth."""


class Call:
    """A call to `send` or `send_many`: the tally of its messages, and how many are still queued."""

    def __init__(self) -> None:
        self.tally: Tally = Tally()
        self.queued: int = 0
        self.is_cancelled: bool = False
        self._error: BaseException | None = None
        self._done: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait until nothing is queued; raise the error that stopped messages. Cancelling withdraws them."""
        if self.queued:
            self._done = asyncio.get_running_loop().create_future()
            try:
                await self._done
            except asyncio.CancelledError:
                self.is_cancelled = True
                raise
        if self._error is not None:
            raise self._error

    def left(self, count: int, error: BaseException | None = None) -> None:
        """Count messages that are no longer queued."""
        self.queued -= count
        self._error = self._error or error
        if self.queued == 0 and self._done is not None:
            set_done(self._done)


class Queued(NamedTuple):
    """A queued message and its call."""

    payload: bytes
    call: Call


class AioQueue:
    """The send queue of one event loop, and the task that empties it.

    The first task that sends in a turn of the loop sends at once, and may go on. What other tasks send in that turn is
    queued, and passed to `send_batch` when the turn ends.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, send_batch: Callable[[list[Queued]], Coroutine[Any, Any, None]]
    ) -> None:
        self.loop = loop
        self.order: asyncio.Lock = asyncio.Lock()
        """Held while framed messages get their numbers and leave."""
        self._send_batch = send_batch
        self._queue: deque[Queued] = deque()
        self._first: asyncio.Task[Any] | None = None
        self._sends = 0
        self._turn_ends = False
        self._flusher: asyncio.Task[None] | None = None
        self._under_way: list[Queued] = []

    def may_send_now(self) -> bool:
        """Return whether no other task has sent in this turn or is still sending."""
        if self._queue or self._flusher is not None:
            return False
        task = asyncio.current_task()
        if self._first is None:
            self._first = task
            self._end_turn_later()
        return self._first is task

    def put(self, payload: bytes, call: Call) -> None:
        """Queue a message until the turn ends."""
        call.queued += 1
        self._queue.append(Queued(payload, call))
        self._end_turn_later()

    async def give_way(self, sends: int) -> None:
        """Yield to the loop after a millisecond's worth of sends: a socket never full must not starve others."""
        self._sends += sends
        if self._sends >= SENDS_A_TURN:
            self._sends = 0
            await asyncio.sleep(0)

    def _end_turn_later(self) -> None:
        if not self._turn_ends:
            self._turn_ends = True
            self.loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn_ends = False
        self._first = None
        self._sends = 0
        if self._queue and self._flusher is None:
            self._flusher = self.loop.create_task(self._flush())
            self._flusher.add_done_callback(self._flushed)

    async def _flush(self) -> None:
        """Send what is queued, including what is added meanwhile."""
        while self._queue:
            self._under_way = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            error = None
            try:
                await self._send_batch(self._under_way)
            except Exception as failure:
                error = failure
            self._leave(error)

    def _flushed(self, flusher: asyncio.Task[None]) -> None:
        # Where the task was cancelled, perhaps before it began, the waiting calls must not wait forever.
        self._leave(Closed("the task that sends was cancelled: some pods may have got the message"))
        self._flusher = None
        if self._queue:
            self._end_turn_later()

    def _leave(self, error: BaseException | None) -> None:
        for queued in self._under_way:
            queued.call.left(1, error)
        self._under_way = []


def set_done(future: asyncio.Future[None]) -> None:
    """Complete the future, unless it is done."""
    if not future.done():
        future.set_result(None)


def record(batch: list[Queued], copies: Copies) -> None:
    """Record in the tally of each call what became of its messages."""
    faults: dict[Call, list[Fault]] = {}
    for fault in copies.faults:
        faults.setdefault(batch[fault.message].call, []).append(fault)
    for call, group in groupby(batch, key=lambda queued: queued.call):
        sizes = [len(queued.payload) for queued in group]
        call.tally.attempted(copies.endpoints, sum(sizes), len(sizes))
        call.tally.dropped(faults.pop(call, ()))
