"""Runs a sender's flows in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from time import monotonic
from typing import TYPE_CHECKING

from fanout.model import Endpoint
from fanout.sender.aio_queue import AioQueue, set_done
from fanout.sender.engine import Engine
from fanout.sender.steps import Sleep, WaitReadable, WaitWritable

if TYPE_CHECKING:
    from fanout.protocol.sending.exchange import Exchange
    from fanout.protocol.sending.receipt import Reply
    from fanout.sender.confirming import Conversation, ExchangeTable
    from fanout.sender.steps import Flow


class AioDriver:
    """Runs a sender's flows in one event loop, and awaits what they wait for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Engine, queue: AioQueue) -> None:
        self.loop = loop
        self.queue = queue
        self._engine = engine
        self._writing = asyncio.Lock()
        """An event loop has one callback per descriptor: tasks wait for a full socket in turn."""
        self._full: asyncio.Future[None] | None = None
        """Done when the full socket becomes writable."""
        self._waiting: dict[int, asyncio.Event] = {}
        """An event for each exchange that is waited for: set when it has news, or something to send."""
        self._listening: list[int] = []

    def in_order(self) -> contextlib.AbstractAsyncContextManager[object]:
        """Return the lock under which framed messages are numbered and sent, so that numbers leave in order."""
        return self.queue.order if self._engine.is_framed else contextlib.nullcontext()

    async def converse(self, conversation: Conversation) -> AsyncIterator[Reply]:
        """Yield the replies of a conversation; read answers until it ends."""
        number, flow = conversation.exchange.number, conversation.converse()
        self._waiting[number] = asyncio.Event()
        try:
            while (reply := await self.run(flow)) is not None:
                yield reply
        finally:
            flow.close()
            self._waiting.pop(number)
            if not self._waiting:
                self._listen([])

    async def run(self, flow: Flow) -> Reply | None:
        """Run a flow until it yields a reply, and return that; None once it has ended."""
        try:
            step = next(flow)
            while isinstance(step, (Sleep, WaitWritable, WaitReadable)):
                try:
                    is_writable = await self._wait(step)
                except BaseException as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(is_writable)
        except StopIteration:
            return None
        return step

    async def _wait(self, step: Sleep | WaitWritable | WaitReadable) -> bool:
        if isinstance(step, WaitWritable):
            return await self._wait_writable(step.endpoint, step.seconds)
        if isinstance(step, WaitReadable):
            await self._wait_readable(step.exchange, step.table)
        else:
            await asyncio.sleep(step.seconds)
        return True

    async def _wait_writable(self, endpoint: Endpoint, seconds: float) -> bool:
        """Wait until the socket is writable; return False where it stayed full, raise `Closed` where it was closed."""
        async with self._writing:
            descriptor = self._engine.writable(endpoint)
            if descriptor is None:
                await asyncio.sleep(0)
                return True
            full = self._full = self.loop.create_future()
            self.loop.add_writer(descriptor, set_done, full)
            try:
                await asyncio.wait_for(full, seconds)
            except TimeoutError:
                return False
            finally:
                self._full = None
                self.loop.remove_writer(descriptor)
                os.close(descriptor)
        self._engine.open()
        return True

    async def _wait_readable(self, exchange: Exchange, table: ExchangeTable) -> None:
        """Wait until the exchange has news, or something to send."""
        awaited = self._waiting[exchange.number]
        self._listen(self._engine.readable())
        with table.answers:
            wakeup, has_news = exchange.next_wakeup, exchange.has_news
        if not has_news:
            timer = self.loop.call_later(wakeup - monotonic(), awaited.set)
            try:
                await awaited.wait()
            finally:
                timer.cancel()
        awaited.clear()

    def _take_answers(self) -> None:
        table, waiting = self._engine.exchanges, self._waiting
        with table.answers:
            exchanges = table.take(self._engine)
        for exchange in exchanges:
            if exchange.number in waiting:
                waiting[exchange.number].set()

    def _listen(self, descriptors: list[int]) -> None:
        """Read answers whenever one of these descriptors is readable, instead of those before."""
        if descriptors != self._listening:
            for descriptor in self._listening:
                self.loop.remove_reader(descriptor)
            for descriptor in descriptors:
                self.loop.add_reader(descriptor, self._take_answers)
            self._listening = descriptors

    def close(self) -> None:
        """Close the engine, and wake all waiting tasks."""
        self._listen([])
        self._engine.close()
        if self._full is not None:
            set_done(self._full)
        for awaited in self._waiting.values():
            awaited.set()
