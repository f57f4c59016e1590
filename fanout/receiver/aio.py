"""`AsyncReceiver`: the shell for asyncio; what it does is in `receiver`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

from fanout.model import FramedMessage, Message
from fanout.receiver.listener import Listener
from fanout.receiver.queue import MessageBatch
from fanout.receiver.sync import BATCH, TURN, ReceiverBase


class AsyncReceiver(ReceiverBase):
    """`Receiver` for asyncio: the same arguments and guarantees.

    While a handler awaits, datagrams are taken from the kernel into the queue. One event loop at a time uses it:
    where a loop has ended, iterating in the next one goes on.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    """The loop that opened it or iterates over it: the last one, where there were several."""
    _is_watching = False
    _arrived: asyncio.Event | None = None
    """Of that loop: set when it is worth another look."""

    async def open(self) -> Self:
        """Listen; `async with` and iterating do it too."""
        self._enter_loop()
        self._watch(self._listen())
        return self

    def stop(self) -> None:
        """Stop listening; iteration ends once what was received is handed over. Call it in the event loop.

        It holds the loop up for some 2 ms, the time that the kernel may need to deliver what is under way: 7 ms
        with 64 workers.
        """
        if self._stopped:
            return
        self._unwatch()
        if self._listener is not None:
            self._listener.drain()
            if not self._listener.has_pending:  # otherwise answers leave by its sockets
                self._listener.close()
        self._stopped = True
        if self._arrived is not None:
            self._arrived.set()

    async def close(self) -> None:
        """Stop listening and drop what was not handed over; see `Receiver.close`. Closing twice is fine."""
        self.stop()
        if self._listener is not None:
            self._forget()
            self._listener.close()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until `stop`."""
        async for batch in self._batches(TURN):
            self._rest, self._rest_may_ask = iter(batch), batch.may_ask
            for message in self._rest:
                if batch.may_ask and isinstance(message, FramedMessage) and message.question is not None:
                    self._handed = (message.question,)
                yield message
                if self._handed:
                    self._settle_handed()

    async def batches(self) -> AsyncIterator[list[Message]]:
        """Yield what is there, as lists of 1 to 1,024 messages, until `stop`: the fastest way to have them."""
        async for batch in self._batches(BATCH):
            if batch.may_ask:
                self._handed = batch.questions
            yield batch
            self._settle_handed()

    async def _batches(self, limit: int) -> AsyncIterator[MessageBatch]:
        self._settle_handed()  # of an iteration that was broken out of
        listener = self._listen()
        arrived = self._enter_loop()
        if rest := self._take_rest():
            yield rest
        while True:
            if not self._stopped:
                listener.fill()
                if not self._queue.is_full:
                    self._watch(listener)
            if batch := listener.take(limit):
                yield batch
                # A consumer that never awaits must not keep the loop from timers, signals and other tasks.
                await asyncio.sleep(0)
            elif self._stopped:
                listener.close()
                return
            else:
                arrived.clear()
                await arrived.wait()

    async def serve(self, handler: Callable[[Message], Awaitable[object] | object]) -> None:
        """Call `handler`, a function or a coroutine function, for each message until `stop`.

        One message at a time; what it raises is counted and logged. A query's reply is what it returns: bytes, or
        None for an empty one, unless it called `message.reply`.
        """
        async for message in self:
            try:
                result = handler(message)
                if inspect.isawaitable(result):
                    result = await result
            except Exception as error:
                self.handler_failed(message, error)
            else:
                if type(message) is not Message:
                    self._handled(message, result)

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
        if self._loop is not None and self._listener is not None and self._is_watching:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._listener.readable)
            self._is_watching = False

    def _readable(self, listener: Listener) -> None:
        listener.fill()
        if self._queue.is_full:
            self._unwatch()  # the iterator watches again when it has made room
        if self._arrived is not None:
            self._arrived.set()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
