"""`AsyncSender` and `AsyncReceiver`: the shells for asyncio; what they do is in `sender` and `receiver`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from fanout import sender as sender_module
from fanout.model import Endpoint, Message, check_payload
from fanout.net.inbox import Inbox
from fanout.receiver import TURN, ReceiverBase
from fanout.report import Report, Tally
from fanout.sender import Copies, FanOut

_COPIES_A_TURN = 128
"""Copies between two turns of the event loop: a millisecond's worth."""


class AsyncSender(FanOut):
    """`Sender` for asyncio: the same arguments, guarantees and reports; nothing blocks the event loop."""

    _copies_this_turn = 0

    @cached_property
    def _waiting(self) -> asyncio.Lock:
        """An event loop has one callback a file descriptor: tasks wait for a full socket in turn."""
        return asyncio.Lock()

    async def send(self, payload: bytes, *, settle: float = 0.0) -> Report:
        """See `Sender.send`."""
        return await self.send_many((payload,), settle=settle)

    async def send_many(self, payloads: Iterable[bytes] | AsyncIterable[bytes], *, settle: float = 0.0) -> Report:
        """See `Sender.send_many`; `payloads` may be an async iterable."""
        self._open()
        tally = Tally()
        if isinstance(payloads, AsyncIterable):
            async for payload in payloads:
                await self._send_one(payload, tally)
        else:
            for payload in payloads:
                await self._send_one(payload, tally)
        if settle > 0:
            await asyncio.sleep(settle)
        return self._report(tally, settled=settle > 0)

    async def _send_one(self, payload: bytes, tally: Tally) -> None:
        data = check_payload(payload)
        copies = Copies(self._transport, data, await self.resolve())
        while not copies.step(_COPIES_A_TURN):
            if not copies.blocked:
                await asyncio.sleep(0)
                continue
            async with self._waiting:
                if not await _async_wait_writable(copies.fileno()):
                    copies.give_up()
        self._count(copies, tally)
        self._copies_this_turn += len(copies.endpoints)
        if self._copies_this_turn >= _COPIES_A_TURN:
            # A socket that is never full must not keep the loop from timers, signals and other tasks.
            self._copies_this_turn = 0
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

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncReceiver(ReceiverBase):
    """`Receiver` for asyncio: the same arguments and guarantees.

    While a handler awaits, datagrams are taken from the kernel into the queue.
    """

    _watching: asyncio.AbstractEventLoop | None = None

    @cached_property
    def _arrived(self) -> asyncio.Event:
        return asyncio.Event()

    async def open(self) -> Self:
        """Listen; `async with` and iterating do it too."""
        self._watch(self._listen())
        return self

    def stop(self) -> None:
        """Stop listening; iteration ends once what was received is handed over. Call it in the event loop."""
        if self._stopped:
            return
        self._unwatch()
        if self._inbox is not None:
            self._inbox.close()
        self._stopped = True
        self._arrived.set()

    async def close(self) -> None:
        """Stop listening and forget what was not handed over. Closing twice is fine."""
        self.stop()
        if self._inbox is not None:
            self._inbox.queue.clear()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until `stop`."""
        inbox = self._listen()
        while inbox.queue or not self._stopped:
            if not self._stopped:
                inbox.fill()
                self._watch(inbox)
            if not inbox.queue:
                self._arrived.clear()
                await self._arrived.wait()
            for _ in range(TURN):
                if not inbox.queue:
                    break
                yield inbox.pop()
            # A consumer that never awaits must not keep the loop from timers, signals and other tasks.
            await asyncio.sleep(0)

    async def serve(self, handler: Callable[[Message], Awaitable[object] | object]) -> None:
        """Call `handler`, a function or a coroutine function, for each message until `stop`.

        One message at a time; what it raises is counted and logged.
        """
        async for message in self:
            try:
                result = handler(message)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                self._handler_failed(message, error)

    def _watch(self, inbox: Inbox) -> None:
        if self._watching is None:
            self._watching = asyncio.get_running_loop()
            self._watching.add_reader(inbox.socket, self._readable, inbox)

    def _unwatch(self) -> None:
        if self._watching is not None and self._inbox is not None:
            self._watching.remove_reader(self._inbox.socket)
            self._watching = None

    def _readable(self, inbox: Inbox) -> None:
        if not inbox.fill() and inbox.queue:
            # The queue is full: the iterator watches the socket again when it has made room.
            self._unwatch()
        self._arrived.set()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


async def _async_wait_writable(fileno: int | None) -> bool:
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
