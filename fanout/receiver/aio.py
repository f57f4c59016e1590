"""`AsyncReceiver`: the driver for asyncio."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from fanout.model import Message
from fanout.receiver.engine import BATCH, TURN, ReceiverBase, ReceiverEngine
from fanout.receiver.listener import Listener
from fanout.receiver.queue import MessageBatch


class AsyncReceiver(ReceiverBase):
    """`Receiver` for asyncio: the same arguments and guarantees.

    While a handler awaits, datagrams are read from the kernel into the queue. One event loop at a time may use it;
    after a loop has ended, iterating in another one continues.
    """

    def _begin(self, engine: ReceiverEngine) -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        """The last loop that opened it or iterated over it."""
        self._is_watching = False
        self._arrived: asyncio.Event | None = None
        """An event of that loop, set when messages may have arrived."""

    async def open(self) -> Self:
        """Start listening; `async with` and iterating do it, too."""
        self._enter_loop()
        self._watch(self._engine.listen())
        return self

    def stop(self) -> None:
        """Stop listening; iteration ends once everything received is handed over. Call it in the event loop.

        It blocks the loop for some 2 ms (7 ms with 64 workers), in which the kernel delivers what is in flight.
        """
        engine = self._engine
        if engine.is_stopped:
            return
        self._unwatch()
        if engine.listener is not None:
            engine.listener.drain()
            if not engine.listener.demux.has_pending:  # otherwise its sockets are needed for answers
                engine.listener.close()
        engine.is_stopped = True
        if self._arrived is not None:
            self._arrived.set()

    async def close(self) -> None:
        """Stop listening and drop messages not handed over; see `Receiver.close`. Closing twice is fine."""
        self.stop()
        self._engine.close()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until `stop`."""
        engine = self._engine
        async for batch in self._batches(TURN, engine.keep_rest):
            rest = engine.rest
            if not batch.may_ask:
                for message in rest:
                    yield message
                continue
            while (next_one := engine.next_of(rest)) is not None:
                yield next_one
                engine.settle_handed()

    async def batches(self) -> AsyncIterator[list[Message]]:
        """Yield lists of 1 to 1,024 messages until `stop`: the fastest way to receive."""
        async for batch in self._batches(BATCH, self._engine.keep_handed):
            yield batch
            self._engine.settle_handed()

    async def _batches(self, limit: int, keep: Callable[[MessageBatch], None]) -> AsyncIterator[MessageBatch]:
        """Yield batches, each passed to `keep` before."""
        engine = self._engine
        engine.settle_handed()  # of an iteration that was broken out of
        listener = engine.listen()
        arrived = self._enter_loop()
        while True:
            if not engine.is_stopped:
                listener.fill()
                if not engine.queue.is_full:
                    self._watch(listener)
            if batch := engine.take(limit, keep):
                yield batch
                # A consumer that never awaits must not starve timers, signals and other tasks.
                await asyncio.sleep(0)
            elif engine.is_stopped:
                listener.close()
                return
            else:
                arrived.clear()
                await arrived.wait()

    async def serve(self, handler: Callable[[Message], Awaitable[object] | object]) -> None:
        """Call `handler`, a function or a coroutine function, for each message until `stop`.

        One message at a time; exceptions are counted and logged. The return value is a query's reply: bytes, or None
        for an empty one, unless it called `message.reply`.
        """
        engine = self._engine
        async for message in self:
            try:
                result = handler(message)
                if inspect.isawaitable(result):
                    result = await result
            except Exception as error:
                engine.handler_failed(message, error)
            else:
                if type(message) is not Message:
                    engine.handled(message, result)

    def _enter_loop(self) -> asyncio.Event:
        loop = asyncio.get_running_loop()
        if self._arrived is None or self._loop is not loop:
            self._unwatch()
            self._loop = loop
            self._arrived = asyncio.Event()
        return self._arrived

    def _watch(self, listener: Listener) -> None:
        if self._loop is not None and not self._is_watching:
            self._loop.add_reader(listener.readable, self._readable, listener)
            self._is_watching = True

    def _unwatch(self) -> None:
        listener = self._engine.listener
        if self._loop is not None and listener is not None and self._is_watching:
            if not self._loop.is_closed():
                self._loop.remove_reader(listener.readable)
            self._is_watching = False

    def _readable(self, listener: Listener) -> None:
        listener.fill()
        if self._engine.queue.is_full:
            self._unwatch()  # the iterator watches again when the queue has space
        if self._arrived is not None:
            self._arrived.set()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
