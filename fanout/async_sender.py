"""`AsyncSender`: the shell for asyncio; what it does is in `sender`."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from itertools import groupby
from time import monotonic
from types import TracebackType
from typing import Any, NamedTuple, Self

from fanout import sender as sender_module
from fanout.coalescing import BATCH, DELAY
from fanout.errors import Closed, FanoutError
from fanout.model import Endpoint, check_payload
from fanout.pacing import BURST, Pacer
from fanout.report import Fault, Report, Tally
from fanout.sender import Copies, FanOut, check_stream, make_pacer

_SENDS_A_TURN = 128
"""Sends between two turns of the event loop: a millisecond's worth."""


class _Call:
    """A call to `send` or `send_many`: what became of its messages, and how many are still queued."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.queued = 0
        self.is_cancelled = False
        self._error: BaseException | None = None
        self._done: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait until nothing is queued; raise what kept messages from being sent. Cancelling takes them back."""
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
            _set(self._done)


class _Queued(NamedTuple):
    payload: bytes
    call: _Call


class _Outbox:
    """What is sent in one event loop: the queue of this turn, and who empties it.

    The first task that sends in a turn of the loop does so at once, and may go on. What others send in that turn is
    queued, and `send_batch` gets it when the turn ends.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, send_batch: Callable[[list[_Queued]], Coroutine[Any, Any, None]]
    ) -> None:
        self.loop = loop
        self.waiting = asyncio.Lock()
        """An event loop has one callback a descriptor: tasks wait for a full socket in turn."""
        self.full: asyncio.Future[None] | None = None
        """What they wait for."""
        self._send_batch = send_batch
        self._queue: deque[_Queued] = deque()
        self._first: asyncio.Task[Any] | None = None
        self._sends = 0
        self._turn_ends = False
        self._flusher: asyncio.Task[None] | None = None
        self._under_way: list[_Queued] = []

    def may_send_now(self) -> bool:
        """Whether no other task has sent in this turn, or is still sending."""
        if self._queue or self._flusher is not None:
            return False
        task = asyncio.current_task()
        if self._first is None:
            self._first = task
            self._end_turn_later()
        return self._first is task

    def put(self, payload: bytes, call: _Call) -> None:
        """Queue a message until the turn ends."""
        call.queued += 1
        self._queue.append(_Queued(payload, call))
        self._end_turn_later()

    async def give_way(self, sends: int) -> None:
        """Let the loop turn after a millisecond's worth: a socket that is never full must not keep it from others."""
        self._sends += sends
        if self._sends >= _SENDS_A_TURN:
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
        """Send what is queued, and what comes to it meanwhile."""
        while self._queue:
            self._under_way = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            error = None
            try:
                await self._send_batch(self._under_way)
            except Exception as failure:
                error = failure
            self._leave(error)

    def _flushed(self, flusher: asyncio.Task[None]) -> None:
        # Where somebody cancelled the task, perhaps before it began, those who wait must not wait for ever.
        self._leave(Closed("the task that sends was cancelled: some pods may have got the message"))
        self._flusher = None
        if self._queue:
            self._end_turn_later()

    def _leave(self, error: BaseException | None) -> None:
        for queued in self._under_way:
            queued.call.left(1, error)
        self._under_way = []


class AsyncSender(FanOut):
    """`Sender` for asyncio: the same arguments, guarantees and reports; nothing blocks the event loop.

    What several tasks send in one turn of the event loop leaves together, as runs of equal sizes where the kernel
    can (GSO). The first message of a turn leaves at once. A task that is cancelled while its messages are queued
    takes them back.
    """

    _outbox_of_loop: _Outbox | None = None

    @property
    def _outbox(self) -> _Outbox:
        loop = asyncio.get_running_loop()
        if self._outbox_of_loop is None or self._outbox_of_loop.loop is not loop:
            self._outbox_of_loop = _Outbox(loop, self._send_batch)
        return self._outbox_of_loop

    async def send(self, payload: bytes, *, settle: float = 0.0) -> Report:
        """See `Sender.send`."""
        data = check_payload(payload)
        endpoints = self._open().known.endpoints
        outbox = self._outbox
        if endpoints and outbox.may_send_now():
            copies = Copies((data,), endpoints, 0)
            await self._finish(copies, outbox)
            tally = Tally()
            self._tell(tally, copies)
            await outbox.give_way(len(endpoints))
        else:
            call = _Call()
            outbox.put(data, call)
            await call.wait()
            tally = call.tally
        return await self._settled(tally, settle)

    async def send_many(
        self,
        payloads: Iterable[bytes] | AsyncIterable[bytes],
        *,
        rate: float | None = None,
        bandwidth: float | None = None,
        burst: int = BURST,
        stop: asyncio.Event | None = None,
        settle: float = 0.0,
    ) -> Report:
        """See `Sender.send_many`; `payloads` may be an async iterable. One that is not must not block.

        The event loop's timers are not finer than a millisecond: a pace above some 100,000 messages a second keeps
        a core busy.
        """
        self._open()
        check_stream(payloads)
        call = _Call()
        pacer = make_pacer(rate, bandwidth, burst)
        outbox = self._outbox
        flush_by = 0.0

        async def put(payload: bytes) -> bool:
            nonlocal flush_by
            data = check_payload(payload)
            if pacer is not None:
                await _admitted(pacer, len(data), call, stop)
            if stop is not None and stop.is_set():
                return False
            outbox.put(data, call)
            if call.queued >= BATCH or monotonic() >= flush_by:
                await call.wait()
                flush_by = monotonic() + DELAY
            return True

        try:
            try:
                if isinstance(payloads, AsyncIterable):
                    async for payload in payloads:
                        if not await put(payload):
                            break
                else:
                    for payload in payloads:
                        if not await put(payload):
                            break
            except Exception:
                await call.wait()
                raise
            except BaseException:
                call.is_cancelled = True
                raise
            await call.wait()
        except FanoutError as error:
            error.report = self._report(call.tally)
            raise
        self._hear(call.tally)
        return await self._settled(call.tally, settle)

    async def _settled(self, tally: Tally, settle: float) -> Report:
        if settle > 0:
            await asyncio.sleep(settle)
            self._hear(tally)
        return self._report(tally)

    async def _send_batch(self, batch: list[_Queued]) -> None:
        endpoints = await self.resolve()
        batch = [queued for queued in batch if not queued.call.is_cancelled]
        if not batch:
            return
        copies = Copies([queued.payload for queued in batch], endpoints, self._transport.gso_limit)
        await self._finish(copies, self._outbox)
        faults: dict[_Call, list[Fault]] = {}
        for fault in copies.faults:
            faults.setdefault(batch[fault.message].call, []).append(fault)
        for call, group in groupby(batch, key=lambda queued: queued.call):
            sizes = [len(queued.payload) for queued in group]
            call.tally.attempted(copies.endpoints, sum(sizes), len(sizes))
            call.tally.dropped(faults.pop(call, ()))
        if self._transport.has_heard:
            self._hear(batch[0].call.tally)
        await asyncio.sleep(0)

    async def _finish(self, copies: Copies, outbox: _Outbox) -> None:
        while not self._step(copies, _SENDS_A_TURN):
            if not copies.blocked:
                await asyncio.sleep(0)
            elif not await self._wait_writable(copies.next_endpoint, outbox):
                self._give_up(copies)
                return

    async def _wait_writable(self, endpoint: Endpoint, outbox: _Outbox) -> bool:
        """Wait until the socket has room; return False where it stayed full, raise `Closed` where it was closed."""
        async with outbox.waiting:
            descriptor = self._writable(endpoint)
            if descriptor is None:
                await asyncio.sleep(0)
                return True
            full = outbox.full = outbox.loop.create_future()
            outbox.loop.add_writer(descriptor, _set, full)
            try:
                await asyncio.wait_for(full, sender_module.STALL)
            except TimeoutError:
                return False
            finally:
                outbox.full = None
                outbox.loop.remove_writer(descriptor)
                os.close(descriptor)
        self._open()
        return True

    async def resolve(self) -> tuple[Endpoint, ...]:
        """See `Sender.resolve`."""
        refresher = self._open()
        return refresher.known.endpoints or (await asyncio.to_thread(refresher.endpoints)).endpoints

    async def open(self) -> Self:
        """Start to resolve, and return at once."""
        self._open()
        return self

    async def close(self) -> None:
        """Stop to resolve and close the sockets. Closing twice is fine."""
        self._close()
        if self._outbox.full is not None:
            _set(self._outbox.full)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _admitted(pacer: Pacer, size: int, call: _Call, stop: asyncio.Event | None) -> None:
    """Wait until the pace lets a message of `size` bytes leave, or `stop` is set."""
    while not pacer.admit(now := monotonic(), size):
        await call.wait()
        seconds = pacer.wait(now, size)
        if seconds < DELAY:
            # A timer would end too late only where less than two of its ticks fit into the bucket.
            seconds = DELAY if pacer.slack(size) > 1.5 * DELAY else 0.0
        if stop is None:
            await asyncio.sleep(seconds)
        else:
            try:
                await asyncio.wait_for(stop.wait(), seconds)
            except TimeoutError:
                continue
            return
