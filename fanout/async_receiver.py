"""`AsyncReceiver`: the shell for asyncio; what it does is in `receiver`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cached_property
from typing import Self

from fanout.model import Message
from fanout.net.inbox import Inbox
from fanout.receiver import BATCH, TURN, ReceiverBase


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
        self._forget()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until `stop`."""
        async for batch in self._batches(TURN):
            self._rest = iter(batch)
            for message in self._rest:
                yield message

    def batches(self) -> AsyncIterator[list[Message]]:
        """Yield what is there, as lists of 1 to 1,024 messages, until `stop`: the fastest way to have them."""
        return self._batches(BATCH)

    async def _batches(self, limit: int) -> AsyncIterator[list[Message]]:
        inbox = self._listen()
        if rest := self._take_rest():
            yield rest
        while True:
            if not self._stopped:
                inbox.fill()
                if not self._backlog.is_full:
                    self._watch(inbox)
            if batch := inbox.take(limit):
                yield batch
                # A consumer that never awaits must not keep the loop from timers, signals and other tasks.
                await asyncio.sleep(0)
            elif self._stopped:
                return
            else:
                self._arrived.clear()
                await self._arrived.wait()

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
            self._watching.add_reader(inbox.readable, self._readable, inbox)

    def _unwatch(self) -> None:
        if self._watching is not None and self._inbox is not None:
            self._watching.remove_reader(self._inbox.readable)
            self._watching = None

    def _readable(self, inbox: Inbox) -> None:
        inbox.fill()
        if self._backlog.is_full:
            self._unwatch()  # the iterator watches again when it has made room
        self._arrived.set()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
