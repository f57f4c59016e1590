"""`AsyncSender`: the shell for asyncio; what it does is in `sender`."""

from __future__ import annotations

import asyncio
import errno
import time
from collections import deque
from collections.abc import AsyncIterable, Iterable
from functools import cached_property
from itertools import groupby
from types import TracebackType
from typing import Any, NamedTuple, Self

from fanout import sender as sender_module
from fanout.coalescing import BATCH, DELAY
from fanout.model import Endpoint, check_payload
from fanout.pacing import BURST
from fanout.report import Fault, Report, Tally
from fanout.sender import Copies, FanOut, make_pacer

_SENDS_A_TURN = 128
"""Sends between two turns of the event loop: a millisecond's worth."""


class _Call:
    """A call to `send` or `send_many`: what became of its messages, and how many are still queued."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.queued = 0
        self.error: BaseException | None = None
        self.done: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait until nothing is queued; raise what kept the messages from being sent."""
        if self.queued:
            self.done = asyncio.get_running_loop().create_future()
            await self.done
        if self.error is not None:
            raise self.error

    def left(self, count: int, error: BaseException | None = None) -> None:
        """Count messages that are no longer queued."""
        self.queued -= count
        self.error = self.error or error
        if self.queued == 0 and self.done is not None and not self.done.done():
            self.done.set_result(None)

    @property
    def is_cancelled(self) -> bool:
        """Whether the task that waited has been cancelled."""
        return self.done is not None and self.done.cancelled()


class _Queued(NamedTuple):
    payload: bytes
    call: _Call


class AsyncSender(FanOut):
    """`Sender` for asyncio: the same arguments, guarantees and reports; nothing blocks the event loop.

    What several tasks send in one turn of the event loop leaves together, as runs of equal sizes where the kernel
    can (GSO). The first message of a turn leaves at once. A task that is cancelled while its messages are queued
    takes them back.
    """

    _sends_this_turn = 0
    _first_of_turn: asyncio.Task[Any] | None = None
    _turn_ends = False
    """Whether the end of this turn has been asked for."""
    _flusher: asyncio.Task[None] | None = None

    @cached_property
    def _queue(self) -> deque[_Queued]:
        return deque()

    @cached_property
    def _waiting(self) -> asyncio.Lock:
        """An event loop has one callback a file descriptor: tasks wait for a full socket in turn."""
        return asyncio.Lock()

    async def send(self, payload: bytes, *, settle: float = 0.0) -> Report:
        """See `Sender.send`."""
        data = check_payload(payload)
        endpoints = self._open().known.endpoints
        call = _Call()
        if endpoints and self._is_lone():
            await self._send_now(data, endpoints, call.tally)
        else:
            self._put(data, call)
            await call.wait()
        return await self._settled(call.tally, settle)

    def _is_lone(self) -> bool:
        """Whether no other task has sent in this turn of the event loop, or is still sending."""
        if self._queue or self._flusher is not None:
            return False
        task = asyncio.current_task()
        if self._first_of_turn is None:
            self._first_of_turn = task
            self._end_turn_later()
        return self._first_of_turn is task

    async def _send_now(self, payload: bytes, endpoints: tuple[Endpoint, ...], tally: Tally) -> None:
        pods = len(endpoints)
        faults: list[Fault] = []
        position = 0
        while position < pods:
            start, stop = position, min(pods, position + _SENDS_A_TURN)
            with self._lock:
                position = self._transport.send(payload, endpoints, start, stop, faults)
            if position < stop and not await self._wait_writable(endpoints[position]):
                faults += [Fault(endpoint, errno.EAGAIN) for endpoint in endpoints[position:]]
                break
            self._sends_this_turn += position - start
            if self._sends_this_turn >= _SENDS_A_TURN:
                # A socket that is never full must not keep the loop from timers, signals and other tasks.
                await asyncio.sleep(0)
        self._count(tally, endpoints, 1, len(payload), faults)

    async def send_many(
        self,
        payloads: Iterable[bytes] | AsyncIterable[bytes],
        *,
        rate: float | None = None,
        bandwidth: float | None = None,
        burst: int = BURST,
        settle: float = 0.0,
    ) -> Report:
        """See `Sender.send_many`; `payloads` may be an async iterable."""
        self._open()
        call = _Call()
        pacer = make_pacer(rate, bandwidth, burst)
        flush_by = 0.0

        async def put(payload: bytes) -> None:
            nonlocal flush_by
            data = check_payload(payload)
            now = time.monotonic()
            while pacer is not None and not pacer.admit(now, len(data)):
                await call.wait()
                # The event loop's timers are not finer than a millisecond: shorter waits are turns of it.
                seconds = pacer.wait(now, len(data))
                await asyncio.sleep(seconds if seconds >= DELAY else 0)
                now = time.monotonic()
            self._put(data, call)
            if call.queued >= BATCH or now >= flush_by:
                await call.wait()
                flush_by = time.monotonic() + DELAY

        try:
            if isinstance(payloads, AsyncIterable):
                async for payload in payloads:
                    await put(payload)
            else:
                for payload in payloads:
                    await put(payload)
        finally:
            await call.wait()
        self._hear(call.tally)
        return await self._settled(call.tally, settle)

    async def _settled(self, tally: Tally, settle: float) -> Report:
        if settle > 0:
            await asyncio.sleep(settle)
            self._hear(tally)
        return self._report(tally)

    def _put(self, payload: bytes, call: _Call) -> None:
        call.queued += 1
        self._queue.append(_Queued(payload, call))
        self._end_turn_later()

    def _end_turn_later(self) -> None:
        if not self._turn_ends:
            self._turn_ends = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._turn_ends = False
        self._first_of_turn = None
        self._sends_this_turn = 0
        if self._queue and self._flusher is None:
            self._flusher = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        """Send what is queued, and what comes to it meanwhile."""
        try:
            while self._queue:
                taken = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                batch = [queued for queued in taken if not queued.call.is_cancelled]
                try:
                    if batch:
                        await self._send_batch(batch)
                except Exception as error:
                    for queued in batch:
                        queued.call.left(1, error)
        finally:
            self._flusher = None

    async def _send_batch(self, batch: list[_Queued]) -> None:
        payloads = [queued.payload for queued in batch]
        copies = Copies(self._transport, self._lock, payloads, await self.resolve())
        while not copies.step(_SENDS_A_TURN):
            if not copies.blocked:
                await asyncio.sleep(0)
            elif not await self._wait_writable(copies.next_endpoint):
                copies.give_up()
        faults: dict[_Call, list[Fault]] = {}
        for fault in copies.faults:
            faults.setdefault(batch[fault.message].call, []).append(fault)
        for call, group in groupby(batch, key=lambda queued: queued.call):
            sizes = [len(queued.payload) for queued in group]
            self._count(call.tally, copies.endpoints, len(sizes), sum(sizes), faults.pop(call, ()))
            call.left(len(sizes))
        await asyncio.sleep(0)

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

    async def _wait_writable(self, endpoint: Endpoint) -> bool:
        async with self._waiting:
            return await _wait_writable(self._fileno(endpoint))

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _wait_writable(fileno: int | None) -> bool:
    if fileno is None:
        await asyncio.sleep(0)
        return True
    loop = asyncio.get_running_loop()
    writable: asyncio.Future[Any] = loop.create_future()

    def ready() -> None:
        if not writable.done():
            writable.set_result(None)

    loop.add_writer(fileno, ready)
    try:
        await asyncio.wait_for(writable, sender_module.STALL)
    except TimeoutError:
        return False
    finally:
        loop.remove_writer(fileno)
    return True
