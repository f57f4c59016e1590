"""`AsyncReceiver`: the shell for asyncio; what it does is in `receiver`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cached_property
from typing import Self

from fanout.model import Message
from fanout.net.inbox import Inbox
from fanout.receiver import TURN, ReceiverBase


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
