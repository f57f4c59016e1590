"""`AsyncSender`: the asyncio shell around `engine` and `confirming`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Literal, Self, overload

from fanout.errors import FanoutError, InvalidInput
from fanout.model import Endpoint
from fanout.protocol.sending.pacer import BURST, Pacer
from fanout.report import Report, Tally
from fanout.sender.aio_driver import AioDriver
from fanout.sender.aio_queue import SENDS_A_TURN, AioQueue, Call, Queued, record
from fanout.sender.coalescer import BATCH, DELAY
from fanout.sender.engine import TIMEOUT, Engine, SenderBase, check_stream, make_pacer

if TYPE_CHECKING:
    from fanout.protocol.sending.receipt import Confirmation, Reply
    from fanout.sender.confirming import Conversation, OnReceipt


class AsyncSender(SenderBase):
    """`Sender` for asyncio: the same arguments, guarantees and reports; nothing blocks the event loop.

    What several tasks send in one turn of the event loop leaves together, as runs of equal sizes where the kernel
    supports it (GSO). The first message of a turn leaves at once. Cancelling a task withdraws its queued messages.
    """

    def _begin(self, engine: Engine) -> None:
        engine.sends_a_turn = SENDS_A_TURN
        self._engine = engine
        self._driver_of_loop: AioDriver | None = None

    @property
    def _driver(self) -> AioDriver:
        loop = asyncio.get_running_loop()
        if self._driver_of_loop is None or self._driver_of_loop.loop is not loop:
            self._driver_of_loop = AioDriver(loop, self._engine, AioQueue(loop, self._send_batch))
        return self._driver_of_loop

    @overload
    async def send(self, payload: bytes, *, settle: float = 0.0, confirm: Literal[False] = False) -> Report: ...

    @overload
    async def send(
        self,
        payload: bytes,
        *,
        confirm: Literal[True],
        timeout: float = TIMEOUT,
        retries: int | None = None,
        on_receipt: OnReceipt = None,
    ) -> Confirmation: ...

    async def send(
        self,
        payload: bytes,
        *,
        settle: float = 0.0,
        confirm: bool = False,
        timeout: float = TIMEOUT,
        retries: int | None = None,
        on_receipt: OnReceipt = None,
    ) -> Report | Confirmation:
        """See `Sender.send`."""
        if confirm:
            conversation = await self._ask(payload, timeout, retries, on_receipt, is_query=False)
            async for _ in self._driver.converse(conversation):
                pass
            return conversation.confirmation
        engine = self._engine
        data = engine.check(payload)
        endpoints = engine.open().known.endpoints
        queue = self._driver.queue
        if len(data) > engine.datagram_max:
            tally = Tally()
            await self._send([data], await self.resolve(), tally)
        elif endpoints and queue.may_send_now():
            tally = Tally()
            await self._send([data], endpoints, tally)
            await queue.give_way(len(endpoints))
        else:
            call = Call()
            queue.put(data, call)
            await call.wait()
            tally = call.tally
        return await self._settled(tally, settle)

    async def _send(self, payloads: list[bytes], endpoints: tuple[Endpoint, ...], tally: Tally) -> None:
        driver, engine = self._driver, self._engine
        async with driver.in_order():
            await driver.run(engine.send(payloads, endpoints, partial(engine.record, tally)))

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
        """See `Sender.send_many`; `payloads` may be an async iterable. A plain iterable must not block.

        The event loop's timers have a resolution of a millisecond: pacing above some 100,000 messages a second keeps
        a core busy.
        """
        engine = self._engine
        engine.open()
        check_stream(payloads)
        call = Call()
        pacer = make_pacer(rate, bandwidth, burst)
        queue = self._driver.queue
        flush_by = 0.0

        async def put(payload: bytes) -> bool:
            nonlocal flush_by
            data = engine.check(payload)
            if pacer is not None:
                await _admitted(pacer, len(data), call, stop)
            if stop is not None and stop.is_set():
                return False
            if len(data) > engine.datagram_max:
                await call.wait()
                await self._send([data], await self.resolve(), call.tally)
                return True
            queue.put(data, call)
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
            engine.end_stream()
        except FanoutError as error:
            error.report = engine.report(call.tally)
            raise
        engine.count_icmp_errors(call.tally)
        return await self._settled(call.tally, settle)

    async def _settled(self, tally: Tally, settle: float) -> Report:
        if settle > 0:
            await asyncio.sleep(settle)
            self._engine.count_icmp_errors(tally)
        return self._engine.report(tally)

    async def _send_batch(self, batch: list[Queued]) -> None:
        endpoints = await self.resolve()
        batch = [queued for queued in batch if not queued.call.is_cancelled]
        if not batch:
            return
        payloads = [queued.payload for queued in batch]
        driver, engine = self._driver, self._engine
        async with driver.in_order():
            # One datagram per message: larger ones do not come here.
            await driver.run(engine.send(payloads, endpoints, partial(record, batch)))
        if engine.transport.has_icmp_errors:
            engine.count_icmp_errors(batch[0].call.tally)
        await asyncio.sleep(0)

    def query(
        self, payload: bytes, *, timeout: float = TIMEOUT, retries: int | None = None, on_receipt: OnReceipt = None
    ) -> AsyncQuery:
        """See `Sender.query`; the query is sent when the iteration begins."""
        ask = partial(self._ask, payload, timeout, retries, on_receipt, is_query=True)
        return AsyncQuery(ask, lambda conversation: self._driver.converse(conversation))

    async def _ask(
        self, payload: bytes, patience: float, retries: int | None, on_receipt: OnReceipt, *, is_query: bool
    ) -> Conversation:
        """Return a conversation whose first copies have been sent."""
        from fanout.sender.confirming import Conversation, Request

        request = Request.checked(payload, patience, retries, on_receipt, is_query=is_query)
        endpoints = await self.resolve()
        driver = self._driver
        async with driver.in_order():
            conversation = Conversation(self._engine, self._engine.exchanges, request, endpoints)
            await driver.run(conversation.ask())
        return conversation

    async def resolve(self) -> tuple[Endpoint, ...]:
        """See `Sender.resolve`."""
        refresher = self._engine.open()
        return refresher.known.endpoints or (await asyncio.to_thread(refresher.endpoints)).endpoints

    async def open(self) -> Self:
        """Start resolving, and return at once."""
        self._engine.open()
        return self

    async def close(self) -> None:
        """Stop resolving and close the sockets. Closing twice is fine."""
        self._engine.end_stream()
        self._driver.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class AsyncQuery:
    """`Query` for asyncio: `async for` over the replies, or `await gather()`."""

    def __init__(
        self, ask: Callable[[], Awaitable[Conversation]], converse: Callable[[Conversation], AsyncIterator[Reply]]
    ) -> None:
        self._ask = ask
        self._converse = converse
        self._conversation: Conversation | None = None
        self._replies = self._begin()

    async def _begin(self) -> AsyncIterator[Reply]:
        self._conversation = await self._ask()
        self._conversation.end_with(self)
        async for reply in self._converse(self._conversation):
            yield reply

    def __aiter__(self) -> AsyncIterator[Reply]:
        return self._replies

    async def gather(self) -> list[Reply]:
        """Wait for the last reply or the timeout; return all replies not yet iterated over."""
        return [reply async for reply in self._replies]

    @property
    def confirmation(self) -> Confirmation:
        """The state of each pod: those that may still reply are silent. Raises `InvalidInput` before the iteration."""
        if self._conversation is None:
            raise InvalidInput("cannot tell who replied: no pod was asked yet; iterate over the query first")
        return self._conversation.confirmation


async def _admitted(pacer: Pacer, size: int, call: Call, stop: asyncio.Event | None) -> None:
    """Wait until the pacer allows a message of `size` bytes, or `stop` is set."""
    while not pacer.admit(now := monotonic(), size):
        await call.wait()
        seconds = pacer.wait(now, size)
        if seconds < DELAY:
            # A timer fires too late only where fewer than two of its ticks fit into the bucket.
            seconds = DELAY if pacer.slack(size) > 1.5 * DELAY else 0.0
        if stop is None:
            await asyncio.sleep(seconds)
        else:
            try:
                await asyncio.wait_for(stop.wait(), seconds)
            except TimeoutError:
                continue
            return
